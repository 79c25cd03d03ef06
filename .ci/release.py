#!/usr/bin/env python3
"""What a release says of itself. Python alone is needed.

``release.py check v0.1.0`` refuses a tag that the package, CHANGELOG.md and CITATION.cff do not agree on.
``release.py notes v0.1.0`` prints the section of CHANGELOG.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECTION = re.compile(
    r"^## (?P<version>\S+)(?: - (?P<date>\d{4}-\d{2}-\d{2}))?\n(?P<text>.*?)(?=^## |\Z)", re.M | re.S
)


def main(command: str, tag: str) -> None:
    """Run one of the two commands."""
    if command == "notes":
        print(section_of(tag)["text"].strip())
    elif command == "check":
        check(tag)
    else:
        sys.exit(f"no command {command!r}; expected check or notes")


def section_of(tag: str) -> re.Match[str]:
    """The section of CHANGELOG.md about a version."""
    sections = {found["version"]: found for found in SECTION.finditer(read("CHANGELOG.md"))}
    if tag.removeprefix("v") not in sections:
        sys.exit(f"CHANGELOG.md has no section of {tag}; it has {', '.join(sections)}")
    return sections[tag.removeprefix("v")]


def check(tag: str) -> None:
    """Exit with a line for each place that names another version, or another date."""
    section = section_of(tag)
    newest = [found["version"] for found in SECTION.finditer(read("CHANGELOG.md")) if found["date"]][:1]
    said = {
        "wif_store/__init__.py": "v" + value(r'^__version__ = "(.+)"$', "wif_store/__init__.py"),
        "CITATION.cff": "v" + value(r"^version: (\S+)$", "CITATION.cff"),
        "the newest section with a date of CHANGELOG.md": "v" + "".join(newest),
    }
    wrong = [
        f"{place} says {version}; expected {tag}, which is the tag"
        for place, version in said.items()
        if version != tag
    ]
    date = value(r"^date-released: (\S+)$", "CITATION.cff")
    if date != section["date"]:
        wrong.append(f"CITATION.cff says {date}; expected {section['date']}, the date in CHANGELOG.md")
    if not section["text"].strip():
        wrong.append(f"the section of {tag} in CHANGELOG.md is empty")
    if wrong:
        sys.exit("\n".join(wrong))


def value(pattern: str, name: str) -> str:
    """What a file of the repository says."""
    found = re.search(pattern, read(name), re.M)
    if found is None:
        sys.exit(f"{name} has no line such as {pattern}")
    return found[1]


def read(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
