"""Wheels and sdists of this repository, and environments that they are installed into."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# As for a user who has nothing of this repository on a path.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))
}


@dataclass(frozen=True)
class Packages:
    wheel: Path
    sdist: Path

    def members(self) -> dict[str, bytes]:
        """The files of the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def unpack(self, folder: Path) -> Path:
        """Unpack the sdist; the folder that it consists of."""
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder, filter="data")
        [only] = folder.iterdir()
        return only


def build(source: Path, out: Path) -> Packages:
    """Build both with the hatchling of this environment, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", out]
    done = subprocess.run(command, cwd=source, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return Packages(wheel, sdist)


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder of its own that its commands run in."""

    folder: Path
    work: Path

    @property
    def programs(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        command = [self.programs / program, *arguments]
        # A line as long as a test expects it, and nothing from the Hub.
        env = {**CLEAN, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, cwd=self.work, env=env, capture_output=True, text=True, check=False)

    def output(self, program: str, *arguments: str | Path) -> str:
        """Run a program that must succeed; its standard output."""
        done = self.run(program, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, *arguments: str | Path) -> None:
        """Install with the pip of this environment, as the environment would with its own."""
        pip = [sys.executable, "-m", "pip", "--python", self.programs / "python", "install", "--quiet"]
        done = subprocess.run([*pip, *arguments], env=CLEAN, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def make_environment(folder: Path) -> Environment:
    """Make an empty one."""
    environment = Environment(folder / "venv", folder / "work")
    environment.work.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder], env=CLEAN, check=True)
    return environment


def lend_packages(environment: Environment) -> None:
    """Let it import what this environment has, after what it has itself.

    Call it after the installation: pip would take a package that is lent for one that it has to replace.
    A folder that a ``.pth`` names is not searched for further ones, so an editable install is not lent.
    """
    found = environment.output(
        "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    Path(found, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def read(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def package_files() -> set[str]:
    """The files of the package in this repository."""
    files = (
        path for path in (ROOT / "wif_store").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(ROOT).as_posix() for path in files}


def targets(markdown: str) -> list[str]:
    """What the links and pictures of a page lead to."""
    return re.findall(r"\]\(([^)]+)\)", markdown)
