"""A small part of Markdown, as blocks that a template writes as HTML.

Headings, paragraphs, lists, quotes, fenced code, ``code``, **strong** and *emphasis*. Everything else stays
the text it is: HTML and links too. Tables are shown as code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Span = tuple[Literal["text", "code", "strong", "em"], str]
    Kind = Literal["heading", "paragraph", "ordered", "bullets", "quote", "code"]

DEEPEST: Final = 4
"""Levels that the items of a list are indented by at most."""
_FENCE: Final = re.compile(r" {0,3}(```|~~~)")
_HEADING: Final = re.compile(r" {0,3}(#{1,6})\s+(\S.*)")
_ITEM: Final = re.compile(r"(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(\S.*)")
_SPAN: Final = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|\*\*(?P<strong>[^\s*](?:[^*]*[^*\s])?)\*\*"
    r"|(?<![\w*])\*(?P<em>[^\s*](?:[^*]*[^*\s])?)\*(?![\w*])"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a text.

    ``lines`` holds one line of a heading or paragraph, all of code, and one an item of a list, each as
    pairs of a kind and a text. ``depths`` are how far the items are indented. ``number`` is the level of a
    heading, or that of the first item of an ordered list.
    """

    kind: Kind
    lines: tuple[tuple[Span, ...], ...]
    depths: tuple[int, ...] = ()
    number: int = 1


def blocks(text: str) -> Iterator[Block]:
    r"""Divide a text in Markdown into blocks.

    Example:
        >>> [block.kind for block in blocks("# Rule\n\nIt *fails* on\n\n- `not`\n- long texts")]
        ['heading', 'paragraph', 'bullets']
    """
    lines, at = text.split("\n"), 0
    while at < len(lines):
        line, start = lines[at], at
        if not line.strip():
            at += 1
        elif fence := _FENCE.match(line):
            at = _first(lines, at + 1, fence[1])
            yield _code(lines[start + 1 : at])
            at += 1
        elif heading := _HEADING.match(line):
            yield Block("heading", (_spans(heading[2].rstrip().rstrip("#")),), number=len(heading[1]))
            at += 1
        elif item := _ITEM.match(line):
            at = _list_end(lines, at, bool(item[2]))
            yield _list(lines[start:at], item[2])
        elif line.lstrip().startswith("|"):
            at = _first_without(lines, at + 1, "|")
            yield _code(lines[start:at])
        elif line.lstrip().startswith(">"):
            at = _first_without(lines, at + 1, ">")
            said = " ".join(line.lstrip(" >") for line in lines[start:at])
            yield Block("quote", (_spans(said),))
        else:
            at = _paragraph_end(lines, at)
            yield Block("paragraph", (_spans(" ".join(lines[start:at])),))


def _first(lines: Sequence[str], at: int, sign: str) -> int:
    """Return the number of the first line from ``at`` on that begins with a sign."""
    return next((n for n in range(at, len(lines)) if lines[n].lstrip().startswith(sign)), len(lines))


def _first_without(lines: Sequence[str], at: int, sign: str) -> int:
    """Return the number of the first line from ``at`` on that does not begin with a sign."""
    return next((n for n in range(at, len(lines)) if not lines[n].lstrip().startswith(sign)), len(lines))


def _paragraph_end(lines: Sequence[str], at: int) -> int:
    for number in range(at + 1, len(lines)):
        line = lines[number]
        begins = _FENCE.match(line) or _HEADING.match(line) or _ITEM.match(line)
        if begins or not line.strip() or line.lstrip()[0] in "|>":
            return number
    return len(lines)


def _list_end(lines: Sequence[str], at: int, ordered: bool) -> int:
    """Return the number of the line after a list: of one that is not indented and no item of its kind."""
    end = at + 1
    for number in range(at + 1, len(lines)):
        line = lines[number]
        item = _ITEM.match(line)
        if line.startswith(("  ", "\t")) or (item and bool(item[2]) == ordered):
            end = number + 1
        elif line.strip():
            break
    return end


def _list(lines: Sequence[str], number: str | None) -> Block:
    items: list[tuple[int, str]] = []
    for line in lines:
        if item := _ITEM.match(line):
            items.append((min(DEEPEST, len(item[1].expandtabs(4)) // 2), item[3]))
        elif line.strip():
            depth, said = items[-1]
            items[-1] = depth, f"{said} {line.strip()}"
    said_lines = tuple(_spans(said) for _, said in items)
    kind: Kind = "bullets" if number is None else "ordered"
    return Block(kind, said_lines, tuple(depth for depth, _ in items), int(number or 1))


def _code(lines: Sequence[str]) -> Block:
    return Block("code", ((("text", "\n".join(lines)),),))


def _spans(text: str) -> tuple[Span, ...]:
    found: list[Span] = []
    at = 0
    for match in _SPAN.finditer(text):
        if match.start() > at:
            found.append(("text", text[at : match.start()]))
        if match["code"] is not None:
            found.append(("code", match["code"]))
        elif match["strong"] is not None:
            found.append(("strong", match["strong"]))
        else:
            found.append(("em", match["em"]))
        at = match.end()
    if at < len(text):
        found.append(("text", text[at:]))
    return tuple(found)
