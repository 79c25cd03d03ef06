"""The fault campaign: kills, disks, damage, hostile input, bad company, each injected and counted.

``python -m tests.faults`` runs it; ``tests/faults/test_campaign.py`` runs a little of every row.
"""
