"""Requests to the Hub: which are made again, after how long, and what a failure says."""

from __future__ import annotations

import subprocess
import sys

import httpx2
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from wif_store.errors import StoreError
from wif_store.storage import storage_of
from wif_store.storage.hub_client import (
    dataset_of,
    explained,
    is_hubs,
    is_passing,
    is_transport,
    retrying,
    status_of,
)

REQUEST = httpx2.Request("GET", "http://127.0.0.1:9/api/datasets/me/acts")


def answered(status, kind=HfHubHTTPError, **headers):
    """The error of an answer of the Hub."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return kind("Server error\nfor url", response=httpx2.Response(status, request=REQUEST, headers=headers))


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited between tries; nothing is waited for."""
    found = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def failing(*errors):
    """A request that fails with each of these and then succeeds."""
    left = list(errors)

    def request():
        if left:
            raise left.pop(0)
        return 7

    return request


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_passes_is_waited_for(status, waits):
    assert retrying(failing(*[answered(status)] * 5)) == 7
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_the_hub_says_how_long_up_to_a_minute(waits):
    errors = [
        answered(429, Retry_After="9"),
        answered(429, Retry_After="3600"),
        answered(429, Retry_After="x"),
    ]
    assert retrying(failing(*errors)) == 7
    assert waits == [9.0, 60.0, 4.0]


def test_what_does_not_pass_is_raised_at_the_sixth_try(waits):
    last = answered(503)
    with pytest.raises(HfHubHTTPError) as raised:
        retrying(failing(*[answered(503)] * 5, last))
    assert raised.value is last
    assert len(waits) == 5


@pytest.mark.parametrize("error", [answered(400), answered(404), answered(412), ValueError("no")])
def test_what_will_not_pass_is_raised_at_once(error, waits):
    with pytest.raises(type(error)):
        retrying(failing(error))
    assert waits == []


@pytest.mark.parametrize(
    "error", [httpx2.ReadError("reset"), httpx2.ReadTimeout("slow"), ConnectionResetError()]
)
def test_an_answer_that_is_lost_on_the_way_is_asked_for_again(error, waits):
    assert retrying(failing(error)) == 7
    assert waits == [1.0]


OFFLINE = [httpx2.ConnectError("refused"), httpx2.ConnectTimeout("slow"), LocalEntryNotFoundError("offline")]


@pytest.mark.parametrize("error", OFFLINE)
def test_offline_is_waited_for_only_where_the_hub_was_reached_before(error, waits):
    with pytest.raises(type(error)):
        retrying(failing(error))
    assert waits == []
    assert retrying(failing(error), reached=True) == 7
    assert waits == [1.0]


def test_a_wish_to_stay_offline_does_not_pass(waits):
    with pytest.raises(OfflineModeIsEnabled):
        retrying(failing(OfflineModeIsEnabled("set")), reached=True)
    assert waits == []


def wrapped(error):
    """As the client raises a failed upload."""
    try:
        try:
            raise error
        except type(error) as cause:
            msg = "Error while uploading 'a.bin'"
            raise RuntimeError(msg) from cause
    except RuntimeError as found:
        return found


def test_the_cause_of_a_failed_upload_decides(waits):
    assert status_of(wrapped(answered(503))) == 503
    assert is_passing(wrapped(answered(503)))
    assert is_transport(wrapped(httpx2.ReadError("reset")))
    assert retrying(failing(wrapped(answered(503, Retry_After="3")))) == 7
    assert waits == [3.0]


