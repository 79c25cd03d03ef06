"""The manifest: what is rendered is parsed, and whatever else it says, an error of ours refuses it."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.manifests import sections, with_header
from wif_store.errors import DamageError, StoreError
from wif_store.format.manifest import parse_manifest, render_manifest

ENTRY = {"size": 12, "sha256": "0" * 64}


def parsed(data):
    return parse_manifest(render_manifest(data), "s.zarr")


def test_what_is_rendered_is_parsed():
    made = with_header(sections(), files={"train/success/c/0": {**ENTRY, "chunk_crc32c": "0" * 8}})
    manifest = parsed(made)
    for section in ("task", "outcome", "protocol", "model", "selection", "splits", "layers", "files"):
        assert getattr(manifest, section) == made[section]
    assert manifest.examples == 16


def test_what_was_left_out_is_a_section_of_its_own():
    assert parsed(with_header(sections(), left_out={"manifest_sha256": "0" * 64})).task == "winogrande"


def test_it_has_the_digest_of_itself():
    content = render_manifest(with_header(sections()))
    digest = json.loads(content)["manifest_sha256"]
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_changed_character_is_found(at):
    content = bytearray(render_manifest(with_header(sections())))
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    where = digits[int(at * len(digits))]
    content[where] ^= 1  # another digit
    with pytest.raises(StoreError):
        parse_manifest(bytes(content), "s.zarr")


def test_the_error_of_a_changed_manifest_says_what_to_do():
    data = json.loads(render_manifest(with_header(sections())))
    data["selection"]["seed"] = 3
    with pytest.raises(DamageError, match=r"does not have its own SHA-256.*build or pull the store again"):
        parse_manifest(json.dumps(data).encode(), "s.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a wif-store manifest \\(format is 'other'\\)"),
        ({"format_version": 99}, "has format version 99; this wif-store reads version 1: install the wif"),
        ({"format_version": None}, "has format version None"),
        ({"format_version": True}, "has format version True"),
        ({"format_version": "1"}, "has format version 1;"),
    ],
)
def test_another_format_is_said(change, message):
    with pytest.raises(StoreError, match=message):
        parsed(with_header(sections(), **change))


def test_a_store_of_the_earlier_layout_is_to_be_built_again():
    """It had no section of layers, and every array in the root group."""
    made = with_header(sections())
    earlier = {name: value for name, value in made.items() if name not in ("layers", "outcome", "sites")}
    with pytest.raises(StoreError, match="earlier layout, which nothing reads any more: build it again"):
        parsed(earlier)


def changed(section, **values):
    return lambda made: made[section].update(values)


def of_split(split, **values):
    return lambda made: made["splits"][split].update(values)


LIES = {
    "no task": lambda made: made.pop("task"),
    "a task that writes to the terminal": lambda made: made.update(task="wino\x1b]0;owned\x07"),
    "an outcome that is none": lambda made: made.update(outcome="guess"),
    "a section of nothing": lambda made: made.update(selection=None),
    "a section more": lambda made: made.update(more={}),
    "a fourth split": lambda made: made["splits"].update(dev=made["splits"]["test"]),
    "a split less": lambda made: made["splits"].pop("validation"),
    "splits of nothing": lambda made: made.update(splits={}),
    "a split of nothing": lambda made: made["splits"].update(train=None),
    "a split without a pair": of_split("test", examples=0, tokens=0),
    "half a pair": of_split("test", examples=3),
    "more examples than tokens": of_split("test", examples=4, tokens=3),
    "a negative count": of_split("train", scanned=-4),
    "negative examples": of_split("train", examples=-4),
    "absurd tokens": of_split("train", tokens=2**40),
    "absurd examples": of_split("train", examples=10**30, tokens=10**31),
    "examples that are true": of_split("train", examples=True),
    "examples of text": of_split("train", examples="8"),
    "half an example": of_split("train", examples=8.0),
    "no tokens": lambda made: made["splits"]["train"].pop("tokens"),
    "no width": lambda made: made["model"].pop("d_model"),
    "a width of nothing": changed("model", d_model=0),
    "a width of text": changed("model", d_model="16"),
    "an absurd width": changed("model", d_model=2**21),
    "a device that writes to the terminal": changed("model", device="cpu\x1b[2J"),
    "negative layers": changed("model", n_layers=-1),
    "rows of nothing": changed("source", rows=None),
    "absurd rows": changed("source", rows=2**50),
    "an accuracy of text": changed("selection", accuracy="x" * 10**6),
    "an accuracy that is no number": changed("selection", accuracy=float("nan")),
    "an accuracy of infinity": changed("selection", accuracy=float("inf")),
    "a seed that is true": changed("selection", seed=True),
    "a negative k": changed("selection", k=-1),
    "an audit of lists": changed("audit", counts=[]),
    "no sites": lambda made: made.update(sites=[]),
    "a site that writes to the terminal": lambda made: made.update(sites={"a\x1b": "b"}),
    "a site without a meaning": lambda made: made.update(sites={"a": None}),
    "layers of nothing": lambda made: made.update(layers=None),
    "layers of one array": lambda made: made["layers"].pop("sequence"),
    "layers in no list": changed("layers", final_token="0"),
    "layers out of order": changed("layers", final_token=[1, 0]),
    "a layer twice": changed("layers", final_token=[0, 0]),
    "a layer below 0": changed("layers", sequence=[-1]),
    "a layer that the model has not": changed("layers", sequence=[3]),
    "files in a list": lambda made: made.update(files=["a"]),
    "a file without a size": lambda made: made.update(files={"a": {"sha256": "0"}}),
    "a negative size": lambda made: made.update(files={"a": {**ENTRY, "size": -1}}),
    "a size that is true": lambda made: made.update(files={"a": {**ENTRY, "size": True}}),
    "an absurd size": lambda made: made.update(files={"a": {**ENTRY, "size": 2**62}}),
    "a digest that is no text": lambda made: made.update(files={"a": {**ENTRY, "sha256": 0}}),
    "a checksum that is no text": lambda made: made.update(files={"a": {**ENTRY, "chunk_crc32c": 7}}),
}


@pytest.mark.parametrize("case", LIES)
def test_a_manifest_that_lies_is_refused_in_one_line(case):
    made = with_header(sections())
    LIES[case](made)
    with pytest.raises(StoreError) as error:
        parsed(made)
    assert str(error.value).startswith("s.zarr: ")
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "./train/success/c/0",
        "train//success/c/0",
        "x/../../y",
        "a\nb",
        "a\x1b[2Jb",
        "a\\b",
        "C:a",
        "a/",
        ".",
        "..",
        "",
    ],
)
def test_a_file_that_is_not_below_the_store_is_refused(name):
    with pytest.raises(StoreError, match="is not a file below the store") as error:
        parsed(with_header(sections(), files={name: ENTRY}))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b'{"a":' * 100_000, b"[" * 10**6, b"9" * 10**6, b"", b"\x00" * 99, b"\xff\xfe", b"[]", b"{}", b"null"],
)
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(StoreError, match=r"s\.zarr: manifest\.json is not a wif-store manifest"):
        parse_manifest(content, "s.zarr")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@settings(max_examples=50, deadline=None)
@given(value=ANYTHING, section=st.sampled_from(sorted(with_header(sections()))))
def test_whatever_stands_in_a_section_the_error_is_ours(value, section):
    for content in (
        json.dumps(value).encode(),
        render_manifest({**with_header(sections()), section: value}),
        render_manifest(dict.fromkeys(sections(), value) | {"format": "wif-store", "format_version": 1}),
    ):
        try:
            parse_manifest(content, "s.zarr")
        except StoreError as error:
            assert str(error).startswith("s.zarr: ")
