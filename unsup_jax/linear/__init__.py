"""Latent linear models: the singular value decomposition, PCA and probabilistic PCA."""
