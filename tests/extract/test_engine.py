"""An engine says what decides the bytes of a store, and what goes wrong in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wif_store.errors import ModelError
from wif_store.extract.engine import Opener, open_engine
from wif_store.tasks import get_task
from wif_store.tasks.base import Request

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("mcq")
REQUEST = Request("a", (("Which?\nAnswer:", " A"), ("Which?\nAnswer:", " B")), None)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_what_decides_the_bytes_of_a_store_is_recorded(tiny_models):
    engine = open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu", batch_tokens=64, batch_size=7)
    assert engine.versions["torch"] == torch.__version__
    assert engine.versions.keys() == {"torch", "transformers", "tokenizers", "numpy", "zarr", "numcodecs"}
    assert engine.batching == {"tokens": 64, "examples": 7, "overhead": 32}
    assert engine.model["attention"] == "sdpa"
    assert engine.model["n_layers"] == 4


def test_the_number_of_threads_is_recorded_apart_and_may_be_given(tiny_models, threads):
    folder = str(tiny_models("llama"))
    engine = open_engine(folder, PROTOCOL, device="cpu", dtype="float32", threads=1)
    assert engine.model["threads"] == torch.get_num_threads() == 1
    assert engine.model["device"] == "cpu"
    with pytest.raises(ModelError, match="number of threads is 0"):
        open_engine(folder, PROTOCOL, device="cpu", threads=0)


def test_no_more_threads_run_than_this_process_may_use(tiny_models, threads, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    torch.set_num_threads(2)
    assert open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu").model["threads"] == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_into_memory_is_one_line(error, tiny_models, monkeypatch):
    engine = open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu", batch_tokens=640)

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(type(engine.extract.model.decoder.module), "forward", full)
    with pytest.raises(
        ModelError, match=r"example a has \d+ tokens to run, which do not fit into memory even"
    ):
        engine.extract([REQUEST])


def test_a_model_that_does_not_fit_into_memory_is_one_line(tiny_models, monkeypatch):
    from transformers import LlamaForCausalLM

    def full(*args, **kwargs):
        msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(LlamaForCausalLM, "to", full)
    with pytest.raises(
        ModelError, match="model llama on cpu does not fit into memory: use a smaller --dtype"
    ):
        open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu")


def test_other_errors_of_torch_stay_what_they_are(tiny_models, monkeypatch):
    engine = open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu")

    def broken(*args, **kwargs):
        msg = "shapes do not match"
        raise RuntimeError(msg)

    monkeypatch.setattr(type(engine.extract.model.decoder.module), "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.extract([REQUEST])


def test_a_device_that_is_not_there_is_one_line(tiny_models):
    with pytest.raises(ModelError, match="cannot use device 'nowhere'"):
        open_engine(str(tiny_models("llama")), PROTOCOL, device="nowhere")


BASE_INSTALL = """
import sys
sys.modules["{name}"] = None
from wif_store.errors import ModelError
for module in ("engine", "recompute", "dry_run"):
    try:
        __import__(f"wif_store.extract.{{module}}")
    except ModelError as error:
        print(error)
"""


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_base_install_is_told_what_to_install(name):
    said = subprocess.check_output([sys.executable, "-c", BASE_INSTALL.format(name=name)], text=True)
    lines = said.splitlines()
    assert len(lines) == 3
    assert all("pip install 'wif-store[build]'" in line for line in lines)


def test_an_opener_lends_one_model_to_many_protocols(tiny_models):
    opener = Opener(str(tiny_models("llama")), device="cpu", dtype="float32")
    one, other = opener(TASK.protocol("mcq")), opener(TASK.protocol("aligned"))
    assert one.extract.model is other.extract.model
    assert other.extract.protocol.name == "aligned"
    assert opener(TASK.protocol("aligned")) is other


def test_no_more_threads_run_than_slurm_grants(tiny_models, threads, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    torch.set_num_threads(2)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu").model["threads"] == 1
