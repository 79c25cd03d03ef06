"""The fault campaign: kills, damage, full disks, bad input and bad company, each injected and counted."""
