"""The card: reference cards as they are committed, what the Hub and ``datasets`` read of it, and refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, ROOT, contents, push
from tests.hub.reference_cards import CARDS, published, results
from tests.support.stores import make_store
from wif_store.errors import PublishError
from wif_store.hub.card import check_card, matching_results, render_card
from wif_store.hub.parquet import view_schema
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

REWRITE = "it differs from cards/: read the change, then run python -m tests.hub.reference_cards"


def head(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("name", CARDS)
def test_the_reference_cards_are_what_is_rendered(name: str) -> None:
    assert CARDS[name]() == (ROOT / "cards" / name).read_text(encoding="utf-8"), REWRITE


def test_the_features_are_those_of_the_files(made: Callable[[str], Path]) -> None:
    from datasets import Features

    store = open_store(made("winogrande"))
    wanted = Features.from_arrow_schema(view_schema(store.manifest, store.layers))
    for info in head(CARDS["four_tasks.md"]())["dataset_info"]:
        named = Features._from_yaml_list(info["features"])
        assert list(named)[:11] == list(wanted)[:11]
        assert {name: named[name] for name in list(wanted)[:11]} == {
            name: wanted[name] for name in list(wanted)[:11]
        }
        assert named["resid_post_25"].length == 2304


def test_a_card_without_configs_is_refused() -> None:
    card = CARDS["one_task.md"]()
    files = [f"data/winogrande/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")]
    check_card(card, files)
    for bad, message in (
        ("# No YAML\n", "has no `configs`"),
        ("---\nlicense: mit\n---\n", "has no `configs`"),
        ("---\nconfigs: []\n---\n", "has no `configs`"),
        ("---\n[\n---\n", "YAML cannot be read"),
        (card.replace("  default: true\n", ""), "exactly one config with `default: true`"),
    ):
        with pytest.raises(PublishError, match=message):
            check_card(bad, files)
    with pytest.raises(PublishError, match=r"names data/\*/test-\*.parquet: no such file"):
        check_card(card, files[:2])


def test_results_belong_to_their_stores() -> None:
    tasks = [published("winogrande"), published("boolq")]
    assert matching_results(results("winogrande"), tasks)
    assert not matching_results(results("piqa"), tasks)
    other = results("winogrande")
    other["tasks"][0]["store"]["selection"] = {"seed": 1}
    assert not matching_results(other, tasks)


@pytest.mark.hub
@UPLOAD_WARNING
def test_results_stay_until_their_store_is_replaced(
    hub: Hub, made: Callable[[str], Path], tmp_path: Path
) -> None:
    manifest = open_store(made("winogrande")).manifest
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results("winogrande", manifest)))
    (folder / "figure.png").write_bytes(b"\x89PNG\r\n")
    push(hub, made("winogrande"), results=folder)
    push(hub, made("boolq"))
    card = hub.repo(REPO).read("README.md").decode()
    assert "| winogrande | logistic | 9 | 0.640 | [0.570, 0.700] |" in card
    assert "/resolve/main/results/figure.png)" in card
    assert {"results/results.json", "results/figure.png"} <= contents(hub).keys()
    push(hub, make_store(tmp_path / "w.zarr", per_class=8))
    card = hub.repo(REPO).read("README.md").decode()
    assert "## Baselines" not in card
    assert not {"results/results.json", "results/figure.png"} & contents(hub).keys()


def test_what_the_paper_protocol_falls_short_in_is_said() -> None:
    one = published("social_i_qa", protocol="paper")
    card = render_card(REPO, [one])
    assert "the probed prompt ends in the gold label itself" in card
    assert "social_i_qa: the probed prompt holds the right answer's label" in card


def test_the_template_is_found_in_an_installed_package() -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"cards/dataset_card.md.jinja" = "wif_store/cards/dataset_card.md.jinja"' in config
