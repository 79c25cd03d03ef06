"""Pull: complete stores byte for byte, some layers as a smaller store, and nothing half-made."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from huggingface_hub import HfApi

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, ROOT, dataset, push, tree, wif
from tests.support.stores import make_store
from wif_store.errors import DamageError, LayersError, PublishError
from wif_store.format.chunks import crc32c, index_bytes, read_index, shard_file
from wif_store.format.layout import sequence_chunk
from wif_store.format.schema import SPLITS
from wif_store.hub.partial import LayerFetch
from wif_store.hub.pull import Pull, pull_dataset
from wif_store.hub.staging import stage
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]

LARGE = "GET /cdn/.*/(final_token|sequence)/c/"


@pytest.fixture
def store(hub: Hub, made: Callable[[str], Path]) -> Path:
    """A store that is published."""
    push(hub, made("winogrande"))
    return made("winogrande")


def check_part(part: Path, store: Path, layers: Sequence[int], sequence_layers: Sequence[int]) -> None:
    """A store of some layers has the values of the complete one."""
    verify_store(part)
    some, every = open_store(part), open_store(store)
    assert (some.layers, some.sequence_layers) == (tuple(layers), tuple(sequence_layers))
    for split in SPLITS:
        for layer in some.layers:
            for found, wanted in zip(
                some.read_final_token(layer, split), every.read_final_token(layer, split), strict=True
            ):
                assert np.array_equal(found, wanted)
        for layer in some.sequence_layers:
            for found, wanted in zip(
                some.read_sequences(layer, split), every.read_sequences(layer, split), strict=True
            ):
                assert np.array_equal(found, wanted)
        assert some.table(split).equals(every.table(split))


def test_a_complete_store_comes_back(hub: Hub, store: Path, tmp_path: Path) -> None:
    pull, out = Pull.open(dataset(hub)), tmp_path / "deep" / "w.zarr"
    assert pull.pull("winogrande", out).fetched > 0
    assert tree(out) == tree(store)
    assert [p.name for p in out.parent.iterdir()] == ["w.zarr"]
    assert pull.pull("winogrande", out).fetched == 0
    assert [p.name for p in out.parent.iterdir()] == ["w.zarr"]


def test_from_python(hub: Hub, store: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    pulled = pull_dataset(REPO, out=tmp_path, progress=lambda *how: seen.append(how), api=api)
    assert [(p.task, p.path) for p in pulled] == [("winogrande", tmp_path / "winogrande.zarr")]
    assert tree(pulled[0].path) == tree(store)
    assert seen[-1] == ("winogrande", pulled[0].fetched, pulled[0].fetched)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    some = pull_dataset(REPO, ["winogrande"] * 2, [2], "main", tmp_path / "some", api=api)
    check_part(some[0].path, store, [2], [2])
    assert pull_dataset(REPO, layers="0-3", out=tmp_path, api=api)[0].fetched == 0, "these are all layers"


# -- some layers ----------------------------------------------------------------------------------------


def test_some_layers_make_a_smaller_store(hub: Hub, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.zarr"
    hub.log.clear()
    Pull.open(dataset(hub)).pull("winogrande", out, [2, 3])
    check_part(out, store, [2, 3], [2])
    assert [p.name for p in tmp_path.iterdir()] == ["w.zarr"]
    assert Pull.open(dataset(hub)).pull("winogrande", out, "3,2").fetched == 0
    with pytest.raises(PublishError, match="another store, or other layers"):
        Pull.open(dataset(hub)).pull("winogrande", out, [2])
    with pytest.raises(PublishError, match="was pulled in part"):
        stage(out)


@pytest.mark.parametrize(
    ("layers", "kept", "sequences"),
    [("1", [1], []), ("none", [], []), ("0", [0], [0]), ("1-3", [1, 2, 3], [2]), ("auto", [], [])],
)
def test_which_layers(
    hub: Hub, store: Path, tmp_path: Path, layers: str, kept: list[int], sequences: list[int]
) -> None:
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", layers)
    check_part(tmp_path / "w.zarr", store, kept, sequences)


def test_only_the_chunks_of_the_layers_are_fetched(hub: Hub, tmp_path: Path) -> None:
    """Of 26 layers in shards that hold all of them, two take two shares, and the indices."""
    store = make_store(
        tmp_path / "w.zarr", per_class=24, layers=26, sequence_layers=6, d_model=2304, tokens=40
    )
    push(hub, store)
    hub.log.clear()
    pulled = Pull.open(dataset(hub)).pull("winogrande", tmp_path / "two.zarr", [4, 9])
    check_part(tmp_path / "two.zarr", store, [4, 9], [4])
    part = open_store(tmp_path / "two.zarr")
    large = sum(entry["size"] for name, entry in part.manifest.files.items() if "chunk_crc32c" in entry)
    assert large <= hub.log.sent(LARGE) <= 1.01 * large
    assert pulled.fetched <= hub.log.sent("GET /cdn/") + 10**5


def test_chunks_of_several_shards_come_to_stand_in_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of fewer layers has more rows."""
    monkeypatch.setattr("wif_store.format.layout.SHARD_BYTES", 2 * 4 * 64 * sequence_chunk(64))
    store = make_store(tmp_path / "w.zarr", per_class=1040, layers=2, sequence_layers=2, tokens=50)
    push(hub, store)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "one.zarr", [1])
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "other.zarr", [0])
    check_part(tmp_path / "one.zarr", store, [1], [1])
    check_part(tmp_path / "other.zarr", store, [0], [0])
    shards = [
        [name for name in open_store(path).manifest.files if name.startswith(f"train/{array}/c/")]
        for path in (store, tmp_path / "one.zarr")
        for array in ("sequence", "final_token")
    ]
    assert [len(names) for names in shards] == [3, 2, 2, 2]


