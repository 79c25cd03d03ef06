"""The room for explanations in words: written, asked of a model or of a person, and put to a test.

May import the scorer, extract, sae, store, records, tasks, format, storage and errors rooms; never the cli.
"""
