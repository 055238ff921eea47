"""Ours beside the peers: same data, dtype, start and iterations, in one run."""
