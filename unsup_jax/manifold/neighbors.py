"""Exact nearest neighbours, and what the graph they make looks like.

One matrix product a tile of queries finds candidates; their distances are then computed again from
differences, so that neither float32 nor data far from the origin spoils the order. Approximate
neighbours found elsewhere fit everywhere a `Neighbors` is asked for (see `drop_self`).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from unsup_jax.core import linalg
from unsup_jax.core.checks import check_choice, check_count, check_matrix

_SPARE = 16  # candidates beyond `n_neighbors`: room for rounding to shuffle the last ones
_GROUP = 8  # columns that share one entry in the stage before theirs of the selection


class Neighbors(NamedTuple):
    """The nearest references of each query, nearest first, ties by index.

    Attributes:
        distances: Euclidean distances (or 1 - cosine similarity), shape `(n, k)`.
        indices: Rows of the reference set, int32, shape `(n, k)`.
    """

    distances: Float[Array, "n k"]
    indices: Int[Array, "n k"]


def knn(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"] | None = None,
    *,
    n_neighbors: int,
    metric: str = "euclidean",
    tile_size: int | None = None,
) -> Neighbors:
    """The `n_neighbors` rows of `y` nearest to each row of `x`, exactly.

    Without `y`, the neighbours are sought in `x` itself and a row is not its own neighbour (its
    duplicates are). Candidates are selected by `||x||^2 - 2 x'y + ||y||^2` and ordered by
    `||x - y||`. Where the rounding of the first could have hidden a true neighbour (clusters small
    beside the distance between them, say), that tile of queries is searched again by differences.

    Args:
        x: The queries.
        y: The references; `None` means `x`, without each row itself.
        n_neighbors: Static; how many.
        metric: Static; "euclidean", or "cosine" for `1 - x'y / (||x|| ||y||)`, in which a row of
            zeros is at distance 1 of every row that is not zero.
        tile_size: Static; queries at a time. `None` keeps a tile of distances in a CPU's cache, or
            within 1 GiB elsewhere.

    Raises:
        ValueError: If a shape or `metric` is wrong, `n_neighbors` exceeds the number of references
            (minus one without `y`), or an entry is not finite (seen outside of `jit` only).
    """
    check_matrix("x", x)
    check_choice("metric", metric, ("euclidean", "cosine"))
    if y is None:
        check_count("n_neighbors", n_neighbors, x.shape[0] - 1)
    else:
        check_matrix("y", y, n_features=x.shape[1])
        check_count("n_neighbors", n_neighbors, y.shape[0])
    check_finite("x", x)
    if y is not None:
        check_finite("y", y)
    if tile_size is None:
        entries = 2**22 if jax.default_backend() == "cpu" else 2**28
        tile_size = max(8, entries // (x if y is None else y).shape[0])
    return _knn(x, y, n_neighbors=n_neighbors, metric=metric, tile_size=tile_size)


def check_finite(name: str, x: Array) -> None:
    """Raise `ValueError` if the entries of `x` can be seen (no `jit`) and one is not finite."""
    if isinstance(x, jax.core.Tracer):
        return
    # On the host, also within someone's jit: nothing to compile.
    if not np.isfinite(np.asarray(x)).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")


@partial(jax.jit, static_argnames=("n_neighbors", "metric", "tile_size"))
def _knn(x, y, *, n_neighbors, metric, tile_size):
    exclude_self = y is None
    y = x if exclude_self else y
    if metric == "cosine":
        x, y = _on_sphere(x), _on_sphere(y)
    # About a row in the middle of the data (not about the mean itself): whole numbers stay whole,
    # and the ties between them exact.
    centre = y[jnp.argmin(((y - y.mean(0)[None]) ** 2).sum(1))]
    x, y = x - centre[None], y - centre[None]

    n = x.shape[0]
    tile = min(tile_size, n)
    n_tiles = -(-n // tile)
    ids = jnp.arange(n_tiles * tile, dtype=jnp.int32) % n
    own = ids if exclude_self else jnp.full_like(ids, -1)
    search = _searcher(y, n_neighbors)
    found = lax.map(
        lambda rows: search(x[rows[0]], rows[1]),
        (ids.reshape(n_tiles, tile), own.reshape(n_tiles, tile)),
    )
    squares, indices = jax.tree.map(lambda a: a.reshape(-1, n_neighbors)[:n], found)
    return Neighbors(squares / 2 if metric == "cosine" else jnp.sqrt(squares), indices)


def _on_sphere(x):
    """Unit rows: half their squared distance is 1 - cosine. Zeros get an axis of their own."""
    norms = jnp.linalg.norm(x, axis=1, keepdims=True)
    is_zero = norms == 0
    return jnp.concatenate([x / jnp.where(is_zero, 1, norms), is_zero.astype(x.dtype)], 1)


def _searcher(y, n_neighbors):
    """A function of `(x, own)`: squared distances and indices of the nearest rows but for `own`."""
    m, d = y.shape
    n_candidates = min(n_neighbors + _SPARE, m)
    y_squares = (y * y).sum(1)
    # Rows that fill up the last groups, so far away that none of them is ever selected.
    padding = -m % _GROUP**2
    far = jnp.finfo(y.dtype).max
    heights = jnp.pad(y_squares, (0, padding), constant_values=far)
    references = jnp.concatenate([jnp.pad(y, ((0, padding), (0, 0))), heights[:, None]], axis=1)

    def search(x, own):
        ones = jnp.ones_like(x[:, :1])
        partial_squares = linalg.matmul(jnp.concatenate([-2 * x, ones], axis=1), references.T)
        limits, candidates = _smallest(partial_squares, n_candidates)
        result = _rank(x, y, candidates, own, n_neighbors)

        # Every row that was not selected has a rounded square of at least `limits`.
        x_squares = (x * x).sum(1)
        rounding = (4 + d**0.5) * jnp.finfo(y.dtype).eps * (x_squares + y_squares.max())
        last = result[0][:, -1]
        hidden = limits[:, -1] + x_squares - rounding < last
        # Ties beyond the spare candidates are no reason to search again.
        coarse = rounding > 1e-4 * last

        def by_differences():
            squares = lax.map(lambda row: ((y - row[None]) ** 2).sum(1), x)
            squares = jnp.pad(squares, ((0, 0), (0, padding)), constant_values=far)
            return _rank(x, y, _smallest(squares, n_candidates)[1], own, n_neighbors)

        if n_candidates == m:
            return result
        return lax.cond((hidden & coarse).any(), by_differences, lambda: result)

    return search


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


def _rank(x, y, candidates, own, k):
    """The `k` nearest of the candidates by squared differences, ties by index."""
    candidates = jnp.sort(candidates, axis=1)
    # What pads can be a candidate only where nearly all rows are; it never wins.
    allowed = (candidates != own[:, None]) & (candidates < y.shape[0])
    differences = y[jnp.minimum(candidates, y.shape[0] - 1)] - x[:, None]
    squares = jnp.where(allowed, (differences**2).sum(2), jnp.inf)
    values, places = lax.top_k(-squares, k)
    return -values, jnp.take_along_axis(candidates, places, axis=1)


def drop_self(neighbors: Neighbors) -> Neighbors:
    """Neighbours without each row itself, one column fewer.

    Most libraries list a row as its own nearest neighbour; this one does not. A row that is missing
    from its own list (hidden by duplicates) loses its last neighbour instead.
    """
    distances, indices = neighbors
    n, k = indices.shape
    is_self = indices == jnp.arange(n, dtype=indices.dtype)[:, None]
    drop = jnp.where(is_self.any(1), is_self.argmax(1), k - 1)
    before = jnp.arange(k - 1)[None]
    kept = jnp.where(before < drop[:, None], before, before + 1)
    return Neighbors(*(jnp.take_along_axis(a, kept, axis=1) for a in (distances, indices)))


@jax.jit
def count_closed(indices: Int[Array, "n k"]) -> Int[Array, ""]:
    """The number of closed groups: sets of rows that reach each other and nothing else.

    These are the strongly connected components of the graph "row -> its neighbours" that no edge
    leaves. Each is a world of its own to anything that describes a point by its neighbours: with
    more than one, the embedding of `unsup_jax.manifold.lle` can shrink each to a single point.
    """
    n = indices.shape[0]
    labels = jnp.arange(n, dtype=jnp.int32)
    # top[i]: the largest row that i reaches. low[i]: the smallest `top` of a row that i reaches.
    top = _until_stable(lambda old: jnp.maximum(old, old[indices].max(1)), labels)
    low = _until_stable(lambda old: jnp.minimum(old, old[indices].min(1)), top)
    # The largest row of a closed group reaches no larger one, and all it reaches come back to it.
    return ((top == labels) & (low == labels)).sum(dtype=jnp.int32)


def _until_stable(spread, labels):
    """Repeat `spread` for labels that name rows within reach; so do the labels of those rows."""

    def advance(state):
        new = spread(state[0])
        new = spread(new[new])
        return new, (new != state[0]).any()

    return lax.while_loop(lambda state: state[1], advance, (labels, jnp.asarray(True)))[0]


@jax.jit
def count_connected(sets: Int[Array, "n k"]) -> Int[Array, ""]:
    """The number of connected components when all members of a row of `sets` belong together.

    Rows that belong to no set of another count on their own.
    """
    labels = jnp.arange(sets.shape[0], dtype=jnp.int32)

    def spread(old):
        smallest = jnp.broadcast_to(old[sets].min(1, keepdims=True), sets.shape)
        return old.at[sets].min(smallest)

    return (_until_stable(spread, labels) == labels).sum(dtype=jnp.int32)


def as_indices(neighbors: Neighbors, n: int) -> Int[Array, "n k"]:
    """The indices of neighbours found elsewhere, checked against the `n` rows they refer to."""
    indices = neighbors.indices
    if jnp.ndim(indices) != 2 or jnp.shape(indices)[0] != n:
        raise ValueError(f"neighbors.indices must have shape ({n}, k), got {jnp.shape(indices)}")
    if not jnp.issubdtype(jnp.result_type(indices), jnp.integer):
        raise ValueError(f"neighbors.indices must be integers, got {jnp.result_type(indices)}")
    return jnp.asarray(indices, jnp.int32)
