"""A run under an intervention is what plain transformers gives under a forward hook, one text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.support.builds import TASK
from wif_store.extract.engine import open_engine
from wif_store.extract.intervention import Intervention
from wif_store.extract.rerun import Rerun
from wif_store.tasks import get_task
from wif_store.tasks.base import Generation, Protocol, Request
from wif_store.tasks.rows import load_source

LAYER = 2
DIRECTION = np.random.default_rng(3).standard_normal(32).astype(np.float32)
DIRECTION /= np.linalg.norm(DIRECTION)
CHANGES = [{"shift": 1.5}, {"shift": -3.0}, {"remove": 1.0}]


class Hooked:
    """transformers as it comes, with a hook of our own on one decoder layer."""

    def __init__(self, folder, tokenizer):
        self.model, self.tokenizer = tiny.plain_model(folder, torch.float32), tokenizer
        layers = (
            self.model.transformer.h
            if hasattr(self.model, "transformer")
            else self.model.get_decoder().layers
        )
        layers[LAYER].register_forward_hook(self._hook)
        self.shift = self.remove = 0.0
        self.only: int | None = None

    def _hook(self, module, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        direction = torch.from_numpy(DIRECTION)
        rows = slice(None) if self.only is None else slice(self.only, self.only + 1)
        values = hidden[:, rows]
        along = (values @ direction)[..., None]
        hidden[:, rows] = values + self.shift * direction - self.remove * along * direction
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    @torch.inference_mode()
    def logprob(self, context, continuation, at):
        """The log-likelihood of a continuation, and the distribution of the token after the context."""
        stripped = context.rstrip()
        ids = self.tokenizer(stripped + context[len(stripped) :] + continuation).input_ids
        begin = len(self.tokenizer(stripped).input_ids)
        self.only = begin - 1 if at == "final" else None
        logprobs = self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(float(logprobs[i - 1, ids[i]]) for i in range(begin, len(ids))), logprobs[begin - 1]


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    rows = tiny.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", tiny.rows(6))
    source = load_source(TASK, str(rows))
    return {
        name: [TASK.request(c, TASK.protocol(name)) for c in source.candidates] for name in ("aligned", "mcq")
    }


def rerun_of(folder, protocol, **options):
    engine = open_engine(str(folder), protocol, dtype="float32", device="cpu", **options)
    return Rerun(engine.extract, LAYER)


@pytest.mark.parametrize("architecture", [*tiny.ARCHITECTURES, "longrope"])
@pytest.mark.parametrize("protocol", ["aligned", "mcq"])
@pytest.mark.parametrize("at", ["all", "final"])
def test_choices_are_scored_as_under_a_plain_hook(architecture, protocol, at, tiny_models, requests):
    folder, asked = tiny_models(architecture), requests[protocol]
    rerun = rerun_of(folder, TASK.protocol(protocol))
    hooked = Hooked(folder, rerun.extractor.model.tokenizer)
    block = rerun.block(asked)
    before = block.run(None)
    for change in CHANGES:
        after = block.run(Intervention(LAYER, DIRECTION, at=at, **change))
        moved = rerun.divergence(before, after)
        for request, record, kl in zip(asked, after, moved, strict=True):
            expected, distances = [], []
            for context, continuation in request.pairs:
                hooked.shift, hooked.remove = 0.0, 0.0
                _, plain = hooked.logprob(context, continuation, at)
                hooked.shift, hooked.remove = change.get("shift", 0.0), change.get("remove", 0.0)
                total, steered = hooked.logprob(context, continuation, at)
                expected.append(total)
                distances.append(float((plain.exp() * (plain - steered)).sum()))
            np.testing.assert_allclose(record.logprobs, expected, rtol=1e-5, atol=1e-5)
            distinct = distances if len({context for context, _ in request.pairs}) > 1 else distances[:1]
            assert kl == pytest.approx(np.mean(distinct), abs=1e-5)
    assert rerun.skips


@pytest.mark.parametrize("at", ["all", "final"])
@pytest.mark.parametrize("written", [False, True])
def test_each_example_can_be_moved_in_its_own_way(at, written, tiny_models, requests):
    protocol = TASK.protocol("aligned")
    asked = requests["aligned"]
    if written:
        protocol = Protocol("p", "{prompt}", "", "response", generation=Generation(max_new_tokens=20))
        asked = [Request(str(n), ((f"the cat {'red ' * n}was", ""),)) for n in range(6)]
    rerun = rerun_of(tiny_models("gemma3"), protocol)
    random = np.random.default_rng(0)
    directions = random.standard_normal((len(asked), 32)).astype(np.float32)
    shifts = random.uniform(-4, 4, len(asked)).astype(np.float32)
    whole = Intervention(LAYER, directions, shift=shifts, at=at)
    together = rerun.block(asked).run(whole)
    for n, request in enumerate(asked):
        [alone] = rerun.block([request]).run(
            Intervention(LAYER, directions[n], shift=float(shifts[n]), at=at)
        )
        assert together[n].token_ids.tolist() == alone.token_ids.tolist()
        np.testing.assert_allclose(together[n].logprobs, alone.logprobs, rtol=1e-5, atol=1e-5)
    part = whole.of(2, 4)
    assert np.array_equal(part.direction, directions[2:4]) and np.array_equal(part.shift, shifts[2:4])
    one = Intervention(LAYER, DIRECTION, shift=1.0).of(2, 4)
    assert (one.shift, one.direction is DIRECTION) == (1.0, True)


def test_lower_layers_are_run_once(tiny_models, requests):
    rerun = rerun_of(tiny_models("gemma3"), TASK.protocol("aligned"))
    passes = []
    modules = rerun.extractor.model.layers
    for number, module in enumerate(modules):
        module.self_attn.register_forward_hook(lambda *given, number=number: passes.append(number))
    block = rerun.block(requests["aligned"])
    block.run(None)
    block.run(None)  # with the trial
    passes.clear()
    whole = block.run(Intervention(LAYER, DIRECTION, shift=1.0))
    assert set(passes) == {LAYER + 1}
    rerun.skips = False
    passes.clear()
    again = block.run(Intervention(LAYER, DIRECTION, shift=1.0))
    assert set(passes) == set(range(len(modules)))
    for one, other in zip(whole, again, strict=True):
        assert np.array_equal(one.logprobs, other.logprobs)


def test_a_decoder_whose_lower_layers_are_needed_runs_whole(tiny_models, requests):
    rerun = rerun_of(tiny_models("llama"), TASK.protocol("aligned"))
    seen = []
    modules = rerun.extractor.model.layers
    # As in models whose upper layers use what a lower one computed beside its output.
    modules[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    modules[3].register_forward_hook(lambda module, inputs, output: output + seen.pop())
    block = rerun.block(requests["aligned"])
    before = block.run(None)
    after = block.run(Intervention(LAYER, DIRECTION))
    assert rerun.skips is False
    assert [record.prediction for record in after] == [record.prediction for record in before]


@pytest.mark.parametrize("architecture", ["gemma3", "llama", "gpt2"])
@pytest.mark.parametrize("at", ["all", "final"])
def test_answers_are_written_as_under_a_plain_hook(architecture, at, tiny_models):
    folder = tiny_models(architecture)
    protocol = Protocol("p", "{prompt}", "", "response", generation=Generation(max_new_tokens=40))
    rerun = rerun_of(folder, protocol)
    tokenizer = rerun.extractor.model.tokenizer
    hooked = Hooked(folder, tokenizer)
    asked = [Request(str(n), ((f"the cat {'red ' * n}was", ""),)) for n in range(6)]
    before = rerun.block(asked).run(None)
    after = rerun.block(asked).run(Intervention(LAYER, DIRECTION, shift=4.0, at=at))
    changed = 0
    hooked.shift = 4.0
    for request, plain, record in zip(asked, before, after, strict=True):
        prompt = tokenizer(request.pairs[0][0]).input_ids
        hooked.only = len(prompt) - 1 if at == "final" else None
        ids = list(prompt)
        while len(ids) < len(prompt) + 40:
            with torch.inference_mode():
                token = int(hooked.model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        assert record.token_ids.tolist() == ids
        changed += plain.token_ids.tolist() != ids
    assert changed


def test_the_tasks_own_protocols_can_all_be_run(tiny_models, tmp_path):
    """The site says what is read, and not what is moved."""
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(4))
    task = get_task("winogrande")
    for protocol in task.protocols:
        if protocol.generation:
            continue
        source = load_source(task, str(rows), keep_duplicates=protocol.keeps_duplicates)
        rerun = rerun_of(tiny_models("llama"), protocol)
        block = rerun.block([task.request(c, protocol) for c in source.candidates])
        before, after = (block.run(Intervention(LAYER, DIRECTION, shift=s, at="final")) for s in (0.0, 5.0))
        assert np.all(rerun.divergence(before, after) > 0)
