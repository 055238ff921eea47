"""Dictionary learning: the lecture's updates, a descending objective, the constraint set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from sklearn.linear_model import Lasso

from unsup_jax.core.fit import Status
from unsup_jax.sparse import dictionary, lasso

N, D, K, LAM = 60, 6, 8, 0.1


def data(dtype=jnp.float32, truth=False):
    """Sparse combinations of eight random directions."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(K, D))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((N, K))
    for row in codes:
        row[rng.choice(K, 2, replace=False)] = rng.choice([-1, 1], 2) * (1 + rng.random(2))
    x = jnp.asarray(codes @ atoms, dtype)
    return (x, atoms) if truth else x


def start(x):
    return dictionary.init(jax.random.key(0), x, n_components=K)


def loss(components, x, lam=LAM, positive=False):
    atoms, x = np.asarray(components, np.float64), np.asarray(x, np.float64)
    peer = Lasso(lam / D, fit_intercept=False, positive=positive, tol=1e-10, max_iter=20_000)
    rest = x.T - atoms.T @ peer.fit(atoms.T, x.T).coef_.T
    return ((rest**2).sum() / 2 + lam * np.abs(peer.coef_).sum()) / len(x)


def project(atoms):
    return atoms / np.maximum(np.linalg.norm(atoms, axis=-1, keepdims=True), 1)


@pytest.mark.parametrize("update", ["block", "gradient"])
def test_updates_are_those_of_the_lecture(update):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(N, K)) * (rng.random((N, K)) < 0.4)
    x, w = rng.normal(size=(N, D)), project(rng.normal(size=(K, D)))
    sums = dictionary.statistics(*map(jnp.float32, (codes, np.zeros(N), x)))
    ours = dictionary.update_components(jnp.float32(w), sums, update=update, n_sweeps=2)
    for _ in range(2):
        if update == "gradient":
            step = 1 / np.linalg.norm(codes, 2) ** 2
            w = project(w - step * codes.T @ (codes @ w - x))
        else:
            for j in range(K):  # the minimum over atom j, the others fixed
                z, rest = codes[:, j], x - codes @ w + np.outer(codes[:, j], w[j])
                w[j] = project(z @ rest / (z @ z))
    np.testing.assert_allclose(ours, w, atol=1e-4)


@pytest.mark.parametrize("update", ["block", "gradient"])
@pytest.mark.parametrize("positive", [False, True])
def test_the_objective_never_rises(update, positive, x64):
    x = jnp.abs(data(jnp.float64)) if positive else data(jnp.float64)
    fit = dictionary.fit(
        start(x), x, LAM, None, -1.0, 1e-9, max_iter=12, update=update, positive=positive
    )
    assert np.diff(fit.history).max() < 1e-8
    assert fit.history[-1] < 0.95 * fit.history[0]
    expected = loss(fit.params, x, positive=positive)
    np.testing.assert_allclose(fit.objective, expected, rtol=1e-6)
    assert jnp.linalg.norm(fit.params, axis=1).max() <= 1 + 1e-12
    assert fit.params.min() >= 0 or not positive


def test_finds_the_atoms_the_data_are_made_of():
    x, atoms = data(truth=True)
    near = jnp.asarray(atoms + 0.1 * np.random.default_rng(1).normal(size=atoms.shape), x.dtype)
    fit = dictionary.fit(near, x, LAM, tol=-1.0, code_tol=1e-6, max_iter=40)
    assert fit.history[0] > loss(atoms, x) * 1.02
    assert fit.objective <= loss(atoms, x)
    assert jnp.abs(fit.params @ jnp.asarray(atoms, x.dtype).T).max(0).min() > 0.97


def test_unused_atoms_become_samples_that_are_reconstructed_worst():
    x = data()
    first = start(x).at[3].set(0.0)
    losses = lasso.encode(first, x, LAM).objective
    fit = dictionary.fit(first, x, LAM, tol=-1.0, max_iter=1)
    worst = x[jnp.argmax(losses)]
    np.testing.assert_allclose(fit.params[3], worst / jnp.linalg.norm(worst), atol=1e-6)
    # A sample of weight 0 is nobody's atom.
    weights = jnp.ones(N).at[jnp.argmax(losses)].set(0.0)
    fit = dictionary.fit(first, x, LAM, weights, tol=-1.0, max_iter=1)
    assert jnp.abs(fit.params[3] - worst / jnp.linalg.norm(worst)).max() > 0.1


