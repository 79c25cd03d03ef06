"""The registry of the evaluation harness (lm-eval): which tasks it has, and a task over some rows.

This is the only module that imports the harness.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import SourceError, TaskError, first_line, names_in_line
from wif_store.tasks.base import Generation
from wif_store.tasks.rows import local_splits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VERDICTS: Final = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes"),
    "generate_until": ("exact_match", "acc"),
}
"""The metrics that are taken for the verdict unless told otherwise, by the kind of a task."""
GROUP_KEYS: Final = frozenset(
    {"task", "group", "group_alias", "aggregate_metric_list", "metadata", "tag", "task_alias", "include"}
)
"""What a group may say of itself without changing what its tasks ask."""
UNTIL: Final = 256
"""Tokens of a response, at most, where a task does not say; the harness's own number."""


def version() -> str:
    """Of the harness."""
    return importlib.metadata.version("lm_eval")


def output_type(name: str) -> str:
    """What kind of answers a task asks for."""
    return str((_manager().task_index[name].cfg or {}).get("output_type", "generate_until"))


def harness_names() -> list[str]:
    """All names of the harness's registry: tasks, groups and tags.

    Raises:
        TaskError: If the harness is not installed.
    """
    return list(_manager().all_tasks)


@cache
def _manager() -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        msg = f"tasks of the harness need lm-eval ({error.name} is missing): pip install 'wif-store[harness]'"
        raise TaskError(msg) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager()


def expanded(name: str) -> list[str]:
    """The names of the tasks that a name stands for."""
    manager = _manager()
    if name in manager.all_subtasks:
        return [name]
    if name in manager.all_tasks:
        entry = manager.task_index[name]
        listed = sorted(entry.tags) if name in manager.all_tags else (entry.cfg or {}).get("task", [])
        children = [listed] if isinstance(listed, str) else listed
        known = list(_named(name, children))
        found = [task for one in known if one != name for task in expanded(one)]
        if found:
            return list(dict.fromkeys(found))
    near = difflib.get_close_matches(name, manager.all_tasks, n=5)
    hint = f"did you mean {names_in_line(near)}? " if near else ""
    msg = f"the harness has no task {name!r}; {hint}`wif-store tasks WORD` lists those with a word"
    raise TaskError(msg)


def _named(group: str, children: Sequence[Any]) -> Iterator[str]:
    """The names of the children of a group, which may be groups that are written in place."""
    for one in children:
        if isinstance(one, str):
            yield one
            continue
        if changed := sorted(one.keys() - GROUP_KEYS):
            msg = (
                f"{group} of the harness changes {', '.join(changed)} of its tasks: name them one by one, "
                "with the options of this command"
            )
            raise TaskError(msg)
        inner = one.get("task") or []
        yield from _named(group, [inner] if isinstance(inner, str) else inner)


def built(name: str, overrides: Mapping[str, Any]) -> Any:
    """The harness's own object of a task, some of its configuration replaced."""
    # A group written in place is how the harness takes a registered task with changes.
    changed = {"group": "wif-store", "task": [{"task": name, **overrides}]}
    [task] = _manager().load([changed])["tasks"].values()
    return task


