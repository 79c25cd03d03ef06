"""The command line: what a person sees. It may import every other room; no room imports it."""
