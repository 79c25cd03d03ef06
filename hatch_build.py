"""The description of the package: README.md, with links into the repository at the same version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")
RAW = "raw.githubusercontent.com"
"""Gives the bytes of a picture. ``github.com`` gives a page about it."""


class Description(MetadataHookInterface):
    """Called by hatchling whenever it reads the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        root, source = Path(self.root), metadata["urls"]["Source"]
        version = re.search(
            r'__version__ = "(.+)"', (root / "wif_store" / "__init__.py").read_text(encoding="utf-8")
        )
        if version is None:
            msg = 'wif_store/__init__.py names no version; expected a line such as __version__ = "0.1.0"'
            raise ValueError(msg)

        tag = f"v{version[1]}"
        roots = {"": f"{source}/blob/{tag}", "!": f"{source.replace('github.com', RAW)}/{tag}"}

        def lead(link: re.Match[str]) -> str:
            mark, text, target = link.groups()
            return f"{mark}[{text}]({roots[mark]}/{target})"

        text = LINK.sub(lead, (root / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
