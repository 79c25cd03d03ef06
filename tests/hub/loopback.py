"""What the tests of the loopback Hub share."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

REPO = "whyitfailed/acts"
CARD = b"---\nlicense: cc-by-4.0\n---\n# Acts\n"
SHARD = bytes(range(256)) * 400
# The client's own LFS upload warns.
UPLOAD_WARNING = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def add(path: str, content: bytes) -> CommitOperationAdd:
    """A file to commit."""
    return CommitOperationAdd(path, content)


def commit(api: HfApi, files: dict[str, bytes], **how: object) -> str:
    """Commit files to ``REPO``; the id of the commit."""
    operations = [add(path, content) for path, content in files.items()]
    return api.create_commit(REPO, operations, repo_type="dataset", commit_message="Add", **how).oid


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    """The HTTP status behind a client's error."""
    return error.value.response.status_code