def test_what_is_here_already_is_not_fetched_again(hub: Hub, store: Path, tmp_path: Path) -> None:
    hub.fail("GET /cdn/.*/test/sequence/c/", corrupt=True, times=None, skip=1)
    with pytest.raises(DamageError, match=r"a chunk of test/sequence/c/0/0/0 is not the one .* twice"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [0])
    hub.heal()
    # What another layer, another commit or a killed process left there does no harm.
    left = tmp_path / "w.zarr.pulling" / "store" / "train" / "final_token" / "c" / "0" / "9"
    left.mkdir()
    (left / "0.1234.partial").write_bytes(b"half")
    hub.log.clear()
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [0])
    check_part(tmp_path / "w.zarr", store, [0], [0])
    index = 16 * 4 + 4
    assert hub.log.sent("GET /cdn/.*/train/final_token/c/") <= index + 1


@pytest.mark.parametrize("array", ["final_token", "sequence"])
def test_a_chunk_that_arrives_damaged_is_fetched_once_more(
    hub: Hub, store: Path, tmp_path: Path, array: str
) -> None:
    # First the index of a shard, which is read first; then, once that was read again, its chunks.
    faults = [
        hub.fail(f"GET /cdn/.*/{split}/{array}/c/", corrupt=True, skip=skip)
        for split in SPLITS
        for skip in (0, 1)
    ]
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [0])
    assert [fault.hits for fault in faults] == [1] * 6
    check_part(tmp_path / "w.zarr", store, [0], [0])


