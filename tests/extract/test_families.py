"""Each family of decoders gives what plain hooks give at batch 1, or is refused in a line before the scan.

docs/models.md is the table of what is found here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.support.families import FAMILIES, config
from wif_store.errors import ModelError
from wif_store.extract.engine import open_engine
from wif_store.extract.layers import find_layers
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("aligned")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
REFUSED = {"gemma3n_text": "its decoder layers give 4 dimensions"}
"""What the line of each refusal says."""


@pytest.fixture(scope="module")
def requests(rows_file):
    return [TASK.request(c, PROTOCOL) for c in load_source(TASK, str(rows_file)).candidates[:12]]


def saved(family, folder):
    return tiny.save(config(family), folder)


def hooked(model, token_ids):
    layers = find_layers(model, model.config.get_text_config(decoder=True).num_hidden_layers)
    return tiny.hooked_residuals(model, token_ids, layers).numpy()


@pytest.mark.filterwarnings("ignore")  # transformers': kernels that are not installed, settings of its own
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - REFUSED.keys()))
def test_a_family_gives_what_plain_hooks_give(family, requests, tmp_path):
    folder = saved(family, tmp_path / family)
    engine = open_engine(str(folder), PROTOCOL, sequence_layers="all", dtype="float32", device="cpu")
    model, tokenizer = tiny.plain_model(folder, torch.float32), engine.extract.model.tokenizer
    for record, request in zip(engine.extract(requests), requests, strict=True):
        want = hooked(model, record.token_ids)
        assert record.sequence.shape == want.shape
        gap = np.linalg.norm(record.sequence - want, axis=-1) / np.linalg.norm(want, axis=-1)
        assert gap.max() < 1e-5
        plain = [tiny.plain_logprob(model, tokenizer, *pair) for pair in request.pairs]
        np.testing.assert_allclose(record.logprobs, plain, atol=2e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", REFUSED)
def test_a_family_is_refused_before_the_scan(family, tmp_path):
    folder = saved(family, tmp_path / family)
    with pytest.raises(ModelError) as refused:
        open_engine(str(folder), PROTOCOL, dtype="float32", device="cpu")
    assert REFUSED[family] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_page_lists_every_family():
    expected = [
        f"| `{family}` | {what} | {'refused: ' + REFUSED[family] if family in REFUSED else 'right'} |"
        for family, (what, _) in sorted(FAMILIES.items())
    ]
    table = PAGE.read_text().partition("| family |")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == expected
