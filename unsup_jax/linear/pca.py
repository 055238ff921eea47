"""Principal component analysis, and the probabilistic model behind it.

The principal axes are orthonormal directions `w_1, ..., w_L` (rows of `components`) that can be
seen in two ways, with one answer: the analysis view keeps as much variance of the projections
`z = W'(x - mean)` as possible, the synthesis view loses as little as possible of `x` in
`mean + W z`. Both are solved by the leading eigenvectors of the empirical covariance
`S = 1/N sum_i (x_i - mean)(x_i - mean)'`, and `w_l' S w_l = lambda_l`.

Probabilistic PCA (Tipping and Bishop, 1999) is the Gaussian model `x = mean + B z + noise` with
`z ~ N(0, I)` and isotropic noise; its maximum-likelihood estimate is a function of the same
parameters: `B = W (Lambda - noise_variance I)^(1/2)`.

Variances divide by N, the sum of the weights, as maximum likelihood does; scikit-learn's divide by
N - 1.

Source: Murphy, *Machine Learning: a Probabilistic Perspective*, sections 12.2.1-12.2.4; Bishop,
*Pattern Recognition and Machine Learning*, sections 12.1 and 12.2.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import checks, stats
from unsup_jax.core.linalg import fix_signs, matmul
from unsup_jax.linear import svd
from unsup_jax.linear.moments import Moments, gram, moments, products, rows_per_tile

__all__ = [
    "Moments",
    "Params",
    "Posterior",
    "explained_variance_ratio",
    "fit",
    "from_moments",
    "inverse_transform",
    "log_prob",
    "moments",
    "n_components_for",
    "posterior",
    "reconstruction_error",
    "sample",
    "total_variance",
    "transform",
    "truncate",
]

SOLVERS = ("auto", "gram", "dual", "svd", "randomized")


class Params(NamedTuple):
    """A fitted PCA; also the maximum-likelihood estimate of probabilistic PCA.

    Attributes:
        mean: Mean of the data, shape `(d,)`; zeros if they were not centred.
        components: Principal axes, orthonormal rows, shape `(k, d)`.
        explained_variance: Variances `lambda` along the axes, descending, shape `(k,)`.
        noise_variance: Mean variance along the `d - k` other directions; 0 if there are none.
    """

    mean: Float[Array, "d"]
    components: Float[Array, "k d"]
    explained_variance: Float[Array, "k"]
    noise_variance: Float[Array, ""]


class Posterior(NamedTuple):
    """Posterior of the latent vectors of probabilistic PCA.

    Attributes:
        mean: One row a sample, shape `(n, k)`.
        covariance: The same for every sample, shape `(k, k)`.
    """

    mean: Float[Array, "n k"]
    covariance: Float[Array, "k k"]


@partial(
    jax.jit,
    static_argnames=("n_components", "solver", "center", "n_iter", "tile_size", "axis_name"),
)
def fit(
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    n_components: int,
    solver: str = "auto",
    center: bool = True,
    key: PRNGKeyArray | None = None,
    n_iter: int = 4,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Params:
    """The `n_components` principal axes of the rows of `x`, and the variances along them.

    Minimises `J = 1/N sum_i ||x_i - mean - W z_i||^2` over orthonormal `W`; at the solution
    `J = sum_(l > L) lambda_l = sum_(l > L) w_l' S w_l`.

    Solvers:
        gram: eigenvectors of the `(d, d)` covariance. Reads `x` twice, for the mean and about it,
            tile by tile, so that nothing of the size of `x` is made. Rounding is relative to the
            largest variance: those below about `1e-6` of it are noise in float32.
        dual: the same from the `(n, n)` products of samples, for `n < d`.
        svd: the centred data's own decomposition: slowest, and the only one that is accurate for
            variances far below the largest.
        randomized: `svd.leading_eigenpairs` of the covariance, for large `n` and `d`; needs `key`.
            The covariance is formed only where that is less work than the products with `x`.
        auto: `dual` if `n < d` and the data are on one device, `gram` otherwise.

    Derivatives with respect to `x` and `weights` are finite where eigenvalues repeat; see `svd`.

    Args:
        x: The data.
        weights: One non-negative weight a sample.
        n_components: Static; the number of axes, `L`.
        solver: Static.
        center: Static; if false, variances are second moments about the origin.
        key: Random key, for `solver="randomized"` and for nothing else.
        n_iter: Static; power iterations of `solver="randomized"`.
        tile_size: Static; the largest number of rows of a tile. `None` picks one.
        axis_name: Static; the mapped axis over which the rows are sharded, if any.

    Raises:
        ValueError: If `n_components` is not between 1 and `min(n, d)`, the solver is unknown or
            cannot serve sharded data, or a key is missing.
    """
    _check(x, weights, n_components, solver, key, axis_name)
    tile_size = tile_size or rows_per_tile(*x.shape)
    tiles: dict[str, Any] = {"tile_size": tile_size, "axis_name": axis_name}
    if solver == "auto":
        solver = "dual" if x.shape[0] < x.shape[1] and axis_name is None else "gram"
    mean = stats.mean(x, weights, **tiles) if center else jnp.zeros_like(x[0])
    if solver == "gram":
        sums = moments(mean, x, weights, **tiles)
        return from_moments(mean, sums, n_components=n_components, center=center)
    if solver == "randomized":
        return _randomized(key, mean, x, weights, n_components, n_iter, tiles)
    shares = jnp.ones_like(x[:, 0]) if weights is None else weights.astype(x.dtype)
    shares = shares / _positive(shares.sum())
    decompose = _dual if solver == "dual" else _by_svd
    values, components = _eigenpairs(x - mean[None], shares, n_components, decompose)
    return _params(mean, components, values[:n_components], values[n_components:].sum())


def from_moments(
    origin: Float[Array, "d"], sums: Moments, *, n_components: int, center: bool = True
) -> Params:
    """The fit of the data whose moments about `origin` these are.

    Args:
        origin: What `moments` was called with; zeros if the data shall not be centred.
        sums: Their moments, of all samples.
        n_components: Static; the number of axes.
        center: Static; if false, `origin` is kept as the mean of the fit.

    Raises:
        ValueError: If `n_components` is not between 1 and `d`.
    """
    checks.check_count("n_components", n_components, origin.shape[0])
    weight = _positive(sums.weight)
    covariance = sums.products / weight
    mean = origin
    if center:
        shift = sums.total / weight
        mean = origin + shift
        covariance = covariance - shift[:, None] * shift[None]
    values, vectors = svd.eigh(covariance)
    tail = values[n_components:].sum()  # not each of them: rounding below 0 would hide derivatives
    return _params(mean, vectors[:n_components], jnp.maximum(values[:n_components], 0), tail)


def transform(
    params: Params, x: Float[Array, "n d"], *, whiten: bool = False
) -> Float[Array, "n k"]:
    """Project onto the axes: `z = W'(x - mean)`, divided by `sqrt(lambda)` if `whiten`."""
    checks.check_matrix("x", x, n_features=params.mean.shape[0])
    z = matmul(x - params.mean[None], params.components.T)
    if not whiten:
        return z
    # Along an axis without variance, what is not zero is rounding.
    scale = params.explained_variance
    return z * jnp.where(scale > 0, 1 / jnp.sqrt(_positive(scale)), 0)[None]


def inverse_transform(
    params: Params, z: Float[Array, "n k"], *, whiten: bool = False
) -> Float[Array, "n d"]:
    """Reconstruct `mean + W z` from projections (whitened ones if `whiten`)."""
    checks.check_matrix("z", z, n_features=params.components.shape[0])
    z = z * jnp.sqrt(params.explained_variance)[None] if whiten else z
    return matmul(z, params.components) + params.mean[None]


def reconstruction_error(
    params: Params, x: Float[Array, "n d"], weights: Float[Array, "n"] | None = None
) -> Float[Array, ""]:
    """Mean over samples of the squared error `||x - mean - W z||^2`, summed over features.

    On the data of the fit it is the variance along the discarded directions,
    `(d - k) * noise_variance`.
    """
    checks.check_weights(weights, x)
    error = inverse_transform(params, transform(params, x)) - x
    return stats.mean((error * error).sum(1)[:, None], weights)[0]


def total_variance(params: Params) -> Float[Array, ""]:
    """The trace of the covariance: along the axes and along all other directions."""
    k, d = params.components.shape
    return params.explained_variance.sum() + (d - k) * params.noise_variance


def explained_variance_ratio(params: Params) -> Float[Array, "k"]:
    """The fraction of the total variance along each axis (0 for constant data)."""
    return params.explained_variance / _positive(total_variance(params))


def n_components_for(params: Params, fraction: ScalarLike) -> Int[Array, ""]:
    """The smallest number of axes that explain `fraction` of the total variance.

    It is `k + 1` where all the `k` fitted axes explain less: fit more of them.
    """
    explained = jnp.cumsum(explained_variance_ratio(params))
    k, d = params.components.shape
    # With all axes the sum is 1, whatever rounding says.
    slack = d * jnp.finfo(explained.dtype).eps
    enough = explained >= jnp.asarray(fraction, explained.dtype) - slack
    return jnp.where(enough.any(), jnp.argmax(enough), k).astype(jnp.int32) + 1


def truncate(params: Params, *, n_components: int) -> Params:
    """The fit with fewer axes: what `fit` would have given, without the data.

    Raises:
        ValueError: If `n_components` is not between 1 and the number of fitted axes.
    """
    mean, components, values, noise = params
    k, d = components.shape
    checks.check_count("n_components", n_components, k)
    tail = values[n_components:].sum() + (d - k) * noise
    kept, values = components[:n_components], values[:n_components]
    return Params(mean, kept, values, tail / max(d - n_components, 1))


def log_prob(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n"]:
    """Log-density, in nats, of each sample under probabilistic PCA.

    The Gaussian `N(mean, C)` with `C = W (Lambda - s I) W' + s I` and `s = noise_variance`, whose
    eigenvalues are `lambda_l` on the axes and `s` off them; no `(d, d)` matrix is made. Variances
    below `eps * lambda_1` are raised to that, so data without noise have a finite density.
    """
    checks.check_matrix("x", x, n_features=params.mean.shape[0])
    k, d = params.components.shape
    centred = x - params.mean[None]
    z = matmul(centred, params.components.T)
    floor = _positive(params.explained_variance[0] * jnp.finfo(z.dtype).eps)
    variance = jnp.maximum(params.explained_variance, floor)
    quadratic = (z * z / variance[None]).sum(1)
    log_det = jnp.log(variance).sum()
    if k < d:
        noise = jnp.maximum(params.noise_variance, floor)
        rest = centred - matmul(z, params.components)
        quadratic = quadratic + (rest * rest).sum(1) / noise
        log_det = log_det + (d - k) * jnp.log(noise)
    return -0.5 * (d * jnp.log(2 * jnp.pi).astype(z.dtype) + log_det + quadratic)


def sample(key: PRNGKeyArray, params: Params, *, n_samples: int) -> Float[Array, "n d"]:
    """Draw from probabilistic PCA: `mean + B z + noise`."""
    key_latent, key_noise = jax.random.split(key)
    k, d = params.components.shape
    dtype = params.mean.dtype
    z = jax.random.normal(key_latent, (n_samples, k), dtype) * _loadings(params)[None]
    noise = jax.random.normal(key_noise, (n_samples, d), dtype)
    noise = noise * jnp.sqrt(params.noise_variance)
    return params.mean[None] + matmul(z, params.components) + noise


def posterior(params: Params, x: Float[Array, "n d"]) -> Posterior:
    """What a sample says about its latent vector: `p(z | x) = N(M^-1 B'(x - mean), s M^-1)`.

    `M = B'B + s I` is the diagonal matrix of `explained_variance`. The mean is the projection
    shrunk towards 0; without noise it is the whitened projection.
    """
    whitened = transform(params, x, whiten=True)
    variance = params.explained_variance
    shrinkage = _loadings(params) / jnp.sqrt(_positive(variance))
    covariance = jnp.where(variance > 0, params.noise_variance / _positive(variance), 1)
    return Posterior(whitened * shrinkage[None], jnp.diag(covariance))


def _check(x, weights, n_components, solver, key, axis_name):
    checks.check_matrix("x", x)
    checks.check_weights(weights, x)
    checks.check_choice("solver", solver, SOLVERS)
    if axis_name is not None and solver in ("dual", "svd"):
        raise ValueError(f"solver must be 'gram' or 'randomized' for sharded rows, got {solver!r}")
    # A shard does not know how many rows the others have.
    most = x.shape[1] if axis_name is not None else min(x.shape)
    checks.check_count("n_components", n_components, most)
    if (key is None) == (solver == "randomized"):
        wanted = "a random key" if key is None else "None"
        raise ValueError(f"key must be {wanted} for solver={solver!r}, got {key}")


def _params(mean, components, values, tail):
    """Parameters from the leading eigenpairs and the sum of the other eigenvalues."""
    k, d = components.shape
    noise = jnp.maximum(tail, 0) / max(d - k, 1)
    return Params(mean, fix_signs(components), values, noise)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _eigenpairs(centred, shares, n_vectors, decompose):
    """All eigenvalues that can differ from 0, and the leading eigenvectors, of the covariance."""
    # Rows scaled so that products of the columns are the covariance.
    values, vectors = decompose(centred * jnp.sqrt(shares)[:, None], n_vectors)
    return values[: min(centred.shape)], vectors


@_eigenpairs.defjvp
def _eigenpairs_jvp(n_vectors, decompose, primals, tangents):
    """Of the covariance `S`, through `dS V`: the root of a share of 0 has no derivative."""
    del decompose  # the QR of the dual's vectors of length zero has no derivative either
    centred, shares = primals
    d_centred, d_shares = tangents
    values, vectors = _eigenpairs(centred, shares, min(centred.shape), _by_svd)
    z, dz = matmul(centred, vectors.T), matmul(d_centred, vectors.T)
    image = matmul((d_shares[:, None] * z + shares[:, None] * dz).T, centred)
    image = image + matmul((shares[:, None] * z).T, d_centred)
    inside = matmul(image, vectors.T)
    gaps = svd.inverse(values[:, None] - values[None], values[0])
    # The part of the change that leaves the span of the vectors, if there is more than that.
    eps = 64 * jnp.finfo(values.dtype).eps
    outside = svd.inverse(values, eps * values[0])[:, None] * (image - matmul(inside, vectors))
    d_vectors = matmul(gaps * inside, vectors) + outside
    d_values = jnp.diagonal(inside)
    if len(values) < centred.shape[1]:  # others are 0 and may grow: count them with the last
        change = d_shares[:, None] * centred + 2 * shares[:, None] * d_centred
        d_values = d_values.at[-1].add((change * centred).sum() - d_values.sum())
    return (values, vectors[:n_vectors]), (d_values, d_vectors[:n_vectors])


def _by_svd(rows, n_vectors):
    _, s, vt = svd.thin(rows)
    return s**2, vt[:n_vectors]


def _dual(rows, n_vectors):
    """Through `rows rows'`."""
    values, left = svd.eigh(gram(rows.T))
    # Lengths are the singular values; the QR mends those that are lost in rounding.
    q, _ = jnp.linalg.qr(matmul(rows.T, left[:n_vectors].T))
    return jnp.maximum(values, 0), q.T


def _randomized(key, mean, x, weights, n_components, n_iter, tiles):
    n_oversamples = 10
    n_columns = (n_components + n_oversamples) * (n_iter + 1)
    product, trace = products(mean, x, weights, n_columns=n_columns, **tiles)
    weight = _positive(stats.total_weight(x, weights, tiles["axis_name"]))
    values, components = svd.leading_eigenpairs(
        key,
        lambda q: product(q) / weight,
        n_features=x.shape[1],
        dtype=x.dtype,
        n_pairs=n_components,
        n_oversamples=n_oversamples,
        n_iter=n_iter,
    )
    values = jnp.maximum(values, 0)
    return _params(mean, components, values, trace / weight - values.sum())


def _loadings(params):
    """Lengths of the columns of `B`, the standard deviations that are signal."""
    return jnp.sqrt(jnp.maximum(params.explained_variance - params.noise_variance, 0))


def _positive(value):
    """The value, or a harmless 1 in its place where it is 0."""
    return jnp.where(value > 0, value, 1)
