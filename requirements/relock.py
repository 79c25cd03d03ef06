"""Resolve the locked dependencies again; run by ``make lock``.

A pin that still fits stays as it is. Arguments go to ``uv pip compile``: ``--upgrade`` moves
everything, ``--upgrade-package NAME`` one package.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

UV = "uv==0.13.9"
HERE = Path(__file__).parent
HASHES = "--generate-hashes"
TORCH = ["--constraints", "requirements/torch.txt", "--no-emit-package", "torch"]
LOCKED = ["--constraints", "requirements/lock.txt"]
# Each lock: its inputs and what is special about it. peers.txt follows lock.txt, so they share a venv.
LOCKS = {
    "lock.txt": [
        "pyproject.toml",
        "--extra",
        "embedded",
        "--extra",
        "harness",
        "--extra",
        "ray",
        "--extra",
        "sae",
        "requirements/dev.in",
        *TORCH,
        HASHES,
    ],
    # What follows lock.txt has its versions.
    "dist.txt": ["requirements/dist.in", *LOCKED, HASHES],
    "container.txt": ["pyproject.toml", "--extra", "ray", *LOCKED, *TORCH, HASHES],
    "data.txt": ["requirements/data.in", "--no-deps", HASHES],
    "peers.txt": ["requirements/peers.in", *LOCKED, *TORCH],
    "audit.txt": ["requirements/audit.in", HASHES],
}
COMMON = [
    "--config-file=requirements/uv.toml",
    "--custom-compile-command=make lock",
    "--no-emit-index-url",
    "--python-platform=linux",
    "--python-version=3.11",
    "--quiet",
]


def main(arguments: list[str]) -> None:
    """Write every lock file, with a uv of its own that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        python = python_with_uv(folder)
        for name, special in LOCKS.items():
            command = [python, "-m", "uv", "pip", "compile", *special, *COMMON, *arguments]
            subprocess.run([*command, f"--output-file=requirements/{name}"], check=True, cwd=HERE.parent)
            print(f"requirements/{name}")


def python_with_uv(folder: str) -> Path:
    """The Python of a new environment in a folder, with uv in it and nothing else."""
    venv.create(folder, with_pip=True)
    python = Path(folder, "bin", "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", UV], check=True)
    return python


if __name__ == "__main__":
    main(sys.argv[1:])
