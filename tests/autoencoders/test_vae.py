"""Variational autoencoders: the bounds, on models where everything is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from unsup_jax.autoencoders import networks, vae

D, K = 5, 2


@pytest.fixture(scope="module")
def linear():
    """A linear-Gaussian VAE: `x = W z + b + sigma e`, with a posterior that is not the true one."""
    model = vae.VAE(networks.MLP((2 * K,)), networks.MLP((D,)), "gaussian", sigma=0.7)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, D)).astype(np.float32)
    params = vae.init(jax.random.key(0), jnp.asarray(x), model=model)
    params = jax.tree.map(lambda a: a + 0.1, params | {"log_sigma": jnp.log(0.6)})
    return model, params, x


def closed_form(params, x):
    """`log p(x)`, and mean and covariance of `p(z | x)`, in float64."""
    layer = jax.tree.map(lambda a: np.asarray(a, np.float64), params["decoder"]["layer_0"])
    w, b, variance = layer["kernel"].T, layer["bias"], np.exp(2 * float(params["log_sigma"]))
    log_p = multivariate_normal(b, w @ w.T + variance * np.eye(D)).logpdf(x)
    covariance = np.linalg.inv(np.eye(K) + w.T @ w / variance)
    return log_p, (x - b) @ w @ covariance / variance, covariance


def expected_elbo(params, q, x):
    """`E_q[log p(x | z)] - KL[q || p]` without sampling: the likelihood is quadratic in z."""
    layer = jax.tree.map(lambda a: np.asarray(a, np.float64), params["decoder"]["layer_0"])
    w, b, variance = layer["kernel"].T, layer["bias"], np.exp(2 * float(params["log_sigma"]))
    mean, sigma2 = np.asarray(q.mean, np.float64), np.exp(2 * np.asarray(q.log_sigma, np.float64))
    squares = ((x - mean @ w.T - b) ** 2).sum(1) + sigma2 @ (w**2).sum(0)
    expected = -0.5 * squares / variance - 0.5 * D * np.log(2 * np.pi * variance)
    return expected - np.asarray(vae.kl(q)).sum(1)


def gap(q, mean, covariance):
    """`KL[q(z | x) || p(z | x)]` of two Gaussians."""
    sigma2 = np.exp(2 * np.asarray(q.log_sigma, np.float64))
    precision, shift = np.linalg.inv(covariance), np.asarray(q.mean) - mean
    quadratic = np.einsum("ni,ij,nj->n", shift, precision, shift)
    log_dets = np.linalg.slogdet(covariance)[1] - np.log(sigma2).sum(1)
    return 0.5 * (sigma2 @ np.diag(precision) + quadratic - K + log_dets)


def test_log_evidence_minus_gap_is_the_elbo(linear):
    model, params, x = linear
    q = vae.encode(params, jnp.asarray(x), model=model)
    log_p, mean, covariance = closed_form(params, x)
    elbo = expected_elbo(params, q, x)
    np.testing.assert_allclose(log_p - gap(q, mean, covariance), elbo, rtol=2e-5)
    assert (log_p > elbo + 0.01).all()
    # What `elbo` draws has that mean, and splits into its two terms.
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = jax.vmap(lambda key: vae.elbo(params, key, jnp.asarray(x), model=model))(keys)
    np.testing.assert_allclose(draws.elbo, draws.reconstruction - draws.kl, rtol=1e-5)
    error = draws.elbo.std(0) / np.sqrt(4000)
    assert (np.abs(draws.elbo.mean(0) - elbo) < 4 * error).all()


def test_importance_sampling_finds_the_evidence_and_iwae_is_between(linear):
    model, params, x = linear
    rows = jnp.asarray(x)
    log_p, _, _ = closed_form(params, x)
    found = vae.log_likelihood(params, jax.random.key(2), rows, model=model, n_samples=20_010)
    np.testing.assert_allclose(found.log_prob, log_p, atol=0.1)
    assert ((found.effective_samples > 50) & (found.effective_samples <= 20_010)).all()

    # L_1 = ELBO <= L_2 <= L_8 <= log p(x), on average over draws.
    keys = jax.random.split(jax.random.key(3), 4000)
    bounds = [expected_elbo(params, vae.encode(params, rows, model=model), x).mean()]
    for k in (1, 2, 8):
        one = partial(vae.iwae, model=model, n_samples=k)
        bounds.append(float(jax.vmap(lambda key, one=one: one(params, key, rows))(keys).mean()))
    assert bounds[1] == pytest.approx(bounds[0], abs=0.06)
    assert bounds[1] + 0.05 < bounds[2] < bounds[3] - 0.05
    assert bounds[3] < log_p.mean()
    loss = vae.iwae_loss(params, keys[0], rows, model=model, n_samples=8)
    np.testing.assert_allclose(loss, -vae.iwae(params, keys[0], rows, model=model, n_samples=8))


def test_weights_of_all_draws_are_equal_when_q_is_the_posterior(linear):
    model, params, x = linear
    # With a decoder that ignores the code the posterior is the prior: q = N(0, I) is exact.
    params = jax.tree.map(jnp.zeros_like, params) | {"log_sigma": params["log_sigma"]}
    found = vae.log_likelihood(params, jax.random.key(2), jnp.asarray(x), model=model, n_samples=73)
    np.testing.assert_allclose(found.effective_samples, 73, rtol=1e-4)
    np.testing.assert_allclose(found.log_prob, closed_form(params, x)[0], rtol=1e-5)


def test_closed_form_kl_is_the_monte_carlo_one():
    q = vae.Posterior(jnp.asarray([[0.3, -1.2]]), jnp.asarray([[-0.5, 0.4]]))
    noise = np.random.default_rng(0).normal(size=(400_000, 2))
    z = np.asarray(q.mean) + np.exp(np.asarray(q.log_sigma)) * noise
    log_ratio = 0.5 * (z**2 - noise**2) - np.asarray(q.log_sigma)
    np.testing.assert_allclose(vae.kl(q)[0], log_ratio.mean(0), atol=0.01)
    standard = vae.Posterior(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    np.testing.assert_array_equal(vae.kl(standard), 0)


@pytest.fixture(scope="module")
def binary():
    model = vae.VAE(networks.MLP((8, 4)), networks.MLP((8, 12)))
    x = (jax.random.uniform(jax.random.key(0), (9, 12)) < 0.4).astype(jnp.float32)
    return model, vae.init(jax.random.key(1), x, model=model), x


def test_bernoulli_terms_beta_and_free_bits(binary):
    model, params, x = binary
    key = jax.random.key(4)
    bound = vae.elbo(params, key, x, model=model)
    q = vae.encode(params, x, model=model)
    z = q.mean + jnp.exp(q.log_sigma) * jax.random.normal(key, q.mean.shape)
    p = np.asarray(vae.decode(params, z, model=model), np.float64)
    log_p = np.where(np.asarray(x) == 1, np.log(p), np.log1p(-p)).sum(1)
    np.testing.assert_allclose(bound.reconstruction, log_p, rtol=1e-4)
    np.testing.assert_allclose(vae.loss(params, key, x, model=model), -bound.elbo, rtol=1e-5)
    np.testing.assert_allclose(
        vae.loss(params, key, x, 4.0, model=model), 4 * bound.kl - bound.reconstruction, rtol=1e-5
    )
    # Coordinates below the free nats all cost exactly these, and have no gradient.
    costs = vae.loss(params, key, x, 1.0, 100.0, model=model) + bound.reconstruction
    np.testing.assert_allclose(costs, 200.0, rtol=1e-5)


def test_learned_sigma_has_a_gradient_and_a_fixed_one_has_none(linear):
    _, params, x = linear
    for likelihood, trained in (("gaussian", False), ("gaussian_learned", True)):
        model = vae.VAE(networks.MLP((2 * K,)), networks.MLP((D,)), likelihood)
        gradient = jax.grad(
            lambda p, model=model: vae.loss(p, jax.random.key(0), jnp.asarray(x), model=model).sum()
        )(params)
        assert bool(gradient["log_sigma"] != 0) == trained


def test_pictures_of_the_code_space(binary):
    model, params, x = binary
    lines = vae.interpolate(params, x[:2], x[2:4], model=model, n_steps=5)
    ends = vae.reconstruct(params, x[:4], model=model)
    np.testing.assert_allclose(lines[:, 0], ends[:2], atol=1e-6)
    np.testing.assert_allclose(lines[:, -1], ends[2:], atol=1e-6)
    grid = vae.latent_grid(params, model=model, n_steps=5)
    # The middle of the plane is the code 0; the top left has a small first, a large second code.
    np.testing.assert_allclose(grid[2, 2], vae.decode(params, jnp.zeros((1, 2)), model=model)[0])
    corner = jnp.asarray([[-1.2815516, 1.2815516]])
    np.testing.assert_allclose(grid[0, 0], vae.decode(params, corner, model=model)[0], atol=1e-6)
    drawn = vae.sample(jax.random.key(0), params, model=model, n_components=2, n_samples=7)
    assert drawn.shape == (7, 12)
    assert ((drawn > 0) & (drawn < 1)).all()


def test_wrong_arguments_are_named(unchecked, binary):
    model, params, x = binary
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="x must have shape"):
        vae.elbo(params, key, x[0], model=model)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        vae.iwae(params, key, x, model=model, n_samples=0)
    with pytest.raises(ValueError, match="likelihood must be one of"):
        vae.init(key, x, model=vae.VAE(networks.MLP((4,)), networks.MLP((12,)), "poisson"))
    with pytest.raises(ValueError, match="activation must be one of"):
        networks.MLP((4, 3), "swish").init(key, x)
