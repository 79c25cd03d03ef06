"""Social IQa: what follows, or went before, in a social situation."""

from wif_store.tasks.base import HubSource, Protocol
from wif_store.tasks.multiple_choice import MultipleChoiceTask, columns, cot, mcq, position_in

TASK = MultipleChoiceTask(
    name="social_i_qa",
    source=HubSource(
        repo="lighteval/siqa",
        split="train",
        licence="cc-by-4.0",
        citation="Sap et al., Social IQa: Commonsense Reasoning about Social Interactions, EMNLP 2019",
    ),
    fields={"context": str, "question": str, "answerA": str, "answerB": str, "answerC": str, "label": str},
    choices=columns("answerA", "answerB", "answerC"),
    gold=position_in("label", "1", "2", "3"),
    key=("context", "question", "answerA", "answerB", "answerC"),
    group=("context",),
    builtin="social_i_qa/none/validation",
    protocols=(
        Protocol("aligned", context="Q: {context} {question}\nA:", continuation=" {choice}"),
        mcq("{context} {question}"),
        cot("{context} {question}"),
        # The probed prompt ends in the gold label; the audit counts it.
        Protocol(
            "paper",
            context=(
                "Read the context and question below, then choose the most sensible answer.\n\n"
                "Context: {context}\nQuestion: {question}\nAnswer: "
            ),
            continuation="{choice}",
            site="prompt",
            prompt=(
                "Context: {context}\nQuestion: {question}\n"
                "Answer A: {answerA}\nAnswer B: {answerB}\nAnswer C: {answerC}\nCorrect answer: {label}"
            ),
            max_tokens=256,
            keeps_duplicates=True,
            layer_base=1,
        ),
    ),
)
