"""The loop of the paper's published code, with TransformerLens: one example a pass, one layer a pass.

Labels come from a pass over the whole sequence of each choice. The residuals of a layer come from a pass of
``run_with_cache`` over the prompt, again for every layer; only that layer is cached, which is the least work
that the loop can be read to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# The published configurations whose weights the models that can be had here are.
NAMES = {"gemma3-270m": "google/gemma-3-270m", "gemma-2-2b": "google/gemma-2-2b"}


def load_model(path: str, model: str, dtype: Any, device: str) -> Any:
    """TransformerLens over local weights, unprocessed."""
    from transformer_lens import HookedTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return HookedTransformer.from_pretrained_no_processing(
        NAMES[model],
        hf_model=AutoModelForCausalLM.from_pretrained(path, dtype=dtype),
        tokenizer=AutoTokenizer.from_pretrained(path),
        dtype=dtype,
        device=device,
    )


def load(job: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Take ``path``, ``model``, ``dtype``, ``device``, ``layers`` and ``examples``, each of ``choices`` and
    ``prompt``.

    A choice is its tokens and how many of them are its continuation; a prompt is tokens.
    """
    import torch

    model = load_model(job["path"], job["model"], getattr(torch, job["dtype"]), job["device"])

    def ids_of(tokens: list[int]) -> torch.Tensor:
        return torch.tensor([tokens], device=job["device"])

    def logprob(tokens: list[int], scored: int) -> float:
        ids = ids_of(tokens)
        picked = model(ids)[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])
        return float(picked[-scored:].sum())

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        scores = [[logprob(*choice) for choice in e["choices"]] for e in job["examples"]]
        for layer in job["layers"]:
            name = f"blocks.{layer}.hook_resid_post"
            for example in job["examples"]:
                _, cache = model.run_with_cache(ids_of(example["prompt"]), names_filter=name)
                cache[name][0, -1].float().cpu().numpy()
        return {"predictions": [max(range(len(s)), key=s.__getitem__) for s in scores]}

    return run


if __name__ == "__main__":
    from benchmarks.peers import serve

    serve(load)
