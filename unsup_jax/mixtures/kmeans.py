"""K-means: k-means++ seeding (Arthur & Vassilvitskii 2007) and Lloyd's iteration (MLPP 11.4.2.5).

Minimises the mean squared distance of a sample to its nearest centre,
`J(c) = sum_i w_i min_k ||x_i - c_k||^2 / sum_i w_i`; times the total weight it is the inertia.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_count, check_matrix, check_weights
from unsup_jax.core.fit import Fit, Step, iterate
from unsup_jax.core.lanes import any_lane
from unsup_jax.core.linalg import matmul, middle, squared_distances
from unsup_jax.mixtures import mixing

TILE = 2000  # rows: one tile and its distances stay in a core's cache


class Stats(NamedTuple):
    """Additive sums about the centres they were taken at.

    Attributes:
        mass: Weight of the samples of each centre, shape (k,).
        first: Sum of their differences from it, shape (k, d).
        inertia: Sum of squared distances, shape ().
        weight: Total weight, shape ().
    """

    mass: Float[Array, "k"]
    first: Float[Array, "k d"]
    inertia: Float[Array, ""]
    weight: Float[Array, ""]


@partial(jax.jit, static_argnames=("n_components",))
def init(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    n_components: int,
) -> Float[Array, "k d"]:
    """Choose starting centres among the samples by greedy k-means++.

    Each next centre is drawn with probability proportional to `w_i D(x_i)^2`, with `D` the distance
    from the centres so far; of `2 + log K` draws the one that lowers the potential most is kept.

    Args:
        key: Random key.
        x: Data, shape (n, d).
        weights: Non-negative weights, shape (n,); samples of weight 0 are never chosen.
        n_components: Static; the number of centres.

    Raises:
        ValueError: If `n_components` is not between 1 and n.
    """
    check_matrix("x", x)
    check_weights(weights, x)
    check_count("n_components", n_components, x.shape[0])
    n_trials = 2 + int(math.log(n_components))
    w = jnp.ones(x.shape[0], x.dtype) if weights is None else weights

    u = jax.random.uniform(key, (n_components, n_trials), x.dtype)

    def draw(u, potential):
        # All potentials vanish when the centres so far sit on every distinct sample.
        potential = jnp.where(potential.sum() > 0, potential, w)
        cumulative = jnp.cumsum(potential)
        below = cumulative[None] <= (u * cumulative[-1])[:, None]
        return jnp.minimum(below.sum(1), x.shape[0] - 1)

    def choose(nearest, u):
        candidates = draw(u, w * nearest)
        distances = jnp.minimum(nearest[None], squared_distances(x[candidates], x))
        best = jnp.argmin(matmul(distances, w))
        return distances[best], candidates[best]

    first = draw(u[0, :1], w)
    _, others = lax.scan(choose, squared_distances(x[first], x)[0], u[1:])
    return x[jnp.concatenate([first, others])]


def assign(centers: Float[Array, "k d"], x: Float[Array, "n d"]) -> Int[Array, "n"]:
    """Index of the nearest centre of each sample; of equally near ones the first."""
    check_matrix("x", x, n_features=centers.shape[1])
    return stats.map_rows(_nearest(centers, x), x, tile_size=TILE)


def inertia(
    centers: Float[Array, "k d"], x: Float[Array, "n d"], weights: Float[Array, "n"] | None = None
) -> Float[Array, ""]:
    """Weighted sum of squared distances to the nearest centre."""
    check_matrix("x", x, n_features=centers.shape[1])
    check_weights(weights, x)
    return assign_step(centers, x, weights).inertia


def assign_step(
    centers: Float[Array, "k d"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Stats:
    """Assign samples to their nearest centres and sum them up: Lloyd's first half-step."""
    nearest = _nearest(centers, x)

    def local(rows, w):
        labels = nearest(rows)
        residuals = rows - centers[labels]
        squares = (residuals * residuals).sum(1)
        members = jax.nn.one_hot(labels, centers.shape[0], dtype=rows.dtype, axis=0)
        if w is not None:
            members, squares = members * w[None], squares * w
        weight = jnp.asarray(rows.shape[0], rows.dtype) if w is None else w.sum()
        return Stats(members.sum(1), matmul(members, residuals), squares.sum(), weight)

    return stats.accumulate(local, x, weights, tile_size=tile_size, axis_name=axis_name)


@partial(jax.jit, static_argnames=("max_iter", "tile_size", "axis_name"))
def fit(
    centers: Float[Array, "k d"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    tol: ScalarLike = 1e-4,
    *,
    max_iter: int = 100,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Fit:
    """Lloyd's iteration: assign samples to centres, move centres to the mean of their samples.

    A centre without samples moves onto the sample that lies farthest from its own centre, one such
    centre an iteration, so none is lost while distinct samples remain.

    Args:
        centers: Start, shape (k, d), for instance from `init`.
        x: Data, shape (n, d).
        weights: Non-negative weights, shape (n,).
        tol: Stops when the mean squared move of a centre is at most `tol` times the objective.
        max_iter: Static; largest number of updates.
        tile_size: Static; rows at a time.
        axis_name: Static; mapped axis over which the rows are sharded.

    Returns:
        `Fit` with the centres as params and the mean squared distance as objective, non-increasing.

    Raises:
        ValueError: For shapes that do not match or an `x` that is not floating point.
    """
    check_matrix("x", x)
    check_matrix("centers", centers, n_features=x.shape[1], like=x)
    check_weights(weights, x)

    def step(centers, x, weights):
        sums = assign_step(centers, x, weights, tile_size=tile_size, axis_name=axis_name)
        empty = sums.mass <= 0
        moved = centers + sums.first / jnp.where(empty, 1, sums.mass)[:, None]
        moved = lax.cond(
            any_lane(empty.any()),
            lambda: _reseed(moved, empty, centers, x, weights, tile_size, axis_name),
            lambda: moved,
        )
        objective = sums.inertia / sums.weight
        move = ((moved - centers) ** 2).sum(1).mean()
        return Step(moved, objective, error=move / jnp.where(objective > 0, objective, 1))

    lanes = mixing.LANES if axis_name is None else None
    return iterate(step, centers, tol, x, weights, max_iter=max_iter, lanes=lanes)


def _nearest(centers, x):
    """The index of the nearest centre, as a function of rows of `x`."""
    origin = middle(x)[None]  # of the data, so that all lanes of a vmap share it
    shifted = centers - origin
    half = 0.5 * (shifted * shifted).sum(1)[None]

    def nearest(rows):
        return jnp.argmin(half - matmul(rows - origin, shifted.T), axis=1).astype(jnp.int32)

    return nearest


def _reseed(moved, empty, centers, x, weights, tile_size, axis_name):
    """Put the first empty centre on the sample that lies farthest from its own centre.

    One at a time: the farthest samples of all tend to be neighbours of each other.
    """
    nearest = _nearest(centers, x)

    def squares(rows):
        return ((rows - centers[nearest(rows)]) ** 2).sum(1)

    distances = stats.map_rows(squares, x, tile_size=tile_size)
    if weights is not None:
        distances = jnp.where(weights > 0, distances, 0)
    index = jnp.argmax(distances)
    far, candidate = distances[index], x[index]
    if axis_name is not None:
        far, candidate = lax.all_gather((far, candidate), axis_name)
        far, candidate = far.max(), candidate[jnp.argmax(far)]
    target = jnp.argmax(empty)
    needed = (far > 0) & empty.any()
    return moved.at[target].set(jnp.where(needed, candidate, moved[target]))