@pytest.mark.parametrize("split", SPLITS)
def test_a_chunk_that_stands_for_another_is_refused(store: Path, tmp_path: Path, split: str) -> None:
    """Each chunk has its own checksum, so only the manifest tells that it is the wrong one."""
    name = f"{split}/final_token/c/0/0/0"
    content, count = (store / name).read_bytes(), 4
    index = read_index(content[-index_bytes(count) :], count, len(content) - index_bytes(count))
    chunks = [content[offset : offset + length] for offset, length in index.tolist()]
    swapped = b"".join(shard_file(chunks[::-1], count))
    assert len(swapped) == len(content)

    def read(file: str, start: int, stop: int) -> bytes:
        return (swapped if file == name else (store / file).read_bytes())[start:stop]

    layers = LayerFetch("a/b", (store / "manifest.json").read_bytes(), open_store(store).manifest, [1], read)
    layers.open()
    for small in layers.small_files():
        (tmp_path / small).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / small, tmp_path / small)
    with pytest.raises(DamageError, match=f"a/b: a chunk of {name} is not the one that the manifest names"):
        layers.write(tmp_path)


def test_an_index_that_names_bytes_twice_is_refused(store: Path) -> None:
    """A small shard must not stand for any number of requests."""
    name, count = "test/final_token/c/0/0/0", 4
    content = bytearray((store / name).read_bytes())
    begin = len(content) - index_bytes(count)
    index = np.frombuffer(content[begin:-4], "<i8").reshape(count, 2).copy()
    index[:] = 0, begin
    content[begin:] = index.tobytes() + crc32c(index.tobytes())

    def read(file: str, start: int, stop: int) -> bytes:
        return bytes(content if file == name else (store / file).read_bytes())[start:stop]

    layers = LayerFetch("a/b", (store / "manifest.json").read_bytes(), open_store(store).manifest, [1], read)
    with pytest.raises(DamageError, match="names more bytes than it has, fetched twice"):
        layers.open()


# -- faults ---------------------------------------------------------------------------------------------


def test_a_changed_byte_is_noticed_and_fetched_again(hub: Hub, store: Path, tmp_path: Path) -> None:
    once = hub.fail("GET /cdn/.*/test/final_token/c/0", corrupt=True)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    assert once.hits == 1
    assert tree(tmp_path / "w.zarr") == tree(store)
    hub.fail("GET /cdn/.*/test/final_token/c/0", corrupt=True, times=None)
    with pytest.raises(
        DamageError, match="test/final_token/c/0/0/0 does not have its SHA-256, fetched twice"
    ):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()
    hub.heal()
    hub.log.clear()
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "x.zarr")
    assert tree(tmp_path / "x.zarr") == tree(store)
    assert hub.log.count(LARGE) < 6, "what was here is not fetched again"


def test_a_reset_is_waited_out(hub: Hub, store: Path, tmp_path: Path, impatient: list[float]) -> None:
    hub.fail("GET /cdn/.*/sequence/", reset_after=100, times=3)
    hub.fail("GET .*/tree/", status=500)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    assert tree(tmp_path / "w.zarr") == tree(store)


def test_a_reset_is_waited_out_where_ranges_are_read(
    hub: Hub, store: Path, tmp_path: Path, impatient: list[float]
) -> None:
    hub.fail("GET /cdn/.*/sequence/", reset_after=10, times=3)
    hub.fail("GET /cdn/.*/final_token/", status=502, times=2)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [2])
    check_part(tmp_path / "w.zarr", store, [2], [2])


def test_what_a_pull_of_another_commit_left_does_no_harm(hub: Hub, store: Path, tmp_path: Path) -> None:
    hub.fail("GET /cdn/.*/test/final_token/c/0", corrupt=True, times=None)
    with pytest.raises(DamageError):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    hub.heal()
    other = make_store(tmp_path / "other" / "w.zarr", sequence_layers=0, per_class=8)
    push(hub, other)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    assert tree(tmp_path / "w.zarr") == tree(other)


# -- what is refused ------------------------------------------------------------------------------------


