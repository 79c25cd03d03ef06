"""Publishing: a store to a dataset on the Hub and back, whole or not at all."""
