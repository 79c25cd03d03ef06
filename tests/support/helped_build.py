"""A build of made-up records whose shards helpers write: ``-m tests.support.helped_build ROWS OUT``."""

from __future__ import annotations

import sys

from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, settings
from wif_store import crew
from wif_store.builder.pipeline import build
from wif_store.builder.helpers import Helpers
from wif_store.tasks.rows import load_source


def main(rows: str, out: str) -> None:
    crew.MANY_CORES = 1
    crew.Helpers = lambda count: Helpers(2)
    build(settings(), load_source(TASK, rows), fake_engine(), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
