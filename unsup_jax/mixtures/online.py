"""Stochastic EM for Gaussian mixtures: a step for every batch, so one pass may be enough.

    s_t = (1 - g_t) s_(t-1) + g_t s(batch),    g_t = (t + 2)^-decay,    t = 0, 1, ...

with the statistics of EM, scaled to unit total weight, and an M-step from each s_t. After it the
statistics about the new means are a function of the new parameters (mass pi_k, first moment 0,
scatter pi_k Sigma_k): the mixture itself remembers the batches before.

    state = distributed.fold(online.step, online.start(params), batches)

Source: Cappe and Moulines (2009), "On-line expectation-maximization algorithm for latent data
models".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from unsup_jax.core.checks import check_matrix, check_weights
from unsup_jax.mixtures import gaussian
from unsup_jax.mixtures.gaussian import Params, Stats


class State(NamedTuple):
    """Where a run stands.

    Attributes:
        params: The current mixture.
        n_steps: Batches seen.
        objective: Mean log-likelihood of the last batch under the mixture that had not yet seen it.
    """

    params: Params
    n_steps: Int[Array, ""]
    objective: Float[Array, ""]


def start(params: Params) -> State:
    """The state before the first batch."""
    return State(params, jnp.int32(0), jnp.asarray(-jnp.inf, params.means.dtype))


def step(
    state: State,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    reg_covar: ScalarLike = 1e-6,
    decay: ScalarLike = 0.6,
) -> State:
    """Learn from one batch, of rows in random order.

    Args:
        state: From `start` or the step before.
        x: The batch, shape (n, d).
        weights: Non-negative weights, shape (n,).
        reg_covar: Added to every variance.
        decay: Between 1/2 and 1; the larger, the longer it remembers.
    """
    params, t, _ = state
    check_matrix("x", x)
    check_matrix("params.means", params.means, n_features=x.shape[1], like=x)
    check_weights(weights, x)
    fresh = gaussian.e_step(params, x, weights)
    dtype = params.means.dtype
    rate = (t + 2).astype(dtype) ** -jnp.asarray(decay, dtype)
    mass, zero = jnp.exp(params.log_weights), jnp.zeros((), dtype)
    scatter = params.covariance.scatter(mass, x.shape[1], jnp.asarray(reg_covar, dtype))
    old = Stats(mass, jnp.zeros_like(fresh.first), scatter, zero, zero)
    mixed = jax.tree.map(lambda a, b: (1 - rate) * a + rate / fresh.weight * b, old, fresh)
    params = gaussian.m_step(params, mixed, reg_covar)
    return State(params, t + 1, fresh.log_likelihood / fresh.weight)
