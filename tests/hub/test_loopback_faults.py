"""The loopback Hub told to fail: what clients make of it, and what the log has counted."""

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
)

from tests.hub.loopback import REPO, SHARD, UPLOAD_WARNING, commit, status
from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]


def test_a_rate_limit_is_waited_out(hub: Hub, api: HfApi, impatient: list[float]) -> None:
    fault = hub.fail("POST .*/preupload/", status=429, retry_after=7, times=2)
    commit(api, {"a.bin": SHARD})
    assert fault.hits == 2
    assert impatient == [8.0, 8.0], "what Retry-After says, and one second more"
    assert [entry.status for entry in hub.log.select("/preupload/")] == [429, 429, 200]


@pytest.mark.parametrize("how", [{"status": 500}, {"status": 502}, {"reset_after": 20_000}])
def test_an_upload_that_fails_is_sent_again(
    hub: Hub, api: HfApi, impatient: list[float], how: dict[str, int]
) -> None:
    fault = hub.fail("PUT /cdn/", **how)
    commit(api, {"a.bin": SHARD})
    assert fault.hits == 1
    assert hub.log.count("PUT /cdn/") == 2
    assert hub.repo(REPO).read("a.bin") == SHARD
    assert not list(hub.repo(REPO).folder.rglob("*.partial"))


def test_a_commit_is_not_retried_by_the_client(hub: Hub, api: HfApi) -> None:
    before = api.repo_info(REPO, repo_type="dataset").sha
    hub.fail("POST .*/commit/", status=500)
    with pytest.raises(HfHubHTTPError) as failed:
        commit(api, {"a.bin": SHARD})
    assert status(failed) == 500
    assert api.repo_info(REPO, repo_type="dataset").sha == before
    hub.fail("POST .*/commit/", lose_response=True)
    with pytest.raises(httpx2.TransportError):
        commit(api, {"a.bin": SHARD})
    assert hub.repo(REPO).read("a.bin") == SHARD, "the answer was lost, the commit was not"
    hub.log.clear()
    assert commit(api, {"a.bin": SHARD}) == hub.repo(REPO).commit_at("main").sha
    assert hub.log.count("PUT") == 0


def test_a_download_cut_short_is_fetched_again(
    hub: Hub, api: HfApi, tmp_path: Path, impatient: list[float]
) -> None:
    commit(api, {"a.bin": SHARD})
    hub.fail("GET /cdn/", close_after=70_000)
    path = Path(api.hf_hub_download(REPO, "a.bin", repo_type="dataset", cache_dir=tmp_path))
    assert path.read_bytes() == SHARD
    assert [entry.sent for entry in hub.log.select("GET /cdn/")] == [70_000, len(SHARD)]
    assert impatient == [1]


def test_a_download_that_is_reset_is_left_to_the_caller(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    commit(api, {"a.bin": SHARD})
    hub.fail("GET /cdn/", reset_after=70_000)
    with pytest.raises(httpx2.ReadError):
        api.hf_hub_download(REPO, "a.bin", repo_type="dataset", cache_dir=tmp_path)
    assert hub.log.sent("GET /cdn/") == 70_000
    path = Path(api.hf_hub_download(REPO, "a.bin", repo_type="dataset", cache_dir=tmp_path))
    assert path.read_bytes() == SHARD


def test_a_short_body_is_noticed_and_a_changed_one_is_not(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    commit(api, {"a.bin": SHARD})
    hub.fail("GET /cdn/", truncate=100)
    with pytest.raises(OSError, match="Consistency check failed"):
        api.hf_hub_download(REPO, "a.bin", repo_type="dataset", cache_dir=tmp_path / "one")
    hub.fail("GET /cdn/", corrupt=True)
    path = Path(api.hf_hub_download(REPO, "a.bin", repo_type="dataset", cache_dir=tmp_path / "two"))
    found = path.read_bytes()
    assert found != SHARD, "the client does not check the hash: whoever needs it must"
    assert found[1:] == SHARD[1:]


def test_wrong_etags_and_slow_answers(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    commit(api, {"a.bin": SHARD})
    hub.fail("HEAD .*/resolve/", etag="0" * 64)
    path = Path(api.hf_hub_download(REPO, "a.bin", repo_type="dataset", cache_dir=tmp_path / "one"))
    assert path.resolve().name == "0" * 64
    slow = hub.fail("GET .*/resolve/", delay=0.5, times=None)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(f"{hub.endpoint}/datasets/{REPO}/resolve/main/a.bin", timeout=0.1)
    slow.cancel()
    trickle = hub.fail("GET /cdn/", bytes_per_second=400_000)
    answer = httpx2.get(f"{hub.endpoint}/datasets/{REPO}/resolve/main/a.bin", follow_redirects=True)
    assert (answer.content, trickle.hits) == (SHARD, 1)
    assert answer.elapsed.total_seconds() > len(SHARD) / 400_000 * 0.9


def test_faults_come_when_they_are_due_and_end(hub: Hub) -> None:
    hub.seed(REPO, "dataset", {"b.txt": b"b"})
    url = f"{hub.endpoint}/datasets/{REPO}/resolve/main/b.txt"

    def statuses(count: int) -> list[int]:
        return [httpx2.get(url).status_code for _ in range(count)]

    hub.fail(lambda entry: entry.repo is None and "b.txt" in entry.path, status=503, skip=1, times=2)
    assert statuses(4) == [200, 503, 503, 200]
    hub.fail(status=502, times=None)
    assert statuses(2) == [502, 502]
    hub.heal()
    assert statuses(1) == [200]


def test_no_network_is_a_refused_connection(hub: Hub, api: HfApi) -> None:
    hub.stop()
    with pytest.raises(httpx2.ConnectError):
        api.repo_info(REPO, repo_type="dataset")


def test_the_log_counts_and_keeps_no_secret(hub: Hub, api: HfApi) -> None:
    commit(api, {"a.bin": SHARD})
    (put,) = hub.log.select("PUT")
    assert (put.host, put.status, put.received) == ("cdn", 200, len(SHARD))
    assert put.repo == f"datasets/{REPO}"
    assert {entry.user for entry in hub.log if entry.host == "hub"} == {"whyitfailed"}
    assert not [entry for entry in hub.log if hub.token in repr(entry) or "ticket" in repr(entry)]
