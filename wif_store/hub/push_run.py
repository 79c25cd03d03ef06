"""One push: upload what is missing, verify it, then make it visible in one commit."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import PublishError
from wif_store.hub.push_plan import Plan, Planner
from wif_store.hub.repo import OVERTAKEN, git_oid
from wif_store.storage.hub_client import is_passing, retrying, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from huggingface_hub import CommitOperationAdd

    from wif_store.hub.repo import RemoteDataset
    from wif_store.hub.staging import Staged

GROUP_BYTES: Final = 512 * 2**20
GROUP_FILES: Final = 64
REF: Final = re.compile(r"\w[\w./+-]*")
NO_REF: Final = re.compile(r"\.\.|//|/\.|[./]$|\.lock(/|$)")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a push is to become visible.

    Raises:
        PublishError: If a branch or tag is given a name that git does not allow.
    """

    revision: str = "main"
    create_pr: bool = False
    private: bool = False
    tag: str | None = None

    def __post_init__(self) -> None:
        # A tag is set last: a name that the Hub refuses must not come to light when main has changed.
        for option, name in (("--revision", self.revision), ("--tag", self.tag)):
            if name is not None and (not REF.fullmatch(name) or NO_REF.search(name)):
                msg = f"{option} is {name!r}; expected a name that git allows, as in v1.0 or my-branch"
                raise PublishError(msg)
        if self.create_pr and (self.tag or self.revision != "main"):
            msg = "--create-pr goes with neither --revision nor --tag: tag a pull request once it is merged"
            raise PublishError(msg)


@dataclass(slots=True)
class Pushed:
    """What came of a push. ``uploaded`` is 0 where everything was there; ``url`` is what to look at."""

    url: str
    commit: str
    uploaded: int = 0


