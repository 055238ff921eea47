"""Lasso codes: certified, optimal, equal to scikit-learn's; derivatives against differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.decomposition import sparse_encode

from unsup_jax.core.fit import Fit, Status
from unsup_jax.sparse import dictionary, lasso


def problem(dtype=jnp.float32, k=40, d=16, n=60):
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(k, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    return jnp.asarray(atoms, dtype), jnp.asarray(rng.normal(size=(n, d)), dtype)


@pytest.mark.parametrize("solver", ["lars", "fista"])
@pytest.mark.parametrize("positive", [False, True])
def test_equals_scikit_learn(solver, positive):
    atoms, x = problem()
    fit = lasso.encode(atoms, x, 0.5, 1e-6, solver=solver, positive=positive)
    theirs = sparse_encode(
        np.asarray(x, float), np.asarray(atoms, float), algorithm="lasso_lars", alpha=0.5,
        positive=positive,
    )  # fmt: skip
    assert isinstance(fit, Fit)
    assert (fit.status == Status.CONVERGED).all()
    assert fit.error.max() <= 1e-6
    np.testing.assert_allclose(fit.params, theirs, atol=2e-3 if solver == "fista" else 1e-4)
    np.testing.assert_allclose(fit.objective, lasso.objective(atoms, x, fit.params, 0.5), rtol=1e-6)
    if solver == "lars":
        assert (fit.n_iter == 0).all()
        violation = lasso.kkt_violation(atoms, x, fit.params, 0.5, positive=positive)
        assert violation.max() < 1e-5


def test_gap_bounds_the_distance_to_the_optimum(x64):
    atoms, x = problem(jnp.float64)
    best = lasso.encode(atoms, x, 0.5, 1e-12)
    for scale in (0.0, 0.5, 1.1):
        codes = scale * best.params
        gap = lasso.duality_gap(atoms, x, codes, 0.5)
        excess = lasso.objective(atoms, x, codes, 0.5) - best.objective
        assert (gap >= excess - 1e-12).all()
    assert lasso.duality_gap(atoms, x, best.params, 0.5).max() < 1e-12


def test_lambda_max_is_where_codes_vanish():
    atoms, x = problem()
    for positive in (False, True):
        lam = lasso.lambda_max(atoms, x, positive=positive)
        encode = partial(lasso.encode, atoms, x, positive=positive)
        assert (encode(lam * 1.001).params == 0).all()
        assert ((encode(lam * 0.99).params != 0).sum(1) > 0).all()


def test_one_lambda_a_signal_traced_and_vmapped():
    atoms, x = problem()
    lams = jnp.linspace(0.2, 2.0, len(x))
    each = lasso.encode(atoms, x, lams, 1e-6)
    for i in (0, 31, 59):
        alone = lasso.encode(atoms, x, lams[i], 1e-6)
        np.testing.assert_allclose(each.params[i], alone.params[i], atol=1e-5)
    swept = jax.vmap(lambda lam: lasso.encode(atoms, x, lam, 1e-6).params)(lams[:3])
    np.testing.assert_allclose(swept[2], lasso.encode(atoms, x, lams[2], 1e-6).params, atol=1e-5)


def test_path_equals_single_solves():
    atoms, x = problem()
    lams = jnp.asarray([2.0, 1.0, 0.5])
    path = lasso.path(atoms, x, lams, 1e-6)
    assert path.params.shape == (3, *x.shape[:1], len(atoms))
    assert (path.status == Status.CONVERGED).all()
    for codes, lam in zip(path.params, lams, strict=True):
        np.testing.assert_allclose(codes, lasso.encode(atoms, x, lam).params, atol=1e-5)


def test_warm_start_takes_fewer_steps():
    atoms, x = problem()
    cold = lasso.encode(atoms, x, 0.5, 1e-5, solver="fista")
    warm = lasso.encode(atoms, x, 0.49, 1e-5, cold.params)
    again = lasso.encode(atoms, x, 0.49, 1e-5, solver="fista")
    assert (warm.status == Status.CONVERGED).all()
    assert warm.n_iter.sum() < again.n_iter.sum()


def test_large_supports_find_room():
    """More atoms inside than the smallest number of slots."""
    atoms, x = problem(k=160, d=96, n=5)
    fit = lasso.encode(atoms, x, 0.2, 1e-4)
    assert ((fit.params != 0).sum(1) > 32).all()
    assert (fit.status == Status.CONVERGED).all()
    assert (fit.n_iter == 0).all()


def test_failures_are_data():
    atoms, x = problem()
    fit = lasso.encode(atoms, x.at[3, 1].set(jnp.nan), 0.5, 1e-6)
    assert fit.status[3] == Status.NON_FINITE
    assert (fit.params[3] == 0).all()
    assert (jnp.delete(fit.status, 3) == Status.CONVERGED).all()
    short = lasso.encode(atoms, x, 0.1, 1e-6, solver="fista", max_iter=3)
    assert (short.status == Status.ITERATION_LIMIT).any()


def test_degenerate_atoms():
    atoms, x = problem()
    atoms = atoms.at[1].set(atoms[0]).at[2].set(0.0)
    fit = lasso.encode(atoms, x.at[0].set(0.0), 0.1, 1e-5)
    assert (fit.status == Status.CONVERGED).all()
    assert (fit.params[0] == 0).all()


def test_dtypes(x64):
    for dtype in (jnp.float32, jnp.float64):
        fit = lasso.encode(*problem(dtype), 0.5)
        assert fit.params.dtype == fit.objective.dtype == fit.history.dtype == dtype


def test_wrong_arguments_are_named(unchecked):
    atoms, x = problem()
    with pytest.raises(ValueError, match=r"lam must have shape \(\) or \(60,\), got \(3,\)"):
        lasso.encode(atoms, x, jnp.ones(3))
    with pytest.raises(ValueError, match="solver must be one of 'auto', 'lars', 'fista'"):
        lasso.encode(atoms, x, 0.5, solver="cd")
    with pytest.raises(ValueError, match=r"start must have shape \(60, 40\), got \(60, 3\)"):
        lasso.encode(atoms, x, 0.5, 1e-5, x[:, :3])
    with pytest.raises(ValueError, match="components must have 16 features, got 15"):
        lasso.encode(atoms[:, 1:], x, 0.5)
    with pytest.raises(ValueError, match="x must be floating point, got int32"):
        lasso.encode(atoms, x.astype(jnp.int32), 0.5)


@pytest.mark.parametrize(("positive", "mode", "order"), [(False, "rev", 2), (True, "fwd", 1)])
def test_codes_and_objective_have_derivatives(positive, mode, order, x64):
    """Finite differences in the dictionary, the signals and `lam`."""
    atoms, x = problem(jnp.float64, k=9, d=6, n=3)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=(3, 9)))

    def total(*args):
        fit = lasso.encode(*args, 1e-13, positive=positive)
        return (fit.params * direction).sum() + (fit.objective**2).sum()

    check_grads(total, (atoms, x, 0.3), order=order, modes=[mode], eps=1e-6)


def test_path_has_the_derivatives_of_single_solves():
    atoms, x = problem(n=4)
    lams = jnp.asarray([1.0, 0.5])
    path = jax.grad(lambda lams: (lasso.path(atoms, x, lams).params ** 2).sum())(lams)
    for slope, lam in zip(path, lams, strict=True):
        one = jax.grad(lambda lam: (lasso.encode(atoms, x, lam).params ** 2).sum())(lam)
        np.testing.assert_allclose(slope, one, rtol=1e-4)


def test_the_dictionary_learns_by_the_gradient_of_the_objective():
    """`d/dW` of the sum of the minima is `A W - B`, with the sums of `dictionary`."""
    atoms, x = problem()
    fit = lasso.encode(atoms, x, 0.5, 1e-6)
    sums = dictionary.statistics(fit.params, fit.objective, x)
    slope = jax.grad(lambda atoms: lasso.encode(atoms, x, 0.5, 1e-6).objective.sum())(atoms)
    np.testing.assert_allclose(slope, sums.gram @ atoms - sums.cross, atol=1e-3)


def test_a_bad_signal_poisons_no_derivative():
    atoms, x = problem()
    total = lambda atoms, x: lasso.encode(atoms, x, 0.5).params.sum()  # noqa: E731
    slope = jax.grad(total)(atoms, x.at[3, 1].set(jnp.nan))
    np.testing.assert_allclose(slope, jax.grad(total)(atoms, x.at[3].set(0.0)), atol=1e-5)


def test_kkt_violation_is_its_definition():
    rng = np.random.default_rng(3)
    w, x = (rng.normal(size=s).astype(np.float32) for s in [(7, 5), (4, 5)])
    z = (rng.normal(size=(4, 7)) * (rng.random((4, 7)) < 0.4)).astype(np.float32)
    c = (x - z @ w) @ w.T
    worst = np.where(z != 0, np.abs(c - 0.3 * np.sign(z)), np.maximum(np.abs(c) - 0.3, 0)).max(1)
    found = lasso.kkt_violation(*map(jnp.asarray, (w, x, z)), 0.3)
    np.testing.assert_allclose(found, worst, rtol=1e-4)
