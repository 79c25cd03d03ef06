"""Builds straight to an object store: ended between two requests that write, refused at any request."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from benchmarks.faults.boundaries import STOPPED
from benchmarks.faults.builds import Job, wait
from benchmarks.faults.report import Row
from benchmarks.faults.resume import Undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable

CHANGES = {"begin", "part", "complete", "remove"}


class Refused(Exception):
    """As the clients of object stores raise: an error of their own, without a number."""


class Bucket(AbstractFileSystem):
    """Objects, kept under a folder of the same path: whole or not there, never renamed, never locked."""

    protocol = "bucket"
    uploads: ClassVar[Path]
    """Where parts wait for the rest of their object; nobody sees them."""
    request: ClassVar[Callable[[str, str], object]] = staticmethod(lambda verb, path: None)
    """Told of each request before it is carried out."""

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Objects whose names begin so, up to the next slash."""
        self.request("list", path)
        found = Path(self._strip_protocol(path))
        inside = [found] if found.is_file() else list(found.glob("*"))
        if not inside:
            raise FileNotFoundError(path)
        return [_info(p) for p in inside] if detail else [str(p) for p in inside]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """One object, or that there are some below."""
        self.request("look", path)
        return _info(Path(self._strip_protocol(path)))

    def rm_file(self, path: str) -> None:
        """Remove one object."""
        found = Path(self._strip_protocol(path))
        if not found.is_file():
            return  # there are no folders but by the names of objects
        self.request("remove", path)
        found.unlink()
        while not any(found.parent.iterdir()):
            found = found.parent
            found.rmdir()

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode == "rb":
            self.request("read", path)
            return Path(path).open("rb")
        return Upload(self, path, mode, block_size or "default", **options)


class Upload(AbstractBufferedFile):
    """An object on its way: nobody sees it before it is complete."""

    def _initiate_upload(self) -> None:
        self.fs.request("begin", self.path)
        self._parts = self.fs.uploads / secrets.token_hex(8)

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs.request("part", self.path)
        with self._parts.open("ab") as file:
            file.write(self.buffer.getvalue())
        if final:
            self.fs.request("complete", self.path)
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._parts.rename(self.path)
        return True

    def discard(self) -> None:
        """Let go of what was sent."""
        self._parts.unlink(missing_ok=True)


def _info(path: Path) -> dict[str, Any]:
    kind = "directory" if path.is_dir() else "file"
    return {"name": str(path), "size": path.stat().st_size, "type": kind}


def object_boundaries(job: Job, folder: Path, steps: tuple[int, int]) -> tuple[Row, Row]:
    """Kill a build before its requests that write, or have a request refused; ``steps`` leave some out."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    killed, refused = Row("object store: killed before a request"), Row("object store: a request refused")
    Bucket.uploads, counted = folder / "uploads", folder / "count"
    Bucket.uploads.mkdir()
    whole = Undisturbed.build(
        job, f"bucket://{folder}/whole.zarr", folder / "whole.log", lambda: _count(counted)
    )
    requests = counted.read_text().split()
    writes = [at for at, verb in enumerate(requests) if verb in CHANGES]
    killed.notes["requests that write"] = len(writes)
    for at in writes[:: steps[0]]:
        out, log = f"bucket://{folder}/k{at}.zarr", folder / f"k{at}.log"
        status = wait(job.start(out, log, lambda at=at: _at(at, lambda verb, path: os._exit(STOPPED))))
        if status == STOPPED:
            whole.finish(killed, out, log)
        else:
            killed.bad(f"{out} was to be stopped and ended with {status}")
    refused.notes["requests"] = len(requests)
    for at in range(0, len(requests), steps[1]):
        out, log = f"bucket://{folder}/r{at}.zarr", folder / f"r{at}.log"
        status = wait(job.start(out, log, lambda at=at: _at(at, _refuse)))
        said = log.with_suffix(".error").read_text()
        refused.notes["by a " + requests[at]] += 1
        if status == 0 or (status == 1 and "\n" not in said and "Slow Down" in said):
            whole.finish(refused, out, log, f"`{said}`" if said else "")
        else:
            refused.bad(f"{out}: {requests[at]} refused, ended with {status}: {said[-300:]}")
    return killed, refused


def _count(counted: Path) -> None:
    def note(verb: str, path: str) -> None:
        with counted.open("a") as file:
            file.write(f"{verb}\n")

    Bucket.request = staticmethod(note)  # type: ignore[assignment]


def _at(number: int, what: Callable[[str, str], object]) -> None:
    """Have something happen at one request, counted from 0."""
    numbers = iter(range(10**9))
    Bucket.request = staticmethod(  # type: ignore[assignment]
        lambda verb, path: what(verb, path) if next(numbers) == number else None
    )


def _refuse(verb: str, path: str) -> None:
    msg = f"503 Slow Down:\n{verb} {path.rpartition('/')[2]}"
    raise Refused(msg)
