"""The reader: a finished store as numpy arrays, from a folder or any fsspec URL."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from wif_store.format.bounded import bounded
from wif_store.store.residuals import DirectArray
from wif_store.errors import DamageError, StoreError, WifError, one_line
from wif_store.store.files import read_file, read_manifest
from wif_store.storage.hub_client import dataset_of, explained, is_hubs
from wif_store.format.manifest import parse_manifest as parse_manifest
from wif_store.storage import storage_of
from wif_store.format.schema import (
    ARRAYS,
    FINAL_TOKEN,
    SEQUENCE,
    SPLITS,
    Example,
    Float32,
    Int8,
    Int64,
    Manifest,
)
from wif_store.format.validate import METADATA, METADATA_BYTES, check_columns, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wif_store.storage import Storage


def open_store(path: str | os.PathLike[str]) -> ActivationStore:
    """Open a finished store for reading.

    Args:
        path: A folder, or a URL that fsspec understands (``hf://datasets/ORG/NAME/....zarr``).

    Raises:
        StoreError: If there is no store, or it is unfinished or of another format version.
        DamageError: If a file that the manifest names is missing or has another size.
    """
    name = os.fspath(path)
    place = storage_of(name)
    manifest = read_manifest(place)
    return store_of(name, manifest, read_file(place, METADATA, METADATA_BYTES), place)


def store_of(name: str, manifest: Manifest, metadata: bytes, place: Storage) -> ActivationStore:
    """A store of parts that are here: its manifest, its group's metadata and where its arrays are.

    Raises:
        DamageError: If the metadata are not what the manifest names, or not those of a store.
    """
    try:
        checked = parse_metadata(metadata, manifest)
        arrays = checked["consolidated_metadata"]["metadata"]
        direct = {
            array: DirectArray(place, array, arrays[array], manifest.files)
            for array in (FINAL_TOKEN, SEQUENCE)
            if array in arrays and DirectArray.understands(arrays[array])
        }
        return ActivationStore(name, manifest, group_of(place.zarr_store(), checked), direct)
    except WifError:
        raise
    except Exception as error:
        # What stands in a stranger's metadata makes zarr raise many kinds.
        msg = f"{name}: {METADATA} is damaged ({one_line(error)}): build or pull the store again"
        raise DamageError(msg) from error


def group_of(store: Any, metadata: dict[str, Any]) -> zarr.Group:
    """The group of metadata that were checked; zarr by itself would read them a second time."""
    inside = metadata["consolidated_metadata"]
    arrays = {name: {**a, "codecs": bounded(a["codecs"])} for name, a in inside["metadata"].items()}
    checked = {**metadata, "consolidated_metadata": {**inside, "metadata": arrays}}
    return zarr.Group(zarr.AsyncGroup.from_dict(zarr.storage.StorePath(store), checked))


class ActivationStore:
    """A finished store. Rows are ordered by split, so that a split is one range of rows.

    Attributes:
        name: Where it was opened from.
        manifest: What it holds and how it came to be.
        task: The task's name.
        layers: The 0-based decoder blocks that have final-token residuals.
        sequence_layers: Those that have residuals at every token.
        d_model: Width of the residual stream.
    """

    def __init__(
        self, name: str, manifest: Manifest, group: zarr.Group, direct: Mapping[str, DirectArray]
    ) -> None:
        self.name = name
        self.manifest = manifest
        self.task = manifest.task
        self._group, self._direct = group, direct
        self.layers = self._read_layers("layer")
        self.sequence_layers = self._read_layers("sequence_layer")
        self.d_model = int(manifest.model["d_model"])
        self._offsets: Int64 | None = None
        self._success: Int8 | None = None

    def __len__(self) -> int:
        """The number of examples."""
        return sum(split["examples"] for split in self.manifest.splits.values())

    def __repr__(self) -> str:
        """The store in one line."""
        return (
            f"<ActivationStore {self.name}: {self.task}, {len(self)} examples, {len(self.layers)} layers, "
            f"d_model {self.d_model}>"
        )

    def rows(self, split: str | None = None) -> slice:
        """The rows of a split, or of all examples.

        Raises:
            StoreError: If there is no such split.
        """
        if split is None:
            return slice(0, len(self))
        if split not in self.manifest.splits:
            msg = f"no split {split!r}; expected one of: {', '.join(self.manifest.splits)}"
            raise StoreError(msg)
        entry = self.manifest.splits[split]
        return slice(entry["start"], entry["start"] + entry["examples"])

    def read_final_token(self, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        """One layer's residuals at the final token, and the success labels.

        Args:
            layer: 0-based decoder block.
            split: ``train``, ``validation`` or ``test``; all rows where it is None.

        Returns:
            float32 ``[n, d_model]``, in Fortran order as the values of a channel are next to each other on
            disk, and int8 ``[n]`` (1 success, 0 failure).

        Raises:
            StoreError: If the store has not this layer or split.
            DamageError: If the bytes on disk are not those that were written.
        """
        index = self._position(layer, self.layers, FINAL_TOKEN)
        rows = self.rows(split)
        if self._success is None:
            self._success = self.array("success")
        return self._residuals(FINAL_TOKEN, [index], rows)[0], self._success[rows].copy()

    def read_sequences(self, layer: int, split: str | None = None) -> tuple[Float32, Int64]:
        """One layer's residuals at every token, examples end to end.

        Returns:
            float32 ``[tokens, d_model]`` and int64 offsets ``[n + 1]``, starting at 0: example i has
            the rows ``offsets[i]:offsets[i + 1]``.

        Raises:
            StoreError: If the store has no sequences of this layer, or not this split.
            DamageError: If the bytes on disk are not those that were written.
        """
        index = self._position(layer, self.sequence_layers, SEQUENCE)
        offsets = self.offsets(split)
        values = self._residuals(SEQUENCE, [index], slice(int(offsets[0]), int(offsets[-1])))[0]
        return values, offsets - offsets[0]

    def iter_sequences(self, layer: int, split: str | None = None) -> Iterator[Float32]:
        """One layer's residuals at every token, example by example: float32 ``[length, d_model]``.

        Holds one chunk of the store at a time, however large the split is.

        Raises:
            StoreError: If the store has no sequences of this layer, or not this split.
            DamageError: If the bytes on disk are not those that were written.
        """
        index = self._position(layer, self.sequence_layers, SEQUENCE)
        offsets = self.offsets(split)
        return self._iterate(index, offsets)

    def _iterate(self, index: int, offsets: Int64) -> Iterator[Float32]:
        step = self._group[SEQUENCE].chunks[1]  # type: ignore[union-attr]
        start = stop = int(offsets[0])
        buffer = np.empty((0, self.d_model), np.float32)
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            while stop < end:
                # Up to the next chunk boundary, so that no chunk is decoded twice.
                upto = min((stop // step + 1) * step, int(offsets[-1]))
                more = self._residuals(SEQUENCE, [index], slice(stop, upto))[0]
                buffer, start, stop = np.concatenate([buffer[begin - start :], more]), begin, upto
            yield buffer[begin - start : end - start].copy()

    def read_example(self, row: int) -> tuple[Float32, Float32]:
        """The residuals of one example.

        Returns:
            float32 ``[layers, d_model]`` at the final token, ``[sequence_layers, length, d_model]`` at every
            token.

        Raises:
            DamageError: If the bytes on disk are not those that were written.
        """
        begin, end = self.offsets()[row : row + 2].tolist()
        final = self._residuals(FINAL_TOKEN, range(len(self.layers)), slice(row, row + 1))[:, 0]
        if not self.sequence_layers:
            return final, np.empty((0, end - begin, self.d_model), np.float32)
        return final, self._residuals(SEQUENCE, range(len(self.sequence_layers)), slice(begin, end))

    def offsets(self, split: str | None = None) -> Int64:
        """int64 ``[n + 1]``: the token range of every example of a split within the whole store."""
        if self._offsets is None:
            offsets = self._read("offsets")
            tokens = self._group["token_ids"].shape[0]  # type: ignore[union-attr]
            if offsets[0] != 0 or offsets[-1] != tokens or np.any(np.diff(offsets) < 1):
                msg = f"{self.name}: offsets do not divide the {tokens} tokens into examples"
                raise DamageError(msg)
            self._offsets = offsets
        rows = self.rows(split)
        return self._offsets[rows.start : rows.stop + 1]

    def array(self, name: str, split: str | None = None) -> Any:
        """A per-example array of the schema, as numpy, for one split or all rows.

        Raises:
            StoreError: If the schema has no such per-example array.
        """
        if name not in ARRAYS or ARRAYS[name].dims[0] != "example":
            known = ", ".join(n for n, spec in ARRAYS.items() if spec.dims[0] == "example")
            msg = f"no per-example array {name!r}; expected one of: {known}"
            raise StoreError(msg)
        return self._read(name, (self.rows(split),))

    def examples(self, split: str | None = None) -> list[Example]:
        """The examples of a split, without activations, in the order of the rows."""
        names = [n for n, spec in ARRAYS.items() if spec.dims[0] == "example"]
        columns = {name: self.array(name, split) for name in names}
        try:
            check_columns(columns)
        except ValueError as error:
            msg = f"{self.name}: {error}: build or pull the store again"
            raise DamageError(msg) from None
        offsets = self.offsets(split)
        tokens = self._read("token_ids", (slice(int(offsets[0]), int(offsets[-1])),))
        tokens = np.split(tokens, (offsets[1:-1] - offsets[0]).tolist())
        return [self._example(columns, i, tokens[i]) for i in range(len(columns["gold"]))]

    def _example(self, columns: Mapping[str, Any], i: int, tokens: Any) -> Example:
        n = int(columns["n_choices"][i])
        return Example(
            id=str(columns["example_id"][i]),
            task=self.task,
            split=SPLITS[int(columns["split"][i])],
            source_row=int(columns["source_row"][i]),
            prompt=str(columns["prompt"][i]),
            choices=tuple(str(c) for c in columns["choices"][i][:n]),
            gold=int(columns["gold"][i]),
            prediction=int(columns["prediction"][i]),
            success=int(columns["success"][i]),
            choice_logprobs=tuple(float(p) for p in columns["choice_logprob"][i][:n]),
            choice_tokens=tuple(int(t) for t in columns["choice_tokens"][i][:n]),
            final_token_position=int(columns["final_token_position"][i]),
            token_ids=tokens,
        )

    def _read_layers(self, name: str) -> tuple[int, ...]:
        layers = self._read(name)
        if np.any(np.diff(layers, prepend=-1) < 1):
            msg = f"{self.name}: {name} is not a list of blocks in their order"
            raise DamageError(msg)
        return tuple(int(n) for n in layers)

    def _position(self, layer: int, among: tuple[int, ...], what: str) -> int:
        if layer not in among:
            have = ", ".join(map(str, among)) or "none"
            msg = f"{self.name} has no {what} residuals of layer {layer}; it has: {have}"
            raise StoreError(msg)
        return among.index(layer)

    def _residuals(self, name: str, layers: Sequence[int], rows: slice) -> Float32:
        """float32 ``[layers, rows, d_model]`` of one of the large arrays."""
        if name not in self._direct:
            return np.stack([self._read(name, (layer, rows)) for layer in layers])
        with self._reading(name):
            return self._direct[name].read(layers, rows.start, rows.stop)

    def _read(self, name: str, selection: tuple[Any, ...] = ()) -> Any:
        with self._reading(name):
            array = self._group[name]
            return np.asarray(array[selection if selection else ...])  # type: ignore[index]

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Make one error of ours of those of a checksum, a codec or a client, each of its own kind."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if self.name.startswith("hf://") and is_hubs(error):
                raise StoreError(explained(error, dataset_of(self.name))) from error
            msg = f"{self.name}: {name} cannot be read ({one_line(error)}): `wif-store verify` names the file"
            raise DamageError(msg) from error
