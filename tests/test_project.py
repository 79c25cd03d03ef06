"""The repository as a whole: links that lead somewhere, files that fit any machine, locks that are exact."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.~}/-])/(?:home|root|tmp|opt|work|mnt|Users|private|usr/local)/[\w.-]")
REGISTRY = re.compile(
    r"\b(?:pypi\.(?:org|python\.org)|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|"
    r"anaconda\.org|deb\.debian\.org|proxy\.golang\.org|crates\.io)\b"
)
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;]+(?: ;[^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the repository that the working tree holds, committed or about to be."""
    call = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listing = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    """Return every tracked file that is UTF-8 text, by its path in the repository."""
    found = {}
    for path in tracked():
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def anchors(markdown: str) -> set[str]:
    """Return the fragments that the headings of a page can be linked by."""
    headings = HEADING.findall(FENCE.sub("", markdown))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Return the links of `page` that lead to no file or to no heading of this repository."""
    prose = CODE_SPAN.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in LINK.findall(prose):
        if OUTSIDE.match(link):
            continue
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (fragment and fragment not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def test_links_lead_somewhere() -> None:
    pages = tracked("*.md")
    assert pages
    broken = {page.relative_to(ROOT).as_posix(): broken_links(page) for page in pages}
    assert {page: links for page, links in broken.items() if links} == {}


def test_a_broken_link_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: with `code`\n[ok](page.md#a-heading-with-code) [ok](#a-heading-with-code) [out](https://x.y/z)\n"
        "[no](gone.md) [no](page.md#gone) `[code](gone.md)`\n```\n[fenced](gone.md)\n```\n"
    )
    assert broken_links(page) == ["gone.md", "page.md#gone"]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["machine path", "registry host"])
def test_no_file_names_a_machine_or_a_registry(pattern: re.Pattern[str]) -> None:
    found = texts()
    assert found
    hits = {name: pattern.findall(text) for name, text in found.items()}
    assert {name: hit for name, hit in hits.items() if hit} == {}


@pytest.mark.parametrize("folder", ["home", "root", "tmp", "Users"])
def test_a_machine_path_would_be_seen(folder: str) -> None:
    assert MACHINE_PATH.search(f'path = "/{folder}/someone/data"')
    assert not MACHINE_PATH.search(f"see ./{folder}/data, {folder}/data and https://a.b/{folder}/data")


def test_a_registry_host_would_be_seen() -> None:
    assert REGISTRY.search("https://files." + "pythonhosted" + ".org/packages")


def test_modules_are_short_and_stand_in_rooms() -> None:
    modules = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in tracked("wif_store/*.py")}
    assert len(modules) > 50
    assert {path.name: lines for path, lines in modules.items() if lines >= 400} == {}
    assert [path.name for path in modules if path.name == "utils.py"] == []
    top = {path.name for path in modules if path.parent.name == "wif_store"}
    modules_at_the_top = {"api.py", "errors.py", "processors.py", "progress.py", "records.py"}
    assert top == {"__init__.py", "__main__.py"} | modules_at_the_top


@pytest.mark.parametrize("name", ["lock.txt", "dist.txt", "container.txt", "data.txt", "audit.txt"])
def test_a_lock_holds_exact_hashed_pins_and_nothing_else(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    requirements = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).rstrip("\n")
    assert PIN.sub("", requirements).strip() == ""
    assert not re.search(r"^(torch|triton|nvidia-|cuda-)", requirements, flags=re.MULTILINE)


def installed_with(*extras: str) -> set[str]:
    """Return the names of all that an install with these extras brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    queue = [Requirement(text) for text in project["dependencies"]]
    queue += [Requirement(text) for extra in extras for text in project["optional-dependencies"][extra]]
    found: set[str] = set()
    seen: set[str] = set()
    while queue:
        wanted = queue.pop()
        if wanted.name == "wif-store":
            for extra in wanted.extras:
                queue += map(Requirement, project["optional-dependencies"][extra])
        elif str(wanted) not in seen:
            seen.add(str(wanted))
            found.add(wanted.name.lower())
            try:
                declared = map(Requirement, importlib.metadata.requires(wanted.name) or ())
            except importlib.metadata.PackageNotFoundError:
                continue  # of another platform
            environments = [{"extra": extra} for extra in (*wanted.extras, "")]
            queue += [r for r in declared if not r.marker or any(map(r.marker.evaluate, environments))]
    return found


@pytest.mark.parametrize("extras", [(), ("build",), ("embedded",), ("attention",)])
def test_no_other_install_brings_ray(extras: tuple[str, ...]) -> None:
    found = installed_with(*extras)
    assert {"numpy", "zarr", "pyyaml"} <= found  # zarr brings none of the last: the walk goes deeper
    assert not found & {"ray", "s3fs", "boto3", "moto"}


def test_an_install_that_brings_ray_would_be_seen() -> None:
    assert {"ray", "s3fs", "torch", "botocore"} <= installed_with("ray")


def test_torch_is_pinned_once() -> None:
    pin = (ROOT / "requirements" / "torch.txt").read_text(encoding="utf-8").splitlines()[-1]
    version = re.search(r'name = "torch"\nversion = "(.+)"', (ROOT / "requirements" / "uv.toml").read_text())
    assert version is not None
    assert pin == f"torch=={version[1]}"
