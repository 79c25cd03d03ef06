"""An explanation in words: a Markdown file whose head says what it explains."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from wif_store.errors import ScoreError, one_line
from wif_store.scorer.provenance import describe_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from wif_store.explainer.findings import Finding, Found, Passage
    from wif_store.scorer.features import Store

FENCE: Final = "---"
MOST_BYTES: Final = 1_000_000
MOST_HEAD: Final = 10_000
"""Characters of a head, at most."""
NO_SPACES: Final = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Letters of scripts that are written without spaces: Thai, Lao, Chinese, Japanese; and Korean."""
WORD: Final = re.compile(rf"[{NO_SPACES}]|[^\W_{NO_SPACES}]+")
SHORTEST: Final = 4
"""Words of a prompt that is looked for whole."""
WINDOW: Final = 8
"""Words in a row that quote a test example, if no train example has them."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a person or a model reads.

    Attributes:
        text: Markdown, without the head.
        task: The task that it explains, empty where the head does not say.
        name: What it is called in results: the name of its file.
    """

    text: str
    task: str = ""
    name: str = "explanation"


def read_explanation(path: str | os.PathLike[str]) -> Explanation:
    """Read the file of an explanation; anyone may have written it, with or without a head.

    Raises:
        ScoreError: If there is no such file, it is empty, or its head cannot be read.
    """
    file = Path(path)
    try:
        if not file.is_file() and file.exists():
            msg = f"explanation {file} is no regular file; expected a Markdown file"
            raise ScoreError(msg)
        if file.stat().st_size > MOST_BYTES:
            msg = f"explanation {file} has {file.stat().st_size} bytes; expected a text of a few pages"
            raise ScoreError(msg)
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"explanation {file} cannot be read ({one_line(error)}); expected a Markdown file"
        raise ScoreError(msg) from error
    task, text = _without_head(content, file)
    if not text.strip():
        msg = f"explanation {file} is empty; expected words that say when the model fails"
        raise ScoreError(msg)
    return Explanation(text.strip(), task, file.stem)


def _without_head(content: str, file: Path) -> tuple[str, str]:
    """The task that the head of a file names, empty where there is none, and the text below the head."""
    match = re.match(rf"{FENCE}\n(.*?\n)?{FENCE}\n", content, re.DOTALL)
    given = (match[1] or "") if match else ""
    # What stands between two lines is a head if it looks like one: anything else is text.
    if not match or len(given) > MOST_HEAD or not re.match(r"\w+:", given):
        return "", content
    try:
        head = yaml.safe_load(given)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        msg = f"the head of explanation {file} is no YAML ({one_line(error)})"
        raise ScoreError(msg) from error
    task = head.get("task") if isinstance(head, dict) else None
    return task if isinstance(task, str) else "", content[match.end() :]


def write_explanation(store: Store, found: Found) -> str:
    """Put what a method found into words.

    Returns:
        The content of the file: a head in YAML, and Markdown.
    """
    described = describe_store(store)
    model = str(store.manifest.model.get("id", "the model"))
    head = {
        "task": store.task,
        "model": model,
        "protocol": str(store.manifest.protocol.get("name", "")),
        "manifest_sha256": described["manifest_sha256"],
        "method": found.method,
        "layer": found.layer,
        "validation_auroc": round(found.validation_auroc, 4),
    }
    lines = [
        f"# When is {_name(model)} right on {_name(store.task)}?",
        "",
        f"{found.method} reads the residual stream after layer {found.layer}. Of two examples, one right and "
        f"one wrong, it tells which is which in {found.validation_auroc:.0%} of cases (half is chance).",
        "Half of all examples are right. All examples shown are of the train split.",
    ]
    for number, finding in enumerate(found.findings, 1):
        lines += ["", *_finding(number, finding, found.train)]
    return f"{FENCE}\n{yaml.safe_dump(head, sort_keys=False)}{FENCE}\n\n" + "\n".join(lines) + "\n"


