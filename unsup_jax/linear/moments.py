"""Moments of data, summed over tiles, devices or batches: what PCA is made from."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from unsup_jax.core import checks, stats
from unsup_jax.core.linalg import matmul
from unsup_jax.linear import svd


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
    blocks = _blocks(x.shape[1])

    def local(rows, w):
        rows = rows - origin[None]
        weighted = svd.weigh(rows, w)
        weight = jnp.asarray(rows.shape[0], x.dtype) if w is None else w.sum()
        # Half of a symmetric matrix is enough, and cheaper by blocks than all of it.
        parts = [rows[:, a:b] for a, b in blocks]
        left = parts if w is None else [weighted[:, a:b] for a, b in blocks]
        upper = [[matmul(p.T, q) for q in parts[i:]] for i, p in enumerate(left)]
        return weight, weighted.sum(0), upper

    weight, total, upper = stats.accumulate(
        local,
        x,
        weights,
        tile_size=tile_size or svd.rows_per_tile(*x.shape),
        axis_name=axis_name,
    )
    return Moments(weight, total, _symmetric(upper))


def _blocks(d):
    """Column ranges for half a Gram matrix: narrow saves work, too narrow is slow."""
    width = 112 if d > 168 else d
    return [(start, min(start + width, d)) for start in range(0, d, width)]


def _symmetric(upper):
    """The whole matrix from the blocks on and above its diagonal."""
    size = len(upper)
    rows = [
        jnp.concatenate([upper[j][i - j].T for j in range(i)] + upper[i], axis=1)
        for i in range(size)
    ]
    return jnp.concatenate(rows, axis=0)
