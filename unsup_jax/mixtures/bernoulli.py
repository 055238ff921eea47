"""Mixtures of Bernoullis by expectation-maximisation (Murphy, MLPP 11.2.2; Bishop, PRML 9.3.3).

    p(x) = sum_k pi_k prod_j mu_kj^{x_j} (1 - mu_kj)^{1 - x_j}
    E-step:  log r_ik = log pi_k + sum_j x_ij log mu_kj + (1 - x_ij) log(1 - mu_kj) + const
    M-step:  N_k = sum_i r_ik,  pi_k = N_k / N,  mu_kj = (sum_i r_ik x_ij + a) / (N_k + 2 a)

`a` is the smoothing: a Beta(1 + a, 1 + a) prior on every probability, without which a pixel that is
always 0 in a component would give every other image probability 0. Data lie in [0, 1]; values
between are treated as expected bits (grey pixels), for which `log_prob` is a cross entropy and no
longer a likelihood. Components of log weight `-inf` are inactive.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import (
    check_choice,
    check_count,
    check_matrix,
    check_unit_interval,
    check_weights,
)
from unsup_jax.core.fit import Fit, Step, iterate
from unsup_jax.core.linalg import matmul
from unsup_jax.mixtures import kmeans, mixing

TILE = 2000  # rows: one tile and its responsibilities stay in cache
METHODS = ("subsets", "k-means++", "responsibilities")
SUBSET = 20  # samples averaged for one starting mean


class Params(NamedTuple):
    """A mixture of products of Bernoullis.

    Attributes:
        log_weights: `log pi_k`, shape (k,); `-inf` switches a component off.
        means: `mu_kj`, the probability that feature j is 1 in component k, shape (k, d), in (0, 1).
    """

    log_weights: Float[Array, "k"]
    means: Float[Array, "k d"]


class Stats(NamedTuple):
    """Additive sums over samples.

    Attributes:
        mass: `N_k = sum_i w_i r_ik`, shape (k,).
        first: `sum_i w_i r_ik x_i`, shape (k, d).
        log_likelihood: `sum_i w_i log p(x_i)`, shape ().
        weight: `sum_i w_i`, shape ().
    """

    mass: Float[Array, "k"]
    first: Float[Array, "k d"]
    log_likelihood: Float[Array, ""]
    weight: Float[Array, ""]


@partial(jax.jit, static_argnames=("n_components", "method"))
def init(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    n_components: int,
    method: str = "subsets",
) -> Params:
    """Random starting parameters with equal weights.

    Args:
        key: Random key.
        x: Data in [0, 1], shape (n, d).
        weights: Non-negative weights, shape (n,).
        n_components: Static; K.
        method: Static; "subsets" (each mean is the average of 20 random samples), "k-means++" (each
            is one sample, drawn far from the others) or "responsibilities" (drawn at random).

    Raises:
        ValueError: For an unknown method, or `n_components` not between 1 and n.
    """
    check_matrix("x", x)
    check_weights(weights, x)
    check_count("n_components", n_components, x.shape[0])
    check_choice("method", method, METHODS)
    log_weights = jnp.full((n_components,), -math.log(n_components), x.dtype)
    if method == "responsibilities":
        r = jax.random.exponential(key, (n_components, x.shape[0]), x.dtype)
        r = r / r.sum(0, keepdims=True)
        r = r if weights is None else r * weights[None]
        mass = r.sum(1, keepdims=True)
        means = matmul(r, x) / jnp.where(mass > 0, mass, 1)
    elif method == "k-means++":
        means = kmeans.init(key, x, weights, n_components=n_components)
    else:
        p = None if weights is None else weights / weights.sum()
        rows = jax.random.choice(key, x.shape[0], (n_components, SUBSET), p=p)
        means = x[rows].mean(1)
    # Halfway between a sample and chance: no probability starts at 0 or 1.
    count = {"responsibilities": 0.0, "k-means++": 1.0, "subsets": SUBSET}[method]
    means = means if count == 0 else (count * means + 1) / (count + 2)
    return Params(log_weights, _inside(means))


def _inside(means):
    """Keep probabilities off 0 and 1 by one rounding unit."""
    eps = jnp.finfo(means.dtype).eps
    return jnp.clip(means, eps, 1 - eps)


def _log_joint(params):
    """`log pi_k + log p(x_i | k)`, as a function of rows: one matrix product, (k, n)."""
    log_odds = jnp.log(params.means) - jnp.log1p(-params.means)
    constant = params.log_weights + jnp.log1p(-params.means).sum(1)
    return lambda rows: matmul(log_odds, rows.T) + constant[:, None]


def e_step(
    params: Params,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Stats:
    """Responsibilities of the components for the samples, summed up to what the M-step needs.

    Two matrix products: log-odds times data, and responsibilities times data.
    """
    log_joint = _log_joint(params)

    def local(rows, w):
        log_p, r = mixing.posterior(log_joint(rows))
        if w is None:
            weight = jnp.asarray(rows.shape[0], rows.dtype)
        else:
            r, log_p, weight = r * w[None], w * log_p, w.sum()
        # A product like the other: for a sum, XLA would form `r` a second time.
        mass = matmul(r, jnp.ones_like(rows[:, 0]))
        return Stats(mass, matmul(r, rows), log_p.sum(), weight)

    return stats.accumulate(local, x, weights, tile_size=tile_size, axis_name=axis_name)


def m_step(params: Params, sums: Stats, smoothing: ScalarLike = 0.05) -> Params:
    """The parameters that maximise the expected complete log-posterior, in closed form.

    Args:
        params: The parameters that `sums` were taken at.
        sums: From `e_step`.
        smoothing: `a` of the Beta(1 + a, 1 + a) prior. A component without samples keeps its mean
            and becomes inactive.
    """
    alive, _ = mixing.survivors(sums.mass, params.log_weights)
    a = jnp.asarray(smoothing, sums.mass.dtype)
    mass = jnp.where(alive, sums.mass, 1)[:, None]
    means = jnp.where(alive[:, None], (sums.first + a) / (mass + 2 * a), params.means)
    return Params(mixing.update_log_weights(sums.mass, alive), _inside(means))


def log_prior(params: Params, smoothing: ScalarLike = 0.05) -> Float[Array, ""]:
    """`sum_kj a (log mu_kj + log(1 - mu_kj))` over active components, unnormalised."""
    active = jnp.isfinite(params.log_weights)
    terms = (jnp.log(params.means) + jnp.log1p(-params.means)).sum(1)
    return jnp.asarray(smoothing, terms.dtype) * jnp.where(active, terms, 0).sum()


def fit(
    params: Params,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    smoothing: ScalarLike = 0.05,
    tol: ScalarLike = 1e-5,
    *,
    max_iter: int = 100,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Fit:
    """Fit the mixture by EM from the given start.

    Args:
        params: Start.
        x: Data in [0, 1], shape (n, d).
        weights: Non-negative weights, shape (n,): a weight of 2 counts a sample twice.
        smoothing: `a` of the Beta(1 + a, 1 + a) prior of every mean; 0 is maximum likelihood.
        tol: Stops when the objective changes by at most this, in nats a sample.
        max_iter: Static; largest number of updates.
        tile_size: Static; rows at a time.
        axis_name: Static; mapped axis over which the rows are sharded.

    Returns:
        `Fit` whose objective is what EM with smoothing climbs: the mean log-likelihood (nats a
        sample) plus `log_prior / sum(weights)`. It never decreases beyond rounding. Status
        `COLLAPSED` says that a component lost all its samples.

    Raises:
        ValueError: For shapes that do not match, an `x` that is not floating point or, where its
            values can be seen, leaves [0, 1].
    """
    check_matrix("x", x)
    check_matrix("params.means", params.means, n_features=x.shape[1], like=x)
    check_weights(weights, x)
    check_unit_interval("x", x)
    return _fit(
        params,
        x,
        weights,
        smoothing,
        tol,
        max_iter=max_iter,
        tile_size=tile_size,
        axis_name=axis_name,
    )


@partial(jax.jit, static_argnames=("max_iter", "tile_size", "axis_name"))
def _fit(params, x, weights, smoothing, tol, *, max_iter, tile_size, axis_name):
    def step(params, x, weights, smoothing):
        sums = e_step(params, x, weights, tile_size=tile_size, axis_name=axis_name)
        return update(params, sums, smoothing)

    lanes = mixing.LANES if axis_name is None else None
    return iterate(step, params, tol, x, weights, smoothing, max_iter=max_iter, lanes=lanes)


def update(params: Params, sums: Stats, smoothing: ScalarLike = 0.05) -> Step:
    """One iteration of `fit` from the sums over all samples, wherever these were added."""
    _, collapsed = mixing.survivors(sums.mass, params.log_weights)
    objective = (sums.log_likelihood + log_prior(params, smoothing)) / sums.weight
    return Step(m_step(params, sums, smoothing), objective, collapsed=collapsed)


def log_prob(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n"]:
    """`log p(x_i)` in nats."""
    return _posterior(params, x)[0]


def responsibilities(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """`r_ik = p(k | x_i)`: the soft clustering; rows sum to 1."""
    return _posterior(params, x)[1]


def predict(params: Params, x: Float[Array, "n d"]) -> Int[Array, "n"]:
    """The component with the largest responsibility for each sample."""
    return jnp.argmax(_posterior(params, x)[1], axis=1).astype(jnp.int32)


def _posterior(params, x):
    check_matrix("x", x, n_features=params.means.shape[1])
    log_joint = _log_joint(params)

    def rows(tile):
        log_p, r = mixing.posterior(log_joint(tile))
        return log_p, r.T

    return stats.map_rows(rows, x, tile_size=TILE)


def sample(
    key: PRNGKeyArray, params: Params, *, n_samples: int
) -> tuple[Float[Array, "n d"], Int[Array, "n"]]:
    """Draw binary samples, shape (n_samples, d), and their components, shape (n_samples,)."""
    check_count("n_samples", n_samples, at_least=0)
    key_component, key_bits = jax.random.split(key)
    component = jax.random.categorical(key_component, params.log_weights, shape=(n_samples,))
    bits = jax.random.bernoulli(key_bits, params.means[component])
    return bits.astype(params.means.dtype), component.astype(jnp.int32)


def moments(params: Params) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Mean and covariance of the mixture, in closed form.

    `E[x] = sum_k pi_k mu_k` and `cov[x] = sum_k pi_k (Sigma_k + mu_k mu_k') - E[x] E[x]'` with
    `Sigma_k = diag(mu_k (1 - mu_k))`: the mixture correlates features that are independent within
    each component. Evaluated about the mean, where nothing cancels.
    """
    weights = jax.nn.softmax(params.log_weights)[:, None]
    mean = (weights * params.means).sum(0)
    centred = params.means - mean[None]
    within = (weights * params.means * (1 - params.means)).sum(0)
    return mean, jnp.diag(within) + matmul((weights * centred).T, centred)


def n_parameters(params: Params) -> Int[Array, ""]:
    """Number of free parameters of the active components: weights and means."""
    k = jnp.isfinite(params.log_weights).sum()
    return k - 1 + k * params.means.shape[1]
