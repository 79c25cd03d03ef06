"""BoolQ: a yes/no question about a passage."""

from dataclasses import replace

from wif_store.tasks.base import HubSource, Protocol, Row
from wif_store.tasks.multiple_choice import MultipleChoiceTask, cot, position_in

ALIGNED = Protocol("aligned", context="{passage}\nQuestion: {question}?\nAnswer:", continuation=" {choice}")


def no_yes(row: Row) -> tuple[str, ...]:
    """The choices, in the reference harness's order."""
    return ("no", "yes")


TASK = MultipleChoiceTask(
    name="boolq",
    source=HubSource(
        repo="google/boolq",
        split="train",
        licence="cc-by-sa-3.0",
        citation=(
            "Clark et al., BoolQ: Exploring the Surprising Difficulty of Natural Yes/No Questions, NAACL 2019"
        ),
    ),
    fields={"question": str, "passage": str, "answer": bool},
    choices=no_yes,
    gold=position_in("answer", False, True),
    key=("question", "passage"),
    group=("passage",),
    builtin="boolq/none/validation",
    protocols=(
        ALIGNED,
        replace(ALIGNED, name="mcq"),
        cot("{passage}\nQuestion: {question}?"),
        Protocol(
            "paper",
            context="",
            continuation="Passage: {passage}\nQuestion: {question}\nAnswer: {choice}",
            answers=("No", "Yes"),
            scale_by_length=True,
            site="prompt",
            prompt="Passage: {passage}\nQuestion: {question}\nAnswer (yes or no): ",
            max_tokens=256,
            keeps_duplicates=True,
            layer_base=1,
        ),
    ),
)
