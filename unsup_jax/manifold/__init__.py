"""Nonlinear dimensionality reduction: neighbours, locally linear embedding, t-SNE."""
