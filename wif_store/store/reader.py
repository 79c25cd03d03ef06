"""The reader: a finished store as numpy arrays, from a folder or any fsspec URL."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import DamageError, StoreError, one_line
from wif_store.format.chunks import decode
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import (
    ARRAYS,
    COORDINATES,
    FINAL_TOKEN,
    SEQUENCE,
    SPLITS,
    TABLE,
    Example,
    Float32,
    Int8,
    Int32,
    Int64,
    Manifest,
    columns,
)
from wif_store.format.table import as_example, parse_table
from wif_store.storage import storage_of
from wif_store.storage.hub_client import dataset_of, explained, is_hubs
from wif_store.store.files import read_manifest, read_small
from wif_store.store.residuals import ResidualArray, empty, in_threads
from wif_store.store.split import Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa
    import zarr

    from wif_store.storage import Storage


def open_store(path: str | os.PathLike[str]) -> ActivationStore:
    """Open a finished store for reading.

    Args:
        path: A folder, or a URL that fsspec understands (``hf://datasets/ORG/NAME/zarr/TASK.zarr``). A store
            on the Hub is read at the commit that its revision names now, whatever is pushed later.

    Raises:
        StoreError: If there is no store, or it is unfinished or of another format version.
        DamageError: If a file that the manifest names is missing or has another size.

    Example::

        store = wif_store.open_store("winogrande.zarr")
        X, success = store["train"].read_final_token(layer=9)
    """
    storage = storage_of(os.fspath(path)).pinned()
    return ActivationStore(os.fspath(path), read_manifest(storage), storage)


class ActivationStore:
    """A finished store: three splits, each with a table of examples and arrays of residuals.

    Within a split, row 2j is the j-th success and row 2j + 1 the j-th failure, so that every even prefix is
    balanced. Where a method takes ``split=None`` it reads train, validation and test one after the other.

    Attributes:
        name: Where it was opened from.
        manifest: What it holds and how it came to be.
        task: The task's name.
        layers: The 0-based decoder layers that have final-token residuals.
        sequence_layers: Those that have residuals at every token.
        d_model: Width of the residual stream.
    """

    def __init__(self, name: str, manifest: Manifest, storage: Storage) -> None:
        self.name = name
        self.manifest = manifest
        self.task = manifest.task
        self.layers = tuple(manifest.layers[FINAL_TOKEN])
        self.sequence_layers = tuple(manifest.layers[SEQUENCE])
        self.d_model = int(manifest.model["d_model"])
        self._storage = storage
        self._layouts = layouts_of(manifest)
        self._kept: dict[str, Any] = {}
        self._keeping = threading.RLock()

    def __reduce__(self) -> tuple[type[ActivationStore], tuple[str, Manifest, Storage]]:
        """What another process gets: the store, without what this one has read."""
        return type(self), (self.name, self.manifest, self._storage)

    def __len__(self) -> int:
        """The number of examples."""
        return self.manifest.examples

    def __getitem__(self, split: str) -> Split:
        """One split, with the same methods.

        Raises:
            StoreError: If there is no such split.
        """
        return Split(self, *self._splits(str(split)))

    def __repr__(self) -> str:
        """The store in one line."""
        return (
            f"<ActivationStore {self.name}: {self.task}, {len(self)} examples, {len(self.layers)} layers, "
            f"d_model {self.d_model}>"
        )

    def count(self, split: str | None = None) -> int:
        """The number of examples of a split, or of all.

        Raises:
            StoreError: If there is no such split.
        """
        return sum(self.manifest.splits[s]["examples"] for s in self._splits(split))

    def read_final_token(self, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        """One layer's residuals at the final token, and the success labels.

        Args:
            layer: 0-based decoder layer.
            split: ``train``, ``validation`` or ``test``; all rows where it is None.

        Returns:
            float32 ``[n, d_model]``, in Fortran order as the values of a channel are next to each other on
            disk, and int8 ``[n]`` (1 success, 0 failure).

        Raises:
            StoreError: If the store has not this layer or split.
            DamageError: If the bytes on disk are not those that were written.
        """
        return self.read_site(FINAL_TOKEN, layer, split)

    def read_site(self, site: str, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        """One layer's residuals at a named site, and the success labels; otherwise as ``read_final_token``.

        Args:
            site: One of ``manifest.sites``, such as ``prompt_end``.
            layer: 0-based decoder layer.
            split: ``train``, ``validation`` or ``test``; all rows where it is None.

        Raises:
            StoreError: If the store has not this site, layer or split.
            DamageError: If the bytes on disk are not those that were written.
        """
        if site not in self.manifest.sites:
            known = ", ".join(self.manifest.sites)
            msg = f"{self.name} has no residuals at {site}; it has: {known}"
            raise StoreError(msg)
        index = self._position(layer, self.layers, site)
        rows = {s: self.count(s) for s in self._splits(split)}
        return self._layer(site, index, rows), self.success(split)

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
        rows = {s: self.manifest.splits[s]["tokens"] for s in self._splits(split)}
        return self._layer(SEQUENCE, index, rows), self.offsets(split)

    def iter_sequences(self, layer: int, split: str | None = None) -> Iterator[Float32]:
        """One layer's residuals at every token, example by example: float32 ``[length, d_model]``.

        Holds one chunk of the store at a time, however large the split is.

        Raises:
            StoreError: If the store has no sequences of this layer, or not this split.
            DamageError: If the bytes on disk are not those that were written.
        """
        index = self._position(layer, self.sequence_layers, SEQUENCE)
        offsets = {s: self.offsets(s) for s in self._splits(split)}
        return (tokens for s, bounds in offsets.items() for tokens in self._iterate(s, index, bounds))

    def _iterate(self, split: str, index: int, offsets: Int64) -> Iterator[Float32]:
        step = self._layouts[f"{split}/{SEQUENCE}"].chunk[1]
        start = stop = 0
        buffer = np.empty((0, self.d_model), np.float32)
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            while stop < end:
                # Up to the next chunk boundary, so that no chunk is decoded twice.
                upto = min((stop // step + 1) * step, int(offsets[-1]))
                more = self._residuals(split, SEQUENCE, [index], stop, upto)[0]
                buffer, start, stop = np.concatenate([buffer[begin - start :], more]), begin, upto
            yield buffer[begin - start : end - start].copy()

    def read_example(self, split: str, row: int, site: str = FINAL_TOKEN) -> tuple[Float32, Float32]:
        """The residuals of one example.

        Returns:
            float32 ``[layers, d_model]`` at the site, ``[sequence_layers, length, d_model]`` at every token.

        Raises:
            StoreError: If there is no such split, or no such row of it.
            DamageError: If the bytes on disk are not those that were written.
        """
        begin, end = self._bounds(split, row)
        final = np.empty((0, self.d_model), np.float32)
        if self.layers:
            every = range(len(self.layers))
            final = self._residuals(split, site, every, row, row + 1)[:, 0]
        if not self.sequence_layers:
            return final, np.empty((0, end - begin, self.d_model), np.float32)
        return final, self._residuals(split, SEQUENCE, range(len(self.sequence_layers)), begin, end)

    def read_sequence(self, layer: int, split: str, row: int) -> Float32:
        """One layer's residuals at every token of one example: float32 ``[length, d_model]``.

        Raises:
            StoreError: If the store has no sequences of this layer, or not this split or row.
            DamageError: If the bytes on disk are not those that were written.
        """
        index = self._position(layer, self.sequence_layers, SEQUENCE)
        begin, end = self._bounds(split, row)
        found: Float32 = self._residuals(split, SEQUENCE, [index], begin, end)[0]
        return found

    def _bounds(self, split: str, row: int) -> tuple[int, int]:
        """The tokens of one example."""
        if not 0 <= row < self.count(split):
            msg = f"{split} has no row {row}; it has {self.count(split)}, from 0"
            raise StoreError(msg)
        begin, end = self.offsets(split)[row : row + 2].tolist()
        return begin, end

    def success(self, split: str | None = None) -> Int8:
        """The success labels: int8 ``[n]``, 1 where the model is right."""
        return np.concatenate([self._array(f"{s}/success") for s in self._splits(split)])

    def offsets(self, split: str | None = None) -> Int64:
        """int64 ``[n + 1]``, starting at 0: the token range of every example."""
        parts, at = [np.zeros(1, np.int64)], 0
        for s in self._splits(split):
            offsets = self._array(f"{s}/offsets")
            tokens = self.manifest.splits[s]["tokens"]
            if offsets[0] != 0 or offsets[-1] != tokens or np.any(np.diff(offsets) < 1):
                msg = f"{self.name}: offsets of {s} do not divide the {tokens} tokens into examples"
                raise DamageError(msg)
            parts.append(offsets[1:] + at)
            at += tokens
        return np.concatenate(parts)

    def token_ids(self, split: str | None = None) -> Int32:
        """int32 ``[tokens]``: the tokens that were read, examples end to end."""
        return np.concatenate([self._array(f"{s}/token_ids") for s in self._splits(split)])

    def coordinate(self, name: str) -> Int64:
        """``layer`` or ``sequence_layer``, stored for readers that know Zarr alone: int64 ``[n]``."""
        return self._array(name)

    def table(self, split: str | None = None) -> pa.Table:
        """The table of examples, one row an example, in the order of the residuals."""
        import pyarrow as pa

        return pa.concat_tables([self._table(s) for s in self._splits(split)])

    def column(self, name: str, split: str | None = None) -> np.ndarray:
        """One column of the table of examples, as numpy: texts and lists as objects.

        Raises:
            StoreError: If the table has no such column.
        """
        known = [column.name for column in columns(self.manifest.outcome)]
        if name not in known:
            msg = f"no column {name!r}; expected one of: {', '.join(known)}"
            raise StoreError(msg)
        values: np.ndarray = self.table(split)[name].to_numpy()
        return values

    def examples(self, split: str | None = None) -> list[Example]:
        """The examples of a split, without residuals, in the order of the rows."""
        found: list[Example] = []
        for s in self._splits(split):
            tokens = np.split(self.token_ids(s), self.offsets(s)[1:-1].tolist())
            rows = self._table(s).to_pylist()
            found += [as_example(row, s, ids) for row, ids in zip(rows, tokens, strict=True)]
        return found

    def zarr_group(self) -> zarr.Group:
        """The store as zarr-python reads it: the root group, with a group for each split."""
        import zarr

        return zarr.open_group(self._storage.zarr_store(), mode="r")

    def _splits(self, split: str | None) -> tuple[str, ...]:
        if split is None:
            return SPLITS
        if split not in SPLITS:
            msg = f"no split {split!r}; expected one of: {', '.join(SPLITS)}"
            raise StoreError(msg)
        return (split,)

    def _position(self, layer: int, among: tuple[int, ...], what: str) -> int:
        if layer not in among:
            have = ", ".join(map(str, among)) or "none"
            msg = f"{self.name} has no {what} residuals of layer {layer}; it has: {have}"
            raise StoreError(msg)
        return among.index(layer)

    def _layer(self, name: str, index: int, rows: Mapping[str, int]) -> Float32:
        """float32 ``[rows, d_model]`` of all rows of some splits, which are decoded in their place."""
        transposed = any(self._layouts[f"{split}/{name}"].transposed for split in rows)
        values = empty((1, sum(rows.values()), self.d_model), transposed=transposed)
        tasks, at = [], 0
        with self._reading(f"{'/'.join(rows)}/{name}"):
            for split, count in rows.items():
                part = values[:, at : at + count]
                tasks += self._residual_array(f"{split}/{name}").fills(part, [index], 0, count)
                at += count
            in_threads(tasks)
        found: Float32 = values[0]
        return found

    def _residuals(self, split: str, name: str, layers: Sequence[int], start: int, stop: int) -> Float32:
        """float32 ``[layers, rows, d_model]`` of one of the large arrays."""
        path = f"{split}/{name}"
        with self._reading(path):
            return self._residual_array(path).read(layers, start, stop)

    def _residual_array(self, path: str) -> ResidualArray:
        def cut(path: str) -> ResidualArray:
            return ResidualArray(self._storage, path, self._layouts[path], self.manifest.files)

        found: ResidualArray = self._once(path, cut)
        return found

    def _array(self, path: str) -> np.ndarray:
        """One of the small arrays, which is a file of one chunk or none; not to be changed."""

        def read(path: str) -> np.ndarray:
            layout, spec = self._layouts[path], (COORDINATES | ARRAYS)[path.rpartition("/")[2]]
            values = np.empty(layout.shape, spec.dtype)
            for file in layout.files:
                content = read_small(self._storage, self.manifest, f"{path}/{file}")
                decode(np.frombuffer(content, np.uint8), values)
            values.flags.writeable = False
            return values

        found: np.ndarray = self._once(path, read)
        return found

    def _table(self, split: str) -> pa.Table:
        def read(path: str) -> pa.Table:
            content = read_small(self._storage, self.manifest, path)
            return parse_table(content, self.manifest.outcome, self.count(split))

        return self._once(f"{split}/{TABLE}", read)

    def _once(self, path: str, read: Callable[[str], Any]) -> Any:
        """Something small that is read when a thread first asks for it, and kept."""
        with self._keeping:
            if path not in self._kept:
                with self._reading(path):
                    self._kept[path] = read(path)
            return self._kept[path]

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Make one error of ours of those of a checksum, a codec or a client, each of its own kind."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if self.name.startswith("hf://") and is_hubs(error):
                raise StoreError(explained(error, dataset_of(self.name))) from error
            msg = f"{self.name}: {path} cannot be read ({one_line(error)}): `wif-store verify` names the file"
            raise DamageError(msg) from error
