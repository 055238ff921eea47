"""Block-coordinate descent on a quadratic: what dictionaries and non-negative factors share."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from unsup_jax.core.linalg import matmul


def descend(
    factor: Float[Array, "k m"],
    gram: Float[Array, "k k"],
    cross: Float[Array, "k m"],
    project: Callable[[Float[Array, "m"]], Float[Array, "m"]],
    n_sweeps: int,
) -> Float[Array, "k m"]:
    """Lower `1/2 <F, gram F> - <F, cross>` over factors whose rows lie in a convex set.

    The exact minimum over one row after another, `f_j <- project(f_j + (cross_j - gram_j F) /
    gram_jj)`, `n_sweeps` times over all rows. A row without curvature stays as it is.
    """
    k = factor.shape[0]
    steps = inverse(jnp.diagonal(gram))

    def minimise_row(i, factor):
        j = i % k
        row = project(factor[j] + steps[j] * (cross[j] - matmul(gram[j], factor)))
        return lax.dynamic_update_index_in_dim(factor, row, j, 0)

    return lax.fori_loop(0, n_sweeps * k, minimise_row, factor)


def inverse(curvature: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`1 / curvature`, and 0 where there is none: what nothing uses stays as it is."""
    return jnp.where(curvature > 0, 1 / positive(curvature), 0)


def positive(denominator: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`denominator`, kept off 0."""
    return jnp.maximum(denominator, jnp.finfo(denominator.dtype).tiny)
