"""Singular value decomposition: thin, truncated by a randomized method, best low-rank matrices.

Every decomposition comes with fixed signs (the largest entry of each right singular vector is
positive) and in descending order, so results compare across solvers and backends.

Derivatives stay finite where values repeat. Vectors inside a repeated group are any basis of its
space and have no derivative there; their rotation into each other is left out. So the sum of the
group's values, and whatever needs only the projection onto the group as a whole (`low_rank` does),
have their exact derivatives; single values or vectors of the group have none to begin with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from unsup_jax.core import checks
from unsup_jax.core.linalg import matmul, row_signs
from unsup_jax.linear.moments import products


class Svd(NamedTuple):
    """A decomposition `x = u diag(singular_values) vt`, or the leading part of one.

    Attributes:
        u: Left singular vectors, columns, shape `(n, k)`.
        singular_values: Descending and not negative, shape `(k,)`.
        vt: Right singular vectors, rows, shape `(k, d)`.
    """

    u: Float[Array, "n k"]
    singular_values: Float[Array, "k"]
    vt: Float[Array, "k d"]


def thin(x: Float[Array, "n d"]) -> Svd:
    """All `k = min(n, d)` singular triples of `x = U S V'`.

    Source: Murphy, *Machine Learning: a Probabilistic Perspective*, section 12.2.3.

    Raises:
        ValueError: If `x` is not a floating-point matrix.
    """
    checks.check_matrix("x", x)
    u, s, vt = _lapack(x)
    signs = row_signs(vt)
    return Svd(u * signs[None], s, vt * signs[:, None])


def low_rank(x: Float[Array, "n d"], *, rank: int) -> Float[Array, "n d"]:
    """The matrix of rank at most `rank` nearest to `x`: `sum_(l <= rank) s_l u_l v_l'`.

    It is nearest in the spectral norm, with error `s_(rank+1)`, and in the Frobenius norm, with
    error `sqrt(sum_(l > rank) s_l^2)` (Eckart and Young, 1936; Murphy MLPP section 12.2.3).

    Raises:
        ValueError: If `rank` is not between 1 and `min(n, d)`.
    """
    checks.check_matrix("x", x)
    checks.check_count("rank", rank, min(x.shape))
    _, _, vt = thin(x)
    # As a projection, which has a derivative where singular values repeat.
    return matmul(matmul(x, vt[:rank].T), vt[:rank])


@partial(jax.jit, static_argnames=("rank", "n_oversamples", "n_iter", "tile_size"))
def truncated(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    *,
    rank: int,
    n_oversamples: int = 10,
    n_iter: int = 4,
    tile_size: int | None = None,
) -> Svd:
    """The leading `rank` singular triples, by a randomized block Krylov method.

    A random block of `rank + n_oversamples` directions is multiplied `n_iter + 1` times by `X'X`,
    re-orthogonalised each time; all the blocks together span the space in which the triples are
    found. One more product with `X` gives the left vectors, so `X` is read `n_iter + 2` times, by
    tiles of rows, or twice where it has so few columns that forming `X'X` is less work; nothing of
    its size is made. Keeping the blocks is what tells this from plain
    power iterations, and costs no further reading of `X`. Derivatives run through the iterations;
    they are finite while `X` has the rank that the blocks ask for.

    Source: Halko, Martinsson and Tropp (2011), "Finding structure with randomness"; Musco and Musco
    (2015), "Randomized block Krylov methods for stronger and faster approximate singular value
    decomposition".

    Args:
        key: Random key of the first block.
        x: The matrix.
        rank: Static; the number of triples.
        n_oversamples: Static; further directions in each block.
        n_iter: Static; number of power iterations. Triples converge faster the larger the gap
            between the wanted singular values and those beyond the block.
        tile_size: Static; the largest number of rows of a tile. `None` picks one.

    Raises:
        ValueError: If `rank` is not between 1 and `min(n, d)`, or another size is negative.
    """
    checks.check_matrix("x", x)
    checks.check_count("rank", rank, min(x.shape))
    checks.check_count("n_oversamples", n_oversamples, at_least=0)
    checks.check_count("n_iter", n_iter, at_least=0)
    block = min(rank + n_oversamples, *x.shape)
    if block == x.shape[0]:  # no room for directions to spare, nor need of any
        u, s, vt = thin(x)
        return Svd(u[:, :rank], s[:rank], vt[:rank])
    n_columns = block * (n_iter + 1)
    product, _ = products(jnp.zeros_like(x[0]), x, n_columns=n_columns, tile_size=tile_size)
    _, basis = leading_eigenpairs(
        key,
        product,
        n_features=x.shape[1],
        dtype=x.dtype,
        n_pairs=block,
        n_oversamples=0,
        n_iter=n_iter,
    )
    q, r = jnp.linalg.qr(matmul(x, basis.T))
    u, s, vt = thin(r)
    vt = matmul(vt[:rank], basis)
    signs = row_signs(vt)
    return Svd(matmul(q, u[:, :rank]) * signs[None], s[:rank], vt * signs[:, None])


def leading_eigenpairs(
    key: PRNGKeyArray,
    product: Callable[[Float[Array, "d b"]], Float[Array, "d b"]],
    *,
    n_features: int,
    dtype: jnp.dtype,
    n_pairs: int,
    n_oversamples: int,
    n_iter: int,
) -> tuple[Float[Array, "k"], Float[Array, "k d"]]:
    """Leading eigenpairs of a symmetric matrix given only as `product(q) = A q`.

    Block Krylov with full re-orthogonalisation, then Rayleigh-Ritz in the space of all blocks.

    Returns:
        The values, descending, and the vectors as orthonormal rows; signs are not fixed.
    """
    checks.check_count("n_oversamples", n_oversamples, at_least=0)
    checks.check_count("n_iter", n_iter, at_least=0)
    block, n_blocks = n_pairs + n_oversamples, n_iter + 1
    if block * n_blocks >= n_features:
        block, n_blocks = n_features, 1  # the whole space, in one product

    def orthonormal(new, space):
        # Twice: what rounding left of `space` in `new` is large where `new` was nearly inside it.
        for _ in range(2):
            new, _ = jnp.linalg.qr(new - matmul(space, matmul(space.T, new)))
        return new

    def advance(i, carry):
        space, images, q = carry
        image = product(q)
        space = lax.dynamic_update_slice_in_dim(space, q, i * block, 1)
        images = lax.dynamic_update_slice_in_dim(images, image, i * block, 1)
        return space, images, orthonormal(image, space)

    empty = jnp.zeros((n_features, n_blocks * block), dtype)
    start, _ = jnp.linalg.qr(jax.random.normal(key, (n_features, block), dtype))
    space, images, q = lax.fori_loop(0, n_blocks - 1, advance, (empty, empty, start))
    # The last block needs its image, but no successor.
    last = (n_blocks - 1) * block
    space = lax.dynamic_update_slice_in_dim(space, q, last, 1)
    images = lax.dynamic_update_slice_in_dim(images, product(q), last, 1)
    values, rotation = eigh(matmul(space.T, images))
    # A matrix of lower rank than the space leaves directions that are not quite orthonormal.
    vectors, _ = jnp.linalg.qr(matmul(space, rotation[:n_pairs].T))
    return values[:n_pairs], vectors.T


@jax.custom_jvp
def eigh(a: Float[Array, "d d"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Eigenvalues, descending, and eigenvectors, as rows, of a symmetric matrix.

    Unlike `jax.numpy.linalg.eigh` it has finite derivatives where eigenvalues repeat.
    """
    values, vectors = jnp.linalg.eigh(a)
    return values[::-1], vectors.T[::-1]


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    values, rows = eigh(*primals)
    change = matmul(rows, matmul(tangents[0], rows.T))
    change = (change + change.T) / 2
    gaps = inverse(values[:, None] - values[None], jnp.abs(values).max())
    return (values, rows), (jnp.diagonal(change), matmul(gaps * change, rows))


