"""Sparse linear models: lasso, its path, matching pursuit, learned dictionaries, NMF (topic 3)."""
