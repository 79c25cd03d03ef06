"""A store's examples, ready to be run again: its model, its rows and its protocol, as it records them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np

from wif_store.errors import DamageError, ModelError, SourceError
from wif_store.extract.adapter import locate_adapter
from wif_store.extract.batching import limits_for
from wif_store.extract.checkpoint import EMBEDDED, Located, locate
from wif_store.extract.extractor import Extractor
from wif_store.extract.model import load
from wif_store.tasks.base import Generation, Protocol, Site
from wif_store.tasks.lookup import task_of
from wif_store.tasks.rows import BUILTIN, load_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.extract.model import Model
    from wif_store.format.schema import Example
    from wif_store.records import Record
    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Candidate, Request, Task
    from wif_store.tasks.judges import Judge

NAMED_SOURCE: Final = "the source was a local file (--source names it)"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two computations of the same number may lie apart for batching and hardware alone.

    Attributes:
        largest: Relative L2 of one residual vector.
        median: The median of all of them.
        nats: Of one choice's log-likelihood, per scored token.
    """

    largest: float
    median: float
    nats: float


TOLERANCES: Final = {
    "float32": Tolerance(1e-4, 1e-4, 1e-3),
    "float16": Tolerance(1e-2, 2e-3, 2e-2),
    "bfloat16": Tolerance(5e-2, 1e-2, 0.1),
}


class NoRowsError(SourceError):
    """A store does not say enough of its rows for them to be found again."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What runs the examples of a store again, under the protocol and the template that it records.

    Attributes:
        store: The store.
        task: Its task.
        extractor: Its model; it reads the first layer of the store.
        candidates: The rows of its source, by id.
    """

    store: ActivationStore
    task: Task
    extractor: Extractor
    candidates: Mapping[str, Candidate]

    @property
    def tolerance(self) -> Tolerance:
        """How far two computations of its numbers may lie apart."""
        return TOLERANCES[self.store.manifest.model["dtype"]]

    def candidate(self, example: Example) -> Candidate:
        """The row of an example.

        Raises:
            DamageError: If the source has no such row, or another gold answer.
        """
        found = self.candidates.get(example.id)
        gold = None if found is None or example.choice is None else found.gold
        expected = None if example.choice is None else example.choice.gold
        if found is None or found.source_row != example.source_row or gold != expected:
            raise differs(self.store, example, "gold answer or row")
        return found

    def request(self, example: Example) -> Request:
        """What the model is asked.

        Raises:
            DamageError: If the source has no such row, or the protocol does not suit it.
        """
        try:
            return self.task.request(self.candidate(example), self.extractor.protocol)
        except KeyError as error:
            raise _no_protocol(self.store, f"a template has the field {error}") from None

    def judge(self, example: Example) -> Judge:
        """Who says whether an answer to it is right.

        Raises:
            DamageError: If the source has no such row.
        """
        return self.task.judge(self.candidate(example), self.extractor.protocol)

    def check_choice(self, example: Example, scored: Record) -> None:
        """Hold a record against the stored example.

        Raises:
            DamageError: If tokens, log-likelihoods or the answer differ by more than rounding does.
        """
        choice = example.choice
        assert choice is not None
        if tuple(scored.choice_tokens.tolist()) != choice.choice_tokens:
            raise differs(self.store, example, "log-likelihoods")
        allowed = self.tolerance.nats * scored.choice_tokens
        if np.any(np.abs(scored.logprobs - choice.choice_logprobs) > allowed):
            raise differs(self.store, example, "log-likelihoods")
        # Of two choices within rounding of each other, either may win, and be what is read.
        if choice.margin > 2 * allowed.max():
            if scored.prediction != choice.prediction:
                raise differs(self.store, example, "prediction")
            if scored.prompt != example.prompt or scored.token_ids.tolist() != example.token_ids.tolist():
                raise differs(self.store, example, "prompt or tokens")


def load_recorded(store: ActivationStore, given: str | None = None, adapter: str | None = None) -> Model:
    """The model that computed a store.

    Args:
        store: An open store.
        given: Where the model is, if not where the store says; its revision must be the recorded one.
        adapter: Where its adapter is, likewise.

    Raises:
        ModelError: If it cannot be had, or is of another revision.
        DamageError: If the store does not say what it computed in.
    """
    record = store.manifest.model
    located = locate(recorded_spec(record, given))
    if located.revision != record["revision"]:
        msg = (
            f"model {located.name} is of revision {located.revision}; the store was computed with "
            f"{record['id']} of revision {record['revision']}: give that one"
        )
        raise ModelError(msg)
    if record["dtype"] not in TOLERANCES:
        msg = f"the store names the dtype {record['dtype']!r}; expected one of: {', '.join(TOLERANCES)}"
        raise DamageError(msg)
    return load(located, device="auto", dtype=record["dtype"], adapter=_recorded_adapter(record, adapter))


