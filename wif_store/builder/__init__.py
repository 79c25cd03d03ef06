"""The build: scan a task with a model, select balanced pairs, write the store.

May import the store, records, tasks, format and storage rooms; never a model (extract) nor a sibling room.
"""