def test_weights_tiles_and_shards_change_nothing_else():
    x, first = data(), start(data())
    run = partial(dictionary.fit, tol=-1.0, code_tol=1e-6, max_iter=3)
    weights = jnp.asarray(np.arange(N) % 3, x.dtype)
    whole = run(first, x, LAM, weights)
    rows = np.repeat(np.arange(N), np.arange(N) % 3)
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3)
    jax.tree.map(close, run(first, x[rows], LAM), whole)
    jax.tree.map(close, run(first, x, LAM, weights, tile_size=25), whole)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        partial(run, axis_name="rows"),
        mesh=mesh,
        in_specs=(P(), P("rows"), P(), P("rows")),
        out_specs=P(),
        check_vma=False,
    )(first, x, jnp.float32(LAM), weights)
    jax.tree.map(close, sharded, whole)


def test_a_sweep_over_lambda_is_one_program():
    x, first = data(), start(data())
    lams = jnp.array([0.05, 0.2])
    run = lambda lam: dictionary.fit(first, x, lam, tol=-1.0, code_tol=1e-6, max_iter=2)  # noqa: E731
    swept = jax.vmap(run)(lams)
    for i, lam in enumerate(lams):
        np.testing.assert_allclose(swept.objective[i], run(lam).objective, rtol=1e-4)


def test_online_learning_comes_near_the_batch_form():
    x, first = data(), start(data())
    batch = dictionary.fit(first, x, LAM, tol=-1.0, max_iter=30)
    online = dictionary.fit_online(jax.random.key(1), first, x, LAM, batch_size=20, max_iter=90)
    assert loss(online.params, x) < 0.5 * (loss(first, x) + float(batch.objective))
    assert jnp.linalg.norm(online.params, axis=1).max() <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["zero", "one sample", "nan"])
def test_degenerate_data_end_with_a_status(kind):
    x, first = data(), start(data())
    x = {
        "zero": jnp.zeros_like(x),
        "one sample": jnp.tile(x[:1], (N, 1)),
        "nan": x.at[3, 1].set(jnp.nan),
    }[kind]
    fit = dictionary.fit(first, x, LAM, tol=-1.0, code_tol=1e-6, max_iter=3)
    assert np.isfinite(fit.params).all()
    assert kind != "nan" or fit.status == Status.NON_FINITE


def test_starts_and_wrong_input(unchecked):
    x = data().at[0].set(0.0)
    for method, count in (("data", N), ("random", 2 * N)):
        atoms = dictionary.init(jax.random.key(0), x, n_components=count, method=method)
        np.testing.assert_allclose(jnp.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="n_components must be at least 1 and at most 60, got 61"):
        dictionary.init(jax.random.key(0), x, n_components=61)
    with pytest.raises(ValueError, match="components must have 2 features, got 6"):
        dictionary.fit(atoms, x[:, :2], LAM)
    with pytest.raises(ValueError, match="update must be one of 'block', 'gradient'"):
        dictionary.fit(atoms, x, LAM, update="newton")
    with pytest.raises(ValueError, match="batch_size must be at least 1 and at most 60, got 99"):
        dictionary.fit_online(jax.random.key(0), atoms, x, LAM, batch_size=99)


@pytest.mark.parametrize("forgetting", [0.0, 2.0])
def test_online_sums_forget_at_their_rate(forgetting):
    """Before batch t joins, the sums are multiplied by (1 - 1/t)^forgetting."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (3, 40, 5))
    state = dictionary.online(dictionary.init(key, x[0], n_components=6))
    gram = jnp.zeros((6, 6))
    for t, batch in enumerate(x, 1):
        codes, _ = dictionary.code(state.components, batch, 0.2, 1e-6)
        gram = (1 - 1 / t) ** forgetting * gram + codes.T @ codes
        state = dictionary.online_step(state, batch, None, 0.2, forgetting, 1e-6)
        np.testing.assert_allclose(state.gram, gram, rtol=1e-4, atol=1e-4)