def check_quotes(explanation: Explanation, store: Store) -> None:
    """Refuse an explanation that quotes a test example: its prompt, or one of its choices.

    A quotation is eight words in a row that no train example has, or the whole of a text of four to seven.
    Words that stand before or after every prompt are not counted.

    Raises:
        ScoreError: Naming the example.
    """
    text = f" {' '.join(_words(explanation.text))} "
    told = {" ".join(part) for part in _windows(text.split())}
    frame = _frame([_words(prompt) for prompt in store.column("prompt", "train")])
    known = {window for part in _texts(store, "train") for window in _quotable(part[1], frame)}
    for example, part in _texts(store, "test"):
        for window in _quotable(part, frame):
            short = window.count(" ") < WINDOW - 1
            if window not in known and (f" {window} " in text if short else window in told):
                msg = (
                    f"{explanation.name} quotes the test example {example} ({window!r:.80}); an explanation "
                    "may show train examples only: write it without test rows"
                )
                raise ScoreError(msg)


def _texts(store: Store, split: str) -> Iterator[tuple[str, str]]:
    """The id and the text of every prompt and of every choice."""
    for example in store.examples(split):
        yield example.id, example.prompt
        for choice in example.choice.choices if example.choice else ():
            yield example.id, choice


def _frame(prompts: list[list[str]]) -> tuple[list[str], list[str]]:
    """The words that every prompt begins with, and those that every prompt ends with."""
    return _common(prompts), _common([words[::-1] for words in prompts])[::-1]


def _common(lists: list[list[str]]) -> list[str]:
    """The words that all of some lists begin with."""
    return [one[0] for one in takewhile(lambda one: len(set(one)) == 1, zip(*lists, strict=False))]


def _quotable(text: str, frame: tuple[list[str], list[str]]) -> Iterator[str]:
    """The parts of a text by which a quotation of it is known."""
    words, (first, last) = _words(text), frame
    if first and words[: len(first)] == first:
        words = words[len(first) :]
    if last and words[-len(last) :] == last:
        words = words[: -len(last)]
    if SHORTEST <= len(words) < WINDOW:
        yield " ".join(words)
    yield from (" ".join(part) for part in _windows(words))


def _finding(number: int, finding: Finding, train: int) -> Iterator[str]:
    direction = "more" if finding.weight > 0 else "less"
    if finding.active is None:
        yield f"## {number}. One direction: the model is likelier to be right where it is large"
        yield ""
        yield "Examples where it is largest:"
        yield from map(_passage, finding.high)
        yield ""
        yield "Examples where it is least:"
        yield from map(_passage, finding.low)
        return
    meaning = f" ({_line(finding.label)})" if finding.label else ""
    yield f"## {number}. {finding.name}{meaning}: the model is {direction} often right where it is active"
    yield ""
    yield (
        f"Active in {finding.active} of {train} train examples; {finding.successes:.0%} of these are right. "
        f"One standard deviation changes the log-odds of being right by {finding.weight:+.2f}."
    )
    yield "Examples where it is largest:"
    yield from map(_passage, finding.high)


def _passage(passage: Passage) -> str:
    kind = "right" if passage.success else "wrong"
    before, after = _line(passage.before), _line(passage.after)
    token = _line(passage.token) or "␣"
    return f"- {kind}: …{before} **{token}** {after}… answered {_line(passage.answer)!r:.60}".replace(
        "  ", " "
    )


def _line(text: str) -> str:
    """A text on one line, without what Markdown would take for something else."""
    return re.sub(r"([*_`\[\]<>#|\\])", r"\\\1", " ".join(text.split()))


def _name(text: str) -> str:
    return _line(text) or "?"


def _words(text: str) -> list[str]:
    """Words in lower case, without signs that are not seen; of a script without spaces, the letters."""
    plain = unicodedata.normalize("NFKC", text.casefold())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    return WORD.findall(plain)


def _windows(words: list[str]) -> Iterator[list[str]]:
    for start in range(len(words) - WINDOW + 1):
        yield words[start : start + WINDOW]
