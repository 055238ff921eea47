"""Nonlinear dimensionality reduction."""
