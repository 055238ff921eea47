"""Exact nearest neighbours, and what the graph they make looks like.

One matrix product a tile of queries finds candidates; their distances are then computed again from
differences, so that neither float32 nor data far from the origin spoils the order (`search` has the
details). Neighbours found elsewhere fit everywhere a `Neighbors` is asked for (see `drop_self`).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from unsup_jax.core.checks import check_choice, check_count, check_matrix
from unsup_jax.manifold import search


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
    `||x - y||`. A query is searched again with more care where that could have hidden a true
    neighbour: by differences in the end, for clusters small beside the distance between them, say.
    Of more than 512 features, the main 128 directions select the candidates if they can.

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
        entries = 2**23 if jax.default_backend() == "cpu" else 2**28
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

    ids = jnp.arange(x.shape[0], dtype=jnp.int32)
    own = ids if exclude_self else jnp.full_like(ids, -1)
    squares, indices = search.nearest(x, y, own, n_neighbors, tile_size)
    return Neighbors(squares / 2 if metric == "cosine" else jnp.sqrt(squares), indices)


def _on_sphere(x):
    """Unit rows: half their squared distance is 1 - cosine. Zeros get an axis of their own."""
    norms = jnp.linalg.norm(x, axis=1, keepdims=True)
    is_zero = norms == 0
    return jnp.concatenate([x / jnp.where(is_zero, 1, norms), is_zero.astype(x.dtype)], 1)


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
