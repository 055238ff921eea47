"""Weights say the same as removing rows; scores agree with scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from tests.conformance.registry import bits, blobs
from unsup_jax import selection, sweep
from unsup_jax.mixtures import bernoulli, gaussian
from unsup_jax.mixtures.covariance import Full


def test_information_criteria_are_scikit_learns():
    x = np.asarray(blobs(n=120))
    rng = np.random.default_rng(0)
    factors = np.tril(rng.random((3, 3, 3)) + 2 * np.eye(3)).astype(np.float32)
    peer = GaussianMixture(3)
    peer.weights_, peer.means_ = np.full(3, 1 / 3), x[:3]
    peer.covariances_ = factors @ factors.transpose(0, 2, 1)
    peer.precisions_cholesky_ = np.linalg.inv(factors).transpose(0, 2, 1)
    log_weights = jnp.full(3, -np.log(3), jnp.float32)
    params = gaussian.Params(log_weights, jnp.asarray(x[:3]), Full(jnp.asarray(factors)))
    total = selection.log_likelihood(gaussian.log_prob(params, jnp.asarray(x)))
    p = gaussian.n_parameters(params)
    np.testing.assert_allclose(selection.aic(total, p), peer.aic(x), rtol=1e-5)
    np.testing.assert_allclose(selection.bic(total, p, 120), peer.bic(x), rtol=1e-5)


def test_held_out_rows_may_be_impossible():
    log_prob = jnp.asarray([-1.0, -jnp.inf, -3.0])
    np.testing.assert_allclose(selection.score(log_prob, jnp.asarray([1.0, 0.0, 1.0])), -2.0)
    np.testing.assert_allclose(selection.score(log_prob[::2]), -2.0)


def test_folds_deal_every_row_once():
    folds = selection.folds(jax.random.key(0), 23, n_folds=5)
    np.testing.assert_array_equal(np.sort(np.bincount(folds)), [4, 4, 5, 5, 5])
    held_out = [selection.split(folds, fold)[1] for fold in range(5)]
    np.testing.assert_array_equal(sum(held_out), np.ones(23))
    train, test = selection.split(folds, 2)
    np.testing.assert_array_equal(train + test, np.ones(23))
    with pytest.raises(ValueError, match="n_folds must be at least 2 and at most 3, got 4"):
        selection.folds(jax.random.key(0), 3, n_folds=4)


def test_cross_validation_in_one_program_is_the_loop_over_rows():
    x = bits(n=60)
    folds = selection.folds(jax.random.key(1), 60, n_folds=3)
    start = bernoulli.init(jax.random.key(0), x, n_components=3)

    def held_out(x, folds, start, fold, k):
        train, test = selection.split(folds, fold)
        fit = bernoulli.fit(sweep.activate(start, k), x, train, max_iter=8)
        return selection.score(bernoulli.log_prob(fit.params, x), test)

    points = sweep.grid(fold=jnp.arange(3), k=jnp.arange(1, 4))
    swept = sweep.run(held_out, points, x, folds, start, batch_size=2)
    for row in sweep.table(swept):
        inside = np.asarray(folds) != row["fold"]
        fit = bernoulli.fit(sweep.activate(start, row["k"]), x[inside], max_iter=8)
        expected = bernoulli.log_prob(fit.params, x[~inside]).mean()
        np.testing.assert_allclose(row["result"], expected, rtol=1e-4)


def test_bootstrap_draws_as_many_rows_as_there_are():
    keys = jax.random.split(jax.random.key(0), 50)
    counts = jax.vmap(lambda key: selection.bootstrap(key, 200))(keys)
    np.testing.assert_array_equal(counts.sum(1), np.full(50, 200.0))
    assert abs((counts == 0).mean() - np.exp(-1)) < 0.01
    assert abs(counts.var() - 1) < 0.05


def test_adjusted_rand_is_scikit_learns():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 300)
    noisy = np.where(rng.random(300) < 0.3, rng.integers(0, 5, 300), (a + 2) % 5)
    index = lambda a, b: selection.adjusted_rand(jnp.asarray(a), jnp.asarray(b), n_clusters=6)  # noqa: E731
    for b in (noisy, a[::-1], (a + 1) % 5, np.zeros(300, int), np.minimum(a, 2)):
        np.testing.assert_allclose(index(a, b), adjusted_rand_score(a, b), atol=2e-6)
    assert index(np.zeros(9, int), np.zeros(9, int)) == 1
    assert index(np.arange(6), np.arange(6)[::-1]) == 1
    labels = jnp.asarray(np.stack([a, noisy, (a + 1) % 5]))
    pairs = adjusted_rand_score(a, noisy), adjusted_rand_score(labels[1], labels[2]), 1.0
    np.testing.assert_allclose(selection.stability(labels, n_clusters=5), np.mean(pairs), atol=2e-6)


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    x = jax.random.normal(jax.random.key(0), (400,))
    keys = jax.random.split(jax.random.key(1), 2000)
    means = jax.vmap(lambda key: selection.bootstrap(key, 400) @ x / 400)(keys)
    low, high = selection.interval({"mean": means}, 0.9)
    half = 1.645 * x.std() / 20
    np.testing.assert_allclose(low["mean"], x.mean() - half, atol=0.01)
    np.testing.assert_allclose(high["mean"], x.mean() + half, atol=0.01)


def test_interval_ignores_failed_lanes():
    params = jnp.asarray([[0.0, 1.0], [1e9, jnp.inf], [2.0, 3.0]])
    low, high = selection.interval(params, 1.0, jnp.asarray([True, False, True]))
    np.testing.assert_array_equal(low, [0.0, 1.0])
    np.testing.assert_array_equal(high, [2.0, 3.0])
