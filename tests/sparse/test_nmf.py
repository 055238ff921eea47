"""Non-negative matrix factorisation: the updates, a peer from the same start, missing entries.

The codes of a factorisation belong to its samples, so it can't be among the fits of
`tests/conformance`, whose parameters don't; what is tested there is tested here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy.optimize import nnls
from sklearn.decomposition import NMF

from unsup_jax.core.fit import Status
from unsup_jax.sparse import nmf

UPDATES = ["hals", "multiplicative", "kl"]
N, D, K = 42, 11, 3
every = pytest.mark.parametrize("update", UPDATES)


def data(dtype=jnp.float32, noise=0.1):
    rng = np.random.default_rng(0)
    parts = rng.random((K, D)) * (rng.random((K, D)) < 0.6)
    x = rng.random((N, K)) @ parts + noise * rng.random((N, D))
    return jnp.asarray(x, dtype)


def start(x, method="random", seed=0):
    return nmf.init(jax.random.key(seed), x, n_components=K, method=method)


def assert_close(a, b, tol=2e-5):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=tol, atol=tol), a, b)


def test_hals_minimises_over_one_row_of_a_factor_after_another():
    x = data()
    first = start(x)
    fit = nmf.fit(first, x, tol=-1.0, max_iter=2, n_sweeps=1)
    z, w = (np.array(a, np.float64) for a in first)
    for _ in range(2):
        for j in range(K):
            rest = x - z @ w + np.outer(z[:, j], w[j])
            z[:, j] = np.maximum(rest @ w[j] / (w[j] @ w[j]), 0)
        for j in range(K):
            rest = x - z @ w + np.outer(z[:, j], w[j])
            w[j] = np.maximum(z[:, j] @ rest / (z[:, j] @ z[:, j]), 0)
    assert_close(fit.params, nmf.Params(z, w), 1e-4)
    np.testing.assert_allclose(fit.objective, ((x - z @ w) ** 2).sum() / 2 / N, rtol=1e-4)


@pytest.mark.parametrize("loss", ["frobenius", "kullback-leibler"])
def test_multiplicative_updates_equal_scikit_learn(loss):
    x = data()
    first = start(x)
    peer = NMF(K, init="custom", solver="mu", beta_loss=loss, max_iter=5, tol=0)
    codes = peer.fit_transform(np.asarray(x), W=np.array(first.codes), H=np.array(first.components))
    update = "kl" if loss == "kullback-leibler" else "multiplicative"
    fit = nmf.fit(first, x, tol=-1.0, max_iter=5, update=update, n_sweeps=1)
    assert_close(fit.params, nmf.Params(codes, peer.components_), 1e-4)
    # scikit-learn reports sqrt(2 * the summed loss) for either.
    np.testing.assert_allclose(fit.objective, peer.reconstruction_err_**2 / 2 / N, rtol=1e-4)


def test_hals_ends_no_higher_than_scikit_learn_from_the_same_start():
    x = data()
    first = start(x, "nndsvda")  # random starts lead to different optima
    peer = NMF(K, init="custom", solver="cd", max_iter=200, tol=0)
    peer.fit_transform(np.asarray(x), W=np.array(first.codes), H=np.array(first.components))
    fit = nmf.fit(first, x, tol=-1.0, max_iter=200)
    assert fit.objective <= peer.reconstruction_err_**2 / 2 / N * 1.001


@every
@pytest.mark.parametrize("masked", [False, True])
def test_the_objective_never_rises(update, masked, x64):
    x = data(jnp.float64)
    mask = jnp.asarray(np.random.default_rng(1).random((N, D)) < 0.8) if masked else None
    weights = jnp.linspace(0, 2, N)
    fit = nmf.fit(start(x), x, weights, mask, -1.0, max_iter=40, update=update, unit_ball=masked)
    assert np.diff(fit.history).max() < 1e-12
    # It is the loss of these parameters, over what was observed.
    y = np.asarray(nmf.inverse_transform(fit.params, fit.params.codes))
    loss = x * np.log(x / y) - x + y if update == "kl" else (x - y) ** 2 / 2
    loss = (loss if mask is None else jnp.where(mask, loss, 0)).sum(1)
    np.testing.assert_allclose(fit.objective, (weights * loss).sum() / weights.sum(), rtol=1e-9)
    assert min(a.min() for a in fit.params) >= 0
    if masked:
        assert jnp.linalg.norm(fit.params.components, axis=1).max() <= 1 + 1e-12


def test_the_constraint_set_costs_nothing(x64):
    x = 10 * data(jnp.float64)
    free, ball = (
        nmf.fit(start(x), x, tol=-1.0, max_iter=40, unit_ball=inside) for inside in (False, True)
    )
    np.testing.assert_allclose(ball.objective, free.objective, rtol=1e-8)
    assert jnp.linalg.norm(free.params.components, axis=1).max() > 1.5
    assert jnp.linalg.norm(ball.params.components, axis=1).max() <= 1 + 1e-12


@every
def test_missing_entries_of_exact_data_are_found(update, x64):
    full = data(jnp.float64, noise=0.0) + (0.01 if update == "kl" else 0)
    mask = np.random.default_rng(2).random((N, D)) < 0.85
    x = jnp.where(mask, full, jnp.nan)
    first = nmf.init(jax.random.key(0), x, jnp.asarray(mask), n_components=K, method="nndsvda")
    fit = nmf.fit(first, x, None, jnp.asarray(mask), 1e-9, max_iter=800, update=update)
    found = nmf.inverse_transform(fit.params, fit.params.codes)
    missing = ~mask
    error = jnp.linalg.norm((found - full)[missing]) / jnp.linalg.norm(full[missing])
    assert error < 0.05


def test_transform_is_non_negative_least_squares():
    x = data()
    params = nmf.fit(start(x), x, max_iter=20).params
    codes = nmf.transform(params, x, tol=1e-6)
    expected = [nnls(np.asarray(params.components.T), np.asarray(row))[0] for row in x]
    assert_close(codes, np.array(expected, np.float32), 1e-3)
    mask = jnp.ones((N, D), bool).at[:, :2].set(False)
    seen = nmf.transform(params, x.at[:, :2].set(jnp.nan), mask, tol=1e-6)
    expected = [nnls(np.asarray(params.components.T)[2:], np.asarray(row)[2:])[0] for row in x]
    assert_close(seen, np.array(expected, np.float32), 5e-3)


def test_nndsvd_equals_its_definition():
    x = data()
    ours = start(x, "nndsvd")
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    for j in range(K):
        pairs = [(np.maximum(g * u[:, j], 0), np.maximum(g * vt[j], 0)) for g in (1, -1)]
        best = max(pairs, key=lambda p: np.linalg.norm(np.outer(*p)))
        outer = s[j] * np.outer(*best)
        np.testing.assert_allclose(np.outer(ours.codes[:, j], ours.components[j]), outer, atol=1e-3)
    assert start(x, "nndsvda").codes.min() > 0


@every
def test_weights_tiles_and_shards_change_nothing_else(update):
    x, n = data(), N
    first = start(x)
    run = partial(nmf.fit, tol=-1.0, max_iter=4, update=update)
    weights = jnp.asarray(np.arange(n) % 3, x.dtype)
    whole = run(first, x, weights, tile_size=None)
    assert_close(run(first, x, weights, tile_size=10), whole)
    rows = np.repeat(np.arange(n), np.arange(n) % 3)
    repeated = run(first._replace(codes=first.codes[rows]), x[rows])
    assert_close(repeated.params.components, whole.params.components, 2e-4)
    assert_close(repeated.history, whole.history, 2e-4)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    split = nmf.Params(P("rows"), P())
    sharded = jax.shard_map(
        partial(run, axis_name="rows"),
        mesh=mesh,
        in_specs=(split, P("rows"), P("rows")),
        out_specs=type(whole)(split, P(), P(), P(), P()),
        check_vma=False,
    )(first, x, weights)
    assert_close(sharded, whole, 2e-4)


def test_a_sweep_of_tolerances_is_one_program():
    x = data()
    fits = jax.vmap(lambda tol: nmf.fit(start(x), x, tol=tol, max_iter=30))(
        jnp.array([1e-1, 1e-3, 0.0])
    )
    assert fits.n_iter[0] < fits.n_iter[1] < fits.n_iter[2] == 30
    assert list(fits.status) == [Status.CONVERGED, Status.CONVERGED, Status.ITERATION_LIMIT]


@pytest.mark.parametrize("kind", ["zero", "one sample", "constant column", "tiny", "huge", "nan"])
def test_degenerate_data_end_with_a_status(kind):
    x = data()
    first = start(x)
    x = {
        "zero": jnp.zeros_like(x),
        "one sample": jnp.tile(x[:1], (N, 1)),
        "constant column": x.at[:, 1].set(0.0),
        "tiny": 1e-15 * x,
        "huge": 1e15 * x,
        "nan": x.at[3, 1].set(jnp.nan),
    }[kind]
    for update in UPDATES:
        fit = nmf.fit(first, x, max_iter=20, update=update)
        assert all(np.isfinite(leaf).all() for leaf in fit.params)
        if kind == "nan":
            assert fit.status == Status.NON_FINITE
        else:
            assert np.isfinite(fit.objective)


def test_wrong_input_is_named(unchecked):
    x = data()
    first = start(x)
    with pytest.raises(ValueError, match=r"params.codes must have shape \(41, 3\), got \(42, 3\)"):
        nmf.fit(first, x[:-1])
    with pytest.raises(ValueError, match=r"params.components must have 2 features, got 11"):
        nmf.fit(first, x[:, :2])
    with pytest.raises(ValueError, match=r"mask must be boolean of shape \(42, 11\), got float32"):
        nmf.fit(first, x, None, x)
    with pytest.raises(ValueError, match="update must be one of 'hals'"):
        nmf.fit(first, x, update="newton")
    with pytest.raises(ValueError, match="n_components must be at least 1 and at most 11, got 12"):
        nmf.init(jax.random.key(0), x, n_components=12)
    with pytest.raises(ValueError, match="x must be floating point"):
        nmf.transform(first, x.astype(jnp.int32))
