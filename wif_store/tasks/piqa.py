"""PIQA: which of two ways reaches an everyday goal."""

from wif_store.tasks.base import HubSource, Protocol
from wif_store.tasks.multiple_choice import MultipleChoiceTask, columns, cot, mcq, position_in

TASK = MultipleChoiceTask(
    name="piqa",
    source=HubSource(
        repo="baber/piqa",
        split="train",
        licence="afl-3.0",
        citation="Bisk et al., PIQA: Reasoning about Physical Commonsense in Natural Language, AAAI 2020",
    ),
    fields={"goal": str, "sol1": str, "sol2": str, "label": int},
    choices=columns("sol1", "sol2"),
    gold=position_in("label", 0, 1),
    key=("goal", "sol1", "sol2"),
    group=("goal",),
    builtin="piqa/plain_text/validation",
    protocols=(
        Protocol("aligned", context="Question: {goal}\nAnswer:", continuation=" {choice}"),
        mcq("Question: {goal}"),
        cot("Question: {goal}"),
        # The published code scores PIQA in a way it does not show: this is the solution's
        # log-likelihood after the probed prompt.
        Protocol(
            "paper",
            context="Goal: {goal}\nOption 1: {sol1}\nOption 2: {sol2}\nAnswer: ",
            continuation="{choice}",
            site="prompt",
            prompt="Goal: {goal}\nOption 1: {sol1}\nOption 2: {sol2}\nAnswer: ",
            max_tokens=256,
            keeps_duplicates=True,
            layer_base=1,
        ),
    ),
)
