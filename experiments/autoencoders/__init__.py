"""Autoencoders: denoising, variational, linear."""
