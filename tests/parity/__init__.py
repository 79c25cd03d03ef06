"""The package against independent tools, on the same model and rows."""
