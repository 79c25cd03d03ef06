"""The unfinished build: the folder ``OUT.partial``, its plan, its blocks, and which shards are done."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from wif_store.builder.blocks import Blocks
from wif_store.builder.differences import differences, listed
from wif_store.errors import BuildError
from wif_store.storage import PARTIAL, storage_of
from wif_store.format.schema import MANIFEST

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from wif_store.storage import Entry, Storage

PLAN: Final = "plan.json"


class Journal:
    """A build in progress at ``OUT.partial``. Making one opens nothing: a worker makes its own.

    In a folder one process holds it, and the store is written to ``OUT.partial/store`` and then renamed.
    Behind a URL there are no locks and no renames: shards go to ``OUT`` itself, which is no store until
    its manifest is there, and what keeps two builds apart is that one plan has one set of bytes.

    Attributes:
        out: Where the store will stand.
        store: Where it is written.
        blocks: What was extracted.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = storage_of(out)
        self.place = self.out.parent.at(self.out.name + PARTIAL)
        self.store = self.place.at("store") if self.out.renames else self.out
        self.blocks = Blocks(self.place.at("blocks"))
        self._shards = self.place.at("shards")
        self._held = ExitStack()

    def taken(self) -> bool:
        """Whether something stands at ``OUT`` that is not this build's unfinished work."""
        if self.out.renames or not self.place.exists(PLAN):
            return self.out.exists()
        return self.out.exists(MANIFEST)

    def open(self, plan: Mapping[str, Any]) -> None:
        """Create the journal, or take up the one that the same plan has left.

        Raises:
            BuildError: If another process holds it, or it belongs to a build with other settings.
        """
        try:
            self._held.enter_context(self.place.hold())
        except BlockingIOError:
            msg = f"another build is writing {self.place}: wait for it, or choose another --out"
            raise BuildError(msg) from None
        if self.taken():
            self.close()
            msg = f"another build has just finished {self.out}: run the same command again to see that"
            raise BuildError(msg)
        if self.place.exists(PLAN):
            self._check_same(plan)
        else:
            self.place.write(PLAN, [json.dumps(plan, indent=1).encode()])
        _sweep(self.place)

    def begun(self) -> bool:
        """Whether a build is in progress here."""
        return self.place.exists(PLAN)

    def close(self) -> None:
        """Let go of it."""
        self._held.close()

    def finish(self, line: bytes) -> None:
        """Give the store, whose manifest is written, its name, log the run, and remove the journal."""
        if self.out.renames:
            # A worker may have been killed that this process outlived.
            _sweep(self.store)
            self.out.parent.rename(f"{self.place.name}/{self.store.name}", self.out.name)
        self._log(line)
        self.discard()

    def _log(self, line: bytes) -> None:
        """Add a line to the log beside the store."""
        beside, log = self.out.parent, f"{self.out.name}.log.jsonl"
        lines = [beside.read(log) if beside.exists(log) else b"", line]
        if self.out.renames:
            # Made in the journal: what a kill leaves of it goes with the journal.
            self.place.write("log", lines)
            beside.rename(f"{self.place.name}/log", log)
        else:
            beside.write(log, lines)

    def discard(self) -> None:
        """Remove the journal of a finished build."""
        # Held until it is gone: who waits for it must not take a half of it for a new one.
        self.place.remove()
        self.close()

    def discard_left(self, plan: Mapping[str, Any]) -> None:
        """Remove what is left of the journal of a build that was killed when its store was whole."""
        if not self.place.exists():
            return
        with suppress(BlockingIOError), self.place.hold():
            # The plan may be gone already; another plan is the journal of another build.
            if not self.place.exists(PLAN) or self._found_plan() == json.loads(json.dumps(plan)):
                self.place.remove()

    def shards(self) -> dict[str, Entry]:
        """The shards that are done: what the manifest will say of each."""
        sizes = self.store.sizes()
        # A kill leaves half-written notes, which are not removed before the journal is opened.
        whole = (name for name in self._shards.sizes() if not name.endswith(PARTIAL))
        notes = (json.loads(self._shards.read(name)) for name in whole)
        return {
            note["file"]: note["entry"] for note in notes if sizes.get(note["file"]) == note["entry"]["size"]
        }

    def note_shard(self, name: str, entry: Entry) -> None:
        """Note that a shard is done. A note is an object of its own, for object stores cannot append."""
        note = json.dumps({"file": name, "entry": entry})
        self._shards.write(f"{name.replace('/', '.')}.json", [note.encode()])

    def _found_plan(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.place.read(PLAN))
        return found

    def _check_same(self, plan: Mapping[str, Any]) -> None:
        differing = differences(self._found_plan(), json.loads(json.dumps(plan)))
        if differing:
            msg = (
                f"{self.place} holds an unfinished build with another {listed(differing)}: "
                "repeat its own command, choose another --out, or delete it"
            )
            raise BuildError(msg)


def _sweep(place: Storage) -> None:
    """Remove the half-written files that a kill leaves beside those they were to become."""
    for name in place.sizes():
        if name.endswith(PARTIAL):
            place.remove(name)
