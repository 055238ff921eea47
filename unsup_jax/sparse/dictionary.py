"""Dictionary learning: atoms in which every sample has a sparse code.

    minimise over W    1/N sum_i w_i min_z { 1/2 ||x_i - W z||^2 + lam ||z||_1 },   w_j'w_j <= 1

with atoms `w_j` as rows of `components` and N the sum of the weights. Coding (`lasso.encode`) and
an update of the atoms from two additive sums over samples (`atoms`) alternate. The batch form `fit`
never raises the objective, up to the tolerance of the coding. The online form `fit_online` forgets
old sums slowly and replaces them by those of random mini-batches.

Source: Murphy, *Machine Learning: a Probabilistic Perspective*, section 13.8; Olshausen and Field
(1996), "Emergence of simple-cell receptive field properties by learning a sparse code for natural
images"; Mairal, Bach, Ponce and Sapiro (2009), "Online dictionary learning for sparse coding".
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_choice, check_count, check_matrix, check_weights
from unsup_jax.core.fit import Fit, Status, Step, iterate
from unsup_jax.sparse import lasso
from unsup_jax.sparse.atoms import (
    TILE,
    UPDATES,
    project,
    reseed,
    statistics,
    unit_length,
    update_components,
)

CODE_ITER = 1000
STARTS = ("data", "random")


@partial(jax.jit, static_argnames=("n_components", "method"))
def init(
    key: PRNGKeyArray, x: Float[Array, "n d"], *, n_components: int, method: str = "data"
) -> Float[Array, "k d"]:
    """Atoms of length 1 to start from.

    Args:
        key: Random key.
        x: Samples, shape (n, d).
        n_components: Static; the number of atoms.
        method: Static; "data" (different samples, at random) or "random" (random directions).

    Raises:
        ValueError: For an unknown method, or `n_components` below 1 or, for "data", above n.
    """
    check_matrix("x", x)
    check_choice("method", method, STARTS)
    check_count("n_components", n_components, x.shape[0] if method == "data" else None)
    key_rows, key_noise = jax.random.split(key)
    noise = jax.random.normal(key_noise, (n_components, x.shape[1]), x.dtype)
    if method == "random":
        return unit_length(noise, noise)
    rows = jax.random.choice(key_rows, x.shape[0], (n_components,), replace=False)
    return unit_length(x[rows], noise)


@partial(
    jax.jit,
    static_argnames=("max_iter", "update", "n_sweeps", "positive", "tile_size", "axis_name"),
)
def fit(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: ScalarLike,
    weights: Float[Array, "n"] | None = None,
    tol: ScalarLike = 1e-4,
    code_tol: ScalarLike = 1e-4,
    *,
    max_iter: int = 100,
    update: str = "block",
    n_sweeps: int = 5,
    positive: bool = False,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Fit:
    """Learn a dictionary from all samples at each iteration.

    An atom that no sample uses is replaced by one of the samples that are reconstructed worst,
    which can't raise the objective.

    Args:
        components: The dictionary to start from; atoms longer than 1 are shortened.
        x: Samples, shape (n, d).
        lam: Positive; the price of a unit of `|z|`.
        weights: Non-negative weights, shape (n,): a weight of 2 counts a sample twice.
        tol: Stops when the objective changes by at most this fraction of `1/2 ||x||^2`'s mean.
        code_tol: Relative duality gap of the codes.
        max_iter: Static; largest number of updates.
        update: Static; "block" or "gradient".
        n_sweeps: Static; updates of all atoms from the same sums.
        positive: Static; neither codes nor atoms may be negative.
        tile_size: Static; rows summed at a time.
        axis_name: Static; mapped axis over which the rows are sharded.

    Returns:
        `Fit` with the dictionary as `params` and the mean over samples of
        `1/2 ||x - W z||^2 + lam ||z||_1` as objective, non-increasing up to `code_tol`.

    Raises:
        ValueError: For shapes that do not match, an unknown update, or an `x` that is not floating
            point.
    """
    _check(components, x, update, n_sweeps)
    check_weights(weights, x)
    tiles: dict[str, Any] = {"tile_size": tile_size, "axis_name": axis_name}

    def step(atoms):
        codes, losses = code(atoms, x, lam, code_tol, positive=positive)
        sums = statistics(codes, losses, x, weights, **tiles)
        new = update_components(atoms, sums, update=update, n_sweeps=n_sweeps, positive=positive)
        gram = sums.gram
        new = reseed(new, gram, losses, x, weights, positive=positive, axis_name=axis_name)
        return Step(new, sums.loss / sums.weight)

    def energy(rows, w):
        return stats.weigh(rows * rows, w).sum() / 2

    zero = stats.accumulate(energy, x, weights, **tiles)
    zero = zero / stats.total_weight(x, weights, axis_name)
    start = project(components, positive)
    return iterate(step, start, jnp.asarray(tol, x.dtype) * zero, max_iter=max_iter)


@partial(jax.jit, static_argnames=("batch_size", "max_iter", "update", "n_sweeps", "positive"))
def fit_online(
    key: PRNGKeyArray,
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: ScalarLike,
    forgetting: ScalarLike = 10.0,
    tol: ScalarLike = 0.0,
    code_tol: ScalarLike = 1e-3,
    *,
    batch_size: int = 512,
    max_iter: int = 100,
    update: str = "block",
    n_sweeps: int = 2,
    positive: bool = False,
) -> Fit:
    """Learn a dictionary from random mini-batches, one an iteration.

    The sums of all batches are kept, old ones with less weight: before batch t joins they are
    multiplied by `(1 - 1/t)^forgetting`.

    Args:
        key: Random key of the order of the samples.
        components: The dictionary to start from; atoms longer than 1 are shortened.
        x: Samples, shape (n, d).
        lam: Positive; the price of a unit of `|z|`.
        forgetting: 0 remembers everything; the larger, the faster it forgets the codes of older
            dictionaries. At 10 it remembers about the last tenth of the batches.
        tol: Stops when an iteration moves no atom by more than this.
        code_tol: Relative duality gap of the codes.
        batch_size: Static; samples of an iteration.
        max_iter: Static; number of iterations.
        update: Static; "block" or "gradient".
        n_sweeps: Static; updates of all atoms from the same sums.
        positive: Static; neither codes nor atoms may be negative.

    Returns:
        `Fit` with the dictionary as `params`. The objective, as for `fit`, is that of one batch,
        which the dictionary has not been updated with: noisy, but honest.

    Raises:
        ValueError: For shapes that do not match, an unknown update, or a `batch_size` not between 1
            and n.
    """
    _check(components, x, update, n_sweeps)
    check_count("batch_size", batch_size, x.shape[0])
    order = jax.random.permutation(key, x.shape[0])

    def step(state):
        rows = (state.n_steps * batch_size + jnp.arange(batch_size)) % x.shape[0]
        new = online_step(
            state,
            x[order[rows]],
            None,
            lam,
            forgetting,
            code_tol,
            update=update,
            n_sweeps=n_sweeps,
            positive=positive,
        )
        moved = jnp.sqrt(((new.components - state.components) ** 2).sum(1).max())
        return Step(new, new.objective, moved)

    result = iterate(step, online(components, positive=positive), tol, max_iter=max_iter)
    return result._replace(params=result.params.components)


class Online(NamedTuple):
    """Where online learning stands.

    Attributes:
        components: The dictionary.
        gram: Sums `A` of the batches so far, old ones with less weight.
        cross: Sums `B`, likewise.
        n_steps: Batches seen.
        objective: The mean loss over the last batch, with the dictionary that had not yet seen it.
    """

    components: Float[Array, "k d"]
    gram: Float[Array, "k k"]
    cross: Float[Array, "k d"]
    n_steps: Int[Array, ""]
    objective: Float[Array, ""]


def online(components: Float[Array, "k d"], *, positive: bool = False) -> Online:
    """The state before the first `online_step`; atoms longer than 1 are shortened."""
    atoms = project(components, positive)
    k, dtype = atoms.shape[0], atoms.dtype
    inf = jnp.asarray(jnp.inf, dtype)
    return Online(atoms, jnp.zeros((k, k), dtype), jnp.zeros_like(atoms), jnp.int32(0), inf)


def online_step(
    state: Online,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None,
    lam: ScalarLike,
    forgetting: ScalarLike = 10.0,
    code_tol: ScalarLike = 1e-3,
    *,
    update: str = "block",
    n_sweeps: int = 2,
    positive: bool = False,
) -> Online:
    """Learn from one batch of samples; the arguments are those of `fit_online`.

    `distributed.fold(partial(online_step, lam=0.1), online(components), batches)` learns from data
    that no memory holds.
    """
    atoms = state.components
    _check(atoms, x, update, n_sweeps)
    check_weights(weights, x)
    codes, losses = code(atoms, x, lam, code_tol, positive=positive)
    fresh = statistics(codes, losses, x, weights)
    keep = (1 - 1 / (state.n_steps + 1).astype(x.dtype)) ** jnp.asarray(forgetting, x.dtype)
    gram, cross = keep * state.gram + fresh.gram, keep * state.cross + fresh.cross
    sums = fresh._replace(gram=gram, cross=cross)
    new = update_components(atoms, sums, update=update, n_sweeps=n_sweeps, positive=positive)
    new = reseed(new, gram, losses, x, weights, positive=positive)
    return Online(new, gram, cross, state.n_steps + 1, fresh.loss / fresh.weight)


def code(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: ScalarLike,
    tol: ScalarLike = 1e-4,
    *,
    positive: bool = False,
) -> tuple[Float[Array, "n k"], Float[Array, "n"]]:
    """Lasso codes and the objective of every sample; NaN for one that is not finite."""
    result = lasso.encode(components, x, lam, tol, max_iter=CODE_ITER, positive=positive)
    return result.params, jnp.where(result.status == Status.NON_FINITE, jnp.nan, result.objective)


def _check(components, x, update, n_sweeps):
    check_matrix("x", x)
    check_matrix("components", components, n_features=x.shape[1], like=x)
    check_choice("update", update, UPDATES)
    check_count("n_sweeps", n_sweeps)
