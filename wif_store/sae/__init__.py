"""Sparse autoencoders: open those of SAELens, hold them against a store, train one on a store.

May import the store, records, format and storage rooms; never a model (extract) nor the scorer.
"""
