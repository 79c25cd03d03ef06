"""The one grammar of layers."""

from __future__ import annotations

import pytest

from wif_store.errors import LayersError
from wif_store.format.layers import parse_layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", tuple(range(18))),
        ("none", ()),
        ("auto", (4, 9, 14)),
        (" all ", tuple(range(18))),
        ("7", (7,)),
        ("0,4,9-12", (0, 4, 9, 10, 11, 12)),
        ("12, 4 ,4,3 - 5", (3, 4, 5, 12)),
        ("17-17", (17,)),
    ],
)
def test_what_a_text_names(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, range(18)) == layers


def test_auto_is_every_fifth_of_those_that_there_are() -> None:
    assert parse_layers("auto", [3, 5, 7, 9, 11, 13, 15, 17, 19, 21]) == (11, 21)
    assert parse_layers("auto", range(4)) == ()
    assert parse_layers("all", [9, 14]) == (9, 14)


@pytest.mark.parametrize(
    "text", ["", "one", "1,", ",1", "-1", "1-", "5-3", "1..3", "1;2", "1.5", "²", "٣", "ALL", "0x1", "9" * 40]
)
def test_a_text_that_names_nothing_is_one_line(text: str) -> None:
    with pytest.raises(LayersError) as refused:
        parse_layers(text, range(18), "--sequence-layers")
    assert str(refused.value) == (
        f"--sequence-layers is {text!r}; expected all, none, auto, or 0-based layers as in 0,4,9-12; "
        "there are: 0-17"
    )


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(LayersError) as refused:
        parse_layers("4,9-12", [4, 9, 14])
    assert str(refused.value) == "--layers is '4,9-12': there is no layer 10; expected some of: 4,9,14"
    with pytest.raises(LayersError, match=r"there is no layer 0; expected some of: none$"):
        parse_layers("0", [])


def test_a_range_without_end_is_not_counted_out() -> None:
    with pytest.raises(LayersError, match="no layer 2; "):
        parse_layers("0-999999", range(2))
