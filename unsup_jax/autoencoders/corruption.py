"""Ways to spoil an input, which a denoising autoencoder learns to undo (Vincent et al., 2010).

Each is `corrupt(key, x, rate)` with a traced `rate`, so that one program serves a sweep of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

Corruption = Callable[..., Array]


def masking(
    key: PRNGKeyArray, x: Float[Array, "n d"], rate: ScalarLike = 0.3
) -> Float[Array, "n d"]:
    """Set each entry to 0 with probability `rate`: missing data."""
    return jnp.where(_chosen(key, x, rate), 0, x)


def dropout(
    key: PRNGKeyArray, x: Float[Array, "n d"], rate: ScalarLike = 0.3
) -> Float[Array, "n d"]:
    """Masking that keeps the mean: entries that stay are divided by `1 - rate`."""
    kept = jnp.maximum(1 - jnp.asarray(rate, x.dtype), jnp.finfo(x.dtype).tiny)
    return masking(key, x, rate) / kept


def salt_and_pepper(
    key: PRNGKeyArray, x: Float[Array, "n d"], rate: ScalarLike = 0.3
) -> Float[Array, "n d"]:
    """Replace each entry with probability `rate` by 0 or 1, a fair coin."""
    key_where, key_coin = jax.random.split(key)
    coin = jax.random.bernoulli(key_coin, 0.5, x.shape).astype(x.dtype)
    return jnp.where(_chosen(key_where, x, rate), coin, x)


def gaussian(
    key: PRNGKeyArray, x: Float[Array, "n d"], rate: ScalarLike = 0.3
) -> Float[Array, "n d"]:
    """Add noise from `N(0, rate^2)`."""
    return x + jnp.asarray(rate, x.dtype) * jax.random.normal(key, x.shape, x.dtype)


def binarize(key: PRNGKeyArray, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Draw each entry from the Bernoulli distribution of that mean, exact to 2^-16.

    Done anew for every batch this is dynamic binarisation; done once, it is static.
    """
    bits = jax.random.bits(key, x.shape, jnp.uint16)
    return (bits.astype(x.dtype) < x * 65536).astype(x.dtype)


def _chosen(key, x, rate):
    return jax.random.uniform(key, x.shape, x.dtype) < jnp.asarray(rate, x.dtype)
