"""Run the tests with the oldest, then with the newest dependencies that pyproject.toml allows.

Run by ``make bounds``. The argument ``oldest`` or ``newest`` leaves the other end out. Either environment is
thrown away.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from relock import python_with_uv

ROOT = Path(__file__).parents[1]
EXTRAS = ("--extra=embedded", "--extra=ray", "--extra=attention", "--extra=sae", "--extra=harness")
COMMANDS_PAGE = "tests/test_docs.py::test_the_commands_are_those_of_the_program"
ENDS = {
    # Old releases warn of what newer ones no longer do, and older typers word the commands' page otherwise.
    "oldest": ("lowest-direct", ["-Wignore", f"--deselect={COMMANDS_PAGE}"]),
    "newest": ("highest", []),
}


def main(ends: list[str]) -> int:
    """Test both ends, or those that are named; what the worse of them ended with."""
    return max(tested(*ENDS[end]) for end in ends or ENDS)


def tested(resolution: str, options: list[str]) -> int:
    """Install the package's own dependencies at one end, those of the tests at their newest, and test."""
    with tempfile.TemporaryDirectory() as folder:
        python, pins = python_with_uv(folder), Path(folder, "pins.txt")

        def uv(*given: str | Path) -> None:
            subprocess.run([python, "-m", "uv", "--quiet", "pip", *given], check=True, cwd=ROOT)

        uv("compile", "pyproject.toml", *EXTRAS, f"--resolution={resolution}", f"--output-file={pins}")
        uv("install", "-r", pins, "-r", "requirements/dev.in")
        uv("install", "--no-deps", "-r", "requirements/data.txt", "-e", ".")
        print(
            f"{resolution}:", *(pin for pin in pins.read_text().splitlines() if pin[:1].isalpha()), flush=True
        )
        return subprocess.run([python, "-m", "pytest", *options], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
