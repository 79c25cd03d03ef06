"""WinoGrande: which of two options fills the gap of a sentence."""

from wif_store.tasks.base import HubSource, Protocol, Row
from wif_store.tasks.multiple_choice import MultipleChoiceTask, columns, cot, mcq, position_in


def around_the_gap(row: Row) -> dict[str, str]:
    """The text before the gap, the text after it, and the latter without outer spaces."""
    if row["sentence"].count("_") != 1:
        msg = f"the sentence has {row['sentence'].count('_')} gaps '_'; expected exactly one"
        raise ValueError(msg)
    before, after = row["sentence"].split("_")
    return {"before": before, "after": after, "ending": after.strip()}


TASK = MultipleChoiceTask(
    name="winogrande",
    source=HubSource(
        repo="allenai/winogrande",
        config="winogrande_xl",
        split="train",
        licence="cc-by-4.0",
        citation="Sakaguchi et al., WinoGrande: An Adversarial Winograd Schema Challenge at Scale, AAAI 2020",
    ),
    fields={"sentence": str, "option1": str, "option2": str, "answer": str},
    choices=columns("option1", "option2"),
    gold=position_in("answer", "1", "2"),
    key=("sentence", "option1", "option2"),
    group=("option1", "option2"),
    builtin="winogrande/winogrande_xl/validation",
    derive=around_the_gap,
    protocols=(
        # The context differs per choice, so what is read is the sequence the model chose.
        Protocol("aligned", context="{before}{choice}", continuation=" {ending}", site="preferred"),
        mcq("{sentence}"),
        cot("{sentence}"),
        Protocol(
            "paper",
            context="{before}{choice}",
            continuation="{after}",
            site="prompt",
            prompt="Question: {sentence}\nOption 1: {option1}\nOption 2: {option2}\nAnswer (1 or 2): ",
            max_tokens=256,
            keeps_duplicates=True,
            layer_base=1,
        ),
    ),
)
