"""A finished store: read it, verify it, audit it.

May import records, tasks, format and storage.
"""