def loaded(name: str, fewshot: int | None, source: str | None) -> tuple[Any, dict[str, Any]]:
    """A task over its own dataset or over a source, and the record of where its rows are from."""
    overrides: dict[str, Any] = {} if fewshot is None else {"num_fewshot": fewshot}
    given: dict[str, Any] = {}
    if source is not None:
        given, kind, shown = local_splits(source)
        overrides["custom_dataset"] = lambda **ignored: Splits(given)
    try:
        task = built(name, overrides)
    except Exception as error:
        # The harness and the datasets library raise many kinds; each becomes one line.
        found = f"{type(error).__name__}: {first_line(error)}"
        of = f"the rows of {source}" if source else "its dataset"
        msg = f"{name} of the harness cannot be opened over {of} ({found}); --source names local rows"
        raise SourceError(msg) from None
    config = task.config
    if config.unsafe_code:
        msg = f"{name} of the harness runs the code that a model writes, which wif-store does not do"
        raise TaskError(msg)
    split = config.test_split or config.validation_split
    shots = task.fewshot_cfg
    drawn = shots.split or config.training_split or config.validation_split or config.test_split
    drawn = None if shots.samples else drawn
    if source is not None and config.num_fewshot and drawn and drawn not in given:
        msg = (
            f"{name} draws its few-shot examples from the split {drawn}, and {source} has no splits: give a "
            "folder that save_to_disk wrote of the whole dataset, or pass --fewshot 0"
        )
        raise SourceError(msg)
    if source is not None:
        return task, {"kind": kind, "id": shown, "revision": None, "split": split}
    record = {"kind": "harness", "id": str(config.dataset_path), "revision": _commit(task.dataset[split])}
    return task, {**record, "config": config.dataset_name, "split": split}


def _commit(rows: Any) -> str | None:
    """The commit of the Hub that rows were fetched at: datasets names the folder in its cache by it."""
    found = {Path(file["filename"]).parent.name for file in rows.cache_files}
    commits = [name for name in found if re.fullmatch("[0-9a-f]{40}", name)]
    return commits[0] if len(commits) == 1 else None


class Splits(dict[str, Any]):
    """Rows that stand in for the splits of a dataset; those without splits stand for each of them."""

    def __missing__(self, split: str) -> Any:
        if "" in self:
            return self[""]
        msg = f"the source has no split {split!r}; it has: {', '.join(self)}"
        raise KeyError(msg)


def generation_of(task: Any) -> Generation:
    """How the harness has a response written."""
    given = dict(task.config.generation_kwargs or {})
    until = given.get("until") or []
    temperature = float(given.get("temperature") or 0) if given.get("do_sample") else 0.0
    most = given.get("max_gen_toks") or given.get("max_new_tokens") or UNTIL
    return Generation((until,) if isinstance(until, str) else tuple(until), int(most), temperature)


def metric_of(name: str, task: Any, wanted: str | None) -> str:
    """The metric of a task that is taken for the verdict.

    Raises:
        TaskError: If it has not the one that is wanted, or none that is usual.
    """
    known = list(task.aggregation())
    if "acc_mutual_info" in known:
        msg = f"{name} of the harness scores choices without their context too, which wif-store does not do"
        raise TaskError(msg)
    usual = [metric for metric in VERDICTS[task.OUTPUT_TYPE] if metric in known]
    if wanted is None and usual:
        return usual[0]
    if wanted is None or wanted not in known:
        found = f"no metric {wanted!r}" if wanted else f"none of {', '.join(VERDICTS[task.OUTPUT_TYPE])}"
        msg = f"{name} of the harness has {found}; its metrics are {', '.join(known)}: --metric names one"
        raise TaskError(msg)
    return wanted


def filter_of(name: str, task: Any, wanted: str | None) -> str:
    """The filter of a task that its responses go through.

    Raises:
        TaskError: If it has not the one that is wanted.
    """
    known = [one["name"] for one in task.config.filter_list or [{"name": "none"}]]
    if wanted is not None and wanted not in known:
        msg = f"{name} of the harness has no filter {wanted!r}; expected one of: {', '.join(known)}"
        raise TaskError(msg)
    return wanted or known[0]


def filtered(task: Any, name: str, response: str, doc: dict[str, Any]) -> Any:
    """What a filter of the task makes of a response."""
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    known = task.config.filter_list or [{"name": "none", "filter": [{"function": "take_first"}]}]
    [steps] = [one["filter"] for one in known if one["name"] == name]
    parts = [[s["function"], {k: v for k, v in s.items() if k != "function"}] for s in steps]
    instance = Instance("generate_until", doc, (), 0, resps=[response])
    build_filter_ensemble(name, parts).apply([instance])
    return instance.filtered_resps[name]
