"""``python -m wif_store``: the command line, where the script is not on the path."""

from wif_store.cli.app import main

main()
