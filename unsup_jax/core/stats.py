"""Additive sufficient statistics: sums over tiles of rows, over devices, over streamed batches.

A model writes one function `local(x, weights) -> sums` for some rows. Because sums add, the same
function serves a whole array, tiles of it that fit the cache, the shards of several devices and the
batches of a data set larger than memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from unsup_jax.core.linalg import matmul, middle

Stats = TypeVar("Stats")
Data = TypeVar("Data")


def add(a: Stats, b: Stats) -> Stats:
    """The statistics of two data sets together: leaf by leaf `a + b`."""
    return jax.tree.map(operator.add, a, b)


def accumulate(
    local: Callable[[Data, Float[Array, "..."] | None], Stats],
    x: Data,
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Stats:
    """Sum `local(x, weights)` over tiles of rows and over the devices of `axis_name`.

    Tiles bound the memory of the intermediates and keep them in cache. They have equal length; the
    last one, when the rows do not divide, overlaps its neighbour with weight 0 there.

    Args:
        local: Sums of some rows. Must treat a weight of 0 as a missing row.
        x: Array, or pytree of arrays, with samples along the leading axis.
        weights: One non-negative weight a sample; `None` means ones, at no cost.
        tile_size: Static; the largest number of rows of a tile. `None` takes all rows at once.
        axis_name: Static; the mapped axis over which the rows are sharded, if any.
    """
    x, weights = jax.tree.map(jnp.asarray, (x, weights))
    n = jax.tree.leaves(x)[0].shape[0]
    if tile_size is None or tile_size >= n:
        total = local(x, weights)
    else:
        total = _accumulate_tiles(local, x, weights, n, tile_size)
    return total if axis_name is None else lax.psum(total, axis_name)


def _accumulate_tiles(local, x, weights, n, tile_size):
    n_tiles = -(-n // tile_size)
    tile = -(-n // n_tiles)
    dtype = jax.tree.leaves(x)[0].dtype

    def sums(i):
        start = jnp.minimum(i * tile, n - tile)
        rows = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, tile), (x, weights))
        if n_tiles * tile != n:
            fresh = (start + jnp.arange(tile) >= i * tile).astype(dtype)
            rows = (rows[0], fresh if rows[1] is None else fresh * rows[1])
        return local(*rows)

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(sums, 0))
    return lax.fori_loop(0, n_tiles, lambda i, total: add(total, sums(i)), zeros)


def total_weight(
    x: Float[Array, "n d"], weights: Float[Array, "n"] | None, axis_name: str | None = None
) -> Float[Array, ""]:
    """The number of samples, or the sum of their weights, over all devices."""
    total = jnp.asarray(x.shape[0], x.dtype) if weights is None else weights.sum()
    return total if axis_name is None else lax.psum(total, axis_name)


def weigh(rows: Float[Array, "n d"], weights: Float[Array, "n"] | None) -> Float[Array, "n d"]:
    """Multiply every row by its weight, if there are weights."""
    return rows if weights is None else rows * weights[:, None]


def column_sums(
    x: Float[Array, "n d"], weights: Float[Array, "n"] | None = None
) -> Float[Array, "d"]:
    """`sum_i w_i x_i`, as a matrix product: on a CPU far faster than a reduction over rows."""
    return matmul(jnp.ones_like(x[:, 0]) if weights is None else weights, x)


def mean(
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, "d"]:
    """Weighted mean of the rows, exact for data far from the origin.

    Sums are taken relative to a point amid the rows: an offset of 1e4 costs no digits in float32.
    """
    origin = middle(x) if axis_name is None else lax.pmean(middle(x), axis_name)

    def local(rows, w):
        return column_sums(rows - origin[None], w)

    total = total_weight(x, weights, axis_name)
    sums = accumulate(local, x, weights, tile_size=tile_size, axis_name=axis_name)
    return origin + sums / jnp.where(total > 0, total, 1)


def map_rows(function: Callable[[Data], Stats], x: Data, *, tile_size: int | None = None) -> Stats:
    """`function(x)` for a function that treats rows alone, tile by tile to bound its memory.

    Args:
        function: From rows to a pytree with one entry a row along the leading axis.
        x: Array, or pytree of arrays, with samples along the leading axis.
        tile_size: Static; the largest number of rows of a tile. `None` takes all rows at once.
    """
    x = jax.tree.map(jnp.asarray, x)
    n = jax.tree.leaves(x)[0].shape[0]
    if tile_size is None or tile_size >= n:
        return function(x)
    n_tiles = -(-n // tile_size)
    tile = -(-n // n_tiles)

    def rows(i):
        start = jnp.minimum(i * tile, n - tile)
        return function(jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, tile), x))

    tiles = lax.map(rows, jnp.arange(n_tiles))
    if n_tiles * tile == n:
        return jax.tree.map(lambda a: a.reshape(n, *a.shape[2:]), tiles)
    last = n - (n_tiles - 1) * tile
    return jax.tree.map(
        lambda a: jnp.concatenate([a[:-1].reshape(-1, *a.shape[2:]), a[-1, tile - last :]]), tiles
    )


def share_rows(x: Float[Array, "n d"], axis_name: str) -> tuple[Array, Float[Array, "m"]]:
    """This device's even share of rows that all know, and weights: 0 for what fills it up."""
    n = x.shape[0]
    each = -(-n // lax.axis_size(axis_name))
    rows = lax.axis_index(axis_name) * each + jnp.arange(each)
    return x[jnp.minimum(rows, n - 1)], (rows < n).astype(x.dtype)


def collect_rows(shares: Data, n: int, axis_name: str) -> Data:
    """All `n` rows, from what every device found for its share of them."""
    return jax.tree.map(lambda a: lax.all_gather(a, axis_name, tiled=True)[:n], shares)
