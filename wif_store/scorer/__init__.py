"""Scoring: fit probes on stores, or take anyone's predictions, and measure test AUROCs with intervals.

May import the store, records, tasks, format and storage rooms; never a model (extract) nor a sibling room.
"""
