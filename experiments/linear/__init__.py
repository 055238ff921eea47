"""Latent linear models."""