class Progress:
    """Told how a push goes. This one says nothing; the command line prints a plan and draws bars."""

    def planned(self, plan: Plan) -> None:
        """What is about to be done; once more where somebody else's commit came between."""

    def uploaded(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes are on the Hub, though nobody sees them yet."""

    def phase(self, name: str) -> None:
        """What is being done now."""


class Stale(Exception):
    """A commit came too late, or it is not known whether it was carried out: look again.

    Attributes:
        response: What the Hub answered, if it did.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.response = getattr(error, "response", None)


@dataclass(slots=True)
class Push:
    """One push, from stores that are staged to a commit that everybody sees.

    Attributes:
        remote: The repository.
        staged: The stores; one for each task.
        target: Where it is to become visible.
        results: Folder with ``results.json`` and what ``score --out`` writes beside it, or None.
        progress: Told how it goes.
    """

    remote: RemoteDataset
    staged: Sequence[Staged]
    target: Target = field(default_factory=Target)
    results: Path | None = None
    progress: Progress = field(default_factory=Progress)
    _uploaded: int = 0

    def plan(self) -> Plan:
        """What would be changed, without changing anything."""
        with tempfile.TemporaryDirectory() as folder:
            return self._plan(Path(folder))

    def _plan(self, folder: Path) -> Plan:
        revision = "main" if self.target.create_pr else self.target.revision
        head = self.remote.head(revision)
        if head is None and revision != "main":
            head = self.remote.head("main")
        return Planner(self.remote, self.staged, self.results, folder).plan(head)

    def run(self) -> Pushed:
        """Publish. Until the last step nobody sees anything of it, and after it everybody sees all of it.

        Raises:
            PublishError: If the Hub refuses, or cannot be reached; the same call goes on from there.
        """
        self._open()
        try:
            return retrying(self._attempt, reached=True, passing=lambda error: isinstance(error, Stale))
        except Stale as stale:
            cause = stale.__cause__ or stale
            raise (cause if isinstance(cause, PublishError) else self.remote.failed(cause)) from stale

    def _attempt(self) -> Pushed:
        """Look at what is there, and publish what is missing.

        Raises:
            Stale: If it must be looked at again, for somebody else committed, or the answer was lost.
        """
        with tempfile.TemporaryDirectory() as folder:
            plan = self._plan(Path(folder))
            self.progress.planned(plan)
            if plan.head is None:
                msg = f"{self.remote.name}: the repository was made and is gone again: run the same command"
                raise PublishError(msg)
            self._check_tag(plan)
            if not plan.changes:
                self._finish(plan, plan.head)
                return Pushed(self.remote.page, plan.head, self._uploaded)
            additions = self._upload(plan)
            self._uploaded = max(self._uploaded, plan.bytes)
            return self._publish(plan, additions)

    # -- the repository ------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make sure that there is a repository that may be written to."""
        remote, target = self.remote, self.target
        self.progress.phase("asking the Hub")
        remote.check_token()
        private = remote.is_private()
        if private is None:
            remote.create(private=target.private)
        elif target.private and not private:
            msg = (
                f"{remote.name} exists and is public: make it private in its settings, or leave --private out"
            )
            raise PublishError(msg)
        if not target.create_pr:
            remote.call(remote.api.auth_check, remote.name, repo_type="dataset", write=True)
        if target.revision != "main" and remote.head(target.revision) is None:
            remote.call(
                remote.api.create_branch,
                remote.name,
                branch=target.revision,
                repo_type="dataset",
                exist_ok=True,
            )

    def _check_tag(self, plan: Plan) -> None:
        """Refuse a tag that names something else, before anything is sent."""
        tagged = self._tagged()
        if tagged is not None and (plan.changes or tagged != plan.head):
            msg = f"{self.remote.name} has a tag {self.target.tag} already, on {tagged[:8]}: choose another"
            raise PublishError(msg)

    def _tagged(self) -> str | None:
        """The commit that the target's tag names."""
        if self.target.tag is None:
            return None
        refs = self.remote.call(self.remote.api.list_repo_refs, self.remote.name, repo_type="dataset")
        return next((ref.target_commit for ref in refs.tags if ref.name == self.target.tag), None)

    # -- the bytes -----------------------------------------------------------------------------------

    def _upload(self, plan: Plan) -> list[CommitOperationAdd]:
        """Send the content of large files to where the Hub keeps it by SHA-256; no revision names it yet."""
        from huggingface_hub import CommitOperationAdd

        self.progress.phase("uploading")
        done, operations = 0, []
        revision = "main" if self.target.create_pr else self.target.revision
        for group in _groups(plan):
            batch = []
            for path in group:
                file = plan.wanted[path]
                operation = CommitOperationAdd(path, file.path)
                if operation.upload_info.sha256.hex() != file.sha256:
                    msg = f"{file.path} has changed since it was verified: run the same command again"
                    raise PublishError(msg)
                batch.append(operation)
            self.remote.call(
                self.remote.api.preupload_lfs_files,
                self.remote.name,
                batch,
                repo_type="dataset",
                revision=revision,
                create_pr=self.target.create_pr,
                free_memory=False,
            )
            operations += batch
            done += sum(plan.wanted[path].size for path in group)
            self.progress.uploaded(done, plan.bytes)
        return operations

    def _publish(self, plan: Plan, additions: Sequence[CommitOperationAdd]) -> Pushed:
        if self.target.create_pr:
            self.progress.phase("opening a pull request")
            info = self._commit(plan, additions, None)
            self._verify(plan, info.oid)
            return Pushed(str(info.pr_url), info.oid, self._uploaded)
        branch = _staging_branch(plan)
        self.progress.phase("verifying")
        self._drop(branch)
        self.remote.call(
            self.remote.api.create_branch,
            self.remote.name,
            branch=branch,
            revision=plan.head,
            repo_type="dataset",
        )
        staged = self._commit(plan, additions, branch)
        try:
            self._verify(plan, staged.oid)
        except PublishError as error:
            # The client leaves out of a commit what the target had at the upload. If somebody published some
            # of these files after the plan was made, the staging branch lacks them: it begins at the plan's
            # commit.
            if self.remote.head(self.target.revision) == plan.head:
                raise
            raise Stale(error) from error
        self.progress.phase("publishing")
        info = self._commit(plan, additions, self.target.revision)
        self._finish(plan, info.oid)
        return Pushed(self.remote.page, info.oid, self._uploaded)

    def _commit(self, plan: Plan, additions: Sequence[CommitOperationAdd], branch: str | None) -> Any:
        """Commit all of the plan at once; ``branch`` None opens a pull request.

        Raises:
            Stale: If the branch has moved, or the Hub failed and it is not known whether it committed.
        """
        from huggingface_hub import CommitOperationDelete

        # The client marks what it has committed and will not commit it to a second branch.
        operations: list[CommitOperationAdd | CommitOperationDelete] = [copy.copy(a) for a in additions]
        operations += [CommitOperationDelete(path) for path in plan.deleted]
        try:
            return self.remote.api.create_commit(
                self.remote.name,
                operations,
                commit_message=f"Publish {', '.join(sorted(s.store.task for s in self.staged))}",
                repo_type="dataset",
                revision=branch or "main",
                create_pr=branch is None,
                parent_commit=plan.head,
            )
        except Exception as error:
            # A pull request is not tried again: a second one would be opened.
            if branch is not None and (status_of(error) in OVERTAKEN or is_passing(error)):
                raise Stale(error) from error
            raise self.remote.failed(error) from error

    def _verify(self, plan: Plan, commit: str) -> None:
        """Compare size and SHA-256 of every file that was to be uploaded with what the Hub says it has."""
        found = self.remote.files(commit)
        for path, file in plan.wanted.items():
            there = found.get(path)
            if there is None or not there.holds(file.path, file.size, file.sha256):
                has = "nothing" if there is None else f"{there.size} bytes of {there.sha256 or there.git_oid}"
                msg = (
                    f"{self.remote.name}: {path} arrived damaged (found {has}, expected {file.size} bytes of "
                )
                msg += f"{file.sha256}): nothing was published; run the same command again"
                raise PublishError(msg)

    def _finish(self, plan: Plan, commit: str) -> None:
        self._drop(_staging_branch(plan))
        if self.target.tag is not None and self._tagged() is None:
            self.remote.call(
                self.remote.api.create_tag,
                self.remote.name,
                tag=self.target.tag,
                revision=commit,
                repo_type="dataset",
                exist_ok=True,
            )

    def _drop(self, branch: str) -> None:
        refs = self.remote.call(self.remote.api.list_repo_refs, self.remote.name, repo_type="dataset")
        if any(ref.name == branch for ref in refs.branches):
            self.remote.call(
                self.remote.api.delete_branch, self.remote.name, branch=branch, repo_type="dataset"
            )


def _groups(plan: Plan) -> Iterator[list[str]]:
    """What is missing, in groups that are sent together."""
    group: list[str] = []
    size = 0
    for path in plan.missing:
        if group and (len(group) == GROUP_FILES or size + plan.wanted[path].size > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(path)
        size += plan.wanted[path].size
    if group:
        yield group


def _staging_branch(plan: Plan) -> str:
    """Named by what is to be published, so that a push that was cut off finds and removes its own."""
    content = json.dumps({path: file.sha256 for path, file in plan.wanted.items()}, sort_keys=True)
    return f"wif-store-{git_oid(content.encode())[:12]}"
