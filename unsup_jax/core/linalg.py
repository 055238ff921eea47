"""Linear algebra with the house's habits: full-precision products, safe factors, fixed signs."""

from __future__ import annotations

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# The default precision of a product is TF32 on recent NVIDIA GPUs and bfloat16 on TPUs: too coarse
# for distances, covariances and responsibilities.
matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Squared Euclidean distances `||x_i - y_j||^2 = ||x_i||^2 - 2 x_i'y_j + ||y_j||^2`.

    One matrix product, about the middle of `y`, never negative. Distances much smaller than the
    spread of `y` carry its rounding error: where they matter, compute them from differences.
    """
    centre = middle(y)[None]
    x, y = x - centre, y - centre
    products = matmul(x, y.T)
    return jnp.maximum((x * x).sum(1)[:, None] - 2 * products + (y * y).sum(1)[None], 0)


def middle(x: Float[Array, "n d"]) -> Float[Array, "d"]:
    """A point amid the rows: what to subtract from data far from the origin, to spare digits.

    Medians of three, of three, ... of up to 81 rows spread over all (Rousseeuw and Bassett, 1990).
    Unlike the mean it stays amid the data when some rows lie far out: those of weight 0, say, may
    hold anything.
    """
    n = x.shape[0]
    rows = 3 ** min(4, math.ceil(math.log(n, 3)))
    rows = lax.stop_gradient(jnp.asarray(x))[np.linspace(0, n - 1, rows).astype(int)]
    while len(rows) > 1:
        a, b, c = jnp.split(rows, 3)
        rows = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    return rows[0]


def safe_cholesky(a: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """Lower Cholesky factor of a positive semi-definite matrix that rounding may have bent.

    A factorisation that fails is repeated with a ridge of `d * eps * max(diag)`, the size of the
    rounding error; one that succeeds is returned untouched. Non-finite input stays non-finite.
    """
    d = a.shape[-1]
    factor = _cholesky(a)
    failed = ~jnp.isfinite(factor).all((-2, -1), keepdims=True)
    eye = jnp.broadcast_to(jnp.eye(d, dtype=a.dtype), a.shape)

    def with_ridge():
        scale = jnp.diagonal(a, axis1=-2, axis2=-1).max(-1)[..., None, None]
        tiny = jnp.finfo(a.dtype).tiny
        ridge = 4 * d * jnp.finfo(a.dtype).eps * scale + tiny
        repaired = a + ridge * eye
        # Factors that were fine must not see the ridge, nor their gradients a failed branch.
        repaired = jnp.where(failed, repaired, eye)
        return jnp.where(failed, _cholesky(repaired), factor)

    return lax.cond(failed.any(), with_ridge, lambda: factor)


def _cholesky(a):
    """Factors of a batch; on a CPU one after another.

    A batched LAPACK call waits for a thread of the pool to share its work with. When the devices
    that one CPU plays all wait like that, none of them ever gets one.
    """

    def one_by_one(a):
        return lax.map(jnp.linalg.cholesky, a.reshape(-1, *a.shape[-2:])).reshape(a.shape)

    if a.ndim == 2:
        return jnp.linalg.cholesky(a)
    return lax.platform_dependent(a, cpu=one_by_one, default=jnp.linalg.cholesky)


def inverse_tril(lower: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """Inverse of lower-triangular `L`, by forward substitution, row after row for all the batch.

    Small batched factors only (d up to 100 or so). On a CPU the triangular solve of LAPACK wakes
    OpenBLAS threads that then spin for milliseconds beside the products that follow.
    """
    d = lower.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(d, dtype=lower.dtype), lower.shape)

    def row(i, inverse):
        known = einsum("...k,...kj->...j", lower[..., i, :], inverse)
        return inverse.at[..., i, :].set((eye[..., i, :] - known) / lower[..., i, i, None])

    return lax.fori_loop(0, d, row, jnp.zeros_like(lower))


def fix_signs(components: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Flip rows so that the entry of largest magnitude of each is positive.

    Singular and eigenvectors are defined up to sign; a fixed one makes results comparable between
    solvers and backends.
    """
    return components * row_signs(components)[:, None]


def row_signs(components: Float[Array, "k d"]) -> Float[Array, "k"]:
    """The sign (+1 or -1) of the entry of largest magnitude of each row."""
    largest = jnp.argmax(jnp.abs(components), axis=1)
    values = jnp.take_along_axis(components, largest[:, None], axis=1)[:, 0]
    return jnp.where(values < 0, -1, 1).astype(components.dtype)
