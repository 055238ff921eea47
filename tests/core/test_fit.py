"""The driver: stopping, history, failures as data, vmap and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.core.fit import Fit, Status, Step, iterate


def newton_sqrt(a, tol, max_iter):
    def step(y):
        return Step(0.5 * (y + a / y), objective=(y * y - a) ** 2)

    return iterate(step, jnp.asarray(3.0), tol, max_iter=max_iter)


def test_objective_belongs_to_the_returned_params():
    fit = newton_sqrt(2.0, 1e-12, 20)
    assert isinstance(fit, Fit)
    np.testing.assert_allclose(fit.params, np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(fit.objective, (fit.params**2 - 2.0) ** 2, atol=1e-12)
    assert fit.status == Status.CONVERGED


def test_history_has_one_entry_an_update_and_repeats_the_last():
    fit = newton_sqrt(2.0, 1e-3, 20)
    n = int(fit.n_iter)
    assert fit.history.shape == (20,)
    assert 0 < n < 20
    assert (np.diff(fit.history[:n]) < 0).all()
    np.testing.assert_array_equal(fit.history[n - 1 :], fit.objective)


def test_iteration_limit_counts_updates():
    fit = newton_sqrt(2.0, -1.0, 3)
    assert (int(fit.n_iter), int(fit.status)) == (3, Status.ITERATION_LIMIT)
    y = 3.0
    for _ in range(3):
        y = 0.5 * (y + 2.0 / y)
    np.testing.assert_allclose(fit.params, y, rtol=1e-6)


def test_no_iterations_return_the_start_with_its_objective():
    fit = newton_sqrt(2.0, 0.0, 0)
    assert (float(fit.params), float(fit.objective), int(fit.n_iter)) == (3.0, 49.0, 0)
    assert fit.history.shape == (0,)


def test_non_finite_objective_keeps_the_last_good_params():
    fit = iterate(lambda y: Step(y * 1e30, objective=y * y), jnp.asarray(1.0), -1.0, max_iter=9)
    assert fit.status == Status.NON_FINITE
    assert np.isfinite([fit.params, fit.objective]).all()
    assert (float(fit.params), int(fit.n_iter)) == (1.0, 0)


def test_bad_start_is_reported_not_hidden():
    fit = iterate(lambda y: Step(y, objective=y), jnp.asarray(jnp.nan), 0.0, max_iter=3)
    assert fit.status == Status.NON_FINITE
    assert int(fit.n_iter) == 0


def test_collapse_ends_the_fit_with_its_params():
    def step(y):
        return Step(y - 1, objective=y, collapsed=y <= 2)

    fit = iterate(step, jnp.asarray(5.0), -1.0, max_iter=9)
    assert (float(fit.params), int(fit.status)) == (2.0, Status.COLLAPSED)


def test_explicit_error_replaces_the_change_of_objective():
    def step(y):
        return Step(0.5 * y, objective=jnp.ones_like(y), error=y)

    fit = iterate(step, jnp.asarray(1.0), 0.2, max_iter=9)
    assert (float(fit.params), int(fit.n_iter)) == (0.125, 3)


def test_vmapped_tolerance_stops_each_lane_at_its_own_step():
    tols = jnp.asarray([1e-1, 1e-4, 0.0])
    batched = jax.vmap(lambda tol: newton_sqrt(2.0, tol, 12))(tols)
    for i, tol in enumerate(tols):
        jax.tree.map(
            lambda lane, single, i=i: np.testing.assert_array_equal(lane[i], single),
            batched,
            newton_sqrt(2.0, tol, 12),
        )
    assert len(set(batched.n_iter.tolist())) > 1


def test_derivative_through_the_fit():
    slope = jax.grad(lambda a: newton_sqrt(a, 1e-12, 20).params)(2.0)
    np.testing.assert_allclose(slope, 0.5 / np.sqrt(2), rtol=1e-5)


def test_negative_max_iter_is_refused():
    with pytest.raises(ValueError, match="max_iter must be at least 0, got -1"):
        newton_sqrt(2.0, 0.0, -1)


def test_a_sweep_ends_with_its_last_running_lane():
    """Under `vmap` the branch that skips finished work stays a branch: no lane pays for none."""
    evaluations = []

    def fit(tol):
        def step(y):
            jax.debug.callback(lambda _: evaluations.append(None), y)
            return Step(0.5 * (y + 2.0 / y), objective=(y * y - 2.0) ** 2)

        return iterate(step, jnp.asarray(3.0), tol, max_iter=50)

    fits = jax.jit(jax.vmap(fit))(jnp.asarray([1e-1, 1e-3]))
    jax.block_until_ready(fits)
    jax.effects_barrier()
    assert len(evaluations) <= 2 * (int(fits.n_iter.max()) + 2)
    nested = jax.vmap(jax.vmap(fit))(jnp.asarray([[1e-1, 1e-3], [1e-2, 1e-3]]))
    np.testing.assert_array_equal(nested.n_iter[0], fits.n_iter)


def test_derivatives_of_a_sweep():
    roots = jnp.asarray([2.0, 3.0])
    slopes = jax.vmap(jax.grad(lambda a: newton_sqrt(a, 1e-12, 20).params))(roots)
    np.testing.assert_allclose(slopes, 0.5 / np.sqrt(roots), rtol=1e-5)
    total = jax.grad(lambda a: jax.vmap(lambda b: newton_sqrt(b, 1e-12, 20).params)(a).sum())(roots)
    np.testing.assert_allclose(total, slopes, rtol=1e-6)


def in_turns(a, tol, start=3.0, lanes=3):
    """`newton_sqrt`, of which three at most step at once under `vmap`."""

    def step(y, a):
        return Step(0.5 * (y + a / y), objective=(y * y - a) ** 2)

    return iterate(step, jnp.asarray(start), tol, a, max_iter=9, lanes=lanes)


ROOTS = jnp.asarray([2.0, 1e4, 3.0, jnp.nan, 9.0, 0.5, 1e9, 7.0, 1.0, -1.0, 5.0])


def test_lanes_in_turns_are_the_lanes_of_a_loop():
    tol = jnp.geomspace(1e-6, 1e-1, len(ROOTS))
    fits = jax.jit(jax.vmap(in_turns))(ROOTS, tol)
    alone = [in_turns(*lane) for lane in zip(ROOTS, tol, strict=True)]
    assert {int(s) for s in fits.status} >= {1, 2, 3}
    for i, one in enumerate(alone):
        jax.tree.map(
            lambda many, one, i=i: np.testing.assert_allclose(many[i], one, rtol=1e-6), fits, one
        )
    # Whatever is mapped, and however often, the queue is one.
    shared = jax.vmap(in_turns, (0, None))(ROOTS, 1e-3)
    nested = jax.vmap(jax.vmap(in_turns, (0, None)), (None, 0))(ROOTS, jnp.asarray([1e-6, 1e-3]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), nested, shared)
    starts = jnp.asarray([1.0, 3.0, 10.0, 3.0])
    of_starts = jax.vmap(lambda start: in_turns(2.0, 1e-6, start))(starts)
    jax.tree.map(lambda a: np.testing.assert_array_equal(a[1], a[3]), of_starts)
    np.testing.assert_allclose(of_starts.params, np.sqrt(2), rtol=1e-5)


def test_lanes_in_turns_do_not_wait_for_the_slowest():
    steps = []

    def fit(tol):
        def step(y):
            jax.debug.callback(lambda _: steps.append(None), y)
            return Step(0.5 * (y + 2.0 / y), objective=(y * y - 2.0) ** 2)

        return iterate(step, jnp.asarray(3.0), tol, max_iter=50, lanes=2)

    tols = jnp.asarray([-1.0, *[1e9] * 20])  # the first never stops, the others do at once
    jax.block_until_ready(jax.jit(jax.vmap(fit))(tols))
    jax.effects_barrier()
    assert len(steps) <= 2 * (50 + 2)  # places times turns; 21 times 51 if all stepped together


def test_derivatives_of_lanes_in_turns():
    roots, tol = jnp.linspace(1.0, 4.0, 7), 1e-12
    root = lambda a: in_turns(a, tol).params  # noqa: E731
    slopes = 0.5 / np.sqrt(roots)
    np.testing.assert_allclose(jax.vmap(jax.grad(root))(roots), slopes, rtol=1e-5)
    np.testing.assert_allclose(
        jax.grad(lambda a: jax.vmap(root)(a).sum())(roots), slopes, rtol=1e-5
    )
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(root))(roots), slopes, rtol=1e-5)
    second = jax.vmap(jax.grad(jax.grad(jax.jit(root))))(roots)
    np.testing.assert_allclose(second, -0.25 / roots**1.5, rtol=1e-4)
