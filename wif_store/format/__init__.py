"""The format of a store, as bytes and plain objects: names, layouts, metadata, chunks, tables, the manifest.

May import errors only.
"""
