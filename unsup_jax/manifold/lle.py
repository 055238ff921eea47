"""Locally linear embedding, and the three methods that share its last step.

1. `knn`: the neighbours of every sample;
2. `stencil`: rows that vanish on the coordinates a neighbourhood should have. For the standard
   method, `x_i - sum_j w_ij x_j` with the `weights` that reconstruct a sample from its neighbours;
3. `embed`: the coordinates on which all rows together vanish best, at mean 0 and covariance I.

The standard method is Roweis & Saul, "Nonlinear dimensionality reduction by locally linear
embedding", Science 290 (2000); "modified" is Zhang & Wang, NIPS 19 (2006); "hessian" Donoho &
Grimes, PNAS 100 (2003); "ltsa" Zhang & Zha, SIAM J. Sci. Comput. 26 (2004).
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, ScalarLike

from unsup_jax.core import linalg, stats
from unsup_jax.core.checks import check_choice, check_count, check_matrix
from unsup_jax.manifold import spectral
from unsup_jax.manifold.neighbors import (
    Neighbors,
    as_indices,
    check_finite,
    count_closed,
    count_connected,
    knn,
)
from unsup_jax.manifold.spectral import Stencil

METHODS = ("standard", "modified", "hessian", "ltsa")


class Params(NamedTuple):
    """An embedding, with what it takes to place new points in it and to judge it.

    Attributes:
        embedding: Coordinates, mean 0 and covariance I, shape `(n, q)`.
        eigenvalues: What each coordinate costs: the mean over samples of its squared rows,
            ascending, shape `(q,)`.
        residuals: `||M v - lambda v||` of the unit eigenvectors, shape `(q,)`. Where one is not
            small beside the gap to the next eigenvalue, its coordinate is not to be trusted.
        n_groups: Into how many parts the neighbourhoods fall apart; the embedding means something
            only if this is 1.
        x: The samples that were embedded, shape `(n, d)`.
        neighbors: Their neighbours, `k` each.
    """

    embedding: Float[Array, "n q"]
    eigenvalues: Float[Array, "q"]
    residuals: Float[Array, "q"]
    n_groups: Int[Array, ""]
    x: Float[Array, "n d"]
    neighbors: Neighbors


def fit(
    x: Float[Array, "n d"],
    neighbors: Neighbors | None = None,
    reg: ScalarLike = 1e-3,
    *,
    n_components: int,
    n_neighbors: int | None = None,
    method: str = "standard",
    solver: str = "auto",
) -> Params:
    """Embed `x` in `n_components` dimensions, so that its neighbourhoods stay as they are.

    Minimises `tr(Z' M Z) / n`, for the standard method the mean of `||z_i - sum_j w_ij z_j||^2`,
    under the constraints `sum_i z_i = 0` and `Z'Z / n = I`.

    The eigenvectors are found in float64 whatever the dtype of `x`. Runs under `jit` and `vmap`
    with the solvers "dense" (what "auto" means there) and "chebyshev"; elsewhere "auto" picks the
    one that suits the neighbourhood graph (see `spectral.bottom`) and a graph that falls apart is
    announced by a warning.

    Args:
        x: Samples.
        neighbors: Neighbours found elsewhere, which must not contain a sample itself.
        reg: Traced; ridge of the local Gram matrices, relative to their trace.
        n_components: Static; dimensions of the embedding.
        n_neighbors: Static; neighbours of a sample. `None` takes all columns of `neighbors`.
        method: Static; "standard", "modified", "hessian" or "ltsa".
        solver: Static; "auto", "dense", "factor" or "chebyshev".

    Raises:
        ValueError: If a shape or name is wrong, there are too few samples, or too few neighbours
            for the method: "modified" needs `n_components`, "ltsa" one more, and "hessian" more
            than `n_components (n_components + 3) / 2`.
    """
    check_matrix("x", x)
    x = jnp.asarray(x)
    check_choice("solver", solver, spectral.SOLVERS)
    check_count("n_components", n_components, x.shape[0] - 2)
    if neighbors is None:
        if n_neighbors is None:
            raise ValueError("n_neighbors must be given where neighbors are not")
        neighbors = knn(x, n_neighbors=n_neighbors)
    check_finite("x", x)
    indices = as_indices(neighbors, x.shape[0])
    if n_neighbors is not None:
        check_count("n_neighbors", n_neighbors, indices.shape[1])
        neighbors = Neighbors(*(a[:, :n_neighbors] for a in neighbors))
        indices = indices[:, :n_neighbors]

    with jax.enable_x64(True):
        local = stencil(
            jnp.asarray(x, jnp.float64), indices, reg, n_components=n_components, method=method
        )
        n_groups = count_closed(indices) if method == "standard" else count_connected(local.columns)
        if not isinstance(local.rows, jax.core.Tracer):
            local = jax.block_until_ready(local)  # see `_tile`: another fit may follow at once
        outcome = embed(local, n_components=n_components, solver=solver)
        embedding, eigenvalues, residuals = (a.astype(x.dtype) for a in outcome)
    if not isinstance(n_groups, jax.core.Tracer) and int(n_groups) > 1:
        warnings.warn(
            f"the neighbourhoods fall apart into {int(n_groups)} groups that an embedding can't "
            "relate: raise n_neighbors, or embed them one by one",
            stacklevel=2,
        )
    return Params(embedding, eigenvalues, residuals, n_groups, x, neighbors)


def weights(
    x: Float[Array, "n d"],
    references: Float[Array, "m d"],
    indices: Int[Array, "n k"],
    reg: ScalarLike = 1e-3,
) -> Float[Array, "n k"]:
    """The weights that reconstruct each row of `x` best from some references, each row sums to 1.

    `min_w ||x_i - sum_j w_j y_j||^2` subject to `sum_j w_j = 1`: solve `G w = 1` with the local
    Gram matrix `G_jl = (x_i - y_j)'(x_i - y_l) + reg tr(G) [j = l]`, and normalise.
    """

    def local(rows):
        centre, row_indices = rows
        return _reconstruct(_gram(references[row_indices] - centre[None]), reg)

    return stats.map_rows(jax.vmap(local), (x, indices), tile_size=_tile(indices, x))


def stencil(
    x: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    reg: ScalarLike = 1e-3,
    *,
    n_components: int,
    method: str = "standard",
) -> Stencil:
    """The rows that should vanish on the embedding, a few for each sample; see `METHODS`."""
    check_choice("method", method, METHODS)
    k, q = indices.shape[1], n_components
    needed = {"standard": 1, "modified": q, "hessian": q * (q + 3) // 2 + 1, "ltsa": q + 1}
    if k < needed[method]:
        raise ValueError(
            f"n_neighbors must be at least {needed[method]} for method {method!r} "
            f"with {q} components, got {k}"
        )
    return _stencil(x, indices, reg, n_components=n_components, method=method)


def embed(
    local: Stencil, *, n_components: int, solver: str = "auto"
) -> tuple[Float[Array, "n q"], Float[Array, "q"], Float[Array, "q"]]:
    """Embedding of mean 0 and covariance I, its eigenvalues, and their residuals."""
    values, vectors, residuals = spectral.bottom(local, n_vectors=n_components, solver=solver)
    # The entry of largest magnitude is positive. (An argmax of float64 does not lower under the
    # float32 `jit` of a caller.)
    signs = jnp.where(vectors.max(0) >= -vectors.min(0), 1.0, -1.0).astype(vectors.dtype)
    return vectors * (signs * vectors.shape[0] ** 0.5)[None], values, residuals


def transform(
    params: Params, x: Float[Array, "m d"], reg: ScalarLike = 1e-3
) -> Float[Array, "m q"]:
    """Place new points by the weights that reconstruct them from the samples of the fit.

    A point that coincides with a sample is placed where that sample is.
    """
    check_matrix("x", x, n_features=params.x.shape[1])
    x = jnp.asarray(x)
    return _transform(params, x, reg, nearest=knn(x, params.x, n_neighbors=_k(params)))


def reconstruction_error(params: Params) -> Float[Array, ""]:
    """The objective of `fit`: the mean over samples of the squared rows on the embedding."""
    return params.eigenvalues.sum()


def _k(params):
    return params.neighbors.indices.shape[1]


@jax.jit
def _transform(params, x, reg, *, nearest):
    distances, indices = nearest
    mix = weights(x, params.x, indices, reg)
    same = (jnp.arange(indices.shape[1]) == 0).astype(mix.dtype)[None]
    mix = jnp.where(distances[:, :1] == 0, same, mix)
    return linalg.einsum("mk,mkq->mq", mix, params.embedding[indices])


@partial(jax.jit, static_argnames=("n_components", "method"))
def _stencil(x, indices, reg, *, n_components, method):
    ids = jnp.arange(x.shape[0], dtype=indices.dtype)
    if method == "standard":
        w = weights(x, x, indices, reg)
        rows = jnp.concatenate([jnp.ones_like(w[:, :1]), -w], 1)[:, None]
        return Stencil(jnp.concatenate([ids[:, None], indices], 1), rows)
    if method == "modified":
        return Stencil(
            jnp.concatenate([ids[:, None], indices], 1), _modified(x, indices, reg, n_components)
        )
    if method == "hessian":
        return Stencil(indices, _over_neighbourhoods(x, indices, partial(_hessian, n_components)))
    return Stencil(indices, _over_neighbourhoods(x, indices, partial(_ltsa, n_components)))


def _tile(indices, x):
    """Samples at a time, so that the gathered neighbourhoods stay in cache.

    Tiles follow one another: two batched factorisations at a time can block every thread of a CPU
    with few of them, each waiting for the other's (jaxlib 0.10).
    """
    return max(1, 2**19 // (indices.shape[1] * x.shape[1]))


def _over_neighbourhoods(x, indices, function):
    """Map a function of the neighbours of one sample, centred on the sample."""
    local = jax.vmap(lambda centre, neighbours: function(x[neighbours] - centre[None]))
    return stats.map_rows(lambda rows: local(*rows), (x, indices), tile_size=_tile(indices, x))


def _gram(a):
    return linalg.matmul(a, a.T)


def _reconstruct(gram, reg):
    """Solve `(G + reg tr(G) I) w = 1`, scaled to sum to 1."""
    k, dtype = gram.shape[0], gram.dtype
    ridge = _ridge(jnp.trace(gram), reg, k)
    factor = jnp.linalg.cholesky(gram + ridge * jnp.eye(k, dtype=dtype))
    w = jax.scipy.linalg.cho_solve((factor, True), jnp.ones(k, dtype))
    return w / w.sum()


def _ridge(trace, reg, k):
    """`reg tr(G)`, or the rounding of G at least; anything where all neighbours coincide."""
    reg = jnp.maximum(jnp.asarray(reg, trace.dtype), k * jnp.finfo(trace.dtype).eps)
    return jnp.where(trace > 0, reg * trace, 1)


def _tangent(neighbours, n_components):
    """Orthonormal coordinates of the centred neighbours along their main axes, `(k, q)`."""
    centred = neighbours - neighbours.mean(0)[None]
    return jnp.linalg.eigh(_gram(centred))[1][:, ::-1][:, :n_components]


def _ltsa(n_components, neighbours):
    """What is left of the neighbours after an affine fit on their tangent coordinates."""
    k = neighbours.shape[0]
    constant = jnp.full((k, 1), k**-0.5, neighbours.dtype)
    basis = jnp.concatenate([constant, _tangent(neighbours, n_components)], 1)
    return jnp.eye(k, dtype=basis.dtype) - linalg.matmul(basis, basis.T)


def _hessian(n_components, neighbours):
    """Second derivatives along the tangent: what quadratics have that affine functions have not."""
    tangent = _tangent(neighbours, n_components)
    first, second = np.triu_indices(n_components)  # known when traced
    constant = jnp.ones_like(tangent[:, :1])
    quadratic = tangent[:, first] * tangent[:, second]
    basis = jnp.linalg.qr(jnp.concatenate([constant, tangent, quadratic], 1))[0]
    return basis[:, n_components + 1 :].T


def _modified(x, indices, reg, n_components):
    """Several weight vectors a sample, one for each direction its neighbours nearly span not.

    With V the eigenvectors of the s smallest eigenvalues of the Gram matrix and w the weights:
    the columns of `V H + (1 - a) w 1'`, H the reflection that makes each of them sum to 1.
    """
    k = indices.shape[1]

    def eigen(neighbours):
        values, vectors = jnp.linalg.eigh(_gram(neighbours))
        return jnp.maximum(values, 0), vectors

    values, vectors = _over_neighbourhoods(x, indices, eigen)  # ascending
    # s: as many as keep the ratio of what they hold to the rest below the median sample's ratio,
    # were it to keep `n_components` directions.
    held = jnp.cumsum(values, 1)
    total = held[:, -1:]
    ratios = held[:, :-1] / jnp.maximum(total - held[:, :-1], jnp.finfo(x.dtype).tiny)
    limit = jnp.median(ratios[:, k - n_components - 1]) if k > n_components else 0
    sizes = (ratios < limit).sum(1)

    def local(arguments):
        values, v, size = arguments
        kept = (jnp.arange(k) < size).astype(v.dtype)
        sums = v.sum(0)
        ridge = _ridge(values.sum(), reg, k)
        w = linalg.matmul(v, sums / (values + ridge))
        w = w / w.sum()
        v = v * kept[None]
        alpha = jnp.linalg.norm(kept * sums) / jnp.sqrt(jnp.maximum(size, 1).astype(v.dtype))
        h = kept * (alpha - sums)
        norm = jnp.linalg.norm(h)
        h = jnp.where(norm < 1e-12, 0, h / jnp.where(norm < 1e-12, 1, norm))
        reflected = v - 2 * jnp.outer(linalg.matmul(v, h), h)
        mixed = kept[None] * (reflected + (1 - alpha) * w[:, None])
        return jnp.concatenate([-kept[:, None], mixed.T], 1)

    tile = max(1, 2**16 // k**2)
    return stats.map_rows(jax.vmap(local), (values, vectors, sizes), tile_size=tile)
