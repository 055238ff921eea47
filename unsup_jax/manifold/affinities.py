"""Affinities of t-SNE: how much each pair of samples belongs together.

    p_(j|i) = exp(-beta_i ||x_i - x_j||^2) / sum_(k != i) exp(-beta_i ||x_i - x_k||^2),
    p_ij = (p_(j|i) + p_(i|j)) / 2n,

with `beta_i = 1 / (2 sigma_i^2)` such that the entropy of `p_(.|i)` is the logarithm of the
perplexity: an effective number of neighbours (van der Maaten & Hinton, JMLR 9, 2008).

`dense` holds all pairs and is one expression. `nearest` keeps neighbours only: where they go is
found on the host (`pattern`), their values are an expression again (`fill`), so that one pattern
serves a `vmap` over perplexities.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, ScalarLike
from scipy import sparse as scipy_sparse

from unsup_jax.core.checks import check_matrix
from unsup_jax.core.stats import map_rows
from unsup_jax.manifold.neighbors import Neighbors, as_indices, knn

DENSE_UP_TO = 2000  # samples; beyond, `joint` keeps the affinities of neighbours only
WIDTH = 32  # entries of a slice: a row of the sparse matrix is cut into slices this wide
PER_SLICE = ("p.rows", "p.columns", "p.values")  # what is sharded, if affinities are
_HALVINGS = 32  # of an interval of 60: beyond the digits of a float32
_FAR = 1e16  # in units of the largest squared distance: of energy 1e3 at the smallest `beta`
_TILE = 2**18  # squared distances at a time, for all the halvings of a tile in cache


class Sparse(NamedTuple):
    """A sparse symmetric matrix `p_ij`, its rows cut into slices of equal width.

    Attributes:
        rows: The row each slice belongs to, ascending, shape `(s,)`.
        columns: Columns of its entries, shape `(s, w)`; padding repeats the row.
        values: Its entries, shape `(s, w)`; padding is 0.
        mass: Sums of the rows of the matrix, shape `(n,)`.
    """

    rows: Int[Array, "s"]
    columns: Int[Array, "s w"]
    values: Float[Array, "s w"]
    mass: Float[Array, "n"]


class Pattern(NamedTuple):
    """Where the entries of a `Sparse` are and which neighbours they come from.

    Attributes:
        rows: As in `Sparse`.
        columns: As in `Sparse`.
        forward: The place of `p_(j|i)` among all neighbours, row by row; out of them if there is
            no such neighbour, shape `(s, w)`.
        backward: That of `p_(i|j)`.
    """

    rows: Int[Array, "s"]
    columns: Int[Array, "s w"]
    forward: Int[Array, "s w"]
    backward: Int[Array, "s w"]


Affinities = Array | Sparse


def conditional(
    squares: Float[Array, "n k"], perplexity: ScalarLike | Float[Array, "m"]
) -> Float[Array, "n k"]:
    """`p_(j|i)` from squared distances, by bisection on the entropy of each row.

    Args:
        squares: Squared distances; an infinite one leaves its pair out.
        perplexity: Traced. Several are combined by the mean of their probabilities. Where no
            `beta` reaches the perplexity (more duplicates than that, or fewer neighbours), the row
            is as near to it as can be.
    """
    perplexities = jnp.atleast_1d(jnp.asarray(perplexity, squares.dtype))

    def rows(tile):
        shifted = tile - tile.min(1, keepdims=True)
        return lax.map(lambda p: _bisect(shifted, p), perplexities).mean(0)

    return map_rows(rows, squares, tile_size=max(1, _TILE // squares.shape[1]))


def _bisect(squares, perplexity):
    there = jnp.where(jnp.isfinite(squares), squares, 0).max(1, keepdims=True)
    scale = jnp.where(there > 0, there, 1)
    # What is left out is so far away that at no `beta` it has a weight.
    squares = jnp.where(jnp.isfinite(squares), squares / scale, _FAR)

    def weigh(log_beta):
        energies = squares * jnp.exp(log_beta)[:, None]
        weights = jnp.exp(-energies)
        return energies, weights, weights.sum(1)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        energies, weights, total = weigh(middle)
        entropy = jnp.log(total) + (weights * energies).sum(1) / total
        # Entropy falls as beta rises.
        flat = entropy > jnp.log(perplexity)
        return jnp.where(flat, middle, low), jnp.where(flat, high, middle)

    # Both ends are beyond what float32 distances can tell apart.
    low, high = jnp.full_like(scale[:, 0], -30), jnp.full_like(scale[:, 0], 30)
    low, high = lax.fori_loop(0, _HALVINGS, halve, (low, high))
    _, weights, total = weigh((low + high) / 2)
    return weights / total[:, None]


def dense(
    x: Float[Array, "n d"], perplexity: ScalarLike | Float[Array, "m"] = 30.0
) -> Float[Array, "n n"]:
    """`p_ij` between all samples, summing to 1. Jittable; for up to some thousand samples.

    Raises:
        ValueError: If `x` is no matrix of two samples or more, or the perplexity exceeds n - 1.
    """
    check_matrix("x", x)
    n = x.shape[0]
    check_perplexity(perplexity, n - 1)
    index = jnp.arange(n)

    def rows(tile):
        mine, points = tile
        squares = ((points[:, None] - x[None]) ** 2).sum(2)
        return conditional(jnp.where(mine[:, None] == index[None], jnp.inf, squares), perplexity)

    p = map_rows(rows, (index, x), tile_size=max(1, _TILE // n))
    return (p + p.T) / (2 * n)


def nearest(neighbors: Neighbors, perplexity: ScalarLike | Float[Array, "m"] = 30.0) -> Sparse:
    """`p_ij` between neighbours, summing to 1; all others are 0. Not under `jit`.

    Three times as many neighbours as the perplexity are usual.

    Raises:
        ValueError: If the perplexity exceeds the number of neighbours.
    """
    check_perplexity(perplexity, neighbors.indices.shape[1])
    # The device computes while the host finds the places.
    probabilities = _conditional(neighbors.distances, perplexity)
    return fill(pattern(neighbors), probabilities)


def from_distances(
    where: Pattern, neighbors: Neighbors, perplexity: ScalarLike | Float[Array, "m"] = 30.0
) -> Sparse:
    """`nearest` once the pattern of these neighbours is known: an expression in the perplexity."""
    check_perplexity(perplexity, neighbors.indices.shape[1])
    return fill(where, _conditional(neighbors.distances, perplexity))


_conditional = jax.jit(lambda distances, perplexity: conditional(distances**2, perplexity))
_dense = jax.jit(dense)


def joint(x: Float[Array, "n d"], perplexity: ScalarLike | Float[Array, "m"] = 30.0) -> Affinities:
    """The affinities that `tsne.embed` uses: dense up to 2000 samples, of neighbours beyond."""
    n = x.shape[0]
    check_perplexity(perplexity, n - 1)
    if n <= DENSE_UP_TO:
        return _dense(x, np.asarray(perplexity, x.dtype))
    n_neighbors = min(n - 1, int(3 * np.max(perplexity)))
    return nearest(knn(x, n_neighbors=n_neighbors), perplexity)


def uniform(neighbors: Neighbors) -> Sparse:
    """`p_ij` for the kernel that treats all neighbours alike, `p_(j|i) = 1 / k`."""
    k = neighbors.indices.shape[1]
    return fill(pattern(neighbors), jnp.full_like(neighbors.distances, 1 / k))


def pattern(neighbors: Neighbors) -> Pattern:
    """Where the entries of the symmetric matrix of these neighbours go, found on the host."""
    n, k = neighbors.indices.shape
    columns = np.asarray(as_indices(neighbors, n)).ravel()
    # A number for each neighbour, counted from 1: in the lower half where it is mine, in the upper
    # half where I am its. Transposing sorts the columns, and so makes the sum quick.
    numbers = np.arange(1, n * k + 1, dtype=np.int64)
    starts = np.arange(0, n * k + 1, k)
    its = scipy_sparse.csr_array((numbers, columns, starts), shape=(n, n)).T.tocsr()
    mine = its.T.tocsr()
    its.data <<= 32
    both = mine + its

    degrees = np.diff(both.indptr)
    per_row = -(-degrees // WIDTH)
    rows = np.repeat(np.arange(n, dtype=np.int32), per_row)
    # In place and short where possible: memory seen for the first time is what takes longest.
    skipped = (np.cumsum(per_row) - per_row) * WIDTH - both.indptr[:-1]
    places = np.arange(both.nnz, dtype=np.int32)
    places += np.repeat(skipped.astype(np.int32), degrees)

    def slices(entries, out):
        out[places] = entries
        return jnp.asarray(out.reshape(-1, WIDTH))

    # Counted from 0, what is missing is out of range.
    missing = np.full(len(rows) * WIDTH, -1, np.int32)
    forward = slices((both.data & 2**32 - 1) - 1, missing.copy())
    backward = slices((both.data >> 32) - 1, missing)
    return Pattern(
        jnp.asarray(rows), slices(both.indices, np.repeat(rows, WIDTH)), forward, backward
    )


@jax.jit
def fill(where: Pattern, p: Float[Array, "n k"]) -> Sparse:
    """`(p_(j|i) + p_(i|j)) / 2n` in its places."""
    n, flat = p.shape[0], p.reshape(-1)
    forward, backward = (
        flat.at[places].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        for places in (where.forward, where.backward)
    )
    values = (forward + backward) / (2 * n)
    mass = jax.ops.segment_sum(values.sum(1), where.rows, n, indices_are_sorted=True)
    return Sparse(where.rows, where.columns, values, mass)


@jax.jit
def reorder(p: Sparse, order: Int[Array, "n"]) -> Sparse:
    """The same affinities of the samples in another order: `order[i]` comes i-th."""
    rank = jnp.argsort(order).astype(p.rows.dtype)
    rows = rank[p.rows]
    slices = jnp.argsort(rows)
    return Sparse(rows[slices], rank[p.columns[slices]], p.values[slices], p.mass[order])


def n_samples(p: Affinities) -> int:
    """Number of samples that affinities are between."""
    return (p.mass if isinstance(p, Sparse) else p).shape[0]


def entropy(p: Affinities, *, axis_name: str | None = None) -> Float[Array, ""]:
    """`-sum_ij p_ij log p_ij` in nats."""
    if isinstance(p, Sparse):
        total = -jax.scipy.special.xlogy(p.values, p.values).sum()
        return total if axis_name is None else lax.psum(total, axis_name)
    return -jax.scipy.special.xlogy(p, p).sum()


def pad(p: Sparse, n_devices: int) -> Sparse:
    """The same affinities in a number of slices that the devices divide, ready to be sharded.

    step = distributed.data_parallel(tsne.step, mesh, per_row=affinities.PER_SLICE)
    state = step(state, affinities.pad(p, mesh.size))
    """
    empty = -p.rows.shape[0] % n_devices
    last = jnp.full((empty,), p.rows[-1])
    columns = jnp.broadcast_to(last[:, None], (empty, p.columns.shape[1]))
    return p._replace(
        rows=jnp.concatenate([p.rows, last]),
        columns=jnp.concatenate([p.columns, columns]),
        values=jnp.pad(p.values, ((0, empty), (0, 0))),
    )


def check_perplexity(perplexity: ScalarLike | Array, at_most: int) -> None:
    """Raise `ValueError` if a perplexity that can be seen is below 1 or above `at_most`."""
    if isinstance(perplexity, jax.core.Tracer):
        return
    values = np.asarray(perplexity)
    if not ((values >= 1) & (values <= at_most)).all():
        raise ValueError(
            f"perplexity must be at least 1 and at most {at_most}, the number of other samples "
            f"it chooses from, got {values}"
        )
