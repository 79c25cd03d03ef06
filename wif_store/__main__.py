"""``python -m wif_store``: the command line, where the script is not on the path."""

import os
import sys

# Python puts the working folder first: a `typer.py` in it would be run.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109
    del sys.path[0]

from wif_store.cli.app import main

main()
