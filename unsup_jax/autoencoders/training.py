"""Training by stochastic gradients: an epoch is one `lax.scan` over shuffled batches on the device.

A `loss(params, key, x, **hyper)` gives one number a sample; a step descends along the gradient of
their sum over the batch, divided by the mean weight of a batch. So each sample counts the same,
also in the smaller last batch, and the losses of an epoch's steps add up to its mean loss.

    state = start(params, key)
    for state in epochs(state, x, valid, loss=loss, n_epochs=100): ...   # the host's loop
    fit(params, key, x, valid, loss=loss, n_epochs=100)                  # the same, one program

`fit` can be mapped over keys, learning rates and hyperparameters of the loss by one `vmap`. Static
arguments (`loss`, `optimizer`, `schedule`) are functions: a new one is a new program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_count, check_matrix, check_weights
from unsup_jax.core.fit import Fit, Status

Params = Any  # a pytree of arrays
Loss = Callable[..., Array]
ADAM = optax.scale_by_adam()
VALID_TILE = 1000  # rows


class State(NamedTuple):
    """Everything a run needs to go on: save it, load it, and the rest is the same to the bit.

    Attributes:
        params: The current parameters.
        opt_state: The optimizer's.
        key: Of the run; epoch i uses `fold_in(key, i)`.
        epoch: Epochs done.
        best: The parameters of the lowest validation loss; the current ones without validation.
        best_epoch: After how many epochs that was.
        objective: The loss of `best`, over the validation data or the last epoch's steps.
        train_loss: Mean loss over the steps of the last epoch.
        valid_loss: Mean loss over the validation data after it; NaN without such.
        status: A `Status`; `RUNNING` while there is more to do.
    """

    params: Params
    opt_state: Any
    key: PRNGKeyArray
    epoch: Int[Array, ""]
    best: Params
    best_epoch: Int[Array, ""]
    objective: Float[Array, ""]
    train_loss: Float[Array, ""]
    valid_loss: Float[Array, ""]
    status: Int[Array, ""]


def start(
    params: Params, key: PRNGKeyArray, *, optimizer: optax.GradientTransformation = ADAM
) -> State:
    """The state before the first epoch."""
    dtype = jax.tree.leaves(params)[0].dtype
    inf, nan, zero = jnp.asarray(jnp.inf, dtype), jnp.asarray(jnp.nan, dtype), jnp.int32(0)
    running = jnp.int32(Status.RUNNING)
    opt_state = optimizer.init(params)
    return State(params, opt_state, key, zero, params, zero, inf, nan, nan, running)


@partial(
    jax.jit,
    static_argnames=("loss", "optimizer", "schedule", "batch_size", "n_chunks", "axis_name"),
)
def epoch(
    state: State,
    x: Float[Array, "n d"],
    valid: Float[Array, "m d"] | None = None,
    weights: Float[Array, "n"] | None = None,
    learning_rate: ScalarLike = 1e-3,
    hyper: Mapping[str, Any] | None = None,
    clip_norm: ScalarLike | None = None,
    patience: ScalarLike = jnp.inf,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation = ADAM,
    schedule: Callable[[Array], Array] | None = None,
    batch_size: int = 100,
    n_chunks: int = 1,
    axis_name: str | None = None,
) -> State:
    """One pass over the data in a new order; does nothing to the numbers of a finished run.

    If a loss of the epoch, or one after it, is not finite, the epoch is undone and the status is
    `NON_FINITE`: `params` are then the last good ones.

    Args:
        state: From `start` or the epoch before.
        x: Data, shape (n, d); this device's shard of them if there is an `axis_name`.
        valid: Held-out data; the parameters that do best on them are kept.
        weights: One non-negative weight a sample.
        learning_rate: Traced; times what `optimizer` proposes.
        hyper: Traced; keyword arguments of `loss`, `{"beta": 4.0}`, say.
        clip_norm: Traced; the largest norm of a gradient. `None` does not clip, at no cost.
        patience: Traced; the run has converged when so many epochs brought no better validation
            loss.
        loss: Static; `loss(params, key, x, **hyper)`, one number a sample.
        optimizer: Static; an optax transformation without learning rate.
        schedule: Static; `schedule(step)` multiplies the learning rate; steps count from 0 through
            all epochs, and are given as a float.
        batch_size: Static; samples of a step, on each device.
        n_chunks: Static; parts of a batch that go through the network side by side, each with a
            key of its own, before their gradients are added. One core computes a small product, so
            2 parts keep 2 cores of a CPU busy; leave it at 1 on an accelerator.
        axis_name: Static; mapped axis over which the rows are sharded, if any.

    Raises:
        ValueError: For shapes that do not match or an `x` that is not floating point.
    """
    check_matrix("x", x)
    check_weights(weights, x)
    check_count("batch_size", batch_size)
    check_count("n_chunks", n_chunks)
    if batch_size % n_chunks:
        raise ValueError(f"n_chunks must divide batch_size = {batch_size}, got {n_chunks}")
    if valid is not None:
        check_matrix("valid", valid, n_features=x.shape[1])
    losses = partial(loss, **(hyper or {}))
    key_epoch = jax.random.fold_in(state.key, state.epoch)
    key_order, key_steps, key_last = jax.random.split(key_epoch, 3)
    if axis_name is not None:
        device = lax.axis_index(axis_name)
        key_order, key_steps = (jax.random.fold_in(k, device) for k in (key_order, key_steps))
    rows, mass = _batches(key_order, x, weights, batch_size, n_chunks, axis_name)
    n_steps = len(rows[0])
    numbers = jnp.arange(n_steps, dtype=jnp.int32)
    keys = jax.vmap(partial(jax.random.fold_in, key_steps))(jnp.arange(n_steps * n_chunks))
    rate = jnp.asarray(learning_rate, x.dtype)

    def step(carry, batch):
        params, opt_state = carry
        number, *chunks = batch

        def total(params):
            def chunk(key, row, w):
                return jnp.where(w > 0, w * losses(params, key, x[row]), 0).sum()

            return sum(chunk(*(a[i] for a in chunks)) for i in range(n_chunks)) / mass

        value, gradient = _summed(total, params, axis_name)
        if clip_norm is not None:
            gradient = _clip(gradient, clip_norm)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            update, opt_state = optimizer.update(gradient, opt_state, params)
        size = rate
        if schedule is not None:
            done = (state.epoch * n_steps + number).astype(x.dtype)
            size = rate * jnp.asarray(schedule(done), x.dtype)
        params = jax.tree.map(lambda p, u: p - (size * u).astype(p.dtype), params, update)
        return (params, opt_state), value

    carry = state.params, state.opt_state
    (params, opt_state), values = lax.scan(
        step, carry, (numbers, keys.reshape(n_steps, n_chunks), *rows)
    )
    train_loss = values.mean()
    key_check = jax.random.fold_in(state.key, 2**32 - 1)  # one noise for all epochs
    if valid is None:
        # The last step's parameters have not been looked at yet.
        check = losses(params, key_last, x[rows[0][0].ravel()]).mean()
        check = check if axis_name is None else lax.pmean(check, axis_name)
        valid_loss, objective = jnp.full_like(train_loss, jnp.nan), train_loss
    else:
        valid_loss = objective = check = _mean_loss(losses, params, key_check, valid)
    good = jnp.isfinite(train_loss) & jnp.isfinite(check)
    return _advance(state, params, opt_state, train_loss, valid_loss, objective, good, patience)


def epochs(state: State, x: Array, *args: Any, n_epochs: int, **options: Any) -> Iterator[State]:
    """Run epochs until the run has stopped or `n_epochs` are done, and yield the state after each.

    A loop on the host: show progress, save the state or leave whenever you like. Starts from any
    state, so a loaded one is simply continued. Arguments are those of `epoch`.
    """
    while int(state.status) == Status.RUNNING and int(state.epoch) < n_epochs:
        state = epoch(state, x, *args, **options)
        yield state


@partial(
    jax.jit,
    static_argnames=(
        "loss",
        "optimizer",
        "schedule",
        "n_epochs",
        "batch_size",
        "n_chunks",
        "axis_name",
    ),
)
def fit(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    valid: Float[Array, "m d"] | None = None,
    weights: Float[Array, "n"] | None = None,
    learning_rate: ScalarLike = 1e-3,
    hyper: Mapping[str, Any] | None = None,
    clip_norm: ScalarLike | None = None,
    patience: ScalarLike = jnp.inf,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation = ADAM,
    schedule: Callable[[Array], Array] | None = None,
    n_epochs: int,
    batch_size: int = 100,
    n_chunks: int = 1,
    axis_name: str | None = None,
) -> Fit:
    """Train for `n_epochs`, or until it has converged or failed; the arguments are `epoch`'s.

    Returns:
        `Fit` with the best parameters and their loss (mean a sample; over the validation data if
        there are any), one entry of the history an epoch, `n_iter` the number of epochs that led to
        these parameters.
    """
    check_count("n_epochs", n_epochs)

    def run(carry):
        state, history = carry
        state = epoch(
            state,
            x,
            valid,
            weights,
            learning_rate,
            hyper,
            clip_norm,
            patience,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            batch_size=batch_size,
            n_chunks=n_chunks,
            axis_name=axis_name,
        )
        latest = state.train_loss if valid is None else state.valid_loss
        at = jnp.arange(n_epochs, dtype=jnp.int32) >= jnp.maximum(state.epoch - 1, 0)
        return state, jnp.where(at, latest, history)

    def running(carry):
        state, _ = carry
        return (state.status == Status.RUNNING) & (state.epoch < n_epochs)

    state = start(params, key, optimizer=optimizer)
    history = jnp.full((n_epochs,), jnp.nan, state.objective.dtype)
    state, history = lax.while_loop(running, run, (state, history))
    limit = jnp.int32(Status.ITERATION_LIMIT)
    status = jnp.where(state.status == Status.RUNNING, limit, state.status)
    return Fit(state.best, state.objective, history, state.best_epoch, status)


def _batches(key, x, weights, batch_size, n_chunks, axis_name):
    """Row numbers and weights, shape (n_batches, n_chunks, size of a chunk); mean batch weight.

    The last batch is filled up with rows of weight 0.
    """
    n = x.shape[0]
    size = -(-min(batch_size, n) // n_chunks)
    n_batches = -(-n // (size * n_chunks))
    order = jax.random.permutation(key, n)
    missing = n_batches * n_chunks * size - n
    w = jnp.ones((n,), x.dtype) if weights is None else weights[order]
    rows = jnp.pad(order, (0, missing)).reshape(n_batches, n_chunks, size)
    w = jnp.pad(w, (0, missing)).reshape(n_batches, n_chunks, size)
    return (rows, w), stats.total_weight(x, weights, axis_name) / n_batches


def _summed(total, params, axis_name):
    """Value and gradient of `total`, summed over the devices of `axis_name`."""
    if axis_name is None:
        return jax.value_and_grad(total)(params)
    # Parameters that are marked as each device's own get each device's own gradient.
    params = jax.tree.map(lambda p: lax.pcast(p, axis_name, to="varying"), params)
    return lax.psum(jax.value_and_grad(total)(params), axis_name)


def _clip(gradient, clip_norm):
    norm = optax.tree.norm(gradient)
    limit = jnp.asarray(clip_norm, norm.dtype)
    factor = jnp.where(norm > limit, limit / norm, 1)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient)


def _mean_loss(losses, params, key, x):
    def tile(rows):
        x, number = rows
        return losses(params, jax.random.fold_in(key, number[0]), x)

    return stats.map_rows(tile, (x, jnp.arange(len(x))), tile_size=VALID_TILE).mean()


def _advance(state, params, opt_state, train_loss, valid_loss, objective, good, patience):
    """The state after an epoch that was `good`, the same state and its end if it was not."""
    number = state.epoch + 1
    validated = ~jnp.isnan(valid_loss)
    better = ~validated | (objective < state.objective)
    best, best_epoch, lowest = jax.tree.map(
        lambda new, old: jnp.where(better, new, old),
        (params, number, objective),
        (state.best, state.best_epoch, state.objective),
    )
    waited = (number - best_epoch).astype(train_loss.dtype)
    stop = validated & (waited >= jnp.asarray(patience, waited.dtype))
    status = jnp.where(stop, jnp.int32(Status.CONVERGED), jnp.int32(Status.RUNNING))
    new = State(
        params,
        opt_state,
        state.key,
        number,
        best,
        best_epoch,
        lowest,
        train_loss,
        valid_loss,
        status,
    )
    same = state._replace(status=jnp.full_like(status, Status.NON_FINITE))
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, same)