def test_what_stands_in_the_way_is_left_alone(hub: Hub, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.zarr"
    shutil.copytree(store, out)
    labels = out / "test" / "success" / "c" / "0"
    labels.write_bytes(b"")
    with pytest.raises(PublishError, match="exists and is not a complete store"):
        Pull.open(dataset(hub)).pull("winogrande", out)
    assert labels.read_bytes() == b""


def test_what_is_not_there_is_named(hub: Hub, store: Path, tmp_path: Path) -> None:
    pull = Pull.open(dataset(hub))
    with pytest.raises(PublishError, match=r"has no store of piqa; it has: winogrande"):
        pull.pull("piqa", tmp_path / "p.zarr")
    with pytest.raises(LayersError, match=r"'1,9': there is no layer 9; expected some of: 0-3"):
        pull.pull("winogrande", tmp_path / "w.zarr", [1, 9])
    with pytest.raises(PublishError, match="has no such revision"):
        Pull.open(dataset(hub), "v9")
    with pytest.raises(PublishError, match="was not found"):
        Pull.open(dataset(hub, repo="whyitfailed/none"))


def test_two_pulls_into_one_folder(hub: Hub, store: Path, tmp_path: Path) -> None:
    """The second is refused in one line, and the first is not disturbed."""
    out = tmp_path / "winogrande.zarr"
    refused: list[str] = []

    def again(task: str, done: int, total: int) -> None:
        if not refused:
            run = wif(hub, "pull", REPO, "--out", tmp_path)
            refused.append(run.stderr.splitlines()[-1])
            assert run.returncode == 1

    Pull.open(dataset(hub)).pull("winogrande", out, progress=again)
    assert refused == [f"error: another pull is writing {out}: wait for it, or choose another --out"]
    assert tree(out) == tree(store)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["winogrande.zarr"]


def test_two_pulls_at_once_leave_one_store(hub: Hub, store: Path, tmp_path: Path) -> None:
    ends: list[str] = []

    def pull() -> None:
        try:
            Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [1])
            ends.append("here")
        except PublishError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(end == "here" or "another pull is writing" in end for end in ends), ends
    assert "here" in ends
    check_part(tmp_path / "w.zarr", store, [1], [])
    assert [p.name for p in tmp_path.iterdir()] == ["w.zarr"]


def test_a_folder_that_cannot_be_written_is_one_line(hub: Hub, store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    run = wif(hub, "pull", REPO, "--out", tmp_path / "file")
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/file/winogrande.zarr cannot be written (")
    assert (run.returncode, "Traceback" in run.stderr) == (1, False)


def test_the_command(hub: Hub, store: Path, tmp_path: Path) -> None:
    run = wif(hub, "pull", REPO, "--task", "winogrande", "--layers", "1,2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "stores" / "whyitfailed" / "gemma2-acts" / "winogrande.zarr"
    assert open_store(folder).layers == (1, 2)
    run = wif(hub, "pull", REPO, "--layers", "one", cwd=tmp_path)
    line = "--layers is 'one'; expected all, none, auto, or 0-based layers as in 0,4,9-12; there are: 0-3"
    assert (run.returncode, run.stderr) == (1, f"error: {line}\n")


def test_a_killed_pull_is_finished_by_the_same_command(hub: Hub, store: Path, tmp_path: Path) -> None:
    hub.fail("GET /cdn/.*/sequence/", delay=30, times=1)
    command = [
        sys.executable,
        "-m",
        "wif_store.cli.app",
        "pull",
        REPO,
        "--out",
        str(tmp_path),
        "--layers",
        "2",
    ]
    env = hub.environ(PYTHONPATH=str(ROOT))
    hub.log.clear()
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        while hub.log.count("GET /cdn/.*/sequence/") == 0:
            assert process.poll() is None
        process.kill()
    assert not (tmp_path / "winogrande.zarr").exists()
    run = wif(hub, "pull", REPO, "--out", tmp_path, "--layers", "2")
    assert run.returncode == 0, run.stderr
    check_part(tmp_path / "winogrande.zarr", store, [2], [2])
    assert [p.name for p in tmp_path.iterdir()] == ["winogrande.zarr"]
