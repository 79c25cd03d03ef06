"""What is stored equals what an independent reading of the same tokens gives, one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import tiny
from wif_store.errors import ResidualError
from wif_store.extract import float32_linear
from wif_store.extract.engine import open_engine
from wif_store.extract.hooks import check_finite
from wif_store.records import widen
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

TASK = get_task("winogrande")


def requests(rows_file, protocol, count=24):
    return [TASK.request(c, protocol) for c in load_source(TASK, str(rows_file)).candidates[:count]]


def reference(folder, dtype, token_ids):
    """Every layer's output for one unpadded prompt, of a model with products in the same type."""
    model = tiny.plain_model(folder, dtype)
    float32_linear.use_float32(model)
    return [tiny.hooked_residuals(model, ids) for ids in token_ids]


def relative(a, b):
    return np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("protocol", ["aligned", "mcq", "paper"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_layer_equals_the_hooked_model(architecture, protocol, tiny_models, rows_file):
    folder = tiny_models(architecture)
    protocol = TASK.protocol(protocol)
    engine = open_engine(str(folder), protocol, sequence_layers="all", dtype="float32", device="cpu")
    records = engine.extract(requests(rows_file, protocol))
    expected = reference(folder, torch.float32, [r.token_ids for r in records])
    for record, want in zip(records, expected, strict=True):
        assert record.sequence.shape == want.shape
        assert relative(record.sequence, want.numpy()).max() < 1e-5
        np.testing.assert_array_equal(record.final_token, record.sequence[:, -1])


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_bit_for_bit_where_the_batch_is_the_same(architecture, tiny_models, rows_file):
    folder = tiny_models(architecture)
    protocol = TASK.protocol("mcq")
    engine = open_engine(str(folder), protocol, sequence_layers="all", device="cpu", batch_tokens=1)
    records = engine.extract(requests(rows_file, protocol, 6))
    expected = reference(folder, torch.bfloat16, [r.token_ids for r in records])
    for record, want in zip(records, expected, strict=True):
        assert record.sequence.dtype == np.uint16
        np.testing.assert_array_equal(widen(record.sequence), want.float().numpy())


def test_what_decides_the_bytes_of_a_store_is_recorded(tiny_models):
    engine = open_engine(str(tiny_models("llama")), TASK.protocol("mcq"), device="cpu")
    assert engine.versions["torch"] == torch.__version__
    assert engine.versions.keys() >= {"transformers", "tokenizers", "numpy", "zarr", "numcodecs"}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_batch_composition_changes_nothing_in_float32(architecture, tiny_models, rows_file):
    protocol = TASK.protocol("aligned")
    made = []
    for limits in ({"batch_tokens": 1}, {"batch_size": 7}, {"batch_tokens": 100_000}):
        engine = open_engine(
            str(tiny_models(architecture)),
            protocol,
            sequence_layers="1",
            dtype="float32",
            device="cpu",
            **limits,
        )
        made.append(engine.extract(requests(rows_file, protocol)))
    for others in made[1:]:
        for one, other in zip(made[0], others, strict=True):
            assert one.prediction == other.prediction
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
            assert relative(one.final_token, other.final_token).max() < 1e-5


def test_last_layer_is_before_the_final_norm(tiny_models, rows_file):
    folder = tiny_models("gemma2")
    protocol = TASK.protocol("mcq")
    engine = open_engine(str(folder), protocol, dtype="float32", device="cpu", batch_tokens=1)
    record = engine.extract(requests(rows_file, protocol, 1))[0]
    model = tiny.plain_model(folder, torch.float32)
    with torch.inference_mode():
        ids = torch.from_numpy(record.token_ids.astype(np.int64))[None]
        after_norm = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        before = torch.from_numpy(record.final_token[-1])
        assert not torch.allclose(before, after_norm, rtol=1e-2)
        torch.testing.assert_close(model.model.norm(before), after_norm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found(dtype, wrong):
    values = torch.full((2, 6, 4), torch.finfo(dtype).max, dtype=dtype)
    check_finite(values, (3, 7), (2, 1, 3), ("a", "b", "c"))  # though the sums may overflow
    values[1, 3, 2] = wrong
    with pytest.raises(ResidualError, match="example c: the residual after layer 7 is not finite"):
        check_finite(values, (3, 7), (2, 1, 3), ("a", "b", "c"))
    values[1, 3] = torch.tensor([wrong, -wrong, 0, 0])  # nor does one undo another
    with pytest.raises(ResidualError, match="example c"):
        check_finite(values, (3, 7), (2, 1, 3), ("a", "b", "c"))
