"""The card: reference cards as they are committed, what the Hub and ``datasets`` read of it, and refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, ROOT, contents, push, wif
from tests.hub.reference_cards import CARDS, published, results
from tests.support.stores import make_store
from wif_store.errors import PublishError
from wif_store.format.schema import columns
from wif_store.hub.card import Published, check_card, matching_results, render_card
from wif_store.hub.parquet import view_schema
from wif_store.hub.push_plan import BESIDE, RESULTS
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

REWRITE = "it differs from cards/: read the change, then run python -m tests.hub.reference_cards"


def changed(task: str, /, **sections: Any) -> Published:
    """A task whose manifest has other sections."""
    return Published(replace(published(task).manifest, **sections), 0)


def head(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("name", CARDS)
def test_the_reference_cards_are_what_is_rendered(name: str) -> None:
    assert CARDS[name]() == (ROOT / "cards" / name).read_text(encoding="utf-8"), REWRITE


def test_the_features_are_those_of_the_files(made: Callable[[str], Path]) -> None:
    from datasets import Features

    store = open_store(made("winogrande"))
    wanted = Features.from_arrow_schema(view_schema(store.manifest))
    for info in head(render_card(REPO, [Published(store.manifest, 0)]))["dataset_info"]:
        named = Features._from_yaml_list(info["features"])
        assert (list(named), named) == (list(wanted), wanted)
    for info in head(CARDS["four_tasks.md"]())["dataset_info"]:
        named = Features._from_yaml_list(info["features"])
        assert len(named) == len(columns("choice")) + 26
        assert named["resid_post_25"].length == 2304


def test_one_list_of_columns(made: Callable[[str], Path]) -> None:
    """The store's table, the Parquet view, the card's features and the card's table."""
    store = open_store(made("winogrande"))
    wanted = [column.name for column in columns("choice")]
    assert store.table("test").column_names == wanted
    names = view_schema(store.manifest).names
    assert names == [*wanted, *(f"resid_post_0{layer}" for layer in range(4))]
    card = render_card(REPO, [Published(store.manifest, 0)])
    assert [feature["name"] for feature in head(card)["dataset_info"][0]["features"]] == names
    rows = card.partition("## What is in it")[2].partition("Residuals are")[0]
    assert re.findall(r"^\| `(\w+)`", rows, re.MULTILINE) == [*wanted, "resid_post_00"]


def test_a_task_that_is_not_registered_has_a_card() -> None:
    """It goes by the manifest; what a manifest cannot say is said to be elsewhere."""
    source = {"kind": "local", "id": "a|b.jsonl", "rows": 9, "sha256": "0" * 64, "revision": None}
    one = changed("piqa", task="my-task", source=source)
    card = render_card(REPO, [one])
    assert "| my-task | a\\|b.jsonl | `local` | see the source | see the source |" in card
    assert "| my-task | 4,000 | 2,000 / 1,000 / 1,000 |" in card
    licensed = changed("piqa", task="my-task", source=source | {"licence": "mit", "citation": "Me, 2026"})
    assert "| `local` | mit | Me, 2026 |" in render_card(REPO, [licensed])


def test_a_protocol_that_is_not_registered_has_a_card() -> None:
    protocol = {"name": "mine", "version": 3, "site": "elsewhere"}
    card = render_card(REPO, [changed("piqa", protocol=protocol)])
    assert "- Protocol: `mine` version 3." in card
    assert "residuals read at the last token of elsewhere." in card


def test_an_adapter_is_named() -> None:
    model = published("piqa").manifest.model
    adapter = {"id": "me/lora", "kind": "hub", "revision": "a" * 40}
    card = render_card(REPO, [changed("piqa", model={**model, "adapter": adapter})])
    assert f"` with the adapter `me/lora` at revision `{'a' * 40}`, " in card
    assert "adapter" not in render_card(REPO, [changed("piqa")])


def test_an_outcome_that_the_model_writes_has_a_card() -> None:
    card = render_card(REPO, [changed("piqa", outcome="response")])
    assert head(card)["task_categories"] == ["text-generation", "feature-extraction"]
    assert {"name": "targets", "list": "string"} in head(card)["dataset_info"][0]["features"]
    assert "The answer is what the model wrote" in card
    assert "multiple-choice" not in card
    assert "`choices`" not in card


def test_what_the_card_says_of_splits() -> None:
    card = CARDS["one_task.md"]()
    assert "A group is in one split, which is a function of the seed and the group" in card
    assert "| groups of siblings that stand in more than one split | 0 |" in card
    assert 'split="test[:100]"' in card
    manifest = published("piqa").manifest
    crossing = changed(
        "piqa",
        selection={**manifest.selection, "splits": "published"},
        audit={"counts": {**manifest.audit["counts"], "groups_across_splits": 31}, "named": {}},
    )
    card = render_card(REPO, [crossing])
    assert "A group is in one split" not in card
    assert "| groups of siblings that stand in more than one split | 31 |" in card
    assert "piqa: 31 groups of siblings cross the splits, so test scores are too good." in card


def test_nothing_in_a_card_is_obeyed_by_a_terminal() -> None:
    source = {**published("piqa").manifest.source, "id": "\x1b[2Jgone\u202e", "config": "x\x07"}
    card = render_card(REPO, [changed("piqa", source=source)])
    assert card.replace("\n", "").isprintable()
    assert yaml.safe_load(card.split("---\n")[1])["configs"]


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
    for path in BESIDE:
        (folder / path.rpartition("/")[2]).write_bytes(b"\x89PNG\r\n")
    push(hub, made("winogrande"), results=folder)
    push(hub, made("boolq"))
    card = hub.repo(REPO).read("README.md").decode()
    assert "| winogrande | logistic | 9 | 0.640 | [0.570, 0.700] |" in card
    assert all(f"/resolve/main/{path})" in card for path in BESIDE)
    # The figure of steering is there where something was steered.
    assert {RESULTS, *BESIDE} - {"results/steering.png"} <= contents(hub).keys()
    push(hub, make_store(tmp_path / "w.zarr", per_class=8))
    card = hub.repo(REPO).read("README.md").decode()
    assert "## Baselines" not in card
    assert not {RESULTS, *BESIDE} & contents(hub).keys()


@pytest.mark.hub
def test_what_score_writes_is_what_a_card_shows(
    hub: Hub, made: Callable[[str], Path], tmp_path: Path
) -> None:
    store = made("winogrande")
    scored = wif(hub, "score", store, "--out", tmp_path / "scores")
    assert scored.returncode == 0, scored.stderr
    pushed = wif(hub, "push", store, "--results", tmp_path / "scores")
    assert pushed.returncode == 0, pushed.stderr
    card = hub.repo(REPO).read("README.md").decode()
    assert re.search(r"^\| winogrande \| logistic \| \d \| \d\.\d{3} \| \[", card, re.MULTILINE)
    assert re.search(r"^\| winogrande \| confidence \|  \| ", card, re.MULTILINE)
    # The figure of steering is there where something was steered.
    assert {RESULTS, *BESIDE} - {"results/steering.png"} <= contents(hub).keys()


def test_what_the_paper_protocol_falls_short_in_is_said() -> None:
    one = published("social_i_qa", protocol="paper")
    card = render_card(REPO, [one])
    assert "the probed prompt ends in the gold label itself" in card
    assert "| prompts that hold the gold answer's own label | 4000 |" in card
    assert "social_i_qa: the probed prompt holds the right answer's label" in card


def test_the_template_is_found_in_an_installed_package() -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"cards/dataset_card.md.jinja" = "wif_store/cards/dataset_card.md.jinja"' in config
