"""Sparse linear models (lecture topic 3)."""
