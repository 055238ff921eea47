"""Denoising and variational autoencoders, and their training, with flax and optax."""
