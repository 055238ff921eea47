"""Proximal operators and projections of the sparse models.

The proximal operator of `f` is `prox_f(v) = argmin_u f(u) + 1/2 ||u - v||^2`; that of the indicator
of a convex set is the projection on it (Murphy, MLPP 13.4.3; Parikh and Boyd, 2014).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike


def soft_threshold(
    x: Float[Array, "..."], threshold: Float[Array, "..."] | ScalarLike, *, positive: bool = False
) -> Float[Array, "..."]:
    """The proximal operator of `threshold * ||.||_1`: every entry moves towards 0 by `threshold`.

    `sign(x) max(|x| - threshold, 0)`, or `max(x - threshold, 0)` on the non-negative orthant.

    Args:
        x: Any shape.
        threshold: Non-negative; broadcasts against `x`.
        positive: Static; adds the constraint that no entry is negative.
    """
    threshold = jnp.asarray(threshold, x.dtype)
    above = jnp.maximum(x - threshold, 0)
    return above if positive else above + jnp.minimum(x + threshold, 0)


def project_unit_ball(atoms: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """The nearest atoms (rows) with `w_j'w_j <= 1`: longer ones are scaled to length 1."""
    # Scaled first, so that no square leaves the range of the number format.
    largest = jnp.maximum(jnp.abs(atoms).max(1, keepdims=True), 1)
    norms = largest * jnp.sqrt(((atoms / largest) ** 2).sum(1, keepdims=True))
    return atoms / jnp.maximum(norms, 1)


def project_nonnegative(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The nearest point of the non-negative orthant: `max(x, 0)`."""
    return jnp.maximum(x, 0)
