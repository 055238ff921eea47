"""Experiments with mixture models (lecture topic 1)."""
