"""t-distributed stochastic neighbour embedding (van der Maaten & Hinton, JMLR 9, 2008).

Samples with affinities `p_ij` (see `affinities`) become points `y_i` of a map whose similarities

    q_ij = k(|y_i - y_j|) / Z,    k(d) = (1 + d^2 / alpha)^(-(alpha + 1) / 2),    Z = sum_(i != j) k

(`alpha`, the degrees of freedom, is 1) resemble them: minimised is, in nats,

    KL(P || Q) = sum_ij p_ij log(p_ij / q_ij),
    dKL/dy_i = 2 (alpha + 1) / alpha sum_j (p_ij - q_ij) (y_i - y_j) / (1 + d_ij^2 / alpha).

The sum over `p` is the attraction, that over `q` the repulsion (see `repulsion`). `embed` does the
whole job; `fit` is one expression, to be jitted and vmapped; `iterate` yields the state every few
steps; `step` is pure, and its state can be saved and resumed; `transform` places new samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import fit as driver
from unsup_jax.core.checks import check_choice, check_count, check_matrix
from unsup_jax.core.fit import Fit, Step
from unsup_jax.core.linalg import matmul
from unsup_jax.core.stats import column_sums
from unsup_jax.manifold import affinities, grid, repulsion, starts
from unsup_jax.manifold.affinities import Affinities, Sparse, joint
from unsup_jax.manifold.attraction import along_curve, attraction, energy
from unsup_jax.manifold.neighbors import check_finite
from unsup_jax.manifold.placement import transform
from unsup_jax.manifold.repulsion import Repulsion

__all__ = [
    "Schedule",
    "State",
    "embed",
    "fit",
    "gradient",
    "iterate",
    "joint",
    "kl_divergence",
    "start",
    "step",
    "transform",
]

EXACT_UP_TO = affinities.DENSE_UP_TO  # samples; beyond, maps of 1 and 2 dimensions use the grid
_LONGEST_STEP = 5.0
_SETTLED = 50  # steps after which neighbours are near each other
_FEW = 2**15  # points that a cache close to the core holds, in whatever order
_PAIRS_OF_A_LANE = 2**19  # at a time in `fit`: those of eight lanes of a `vmap` fit a cache


class State(NamedTuple):
    """Everything an optimisation needs to go on.

    Attributes:
        embedding: The map, shape `(n, q)`.
        velocity: The last update of each point.
        gains: The factor of the learning rate of each coordinate.
        n_steps: Updates made so far: where in the schedule this is.
    """

    embedding: Float[Array, "n q"]
    velocity: Float[Array, "n q"]
    gains: Float[Array, "n q"]
    n_steps: Int[Array, ""]


class Schedule(NamedTuple):
    """Hyperparameters of the optimisation, all traced: sweep any of them with `vmap`.

    Attributes:
        learning_rate: `None` stands for n / (the exaggeration in force), of Belkina et al.,
            Nature Communications 10 (2019). It counts the gradient without its factor of 4.
        early_exaggeration: Factor of the attraction in the first `early_iter` steps.
        early_iter: Number of those.
        exaggeration: Factor of the attraction afterwards.
        late_exaggeration: Factor from step `late_iter` on.
        late_iter: Where late exaggeration begins; never, by default.
        early_momentum: Share of the last update that goes on, in the first `early_iter` steps.
        momentum: The same afterwards.
    """

    learning_rate: ScalarLike | None = None
    early_exaggeration: ScalarLike = 12.0
    early_iter: ScalarLike = 250
    exaggeration: ScalarLike = 1.0
    late_exaggeration: ScalarLike = 1.0
    late_iter: ScalarLike = 2**30
    early_momentum: ScalarLike = 0.8
    momentum: ScalarLike = 0.8


USUAL = Schedule()


def start(embedding: Float[Array, "n q"]) -> State:
    """The state in which an optimisation from this map begins: at rest."""
    check_matrix("embedding", embedding)
    y = jnp.asarray(embedding)
    # Constants of the host: for them nothing is compiled.
    at_rest, gains = (jnp.asarray(f(y.shape, y.dtype)) for f in (np.zeros, np.ones))
    return State(y, at_rest, gains, jnp.asarray(np.int32(0)))


def kl_divergence(
    embedding: Float[Array, "n q"],
    p: Affinities,
    repelled: Repulsion | None = None,
    *,
    dof: float = 1.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """`KL(P || Q)` in nats; `repelled` is the repulsion in this map, `None` means the exact one."""
    repelled = _repelled(embedding, repelled, dof, axis_name)
    constant = affinities.entropy(p, axis_name=axis_name)
    attracted = energy(embedding, p, dof=dof, axis_name=axis_name)
    return attracted + jnp.log(repelled.normalizer) - constant


def gradient(
    embedding: Float[Array, "n q"],
    p: Affinities,
    exaggeration: ScalarLike = 1.0,
    repelled: Repulsion | None = None,
    attracted: Float[Array, "n q"] | None = None,
    *,
    dof: float = 1.0,
    axis_name: str | None = None,
) -> Float[Array, "n q"]:
    """The derivative of `kl_divergence`, with `p` multiplied by the exaggeration.

    Args:
        embedding: The map.
        p: Affinities, dense or sparse.
        exaggeration: Factor of the attraction.
        repelled: The repulsion in this map; `None` means the exact one.
        attracted: The attraction in this map; `None` means that it is still to be found.
        dof: Static; degrees of freedom.
        axis_name: Static; the mapped axis over which the slices of `p` are sharded, if any. The
            map is whole on every device.
    """
    exaggeration = jnp.asarray(exaggeration, embedding.dtype)
    if repelled is None and axis_name is None and not isinstance(p, Sparse):
        return _gradient_of_all_pairs(embedding, p, exaggeration, dof)
    repelled = _repelled(embedding, repelled, dof, axis_name)
    if attracted is None:
        attracted = attraction(embedding, p, dof=dof, axis_name=axis_name)
    pull = exaggeration * attracted
    # `force` is (alpha + 1) / alpha times the sum over w k (y_i - y_j).
    return 2 * ((dof + 1) / dof * pull - repelled.force / repelled.normalizer)


def _repelled(y, repelled, dof, axis_name):
    """The repulsion given, or the exact one."""
    return repulsion.exact(y, dof=dof, axis_name=axis_name) if repelled is None else repelled


def _gradient_of_all_pairs(y, p, exaggeration, dof):
    """Attraction and repulsion as one matrix of weights, as large as `p`: half the passes."""
    w, k = repulsion.kernel(repulsion.squared_distances(y, y), dof=dof)
    total = k.sum() - y.shape[0]
    charges = jnp.concatenate([y, jnp.ones_like(y[:, :1])], 1)
    sums = matmul(w * (exaggeration * p - k / total), charges)
    return 2 * (dof + 1) / dof * (y * sums[:, -1:] - sums[:, :-1])


def step(
    state: State,
    p: Affinities,
    schedule: Schedule = USUAL,
    repelled: Repulsion | None = None,
    attracted: Float[Array, "n q"] | None = None,
    *,
    dof: float = 1.0,
    axis_name: str | None = None,
) -> State:
    """One update: gradient descent with momentum and gains.

    A coordinate's gain grows by 0.2 while it moves down its gradient and shrinks by a fifth where
    it does not (Jacobs, 1988). No point moves further than 5 at a time, and the mean of the map
    stays 0.

    Args:
        state: Where we are.
        p: Affinities, dense or sparse.
        schedule: Hyperparameters.
        repelled: The repulsion in this map; `None` means the exact one.
        attracted: The attraction in this map; `None` means that it is still to be found.
        dof: Static; degrees of freedom.
        axis_name: Static; the mapped axis over which the slices of `p` are sharded, if any. The
            map is whole on every device.
    """
    y = state.embedding
    momentum, exaggeration, rate = _now(schedule, state)
    slope = gradient(y, p, exaggeration, repelled, attracted, dof=dof, axis_name=axis_name)
    downhill = jnp.sign(state.velocity) != jnp.sign(slope)
    gains = jnp.where(downhill, state.gains + 0.2, state.gains * 0.8 + 0.01)
    velocity = momentum * state.velocity - rate / 4 * gains * slope
    velocity = lax.optimization_barrier(velocity)  # or each use of it computes it again
    # Coordinate by coordinate: on a CPU that is far faster than a norm of rows of two numbers.
    length = jnp.sqrt(sum(velocity[:, i] ** 2 for i in range(y.shape[1])))
    velocity = velocity * (_LONGEST_STEP / jnp.maximum(length, _LONGEST_STEP))[:, None]
    y = y + velocity
    return State(y - (column_sums(y) / y.shape[0])[None], velocity, gains, state.n_steps + 1)


def _now(schedule, state):
    """Momentum, exaggeration and learning rate of the coming step."""
    early = state.n_steps < schedule.early_iter
    late = state.n_steps >= schedule.late_iter
    exaggeration = jnp.where(late, schedule.late_exaggeration, schedule.exaggeration)
    exaggeration = jnp.where(early, schedule.early_exaggeration, exaggeration)
    momentum = jnp.where(early, schedule.early_momentum, schedule.momentum)
    rate = schedule.learning_rate
    rate = state.embedding.shape[0] / exaggeration if rate is None else rate
    return tuple(jnp.asarray(a, state.embedding.dtype) for a in (momentum, exaggeration, rate))


@partial(jax.jit, static_argnames=("dof", "max_iter", "axis_name"))
def fit(
    state: State | Float[Array, "n q"],
    p: Affinities,
    schedule: Schedule = USUAL,
    tol: ScalarLike = -1.0,
    *,
    dof: float = 1.0,
    max_iter: int = 750,
    axis_name: str | None = None,
) -> Fit:
    """Optimise a map with the exact gradient: one expression, for up to some thousand samples.

    Args:
        state: A map, or the state to resume.
        p: Affinities, dense or sparse.
        schedule: Hyperparameters.
        tol: Stops when the KL divergence changes by at most this; never, by default.
        dof: Static; degrees of freedom.
        max_iter: Static; number of updates.
        axis_name: As in `step`.

    Returns:
        `Fit` with a `State` as parameters and the KL divergence in nats (without exaggeration) as
        objective, minimised though not step by step.

    Raises:
        ValueError: If shapes do not match.
    """
    begin = _begin(state, p)
    options: dict[str, Any] = {"dof": dof, "axis_name": axis_name}
    constant = affinities.entropy(p, axis_name=axis_name)

    def update(state):
        y = state.embedding
        repelled = repulsion.exact(y, tile_pairs=_PAIRS_OF_A_LANE, **options)
        objective = energy(y, p, **options) + jnp.log(repelled.normalizer) - constant
        return Step(step(state, p, schedule, repelled, **options), objective)

    return driver.iterate(update, begin, tol, max_iter=max_iter)


def iterate(
    state: State | Float[Array, "n q"],
    p: Affinities,
    schedule: Schedule = USUAL,
    *,
    dof: float = 1.0,
    max_iter: int = 750,
    chunk: int = 50,
    gradient: str = "auto",
) -> Iterator[State]:
    """Yield the state every `chunk` updates, until `max_iter` of them are done in all.

    Stop when you like, save what was yielded, and pass it in again to go on. The grid is made anew
    whenever the map outgrows it; from the largest on (for maps 920 wide), the distance of the nodes
    grows instead, and errors with it. More than 32768 points of sparse affinities are kept in an
    order of their own from step 50 on, near ones side by side; what is yielded is in that of `p`.

    Args:
        state: A map, or the state to resume; its updates count.
        p: Affinities, dense or sparse.
        schedule: Hyperparameters.
        dof: Degrees of freedom.
        max_iter: Updates in all.
        chunk: Updates between two states.
        gradient: "exact", "grid" (1-D and 2-D), or "auto": the grid for more than 2000 points.

    Raises:
        ValueError: If shapes do not match, or a choice is unknown or impossible.
    """
    check_count("chunk", chunk)
    reached = _begin(state, p)
    on_grid = _on_grid(gradient, *reached.embedding.shape)
    advance = _advance_on_grid if on_grid else _advance
    done = int(reached.n_steps)
    places = None  # of the points, once they are in an order of their own
    while done < max_iter:
        if places is None and done >= _SETTLED and _is_scattered(p):
            # Points have found their neighbours: they go on side by side in memory.
            order = along_curve(reached.embedding)
            reached, p = _take(reached, order), affinities.reorder(p, order)
            places = jnp.argsort(order)
        end = min(done + chunk, max_iter)
        while done < end:
            reached = advance(reached, p, schedule, end, dof=dof)
            done = int(reached.n_steps)
        yield reached if places is None else _take(reached, places)


def _is_scattered(p):
    return isinstance(p, Sparse) and affinities.n_samples(p) > _FEW


@jax.jit
def _take(state, order):
    """The state of the points in another order."""
    embedding, velocity, gains, n_steps = state
    return State(embedding[order], velocity[order], gains[order], n_steps)


@partial(jax.jit, static_argnames=("dof",))
def _advance(state, p, schedule, end, *, dof):
    """Updates up to step `end`."""
    return lax.while_loop(
        lambda state: state.n_steps < end,
        lambda state: step(state, p, schedule, dof=dof),
        state,
    )


def _advance_on_grid(state, p, schedule, end, *, dof):
    """Updates up to step `end`; fewer, but one at least, if the map outgrows the grid."""
    kernel = grid.kernel_for(state.embedding, dof=dof)
    fits = True
    for _ in range(end - int(state.n_steps)):
        # Two programs at once fill the gaps where either one waits for a single thread.
        attracted = _attraction(state.embedding, p, dof=dof)
        field, own = grid.field(state.embedding, kernel), (kernel.core, kernel.level)
        new, still_fits = _step_in_field(state, p, schedule, field, own, attracted, dof=dof)
        # Of the state that this step began from, to wait for which costs nothing by now.
        if not fits:
            break
        state, fits = new, still_fits
    return state


_attraction = jax.jit(attraction, static_argnames=("dof",))


@partial(jax.jit, static_argnames=("dof",))
def _step_in_field(state, p, schedule, field, own, attracted, *, dof):
    """A step, and whether the grid still holds the map."""
    repelled = grid.from_others(field, state.embedding, *own)
    state = step(state, p, schedule, repelled, attracted, dof=dof)
    return state, grid.fits(state.embedding, field.spacing, field.size)


def _begin(state, p):
    state = state if isinstance(state, State) else start(state)
    n = affinities.n_samples(p)
    if state.embedding.shape[0] != n:
        raise ValueError(f"embedding must have {n} rows, got {state.embedding.shape[0]}")
    return state


def _on_grid(gradient, n, q):
    check_choice("gradient", gradient, ("auto", "exact", "grid"))
    possible = q in grid.SIZES
    if gradient == "grid" and not possible:
        raise ValueError(f"gradient must be 'exact' for maps of {q} dimensions, got 'grid'")
    return gradient == "grid" or (gradient == "auto" and possible and n > EXACT_UP_TO)


def embed(
    x: Float[Array, "n d"],
    perplexity: ScalarLike | Float[Array, "m"] = 30.0,
    schedule: Schedule = USUAL,
    start: Float[Array, "n q"] | None = None,
    key: PRNGKeyArray | None = None,
    *,
    n_components: int = 2,
    dof: float = 1.0,
    max_iter: int = 750,
    gradient: str = "auto",
) -> Float[Array, "n q"]:
    """Embed the rows of `x`: neighbours, affinities, 250 + 500 updates. Runs on the host.

    Up to 2000 samples, affinities are between all of them and the gradient is exact. Beyond,
    affinities are between 3 x perplexity neighbours, and the repulsion goes through a grid, but for
    maps of more than two dimensions, where it is exact.

    Args:
        x: Data; reduce hundreds of features by PCA to about 50 first.
        perplexity: Effective number of neighbours; several are combined.
        schedule: Hyperparameters.
        start: The map to start from (see `starts`); `None` means the first principal components.
        key: Random key that jitters the default start (for data with duplicates).
        n_components: Dimensions of the map.
        dof: Degrees of freedom.
        max_iter: Number of updates.
        gradient: As in `iterate`.

    Raises:
        ValueError: If shapes do not match, entries are not finite, or the perplexity exceeds n - 1.
    """
    check_matrix("x", x)
    check_finite("x", x)
    check_count("max_iter", max_iter, at_least=0)
    y = starts.pca(x, key, n_components=n_components) if start is None else start
    p = joint(x, perplexity)
    for state in iterate(y, p, schedule, dof=dof, max_iter=max_iter, gradient=gradient):
        y = state.embedding
    return y
