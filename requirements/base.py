"""Test reading and scoring with what ``pip install wif-store`` brings: no torch, transformers or datasets.

Run by ``make base`` and, on Linux, macOS and Windows, by the workflows. The argument is a wheel, or the
folder of one, to be tested instead of this checkout. Further arguments go to pytest. The environment and the
copy of the tests in it are thrown away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("tests/format", "tests/storage", "tests/store", "tests/scorer", "tests/test_imports.py")
IMPORT_MORE = ("tests/store/test_foreign_readers.py", "tests/store/test_tensors.py")
"""These import more than a base install has when they are collected."""
MARKERS = "not extras and not slow and not gpu and not hub"
ABSENT = ("datasets", "ray", "torch", "transformers")


def main(arguments: list[str]) -> int:
    """Test the wheel that is named, or else the checkout; what pytest ended with."""
    package = wheel_of(Path(arguments.pop(0))) if arguments and Path(arguments[0]).exists() else ROOT
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment, copy = Path(folder, "venv"), Path(folder, "copy")
        venv.create(environment, with_pip=True)
        python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, package, "-r", ROOT / "requirements" / "base.in"], check=True)
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
        ).stdout.split()
        print(*listed, flush=True)
        if brought := [name for name in ABSENT if any(pin.startswith(f"{name}==") for pin in listed)]:
            sys.exit(f"a base install brought {', '.join(brought)}; expected it to do without")
        # Beside the tests of a checkout its package would be imported, and not the installed one.
        shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        left_out = [f"--ignore={name}" for name in IMPORT_MORE]
        # One thread in each process, as in `make test`.
        run = [python, "-m", "pytest", "-m", MARKERS, "--numprocesses=2", "--dist=loadfile"]
        return subprocess.run(
            [*run, *left_out, *TESTS, *arguments], cwd=copy, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode


def wheel_of(path: Path) -> Path:
    """The wheel at this path, or the only one in this folder."""
    found = [path] if path.is_file() else list(path.glob("*.whl"))
    if len(found) != 1:
        sys.exit(f"{path} holds {len(found)} wheels; expected one")
    return found[0].resolve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
