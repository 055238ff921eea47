"""What both mixtures share: the posterior of the component, and the update of its prior.

Arrays here are component-major, `(k, n)`, one row a component.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LANES = 12  # fits that step at once under vmap on a CPU; twice as many are no faster each


def posterior(log_joint: Float[Array, "k n"]) -> tuple[Float[Array, "n"], Float[Array, "k n"]]:
    """From `log pi_k + log p(x_i | k)`: `log p(x_i)` and `r_ik = p(k | x_i)`, in log space.

    A sample so far from every component that all its terms are `-inf` belongs to none: its
    log-probability is `-inf` and its responsibilities are 0.
    """
    largest = log_joint.max(0)
    shift = jnp.where(jnp.isfinite(largest), largest, 0)
    terms = jnp.exp(log_joint - shift[None])
    total = terms.sum(0)
    return shift + jnp.log(total), terms / jnp.where(total > 0, total, 1)[None]


def survivors(
    mass: Float[Array, "k"], log_weights: Float[Array, "k"]
) -> tuple[Bool[Array, "k"], Bool[Array, ""]]:
    """Which components still hold samples, and whether an active one has lost all of its own.

    A component with less than `10 eps` of the total mass has nothing left to estimate from.
    """
    alive = mass > 10 * jnp.finfo(mass.dtype).eps * mass.sum()
    return alive, (jnp.isfinite(log_weights) & ~alive).any()


def update_log_weights(mass: Float[Array, "k"], alive: Bool[Array, "k"]) -> Float[Array, "k"]:
    """`log pi_k = log N_k - log N`, and `-inf`, inactive, for components without samples."""
    held = jnp.where(alive, mass, 0)
    logs = jnp.log(jnp.where(alive, mass, 1)) - jnp.log(held.sum())
    return jnp.where(alive, logs, -jnp.inf)
