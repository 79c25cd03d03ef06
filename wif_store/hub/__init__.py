"""Publishing: stores to a dataset on the Hub and back, complete or not at all.

A room for the Hub's dataset repositories, the card and the Parquet view. It imports ``store`` and the rooms
below it.
"""
