"""Mixtures of Bernoullis against NumPy, enumeration, sampling and the lecture's equations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conformance.registry import bits
from unsup_jax.core.fit import Status
from unsup_jax.mixtures import bernoulli


def random_params(k=3, d=4, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k))
    means = jnp.asarray(rng.uniform(0.05, 0.95, (k, d)), jnp.float32)
    return bernoulli.Params(jnp.asarray(np.log(weights), jnp.float32), means)


def every_pattern(d=4):
    return jnp.asarray(list(itertools.product([0.0, 1.0], repeat=d)), jnp.float32)


def test_log_prob_is_the_lecture_s_product_and_sums_to_one():
    params, x = random_params(), every_pattern()
    mu = np.asarray(params.means)[None]
    bit = np.asarray(x)[:, None]
    per_component = np.prod(mu**bit * (1 - mu) ** (1 - bit), axis=2)
    density = per_component @ np.exp(params.log_weights)
    np.testing.assert_allclose(bernoulli.log_prob(params, x), np.log(density), rtol=1e-4)
    np.testing.assert_allclose(np.exp(bernoulli.log_prob(params, x)).sum(), 1, rtol=1e-5)


def test_moments_are_those_of_the_enumerated_distribution():
    """The lecture's closed form, E[x] and cov[x], against the sum over all 2^d patterns."""
    params, x = random_params(), every_pattern()
    p, x = np.exp(bernoulli.log_prob(params, x)), np.asarray(x)
    mean = p @ x
    covariance = (x - mean).T @ (p[:, None] * (x - mean))
    ours = bernoulli.moments(params)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-5)
    np.testing.assert_allclose(ours[1], covariance, atol=1e-6)
    # ... and in the lecture's own form, sum_k pi_k (Sigma_k + mu_k mu_k') - E[x] E[x]'.
    weights, mu = np.exp(params.log_weights), np.asarray(params.means)
    lecture = sum(
        w * (np.diag(m * (1 - m)) + np.outer(m, m)) for w, m in zip(weights, mu, strict=True)
    ) - np.outer(mean, mean)
    np.testing.assert_allclose(ours[1], lecture, atol=1e-6)


def test_moments_agree_with_samples():
    params = random_params()
    x, component = bernoulli.sample(jax.random.key(0), params, n_samples=100_000)
    mean, covariance = bernoulli.moments(params)
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_allclose(x.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.01)
    share = np.bincount(component, minlength=3) / len(component)
    np.testing.assert_allclose(share, np.exp(params.log_weights), atol=0.01)


def test_em_equals_a_plain_numpy_em():
    x = bits()
    start = bernoulli.init(jax.random.key(0), x, n_components=3)
    fit = bernoulli.fit(start, x, smoothing=0.1, tol=-1.0, max_iter=15)
    data = np.asarray(x, np.float64)
    weights, mu = np.exp(np.asarray(start.log_weights, np.float64)), np.asarray(start.means, float)
    for _ in range(15):
        joint = np.log(weights) + data @ np.log(mu).T + (1 - data) @ np.log(1 - mu).T
        r = np.exp(joint - joint.max(1, keepdims=True))
        r /= r.sum(1, keepdims=True)
        weights = r.mean(0)
        mu = (r.T @ data + 0.1) / (r.sum(0)[:, None] + 0.2)
    np.testing.assert_allclose(np.exp(fit.params.log_weights), weights, rtol=1e-3)
    np.testing.assert_allclose(fit.params.means, mu, atol=1e-4)


def test_objective_is_the_mean_log_likelihood_plus_the_prior():
    x = bits()
    start = bernoulli.init(jax.random.key(0), x, n_components=3)
    for smoothing in (0.0, 0.3):
        fit = bernoulli.fit(start, x, None, smoothing)
        mean = bernoulli.log_prob(fit.params, x).mean()
        prior = bernoulli.log_prior(fit.params, smoothing) / x.shape[0]
        np.testing.assert_allclose(fit.objective, mean + prior, rtol=1e-5)


def test_smoothing_keeps_probabilities_off_zero_and_one():
    x = bits().at[:, 0].set(0.0).at[:, 1].set(1.0)
    start = bernoulli.init(jax.random.key(0), x, n_components=3)
    for smoothing in (0.0, 0.05):
        means = bernoulli.fit(start, x, None, smoothing).params.means
        assert ((means > 0) & (means < 1)).all()
        unseen = x.at[:, 0].set(1.0)
        log_prob = bernoulli.log_prob(bernoulli.fit(start, x, None, smoothing).params, unseen)
        assert np.isfinite(log_prob).all()


def test_inactive_components_stay_out():
    x = bits()
    start = bernoulli.init(jax.random.key(0), x, n_components=3)
    padded = bernoulli.Params(
        jnp.append(start.log_weights, -jnp.inf), jnp.concatenate([start.means, start.means[:1]])
    )
    small, large = bernoulli.fit(start, x), bernoulli.fit(padded, x)
    np.testing.assert_allclose(large.objective, small.objective, rtol=1e-6)
    assert large.params.log_weights[3] == -jnp.inf
    assert large.status == small.status
    assert int(bernoulli.n_parameters(large.params)) == 2 + 3 * 8


def test_a_component_without_points_collapses_with_finite_parameters():
    x = jnp.ones((50, 200))
    means = jnp.stack([jnp.full(200, 0.9), jnp.full(200, 0.01)])
    fit = bernoulli.fit(bernoulli.Params(jnp.log(jnp.full(2, 0.5)), means), x)
    assert fit.status == Status.COLLAPSED
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params))


@pytest.mark.parametrize("method", bernoulli.METHODS)
def test_every_start_recovers_the_prototypes(method):
    x = bits()
    starts = jax.vmap(lambda key: bernoulli.init(key, x, n_components=3, method=method))(
        jax.random.split(jax.random.key(0), 4)
    )
    fits = jax.vmap(bernoulli.fit, in_axes=(0, None))(starts, x)
    best = jnp.argmax(fits.objective)
    labels = bernoulli.predict(jax.tree.map(lambda a: a[best], fits.params), x)
    purity = sum(np.bincount(np.arange(301)[labels == k] % 3).max() for k in np.unique(labels))
    assert purity / 301 > 0.9


@pytest.mark.parametrize("method", bernoulli.METHODS)
def test_starts_without_any_weight_are_finite(method):
    x = bits()
    start = bernoulli.init(jax.random.key(0), x, 0 * x[:, 0], n_components=3, method=method)
    assert np.isfinite(start.means).all()


def test_data_outside_the_unit_interval_are_refused_where_they_can_be_seen(unchecked):
    x = bits()
    start = bernoulli.init(jax.random.key(0), x, n_components=3)
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\], got values from 0.0 to 255.0"):
        bernoulli.fit(start, 255 * x)
    grey = bernoulli.fit(start, 0.5 * x + 0.25, max_iter=5)
    assert np.isfinite(grey.objective)