def _recorded_adapter(record: Mapping[str, Any], given: str | None) -> Located | None:
    """The adapter of a store's model.

    Raises:
        ModelError: If the store has one that cannot be had, is another one, or has none and one is given.
    """
    recorded = record.get("adapter")
    if recorded is None and given is None:
        return None
    if recorded is None:
        msg = "the store's model has no adapter: leave --adapter out"
        raise ModelError(msg)
    if given is None and recorded["kind"] != "hub":
        msg = f"the store's model has the local adapter {recorded['id']}: name its folder with --adapter"
        raise ModelError(msg)
    located = locate_adapter(given or f"{recorded['id']}@{recorded['revision']}")
    if located.revision != recorded["revision"]:
        msg = (
            f"adapter {located.name} is of revision {located.revision}; the store was computed with "
            f"{recorded['id']} of revision {recorded['revision']}: give that one"
        )
        raise ModelError(msg)
    return located


def open_replay(store: ActivationStore, model: Model, given: str | None = None) -> Replay:
    """Find the rows of a store.

    Args:
        store: An open store.
        model: The model that computed it.
        given: Where the rows are, if not where the store says.

    Raises:
        NoRowsError: If the store does not say enough for that.
        SourceError: If they cannot be had, or are others.
        DamageError: If the recorded protocol is none.
    """
    record = store.manifest.source
    spec = given or _source_spec(record)
    if spec is None and record["kind"] != "harness":
        raise NoRowsError(NAMED_SOURCE)
    task = task_of(store.manifest, spec)
    if task is None:
        msg = f"task {store.task} is not registered here"
        raise NoRowsError(msg)
    protocol = _recorded_protocol(store, task)
    source = load_source(task, spec, keep_duplicates=protocol.keeps_duplicates)
    if source.record["sha256"] != record["sha256"]:
        msg = (
            f"source {source.record['id']} holds other rows than the store was built from "
            f"({record['id']} @ {record['revision']}): give those"
        )
        raise SourceError(msg)
    candidates = {candidate.id: candidate for candidate in source.candidates}
    limits = limits_for(model.device)
    template = _recorded_template(store)
    extractor = Extractor(model, protocol, store.layers[:1], (), limits, template)
    return Replay(store, task, extractor, candidates)


def recorded_spec(record: Mapping[str, Any], given: str | None) -> str:
    """What names the model of a store: what is given, or else what the store says.

    Raises:
        ModelError: If the model was a local one and nothing is given.
    """
    recorded = {"embedded": EMBEDDED, "hub": f"{record['id']}@{record['revision']}"}.get(record["kind"])
    if given is None and recorded is None:
        msg = f"the store's model was the local {record['id']}: name its folder with --model"
        raise ModelError(msg)
    return given or str(recorded)


def _recorded_protocol(store: ActivationStore, task: Task) -> Protocol:
    """The protocol as the store records it, whatever the registry calls by its name now.

    Raises:
        DamageError: If it is no protocol. A stranger's templates may name fields, and nothing else.
    """
    recorded = dict(store.manifest.protocol)
    names = {field.name for field in fields(Protocol)}
    known = task.protocols[0]
    values = {name: recorded[name] for name in names & recorded.keys()}
    values["answers"] = tuple(values.get("answers") or ())
    try:
        if values.get("generation") is not None:
            written = dict(values["generation"])
            values["generation"] = Generation(**{**written, "stop": tuple(map(str, written["stop"]))})
        protocol = Protocol(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise _no_protocol(store, str(error)) from None
    for name in names - {"max_tokens", "generation"}:
        if type(getattr(protocol, name)) is not type(getattr(known, name)):
            raise _no_protocol(store, f"{name} is {getattr(protocol, name)!r:.40}")
    if protocol.site not in get_args(Site):
        raise _no_protocol(store, f"site is {protocol.site!r:.40}")
    if not isinstance(protocol.max_tokens, int | None) or not all(
        isinstance(a, str) for a in protocol.answers
    ):
        raise _no_protocol(store, "max_tokens or answers are not what they should be")
    for text in (protocol.context, protocol.continuation, protocol.prompt):
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise _no_protocol(store, str(error)) from None
        for _, used, form, conversion in parts:
            if used is not None and (not used.isidentifier() or form or conversion):
                raise _no_protocol(store, f"a template has the field {used!r:.40}")
    return protocol


def _no_protocol(store: ActivationStore, why: str) -> DamageError:
    msg = f"{store.name}: the recorded protocol cannot be used ({why}): build or pull the store again"
    return DamageError(msg)


def _recorded_template(store: ActivationStore) -> Mapping[str, Any] | None:
    """The arguments of the chat template; None where there was none."""
    record = store.manifest.model.get("chat_template")
    if not record:
        return None
    arguments = record.get("arguments") if isinstance(record, dict) else None
    if not isinstance(arguments, dict):
        msg = f"{store.name}: the recorded chat template has no arguments: build or pull the store again"
        raise DamageError(msg)
    return arguments


def _source_spec(record: Mapping[str, Any]) -> str | None:
    if record["kind"] == "builtin":
        return BUILTIN
    if record["kind"] == "hub":
        config = f"{record['config']}/" if record["config"] else ""
        return f"{record['id']}@{record['revision']}:{config}{record['split']}"
    return None


def differs(store: ActivationStore, example: Example, what: str) -> DamageError:
    """Says that an example is not what its model and its row give."""
    msg = f"{store.name}: example {example.id}: the {what} are not what the model and the source give"
    return DamageError(msg)