@jax.custom_jvp
def _lapack(
    x: Float[Array, "n d"],
) -> tuple[Float[Array, "n k"], Float[Array, "k"], Float[Array, "k d"]]:
    """`jnp.linalg.svd` with derivatives that are finite where singular values repeat or vanish."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return u, s, vt


@_lapack.defjvp
def _lapack_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    u, s, vt = _lapack(x)
    right, left = matmul(dx, vt.T), matmul(u.T, dx)
    inner = matmul(u.T, right)
    gaps = inverse(s[None] ** 2 - s[:, None] ** 2, s[0] ** 2)
    du = matmul(u, gaps * (inner * s[None] + (inner * s[None]).T))
    dvt = matmul((gaps * (s[:, None] * inner + (s[:, None] * inner).T)).T, vt)
    lengths = inverse(s, s[0])
    # The part of the change that leaves the span of the vectors; one of the two is zero.
    du = du + (right - matmul(u, inner)) * lengths[None]
    dvt = dvt + lengths[:, None] * (left - matmul(inner, vt))
    return (u, s, vt), (du, jnp.diagonal(inner), dvt)


def inverse(gaps: Array, scale: Array) -> Array:
    """`1 / gaps`, and 0 where a gap is no larger than the rounding error of values of `scale`."""
    apart = jnp.abs(gaps) > 64 * jnp.finfo(gaps.dtype).eps * scale
    return jnp.where(apart, 1 / jnp.where(apart, gaps, 1), 0)
