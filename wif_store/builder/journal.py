"""The unfinished build: the folder ``OUT.partial``, its plan, its blocks, and which shards are done."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from wif_store.builder.blocks import Blocks
from wif_store.builder.differences import differences, listed
from wif_store.errors import BuildError
from wif_store.format.schema import MANIFEST
from wif_store.storage import LOCK, PARTIAL, storage_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from wif_store.storage import Entry, Storage

PLAN: Final = "plan.json"
COMMAND: Final = "command.txt"


class Journal:
    """A build in progress at ``OUT.partial``. Making one opens nothing: a worker makes its own.

    In a folder one process holds it, and the store is written to ``OUT.partial/store`` and then renamed.
    Behind a URL there are no locks and no renames: shards go to ``OUT`` itself, which is no store until
    its manifest is there, and what keeps two builds apart is that one plan has one set of bytes.

    Attributes:
        out: Where the store will stand.
        folder: The journal's own folder.
        store: Where the store is written.
        blocks: What was extracted.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = storage_of(out)
        self.folder = self.out.parent.at(self.out.name + PARTIAL)
        self.store = self.folder.at("store") if self.out.renames else self.out
        self.blocks = Blocks(self.folder.at("blocks"))
        self._shards = self.folder.at("shards")
        self._held = ExitStack()

    def taken(self) -> bool:
        """Whether something stands at ``OUT`` that is not this build's unfinished work."""
        if self.out.renames or not self.folder.exists(PLAN):
            return self.out.exists()
        return self.out.exists(MANIFEST)

    def open(self, plan: Mapping[str, Any], command: str = "") -> None:
        """Create the journal, or take up the one that the same plan has left.

        Args:
            plan: What determines the store's bytes.
            command: What was typed to begin the build, for whoever asks how to go on.

        Raises:
            BuildError: If another process holds it, or it belongs to a build with other settings.
        """
        try:
            self._held.enter_context(self.folder.hold())
        except BlockingIOError:
            msg = f"another build is writing {self.folder}: wait for it, or choose another --out"
            raise BuildError(msg) from None
        if self.taken():
            self.close()
            msg = f"another build has just finished {self.out}: run the same command again to see that"
            raise BuildError(msg)
        if self.folder.exists(PLAN):
            self._check_same(plan)
        else:
            self.folder.write(COMMAND, [command.encode()])
            self.folder.write(PLAN, [json.dumps(plan, indent=1).encode()])
        _sweep(self.folder)

    def begun(self) -> bool:
        """Whether a build is in progress here."""
        return self.folder.exists(PLAN)

    def describe(self) -> str:
        """How far an unfinished build is, and the command that goes on with it."""
        plan = self._found_plan()
        command = self.folder.read(COMMAND).decode() if self.folder.exists(COMMAND) else ""
        scored = sum(len(self.blocks.block(name).prediction) for name in self.blocks.names())
        return (
            f"{self.out} is unfinished: {plan['task']} with {plan['model']['id']}, {scored:,} of "
            f"{plan['source']['rows']:,} rows scored, {len(self.shards())} shards written; "
            f"to go on: {command or 'repeat the call that began it'}"
        )

    def recorded_threads(self) -> int | None:
        """How many threads an unfinished build has run its model with; None where there is no such build."""
        found = self._found_plan()["model"].get("threads") if self.begun() else None
        return int(found) if found else None

    def close(self) -> None:
        """Let go of it."""
        self._held.close()

    def finish(self, line: bytes) -> None:
        """Give the store, whose manifest is written, its name, log the run, and remove the journal."""
        if self.out.renames:
            # A worker may have been killed that this process outlived.
            _sweep(self.store)
            self.out.parent.rename(f"{self.folder.name}/{self.store.name}", self.out.name)
        self._log(line)
        self.discard()

    def _log(self, line: bytes) -> None:
        """Add a line to the log beside the store."""
        beside, log = self.out.parent, f"{self.out.name}.log.jsonl"
        lines = [beside.read(log) if beside.exists(log) else b"", line]
        if self.out.renames:
            # Made in the journal: what a kill leaves of it goes with the journal.
            self.folder.write("log", lines)
            beside.rename(f"{self.folder.name}/log", log)
        else:
            beside.write(log, lines)

    def discard(self) -> None:
        """Remove the journal of a finished build."""
        # Held until it is gone: who waits for it must not take a half of it for a new one.
        self.folder.remove()
        self.close()

    def discard_left(self, plan: Mapping[str, Any]) -> None:
        """Remove what is left of the journal of a build that was killed when its store was finished."""
        # The lock goes last: a kill may leave it alone, and whoever holds it next removes it.
        if not self.folder.exists() and not self.folder.parent.exists(f"{self.folder.name}{LOCK}"):
            return
        with suppress(BlockingIOError), self.folder.hold():
            # The plan may be gone already; another plan is the journal of another build.
            same = not self.folder.exists(PLAN) or self._found_plan() == json.loads(json.dumps(plan))
            if same and self.folder.exists():
                self.folder.remove()

    def shards(self) -> dict[str, Entry]:
        """The shards that are done: what the manifest will say of each."""
        sizes = self.store.sizes()
        # A kill leaves half-written notes, which are not removed before the journal is opened.
        finished = (name for name in self._shards.sizes() if not name.endswith(PARTIAL))
        notes = (json.loads(self._shards.read(name)) for name in finished)
        return {
            note["path"]: note["entry"] for note in notes if sizes.get(note["path"]) == note["entry"]["size"]
        }

    def note_shard(self, path: str, entry: Entry) -> None:
        """Note that a shard is done. A note is an object of its own, for object stores cannot append."""
        note = json.dumps({"path": path, "entry": entry})
        self._shards.write(f"{path.replace('/', '.')}.json", [note.encode()])

    def _found_plan(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.folder.read(PLAN))
        return found

    def _check_same(self, plan: Mapping[str, Any]) -> None:
        differing = differences(self._found_plan(), json.loads(json.dumps(plan)))
        if differing:
            msg = (
                f"{self.folder} holds an unfinished build with another {listed(differing)}: "
                "repeat its own command, choose another --out, or delete it"
            )
            raise BuildError(msg)


def _sweep(storage: Storage) -> None:
    """Remove the half-written files that a kill leaves beside those they were to become."""
    for name in storage.sizes():
        if name.endswith(PARTIAL):
            storage.remove(name)