def test_what_is_the_hubs_and_what_is_not():
    assert all(
        map(is_hubs, [answered(404), httpx2.ReadError("x"), OfflineModeIsEnabled("x"), TimeoutError()])
    )
    assert not any(map(is_hubs, [FileNotFoundError(), ValueError(), PermissionError()]))
    assert [status_of(e) for e in (None, ValueError(), answered(404))] == [None, None, 404]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("hf://datasets/me/acts/s.zarr", "dataset me/acts"),
        ("hf://datasets/me/acts@v1/s.zarr", "dataset me/acts"),
        ("hf://datasets/me/acts", "dataset me/acts"),
    ],
)
def test_a_url_is_called_by_its_dataset(url, name):
    assert dataset_of(url) == name


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            answered(401, GatedRepoError),
            "is gated: accept its terms at .*/datasets/me/acts, then run `hf auth",
        ),
        (answered(404, RepositoryNotFoundError), "was not found: check the name, or run `hf auth login`"),
        (OfflineModeIsEnabled("x"), "is not cached and HF_HUB_OFFLINE is set: unset it, or name a local"),
        (answered(401), "the Hub does not accept the token: run `hf auth login`"),
        (answered(429), "rate limit is reached: wait a few minutes"),
        (answered(503), "the Hub answered 503: run the same command again later"),
        (httpx2.ConnectError("x"), "cannot be fetched: no connection to the Hub"),
        (ValueError("a\nb"), "cannot be loaded: a b"),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do(error, line):
    with pytest.raises(AssertionError, match=f"dataset me/acts.* ?{line}"):
        raise AssertionError(explained(error, "dataset me/acts"))
    assert "\n" not in explained(error, "dataset me/acts")


@pytest.fixture
def failing_hub(monkeypatch, waits):
    """A dataset on a Hub that fails as often as it is told to."""
    storage, errors = storage_of("hf://datasets/me/acts/s.zarr"), []

    def info(path, **options):
        if errors:
            raise errors.pop(0)
        return {"size": 7}

    monkeypatch.setattr(storage.fs, "info", info)
    return storage, errors


def test_a_storage_on_the_hub_waits_for_it(failing_hub, waits):
    storage, errors = failing_hub
    errors += [answered(503), answered(503, Retry_After="9")]
    assert storage.size("manifest.json") == 7
    assert waits == [1.0, 9.0]
    errors += [httpx2.ConnectError("refused")]  # it has answered before
    assert storage.size("manifest.json") == 7


def test_a_hub_that_fails_for_good_is_one_line(failing_hub):
    storage, errors = failing_hub
    errors += [answered(503)] * 99
    with pytest.raises(StoreError, match="dataset me/acts: the Hub answered 503: run the same") as error:
        storage.size("manifest.json")
    assert "\n" not in str(error.value)


def test_a_machine_without_a_network_is_told_at_once(failing_hub, waits):
    storage, errors = failing_hub
    errors += [LocalEntryNotFoundError("offline")] * 99
    with pytest.raises(StoreError, match="dataset me/acts cannot be"):
        storage.size("manifest.json")
    assert waits == []


PINNED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import HfApi
from wif_store.errors import StoreError
from wif_store.storage import storage_of
storage = storage_of("hf://datasets/me/acts/s.zarr")
pinned = storage.pinned()
first = HfApi().dataset_info("me/acts").sha
assert str(pinned) == f"hf://datasets/me/acts@{first}/s.zarr", str(pinned)
assert str(pinned.pinned()) == str(pinned)
mine = {"repo_id": "me/acts", "repo_type": "dataset"}
HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="s.zarr/a.bin", **mine)
HfApi().create_tag(**mine, tag="v1", revision=first)
assert pinned.read("a.bin") == b"old" and pinned.size("a.bin") == 3
assert storage_of("hf://datasets/me/acts/s.zarr").pinned().read("a.bin") == b"new"
assert storage_of("hf://datasets/me/acts@v1/s.zarr").pinned().url == pinned.url
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda i: pinned.read("b.bin", 100 * i, 100 * i + 100), range(40)))
assert b"".join(found) == bytes(i % 251 for i in range(4000))
for url in ("hf://datasets/me/none/s.zarr", "hf://datasets/me/acts@v9/s.zarr"):
    try:
        storage_of(url).pinned()
    except StoreError as error:
        print(error)
"""


@pytest.mark.hub
def test_a_store_on_the_hub_is_pinned_to_a_commit(hub):
    hub.seed(
        "me/acts",
        "dataset",
        {"s.zarr/a.bin": b"old", "s.zarr/b.bin": bytes(i % 251 for i in range(4000))},
    )
    env = hub.environ(hub.add_account("me"))
    done = subprocess.run([sys.executable, "-c", PINNED], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    none, no_revision = done.stdout.splitlines()
    assert none.startswith("dataset me/none was not found: check the name")
    assert "dataset me/acts" in no_revision
