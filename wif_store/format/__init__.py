"""The format: names, arrays, metadata, chunks and the manifest, as bytes and plain objects. Imports errors only."""
