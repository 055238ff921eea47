"""Gaussian mixtures by expectation-maximisation (Murphy, MLPP 11.2.1 and 11.4.2; Bishop, PRML 9.2).

    p(x) = sum_k pi_k N(x | mu_k, Sigma_k)
    E-step:  r_ik = pi_k N(x_i | mu_k, Sigma_k) / sum_l pi_l N(x_i | mu_l, Sigma_l)
    M-step:  N_k = sum_i r_ik,  pi_k = N_k / N,  mu_k = sum_i r_ik x_i / N_k,
             Sigma_k = sum_i r_ik (x_i - mu_k)(x_i - mu_k)' / N_k

Log-likelihoods are in nats and means over samples. Components of log weight `-inf` are inactive, so
that one compiled program of K_max components serves every smaller K.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_choice, check_count, check_matrix, check_weights
from unsup_jax.core.fit import Fit, Step, iterate
from unsup_jax.core.linalg import einsum, matmul, middle
from unsup_jax.mixtures import covariance as structures
from unsup_jax.mixtures import kmeans, mixing
from unsup_jax.mixtures.covariance import Covariance

TILE = 2000  # rows: one tile and its (K, d, n) intermediate stay in cache
METHODS = ("k-means", "k-means++", "random", "responsibilities")


class Params(NamedTuple):
    """A Gaussian mixture.

    Attributes:
        log_weights: `log pi_k`, shape (k,); `-inf` switches a component off.
        means: `mu_k`, shape (k, d).
        covariance: `Full`, `Tied`, `Diagonal` or `Spherical`.
    """

    log_weights: Float[Array, "k"]
    means: Float[Array, "k d"]
    covariance: Covariance


class Stats(NamedTuple):
    """Additive sums, about the means of the parameters they were taken at.

    Attributes:
        mass: `N_k = sum_i w_i r_ik`, shape (k,).
        first: `sum_i w_i r_ik (x_i - mu_k)`, shape (k, d).
        scatter: `sum_i w_i r_ik (x_i - mu_k)(x_i - mu_k)'` as far as the structure needs it.
        log_likelihood: `sum_i w_i log p(x_i)`, shape ().
        weight: `sum_i w_i`, shape ().
    """

    mass: Float[Array, "k"]
    first: Float[Array, "k d"]
    scatter: Float[Array, "..."]
    log_likelihood: Float[Array, ""]
    weight: Float[Array, ""]


@partial(jax.jit, static_argnames=("n_components", "covariance", "method"))
def init(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    reg_covar: ScalarLike = 1e-6,
    *,
    n_components: int,
    covariance: str = "full",
    method: str = "k-means++",
) -> Params:
    """Random starting parameters.

    Args:
        key: Random key.
        x: Data, shape (n, d).
        weights: Non-negative weights, shape (n,).
        reg_covar: Added to the variances.
        n_components: Static; K.
        covariance: Static; "full", "tied", "diagonal" or "spherical".
        method: Static; "k-means++" (seeds, and one variance pooled over their clusters), "k-means"
            (clusters of a Lloyd run from such seeds, each with its own covariance), "random"
            (samples drawn uniformly, pooled variance) or "responsibilities" (drawn at random).

    Raises:
        ValueError: For an unknown choice, or `n_components` not between 1 and n.
    """
    check_matrix("x", x)
    check_weights(weights, x)
    check_count("n_components", n_components, x.shape[0])
    check_choice("covariance", covariance, structures.NAMES)
    check_choice("method", method, METHODS)
    if method == "responsibilities":
        r = jax.random.exponential(key, (x.shape[0], n_components), x.dtype)
        r = r / r.sum(1, keepdims=True)
        return from_responsibilities(x, r, weights, reg_covar, covariance=covariance)
    if method == "random":
        p = None if weights is None else weights / weights.sum()
        rows = jax.random.choice(key, x.shape[0], (n_components,), replace=False, p=p)
        return from_means(x[rows], x, weights, reg_covar, covariance=covariance)
    centers = kmeans.init(key, x, weights, n_components=n_components)
    if method == "k-means++":
        return from_means(centers, x, weights, reg_covar, covariance=covariance)
    centers = kmeans.fit(centers, x, weights).params
    return _from_clusters(centers, x, weights, reg_covar, covariance)


def from_means(
    means: Float[Array, "k d"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    reg_covar: ScalarLike = 1e-6,
    *,
    covariance: str = "full",
) -> Params:
    """A start with given means: equal weights, and the variance of the data about its nearest mean.

    Every component gets the same spherical covariance, which is never singular.
    """
    k, d = means.shape
    sums = kmeans.assign_step(means, x, weights)
    variance = sums.inertia / (sums.weight * d) + jnp.asarray(reg_covar, x.dtype)
    variance = jnp.where(variance > 0, variance, 1)
    log_weights = jnp.full((k,), -math.log(k), x.dtype)
    return Params(log_weights, means, structures.isotropic(covariance, variance, k, d))


def from_responsibilities(
    x: Float[Array, "n d"],
    responsibilities: Float[Array, "n k"],
    weights: Float[Array, "n"] | None = None,
    reg_covar: ScalarLike = 1e-6,
    *,
    covariance: str = "full",
) -> Params:
    """A start from given responsibilities `r_ik`: the M-step they imply."""
    origin = _origin(x)
    r = responsibilities if weights is None else responsibilities * weights[:, None]
    mass = r.sum(0)
    # Scatters are taken about (nearly) the means themselves, which spares digits.
    shift = matmul(r.T, x - origin[None]) / jnp.where(mass > 0, mass, 1)[:, None]
    reference = _reference(covariance, origin[None] + shift)
    # The covariances that come of it may be far smaller than those of the reference.
    local = _summation(reference, origin, careful=True)
    sums = stats.accumulate(
        lambda data, w: local(data[0], w, data[1].T), (x, responsibilities), weights, tile_size=TILE
    )
    return m_step(reference, sums, reg_covar)


def _from_clusters(centers, x, weights, reg_covar, covariance):
    labels = kmeans.assign(centers, x)
    r = jax.nn.one_hot(labels, centers.shape[0], dtype=x.dtype)
    return from_responsibilities(x, r, weights, reg_covar, covariance=covariance)


def _reference(covariance, means):
    """Parameters with the given means and unit covariances: what moments are taken about."""
    k, d = means.shape
    unit = structures.isotropic(covariance, jnp.ones((), means.dtype), k, d)
    return Params(jnp.zeros((k,), means.dtype), means, unit)


def _origin(x):
    """A point amid the rows: data and means are taken relative to it, which spares digits.

    Sums do not depend on it. It belongs to the data, so all lanes of a `vmap` over fits share it.
    """
    return lax.stop_gradient(middle(x))


def _look(params, origin, careful=False):
    """`look(then, rows)` is `then(log_joint, moments)`, both component-major, (k, n).

    `log_joint` is `log pi_k + log N(x_i | mu_k, Sigma_k)`, `moments` from `covariance.look`.
    """
    d = params.means.shape[1]
    look = structures.look(params.covariance, params.means - origin[None], careful=careful)
    constant = params.log_weights - params.covariance.half_log_det(d)
    constant = constant - 0.5 * d * math.log(2 * math.pi)

    def with_rows(then, rows):
        def joint(distances, moments):
            return then(constant[:, None] - 0.5 * distances, moments)

        return look(joint, (rows - origin[None]).T)

    return with_rows


def _summation(params, origin, careful=False):
    """`Stats` of rows, as a function of them, their weights and (if given) responsibilities."""
    look = _look(params, origin, careful)

    def local(rows, w, given=None):
        def sums(log_joint, moments):
            log_prob, r = mixing.posterior(log_joint)
            r = r if given is None else given
            if w is not None:
                r = r * w[None]
                # A weight of 0 removes a sample even where its log-probability is -inf.
                log_prob = jnp.where(w > 0, w * log_prob, 0)
            first, scatter = moments(r)
            weight = jnp.asarray(rows.shape[0], rows.dtype) if w is None else w.sum()
            return Stats(r.sum(1), first, scatter, log_prob.sum(), weight)

        return look(sums, rows)

    return local


def e_step(
    params: Params,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Stats:
    """Responsibilities of the components for the samples, summed up to what the M-step needs.

    The statistics of two data sets at the same parameters add up to those of both together.
    """
    local = _summation(params, _origin(x))
    return stats.accumulate(local, x, weights, tile_size=tile_size, axis_name=axis_name)


def m_step(params: Params, sums: Stats, reg_covar: ScalarLike = 1e-6) -> Params:
    """The parameters that maximise the expected complete log-likelihood, in closed form.

    Args:
        params: The parameters that `sums` were taken at.
        sums: From `e_step`.
        reg_covar: Added to every variance. A component without samples keeps its mean and
            covariance and becomes inactive.
    """
    alive, _ = mixing.survivors(sums.mass, params.log_weights)
    # What divides the sums of a component without samples must not count in a tied covariance.
    info = jnp.finfo(sums.mass.dtype)
    mass = jnp.where(alive, sums.mass, info.eps * sums.mass.sum() + info.tiny)
    shift = jnp.where(alive[:, None], sums.first / mass[:, None], 0)
    reg_covar = jnp.asarray(reg_covar, mass.dtype)
    new = params.covariance.update(sums.scatter, mass, shift, reg_covar)
    log_weights = mixing.update_log_weights(sums.mass, alive)
    return Params(log_weights, params.means + shift, structures.keep(alive, new, params.covariance))


@partial(jax.jit, static_argnames=("max_iter", "tile_size", "axis_name"))
def fit(
    params: Params,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    reg_covar: ScalarLike = 1e-6,
    tol: ScalarLike = 1e-5,
    *,
    max_iter: int = 100,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Fit:
    """Fit the mixture by EM from the given start.

    Args:
        params: Start; its covariance structure is the one that is fitted.
        x: Data, shape (n, d).
        weights: Non-negative weights, shape (n,): a weight of 2 counts a sample twice.
        reg_covar: Added to every variance, so that no component shrinks onto a point.
        tol: Stops when the mean log-likelihood changes by at most this, in nats a sample.
        max_iter: Static; largest number of updates.
        tile_size: Static; rows at a time.
        axis_name: Static; mapped axis over which the rows are sharded.

    Returns:
        `Fit` with the mean log-likelihood (nats a sample) as objective, non-decreasing up to
        `reg_covar` and rounding. Status `COLLAPSED` says that a component lost all its samples.

    Raises:
        ValueError: For shapes that do not match or an `x` that is not floating point.
    """
    check_matrix("x", x)
    check_matrix("params.means", params.means, n_features=x.shape[1], like=x)
    check_weights(weights, x)

    def step(params, x, weights, reg_covar):
        sums = e_step(params, x, weights, tile_size=tile_size, axis_name=axis_name)
        return update(params, sums, reg_covar)

    lanes = mixing.LANES if axis_name is None else None
    return iterate(step, params, tol, x, weights, reg_covar, max_iter=max_iter, lanes=lanes)


def update(params: Params, sums: Stats, reg_covar: ScalarLike = 1e-6) -> Step:
    """One iteration of `fit` from the sums over all samples, wherever these were added."""
    _, collapsed = mixing.survivors(sums.mass, params.log_weights)
    objective = sums.log_likelihood / sums.weight
    return Step(m_step(params, sums, reg_covar), objective, collapsed=collapsed)


def log_prob(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n"]:
    """`log p(x_i)` in nats."""
    return _posterior(params, x)[0]


def responsibilities(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """`r_ik = p(k | x_i)`: the soft clustering; rows sum to 1.

    Those of samples whose squared distances overflow, and log-probability is `-inf`, are 0.
    """
    return _posterior(params, x)[1]


def predict(params: Params, x: Float[Array, "n d"]) -> Int[Array, "n"]:
    """The component with the largest responsibility for each sample."""
    return jnp.argmax(_posterior(params, x)[1], axis=1).astype(jnp.int32)


def _posterior(params, x):
    check_matrix("x", x, n_features=params.means.shape[1])
    look = _look(params, _origin(x))

    def posterior(log_joint, _):
        log_p, r = mixing.posterior(log_joint)
        return log_p, r.T

    return stats.map_rows(partial(look, posterior), x, tile_size=TILE)


def sample(
    key: PRNGKeyArray, params: Params, *, n_samples: int
) -> tuple[Float[Array, "n d"], Int[Array, "n"]]:
    """Draw samples, shape (n_samples, d), and the components they come from, shape (n_samples,)."""
    check_count("n_samples", n_samples, at_least=0)
    k, d = params.means.shape
    key_component, key_noise = jax.random.split(key)
    component = jax.random.categorical(key_component, params.log_weights, shape=(n_samples,))
    noise = jax.random.normal(key_noise, (n_samples, d), params.means.dtype)
    factors = params.covariance.factors(k, d)

    def colour(drawn, part):
        index, mean, factor = part
        coloured = mean[None] + matmul(noise, factor.T)
        return jnp.where((component == index)[:, None], coloured, drawn), None

    x, _ = lax.scan(colour, noise, (jnp.arange(k), params.means, factors))
    return x, component.astype(jnp.int32)


def moments(params: Params) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Mean and covariance of the mixture.

    `E[x] = sum_k pi_k mu_k` and `cov[x] = sum_k pi_k (Sigma_k + (mu_k - E[x])(mu_k - E[x])')`.
    """
    k, d = params.means.shape
    weights = jax.nn.softmax(params.log_weights)
    mean = matmul(weights, params.means)
    centred = params.means - mean[None]
    within = einsum("k,kij->ij", weights, params.covariance.dense(k, d))
    return mean, within + matmul((weights[:, None] * centred).T, centred)


def n_parameters(params: Params) -> Int[Array, ""]:
    """Number of free parameters of the active components: weights, means, covariances."""
    d = params.means.shape[1]
    k = jnp.isfinite(params.log_weights).sum()
    return k - 1 + k * d + params.covariance.n_parameters(k, d)
