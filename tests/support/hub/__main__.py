"""Serve a loopback Hub until interrupted, and print the lines to export: ``make hub``."""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
import threading
from pathlib import Path

from tests.support.hub.server import Hub
from tests.support.hub.sources import DATA, seed_sources


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.hub", description=__doc__)
    parser.add_argument("--root", type=Path, help="folder of the repos, kept (default: a temporary one)")
    parser.add_argument("--port", type=int, default=0, help="port of the API (default: a free one)")
    parser.add_argument("--user", default="whyitfailed", help="namespace the printed token may write to")
    parser.add_argument("--seed-sources", action="store_true", help="serve the four source datasets")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of their train rows, if any")
    for kind in ("model", "dataset"):
        text = f"serve a local folder as a {kind}"
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="OWNER/NAME=FOLDER", help=text)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = args.root or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopback-hub-")))
        root.mkdir(parents=True, exist_ok=True)
        hub = stack.enter_context(Hub(root, port=args.port, user=args.user))
        served = seed_sources(hub, args.data) if args.seed_sources else []
        for kind in ("model", "dataset"):
            for name, _, folder in (item.partition("=") for item in getattr(args, kind)):
                hub.seed(name, kind, {".": Path(folder)})
                served.append(name)
        for name, value in hub.env.items():
            print(f"export {name}={value}", flush=True)
        print(f"\nServes {', '.join(served) or 'no repo yet'} from {root}; Ctrl-C ends it.", flush=True)
        # A shell starts a job in the background with interrupts ignored, and Python leaves it at that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
