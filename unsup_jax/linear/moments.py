"""Moments of data, summed over tiles, devices or batches: what PCA and the SVD are made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from unsup_jax.core import checks, stats
from unsup_jax.core.linalg import matmul

WIDTH = 112  # columns of a block of half a Gram matrix: narrow saves work, too narrow is slow


class Moments(NamedTuple):
    """Sums over samples about a fixed `origin`; add two for the moments of both data sets.

    Attributes:
        weight: Sum of the weights.
        total: `sum_i w_i (x_i - origin)`, shape `(d,)`.
        products: `sum_i w_i (x_i - origin)(x_i - origin)'`, shape `(d, d)`.
    """

    weight: Float[Array, ""]
    total: Float[Array, "d"]
    products: Float[Array, "d d"]


def moments(
    origin: Float[Array, "d"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Moments:
    """The sums from which `from_moments` makes the fit: of a batch, a shard or the whole.

    Batches fed one by one and added (`core.stats.add`) give what the whole data set gives. The
    closer `origin` is to the mean, compared with the spread, the less rounding: the mean of the
    first batch will do.

    Args:
        origin: The point the sums are about; the same for all that is added.
        x: Some samples.
        weights: One non-negative weight a sample.
        tile_size: Static; the largest number of rows of a tile. `None` picks one.
        axis_name: Static; the mapped axis over which the rows are sharded, if any.
    """
    checks.check_matrix("x", x, n_features=origin.shape[0])
    checks.check_weights(weights, x)

    def local(rows, w):
        rows = rows - origin[None]
        weight = jnp.asarray(rows.shape[0], rows.dtype) if w is None else w.sum()
        return weight, stats.column_sums(rows, w), _upper(stats.weigh(rows, w), rows)

    weight, total, upper = stats.accumulate(
        local,
        x,
        weights,
        tile_size=tile_size or rows_per_tile(*x.shape),
        axis_name=axis_name,
    )
    return Moments(weight, total, _symmetric(upper))


def products(
    origin: Float[Array, "d"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    n_columns: int,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[Callable[[Float[Array, "d b"]], Float[Array, "d b"]], Float[Array, ""]]:
    """`q -> M q` and the trace of `M = sum_i w_i (x_i - origin)(x_i - origin)'`.

    `M` is formed once where that is less work than to read `x` for every product.

    Args:
        origin: The point the sums are about.
        x: The samples.
        weights: One non-negative weight a sample.
        n_columns: Static; columns that will be multiplied in all.
        tile_size: Static; the largest number of rows of a tile. `None` picks one.
        axis_name: Static; the mapped axis over which the rows are sharded, if any.
    """
    n, d = x.shape
    tile_size = tile_size or rows_per_tile(n, d)
    if d + WIDTH <= 4 * n_columns:
        matrix = moments(origin, x, weights, tile_size=tile_size, axis_name=axis_name).products
        return lambda q: matmul(matrix, q), jnp.trace(matrix)

    def product(q):
        def local(rows, w):
            rows = rows - origin[None]
            return matmul(rows.T, stats.weigh(matmul(rows, q), w))

        return stats.accumulate(local, x, weights, tile_size=tile_size, axis_name=axis_name)

    def squares(rows, w):
        return stats.weigh((rows - origin[None]) ** 2, w).sum()

    trace = stats.accumulate(squares, x, weights, tile_size=tile_size, axis_name=axis_name)
    return product, trace


def gram(x: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """`x'x`, at little more than half the work of the product."""
    return _symmetric(_upper(x, x))


def rows_per_tile(n: int, d: int) -> int:
    """Rows of a tile of about a million numbers, a divisor of `n` if there is one near."""
    most = max(256, 2**20 // d)
    if most >= n:
        return n
    return next((t for t in range(most, most // 2, -1) if n % t == 0), most)


def _upper(left, right):
    """The blocks of a symmetric `left' right` on and above its diagonal."""
    d = left.shape[1]
    width = WIDTH if 2 * d > 3 * WIDTH else d
    blocks = [slice(start, min(start + width, d)) for start in range(0, d, width)]
    return [
        [matmul(left[:, rows].T, right[:, columns]) for columns in blocks[i:]]
        for i, rows in enumerate(blocks)
    ]


def _symmetric(upper):
    """The whole matrix from the blocks on and above its diagonal."""
    size = len(upper)
    rows = [
        jnp.concatenate([upper[j][i - j].T for j in range(i)] + upper[i], axis=1)
        for i in range(size)
    ]
    return jnp.concatenate(rows, axis=0)
