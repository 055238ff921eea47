"""Mixture models: k-means, Gaussian mixtures, mixtures of Bernoullis (lecture topic 1)."""

from unsup_jax.mixtures import bernoulli as bernoulli
from unsup_jax.mixtures import covariance as covariance
from unsup_jax.mixtures import gaussian as gaussian
from unsup_jax.mixtures import kmeans as kmeans
