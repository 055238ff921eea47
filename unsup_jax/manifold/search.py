"""The search for the nearest rows: from quick to certain, each for what the one before left open.

A selection finds a few candidates and a bound of all distances that it did not look at. They are
ranked by their exact distances, the last one kept is compared with the bound, and rows in doubt are
handed to the next selection:

1. `_by_threshold` along a few orthogonal axes, for many features: there no distance is too large;
2. `_by_threshold`: all `||y||^2 - 2 x'y` below a threshold that only a few are expected to pass;
3. `_by_order`: the smallest of the same, ties by index;
4. `_by_order` of the `||x - y||^2` themselves, where rounding spoils the products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from unsup_jax.core import linalg, stats

# From queries (t, d) to candidates (t, c), where those beyond the last row stand for none; a bound
# (t,) of the squared distances of all others; and its rounding (t,), which leaves no doubt where it
# is nothing beside the distances. Infinite: a last candidate beyond the bound always leaves doubt.
Selection: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]

_SPARE = 16  # candidates beyond those asked for: room for rounding to shuffle the last ones
_GROUP = 8  # entries that share one in the next level of a selection
_HALVINGS = 30  # of the interval that holds a threshold, at most
_AXES = 128
_SHARE = 0.9  # of the variance that so many axes must hold to be of use
_SAMPLE = 2048  # rows that tell the axes
_GATHERED = 2**21  # entries of candidates at a time
# Of each byte (rows), the places of the bits that are set (columns), in order.
_BITS = np.arange(2**_GROUP)[:, None] >> np.arange(_GROUP) & 1
_NTH_BIT = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.int32).ravel()


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def nearest(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    own: Int[Array, "n"],
    n_neighbors: int,
    tile_size: int,
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """Squared distances and indices of the rows of `y` nearest to each of `x`, but for `own`."""
    n, d = x.shape
    m, tile = y.shape[0], min(tile_size, n)
    wanted, vague = n_neighbors + _SPARE, 4 * n_neighbors + _SPARE
    nothing = jnp.zeros((n, n_neighbors), x.dtype), jnp.zeros((n, n_neighbors), jnp.int32)
    state = nothing, jnp.ones(n, bool)
    search = partial(_search, x, y, own, tile)
    if d >= 4 * _AXES and m >= 100 * vague:
        axes, share = _main_axes(y)
        along = [_by_threshold(_products(y, 3, axes), vague)]
        state = lax.cond(share > _SHARE, partial(search, along, 0), lambda same: same, state)
    many = m >= _GROUP**2 * wanted
    products = _products(y, 3 if many else 2)
    selections = [_by_threshold(products, wanted)] if many else []
    selections += [_by_order(m, squares, wanted) for squares in (products, _differences(y))]
    # One loop over all that can be needed, with one ranking to compile.
    return lax.fori_loop(0, len(selections), partial(search, selections), state)[0]


@nearest.defjvp
def _nearest_jvp(n_neighbors, tile_size, primals, tangents):
    (x, y, own), (dx, dy, _) = primals, tangents
    squares, indices = nearest(x, y, own, n_neighbors, tile_size)
    apart, moved = x[:, None] - y[indices], dx[:, None] - dy[indices]
    change = 2 * (apart * moved).sum(2)
    return (squares, indices), (change, np.zeros(indices.shape, jax.dtypes.float0))


def _search(x, y, own, tile, selections, i, state):
    """What selection `i` finds for the rows in doubt."""
    order = jnp.argsort(~state[1]).astype(jnp.int32)  # rows in doubt first
    order = jnp.concatenate([order, order[:tile]])

    def step(j, state):
        rows = lax.dynamic_slice_in_dim(order, j * tile, tile)
        candidates, bound, rounding = lax.switch(i, selections, x[rows])
        found = _rank(x[rows], y, candidates, own[rows], state[0][0].shape[1])
        last = found[0][:, -1]
        # Ties beyond the spare candidates are no reason to search again.
        new = found, (bound < last) & (rounding > 1e-4 * last)
        return jax.tree.map(lambda old, new: old.at[rows].set(new), state, new)

    n_tiles = -(-state[1].sum(dtype=jnp.int32) // tile)
    return lax.fori_loop(0, n_tiles, step, state)


def _main_axes(y):
    """Orthonormal columns that hold much of the variance, and the share that they hold.

    Subspace iteration on some of the rows: any orthonormal columns serve, good ones serve better.
    """
    rows = y[:: -(-y.shape[0] // _SAMPLE)]
    rows = rows - rows.mean(0)[None]
    axes = jnp.linalg.qr(rows[:_AXES].T)[0]
    for _ in range(3):
        axes = jnp.linalg.qr(linalg.matmul(rows.T, linalg.matmul(rows, axes)))[0]
    return axes, (linalg.matmul(rows, axes) ** 2).sum() / (rows**2).sum()


def _products(y, levels, axes=None):
    """Of queries `x`: `||y||^2 - 2 x'y`, `||x||^2` and the rounding of their sum.

    One product; of projections, if there are `axes`. Columns are added up to full groups, so large
    that none is ever selected.
    """

    def project(a):
        return a if axes is None else linalg.matmul(a, axes)

    y = project(y)
    y_squares = (y * y).sum(1)
    padding = -y.shape[0] % _GROUP**levels
    heights = jnp.pad(y_squares, (0, padding), constant_values=jnp.finfo(y.dtype).max)
    references = jnp.concatenate([jnp.pad(y, ((0, padding), (0, 0))), heights[:, None]], axis=1)
    error = (4 + y.shape[1] ** 0.5) * jnp.finfo(y.dtype).eps

    def products(x):
        x = project(x)
        x_squares = (x * x).sum(1)
        factors = jnp.concatenate([-2 * x, jnp.ones_like(x[:, :1])], axis=1)
        return (
            linalg.matmul(factors, references.T),
            x_squares,
            error * (x_squares + y_squares.max()),
        )

    return products


def _differences(y):
    """Of queries: `||x - y||^2` as they are, with nothing to add and nothing rounded."""

    def differences(x):
        squares = lax.map(lambda row: ((y - row[None]) ** 2).sum(1), x)
        padding = -y.shape[0] % _GROUP**2
        nothing = jnp.zeros_like(x[:, 0])
        return jnp.pad(squares, ((0, 0), (0, padding)), constant_values=jnp.inf), nothing, nothing

    return differences


def _by_threshold(products, wanted):
    """Select all within a distance: about `wanted`."""

    def select(x):
        squares, x_squares, rounding = products(x)
        limits, candidates, crowded = _below(squares, wanted)
        # Projections are rounded as well, hence the 4.
        bound = jnp.where(crowded, -jnp.inf, limits + x_squares - 4 * rounding)
        return candidates, bound, jnp.full_like(bound, jnp.inf)

    return select


def _by_order(m, products, wanted):
    """Select the `wanted` of `m` rows that come first."""
    n_candidates = min(wanted, m)

    def select(x):
        squares, x_squares, rounding = products(x)
        limits, candidates = _smallest(squares, n_candidates)
        bound = limits[:, -1] + x_squares - rounding
        bound = jnp.full_like(bound, jnp.inf) if n_candidates == m else bound
        none = ((0, 0), (0, _capacity(wanted) - n_candidates))
        return jnp.pad(candidates, none, constant_values=m), bound, rounding

    return select


def _capacity(wanted):
    """Candidates that a selection may return."""
    return wanted + wanted // 4


def _rank(x, y, candidates, own, k):
    """The `k` nearest of the candidates by squared differences, ties by index."""
    m = y.shape[0]

    def rank(rows):
        x, candidates, own = rows
        candidates = jnp.sort(candidates, axis=1)
        allowed = (candidates != own[:, None]) & (candidates < m)
        differences = y[jnp.minimum(candidates, m - 1)] - x[:, None]
        squares = jnp.where(allowed, (differences**2).sum(2), jnp.inf)
        values, places = lax.top_k(-squares, k)
        return -values, jnp.take_along_axis(candidates, places, axis=1)

    tile_size = max(1, _GATHERED // (candidates.shape[1] * y.shape[1]))
    return stats.map_rows(rank, (x, candidates, own), tile_size=tile_size)


def _smallest(a: Float[Array, "t m"], k: int) -> tuple[Float[Array, "t k"], Int[Array, "t k"]]:
    """The `k` smallest entries of each row and their columns, ascending, ties by column.

    Exact, in stages: the `k` smallest entries lie in the `k` groups of columns with the smallest
    minima, ties between groups broken by their order.
    """
    t, m = a.shape
    if m % _GROUP or m < 2 * _GROUP * k:
        values, columns = lax.top_k(-a, k)
        return -values, columns
    grouped = a.reshape(t, -1, _GROUP)
    groups = jnp.sort(_smallest(grouped.min(2), k)[1], axis=1)
    members = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(t, -1)
    values, places = lax.top_k(-members, k)
    groups = jnp.take_along_axis(groups, places // _GROUP, axis=1)
    return -values, groups * _GROUP + places % _GROUP


def _below(
    a: Float[Array, "t m"], wanted: int
) -> tuple[Float[Array, "t"], Int[Array, "t c"], Bool[Array, "t"]]:
    """A threshold for each row, the columns of its entries up to there, and whether some are left.

    At least `wanted` entries, and typically few more. Places without a column hold `m` or more.
    Unlike a sort, all of this runs along the vectors and on every thread of a CPU.
    """
    levels = [a]
    while levels[-1].shape[1] >= _GROUP**2 * wanted and levels[-1].shape[1] % _GROUP**2 == 0:
        levels.append(_fold(levels[-1]).min(1))
    # Neighbours in the order of the columns are in different groups: few groups hold two.
    limits = _threshold(levels[-1], wanted, wanted + wanted // 8)
    capacity = _capacity(wanted)
    columns, crowded = _first(_fold(levels[-1] <= limits[:, None]), capacity)
    for level in reversed(levels[:-1]):
        folded = _fold(level)
        width = folded.shape[2]
        members = jnp.take_along_axis(folded, columns[:, None], axis=2, mode="clip")
        passed = (members <= limits[:, None, None]) & (columns < width)[:, None]
        places, more = _first(passed, capacity)
        groups = jnp.take_along_axis(columns, places % capacity, axis=1, mode="clip")
        columns = places // capacity * width + groups
        crowded |= more
    return limits, columns, crowded


def _fold(a):
    return a.reshape(a.shape[0], _GROUP, -1)


def _threshold(a, least, most):
    """A bound that at least `least` entries of each row do not exceed, and hardly over `most`."""

    def unfinished(state):
        i, _, _, counts = state
        return (i < _HALVINGS) & (counts > most).any()

    def halve(state):
        i, low, high, counts = state
        middle = low + (high - low) / 2
        below = (a <= middle[:, None]).sum(1, dtype=jnp.int32)
        enough = below >= least
        return (
            i + 1,
            jnp.where(enough, low, middle),
            jnp.where(enough, middle, high),
            jnp.where(enough, below, counts),
        )

    all_ = jnp.full(a.shape[0], a.shape[1], jnp.int32)
    return lax.while_loop(unfinished, halve, (0, a.min(1), a.max(1), all_))[2]


def _first(mask: Bool[Array, "t g b"], k: int) -> tuple[Int[Array, "t k"], Bool[Array, "t"]]:
    """The places in `(g, b)` of the first `k` that are true, `g b` if there are none; any more?"""
    b = mask.shape[2]
    powers = 2 ** jnp.arange(_GROUP, dtype=jnp.int32)[None, :, None]
    bits = jnp.where(mask, powers, 0).sum(1, dtype=jnp.int32)
    counts = mask.sum(1, dtype=jnp.int32)
    ends = jnp.cumsum(counts, axis=1, dtype=jnp.int32)
    ordinals = jnp.arange(k, dtype=jnp.int32)
    search = partial(jnp.searchsorted, v=ordinals, side="right")  # as a loop: the least to compile
    blocks = jax.vmap(search)(ends).astype(jnp.int32)
    # What is to be known of a block in one number: its bits, and how many are set before it.
    known = (ends - counts) * 2**_GROUP + bits
    known = jnp.take_along_axis(known, blocks, axis=1, mode="clip")
    places = known % 2**_GROUP * _GROUP + ordinals[None] - known // 2**_GROUP
    parts = jnp.asarray(_NTH_BIT).at[places].get(mode="clip")
    return jnp.where(blocks < b, parts * b + blocks, _GROUP * b), ends[:, -1] > k
