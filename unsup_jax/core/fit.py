"""One result and one driver for every iterative fit.

An algorithm hands `iterate` a pure function that looks at some parameters and reports a `Step`: the
objective of those parameters, and the parameters to try next. The driver does the rest (history,
stopping, keeping the last good parameters), so that every fit of this library is one `lax.scan`
that stops early. Under `vmap` finished lanes are frozen, or give their place to waiting ones.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from unsup_jax.core.lanes import Loop, any_lane, in_turns

Params = Any  # a pytree of arrays


class Status(enum.IntEnum):
    """Why a fit stopped. Stored in `Fit.status` as an int32 array, one a lane under `vmap`."""

    RUNNING = 0
    """Never seen in a finished fit."""
    CONVERGED = 1
    """The error of the last step was at most `tol`."""
    ITERATION_LIMIT = 2
    """`max_iter` steps were done and the error is still above `tol`."""
    NON_FINITE = 3
    """The objective became NaN or infinite; the parameters are the last good ones."""
    COLLAPSED = 4
    """The model degenerated (a component lost all its points); the parameters are finite."""


class Fit(NamedTuple):
    """The outcome of an iterative fit, the same for every model.

    Attributes:
        params: The fitted parameters, a pytree of arrays.
        objective: The objective of exactly these parameters; sign and units are the model's.
        history: The objective after each iteration, shape `(max_iter,)`; after the stop it repeats
            its last value, so `history[:n_iter]` is the curve that was really followed.
        n_iter: Number of updates that led from the start to `params`.
        status: A `Status`, as int32. Failure is data: a bad lane cannot kill a sweep.
        error: A certificate of the distance from the solution, the one compared with `tol`, where
            the model has one (a duality gap); otherwise `None`.
    """

    params: Params
    objective: Float[Array, "..."]
    history: Float[Array, "..."]
    n_iter: Int[Array, "..."]
    status: Int[Array, "..."]
    error: Float[Array, "..."] | None = None


class Step(NamedTuple):
    """What one iteration reports about the parameters it was given.

    Attributes:
        params: The parameters to try next.
        objective: The objective of the parameters the step was given.
        error: The distance of those from the solution, compared with `tol`. `None` stands for the
            absolute change of the objective since the step before.
        collapsed: True where the given parameters are degenerate and the fit should end.
    """

    params: Params
    objective: Float[Array, ""]
    error: Float[Array, ""] | None = None
    collapsed: Bool[Array, ""] | bool = False


class _Carry(NamedTuple):
    params: Params  # evaluated: `objective` is theirs
    candidate: Params  # to be evaluated next
    objective: Float[Array, ""]
    n_steps: Int[Array, ""]
    status: Int[Array, ""]


def iterate(
    step: Callable[..., Step],
    params: Params,
    tol: ScalarLike,
    *args: Any,
    max_iter: int,
    lanes: int | None = None,
) -> Fit:
    """Run `params -> step(params, *args)` until its error is at most `tol`, or `max_iter` times.

    The parameters returned are ones whose objective was evaluated and found finite, so
    `Fit.objective` belongs to `Fit.params`: `max_iter` updates cost `max_iter + 1` evaluations, of
    which the first is the start's. A negative `tol` never stops, `tol=0` stops at a fixed point.
    Derivatives, forward and reverse, flow through the steps that were taken.

    Args:
        step: The iteration: reports the objective of its argument and the next parameters.
        params: The start.
        tol: Traced; the stopping threshold on `Step.error`.
        *args: Arrays and pytrees that `step` takes beside the parameters.
        max_iter: Static; the largest number of updates.
        lanes: Static; under `vmap` on a CPU, the most fits that step at once. One that has
            finished gives its place to one that waits; `step` must then close over no array and
            use no named axis. `None`: all step together, until the last has finished.

    Raises:
        ValueError: If `max_iter` is negative.
    """
    _check(max_iter)
    whole = partial(_iterate, step, max_iter=max_iter)
    if lanes is None:
        return whole(params, tol, *args)

    def begin(params, tol, *args):
        del tol
        start = _start(params, jax.eval_shape(step, params, *args).objective.dtype)
        return start, jnp.full(max_iter + 1, jnp.inf, start.objective.dtype)

    def advance(state, _, tol, *args):
        carry, history = state
        carry = _advance(carry, step(carry.candidate, *args), tol)
        return carry, history.at[carry.n_steps].set(carry.objective)

    def running(state):
        return (state[0].status == Status.RUNNING) & (state[0].n_steps < max_iter)

    def end(state):
        carry, history = state
        seen = jnp.arange(max_iter + 1) <= carry.n_steps
        return _finish(carry, jnp.where(seen, history, carry.objective)[1:])

    return in_turns(whole, Loop(begin, running, advance, end), params, tol, *args, lanes=lanes)


def _iterate(step, params, tol, *args, max_iter):
    def body(carry: _Carry, _: None) -> tuple[_Carry, Float[Array, ""]]:
        running = carry.status == Status.RUNNING

        def advance_running(carry: _Carry) -> _Carry:
            new = _advance(carry, step(carry.candidate, *args), tol)
            return jax.tree.map(lambda new, old: jnp.where(running, new, old), new, carry)

        carry = lax.cond(any_lane(running), advance_running, lambda same: same, carry)
        return carry, carry.objective

    start = _start(params, jax.eval_shape(step, params, *args).objective.dtype)
    end, history = lax.scan(body, start, length=max_iter + 1)
    return _finish(end, history[1:])


def iterate_on_host(
    step: Callable[[Params], Step], params: Params, tol: ScalarLike, *, max_iter: int
) -> Fit:
    """`iterate` as a loop of the host, for a step that reads files and can't be traced.

    The same updates, stop and result; only the arithmetic of `step` runs on the device.
    """
    _check(max_iter)
    advance = jax.jit(_advance)
    first = step(params)
    carry = advance(_start(params, first.objective.dtype), first, tol)
    history = [carry.objective]
    while len(history) <= max_iter and carry.status == Status.RUNNING:
        carry = advance(carry, step(carry.candidate), tol)
        history.append(carry.objective)
    history += history[-1:] * (max_iter + 1 - len(history))
    return _finish(carry, jnp.stack(history)[1:])


def _check(max_iter: int) -> None:
    if max_iter < 0:
        raise ValueError(f"max_iter must be at least 0, got {max_iter}")


def _start(params: Params, dtype: Any) -> _Carry:
    inf = jnp.asarray(jnp.inf, dtype)
    return _Carry(params, params, inf, jnp.int32(-1), jnp.int32(Status.RUNNING))


def _advance(carry: _Carry, new: Step, tol: ScalarLike) -> _Carry:
    """What is known after a step from `carry.candidate` has reported."""
    objective = new.objective
    error = jnp.abs(objective - carry.objective) if new.error is None else new.error
    good = jnp.isfinite(objective)
    status = jnp.where(error <= jnp.asarray(tol, error.dtype), Status.CONVERGED, Status.RUNNING)
    status = jnp.where(new.collapsed, Status.COLLAPSED, status)
    status = jnp.where(good, status, Status.NON_FINITE).astype(jnp.int32)
    # A start that is bad itself is returned as it is, with its objective and status.
    take = good | (carry.n_steps < 0)
    kept, objective = jax.tree.map(
        lambda a, b: jnp.where(take, a, b),
        (carry.candidate, objective),
        (carry.params, carry.objective),
    )
    n_steps = carry.n_steps + jnp.where(take, 1, 0)
    return _Carry(kept, new.params, objective, n_steps, status)


def _finish(end: _Carry, history: Float[Array, "..."]) -> Fit:
    status = jnp.where(end.status == Status.RUNNING, Status.ITERATION_LIMIT, end.status)
    return Fit(end.params, end.objective, history, end.n_steps, status.astype(jnp.int32))
