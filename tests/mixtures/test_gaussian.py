"""Gaussian mixtures against scikit-learn, SciPy, sampling and the equations."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture

from tests.conformance.registry import blobs
from unsup_jax.core import stats
from unsup_jax.core.fit import Status
from unsup_jax.mixtures import covariance as cov
from unsup_jax.mixtures import gaussian

STRUCTURES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def fitted(structure="full", x=None, n_components=3, **kwargs):
    x = blobs() if x is None else x
    start = gaussian.init(
        jax.random.key(0), x, n_components=n_components, covariance=structure, method="k-means"
    )
    return gaussian.fit(start, x, **kwargs), start, x


def as_precision(structure, params):
    """A start's covariances in the form scikit-learn wants them."""
    k, d = params.means.shape
    dense = np.asarray(params.covariance.dense(k, d))
    return {
        "full": np.linalg.inv(dense),
        "tied": np.linalg.inv(dense[0]),
        "diagonal": 1 / np.diagonal(dense, axis1=1, axis2=2),
        "spherical": 1 / dense[:, 0, 0],
    }[structure]


@every_structure
def test_em_equals_scikit_learn_from_the_same_start(structure, x64):
    x = blobs(jnp.float64)
    fit, start, _ = fitted(structure, x, tol=-1.0, max_iter=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        peer = GaussianMixture(
            3,
            covariance_type=STRUCTURES[structure],
            weights_init=np.exp(start.log_weights) / np.exp(start.log_weights).sum(),
            means_init=np.asarray(start.means),
            precisions_init=as_precision(structure, start),
            max_iter=20,
            tol=0.0,
        ).fit(np.asarray(x))
    assert peer.n_iter_ == 20 or peer.converged_
    np.testing.assert_allclose(fit.objective, peer.score(np.asarray(x)), rtol=1e-9)
    np.testing.assert_allclose(np.exp(fit.params.log_weights), peer.weights_, rtol=1e-6)
    np.testing.assert_allclose(fit.params.means, peer.means_, rtol=1e-6)
    np.testing.assert_allclose(
        gaussian.responsibilities(fit.params, x), peer.predict_proba(np.asarray(x)), atol=1e-7
    )
    assert int(gaussian.n_parameters(fit.params)) == peer._n_parameters()


@every_structure
def test_log_prob_is_the_mixture_density(structure):
    fit, _, x = fitted(structure, max_iter=5)
    weights = np.exp(fit.params.log_weights)
    dense = fit.params.covariance.dense(3, 3)
    density = sum(
        weights[k] * scipy.stats.multivariate_normal(fit.params.means[k], dense[k]).pdf(x)
        for k in range(3)
    )
    np.testing.assert_allclose(gaussian.log_prob(fit.params, x), np.log(density), rtol=1e-4)
    np.testing.assert_allclose(fit.objective, np.log(density).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("d", "squeeze"), [(4, 1.0), (4, 1e-2), (14, 1.0)], ids=["few", "few and correlated", "many"]
)
def test_full_statistics_are_right_by_every_path(d, squeeze):
    """Monomials in few dimensions, whitened differences where those would cancel or are many."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, d))
    x[:, 1] = x[:, 0] + squeeze * x[:, 1]
    x[:200] += 3
    x = x.astype(np.float32)
    means = np.stack([x[:200].mean(0), x[200:].mean(0)]) + np.float32(0.1 * squeeze)
    covariances = np.stack([np.cov(half.T) for half in (x[:200], x[200:])]) * 1.2
    factors = np.linalg.cholesky(covariances).astype(np.float32)
    log_weights = jnp.log(jnp.asarray([0.4, 0.6]))
    params = gaussian.Params(log_weights, jnp.asarray(means), cov.Full(jnp.asarray(factors)))
    sums = jax.jit(gaussian.e_step)(params, jnp.asarray(x))

    exact = x.astype(np.float64)
    joint = np.empty((2, len(x)))
    for k in range(2):
        dense = factors[k].astype(np.float64) @ factors[k].astype(np.float64).T
        normal = scipy.stats.multivariate_normal(means[k], dense)
        joint[k] = float(log_weights[k]) + normal.logpdf(exact)
    log_prob = np.logaddexp(*joint)
    r = np.exp(joint - log_prob)
    np.testing.assert_allclose(sums.log_likelihood, log_prob.sum(), atol=2e-4 * len(x))
    np.testing.assert_allclose(sums.mass, r.sum(1), rtol=1e-4)
    for k in range(2):
        whitened = np.linalg.solve(factors[k].astype(np.float64), (exact - means[k]).T)
        first = np.linalg.solve(factors[k], np.asarray(sums.first[k]))
        scatter = np.linalg.solve(factors[k], np.asarray(sums.scatter[k], np.float64))
        scatter = np.linalg.solve(factors[k], scatter.T)
        mass = r[k].sum()
        np.testing.assert_allclose(first / mass, (r[k] * whitened).sum(1) / mass, atol=5e-3)
        np.testing.assert_allclose(scatter / mass, (r[k] * whitened) @ whitened.T / mass, atol=5e-3)


@every_structure
def test_responsibilities_are_the_gradient_of_the_log_likelihood(structure):
    """`d log p(x) / d log pi_k = r_k - pi_k` under the softmax: the E-step is a gradient."""
    fit, _, x = fitted(structure, max_iter=3)

    def total(log_weights):
        normalised = jax.nn.log_softmax(log_weights)
        return gaussian.log_prob(fit.params._replace(log_weights=normalised), x).sum()

    gradient = jax.grad(total)(fit.params.log_weights)
    r = gaussian.responsibilities(fit.params, x)
    expected = r.sum(0) - x.shape[0] * jnp.exp(fit.params.log_weights)
    np.testing.assert_allclose(gradient, expected, atol=2e-3)
    np.testing.assert_allclose(r.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(gaussian.predict(fit.params, x), r.argmax(1))


@every_structure
def test_moments_agree_with_samples_and_sampling_with_the_components(structure):
    fit, _, _ = fitted(structure)
    x, component = gaussian.sample(jax.random.key(1), fit.params, n_samples=200_000)
    mean, covariance = gaussian.moments(fit.params)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.02 * float(jnp.trace(covariance)))
    share = np.bincount(component, minlength=3) / len(component)
    np.testing.assert_allclose(share, np.exp(fit.params.log_weights), atol=0.01)


@pytest.mark.parametrize("structure", [cov.Full, cov.Tied])
def test_samples_of_a_thin_component_are_finite(structure):
    """A factor that float32 can't find again from the covariance that it makes."""
    factor = jnp.array([[1.0, 0.0], [1.0, 1e-5]])
    covariance = structure(factor[None] if structure is cov.Full else factor)
    thin = gaussian.Params(jnp.zeros(1), jnp.zeros((1, 2)), covariance)
    x, _ = gaussian.sample(jax.random.key(0), thin, n_samples=1000)
    np.testing.assert_allclose(np.std(x[:, 1] - x[:, 0]), 1e-5, rtol=0.1)


def test_m_step_matches_the_moments_of_the_data():
    """After an M-step the mixture has the mean and the covariance of the data, exactly."""
    fit, _, x = fitted("full", max_iter=1, reg_covar=0.0)
    mean, covariance = gaussian.moments(fit.params)
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-4)
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), rtol=1e-3, atol=1e-2)


@every_structure
def test_statistics_add(structure):
    _, start, x = fitted(structure, max_iter=0)
    both = stats.add(gaussian.e_step(start, x[:100]), gaussian.e_step(start, x[100:]))
    whole = gaussian.e_step(start, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), both, whole)


@every_structure
def test_inactive_components_serve_every_smaller_k(structure):
    fit, start, x = fitted(structure, max_iter=10)
    off = jnp.concatenate([start.log_weights, jnp.full(2, -jnp.inf)])
    means = jnp.concatenate([start.means, x[:2]])
    wide = cov.isotropic(structure, jnp.ones(()), 5, 3)
    wide = (
        start.covariance
        if structure == "tied"
        else jax.tree.map(lambda a, b: jnp.concatenate([a, b[3:]]), start.covariance, wide)
    )
    padded = gaussian.fit(gaussian.Params(off, means, wide), x, max_iter=10)
    assert padded.status != Status.COLLAPSED
    np.testing.assert_allclose(padded.objective, fit.objective, rtol=1e-5)
    np.testing.assert_array_equal(padded.params.log_weights[3:], -jnp.inf)
    np.testing.assert_array_equal(padded.params.means[3:], means[3:])
    assert int(gaussian.n_parameters(padded.params)) == int(gaussian.n_parameters(fit.params))


@every_structure
def test_a_component_without_points_collapses_with_finite_parameters(structure):
    _, start, x = fitted(structure, max_iter=0)
    lost = start._replace(means=start.means.at[0].set(1e4))
    fit = gaussian.fit(lost, x)
    assert fit.status == Status.COLLAPSED
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((fit.params, fit.objective)))
    following = gaussian.m_step(fit.params, gaussian.e_step(fit.params, x))
    assert following.log_weights[0] == -jnp.inf
    assert gaussian.fit(following, x).status == Status.CONVERGED


@every_structure
@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_float32_stands_clusters_much_tighter_than_their_distance(structure, ratio):
    """Scales of 1 among means `ratio` apart: float32 EM agrees with float64 EM."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 3)) * ratio
    x = means[np.arange(300) % 3] + rng.normal(size=(300, 3))
    single, start, x = fitted(structure, jnp.asarray(x, jnp.float32), max_iter=10)
    with jax.enable_x64(True):
        start, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (start, x))
        double = gaussian.fit(start, x, max_iter=10)
        dense = double.params.covariance.dense(3, 3)
    tolerance = 3e-7 * ratio
    np.testing.assert_allclose(
        single.params.covariance.dense(3, 3), dense, atol=max(2e-4, 10 * tolerance)
    )
    np.testing.assert_allclose(single.objective, double.objective, atol=max(1e-4, 10 * tolerance))


@every_structure
def test_a_start_from_tight_clusters_has_their_covariances(structure):
    rng = np.random.default_rng(0)
    middle = np.array([[10, 0, 0], [0, 10, 5], [-10, 3, 2.0]])
    x = jnp.asarray(middle[np.arange(150) % 3] + 1e-3 * rng.normal(size=(150, 3)), jnp.float32)
    r = jax.nn.one_hot(jnp.arange(150) % 3, 3)
    found = gaussian.from_responsibilities(x, r, None, 0.0, covariance=structure)
    with jax.enable_x64(True):
        x, r = x.astype(jnp.float64), r.astype(jnp.float64)
        exact = gaussian.from_responsibilities(x, r, None, 0.0, covariance=structure)
        exact = exact.covariance.dense(3, 3)
    np.testing.assert_allclose(found.covariance.dense(3, 3), exact, atol=1e-9)


@pytest.mark.parametrize("method", gaussian.METHODS)
@every_structure
def test_every_start_leads_to_a_fit(method, structure):
    x = blobs()
    start = gaussian.init(jax.random.key(2), x, n_components=3, covariance=structure, method=method)
    assert isinstance(start.covariance, type(cov.isotropic(structure, jnp.ones(()), 1, 1)))
    np.testing.assert_allclose(np.exp(start.log_weights).sum(), 1, rtol=1e-5)
    fit = gaussian.fit(start, x, tol=1e-6, max_iter=200)
    assert fit.status == Status.CONVERGED
    assert fit.objective >= gaussian.log_prob(start, x).mean() - 1e-6  # rounding


def test_restarts_are_a_vmap_and_a_pick():
    x = blobs()
    starts = jax.vmap(lambda key: gaussian.init(key, x, n_components=3, method="random"))(
        jax.random.split(jax.random.key(0), 8)
    )
    fits = jax.vmap(gaussian.fit, in_axes=(0, None))(starts, x)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmax(fits.objective)], fits)
    peer = GaussianMixture(3, n_init=8, random_state=0).fit(np.asarray(x))
    assert best.objective >= peer.score(np.asarray(x)) - 1e-3


def test_iris_reaches_the_published_likelihood():
    """mclust and scikit-learn: full covariances, K = 3, on iris: log-likelihood -180.2 in all."""
    from sklearn.datasets import load_iris

    x = jnp.asarray(load_iris().data, jnp.float32)
    fit, _, _ = fitted("full", x, tol=1e-7, max_iter=500)
    np.testing.assert_allclose(fit.objective * 150, -180.2, atol=0.1)


def test_unknown_choices_are_named(unchecked):
    with pytest.raises(ValueError, match="covariance must be one of 'full', 'tied'"):
        gaussian.init(jax.random.key(0), blobs(), n_components=2, covariance="diag")
    with pytest.raises(ValueError, match="method must be one of 'k-means'"):
        gaussian.init(jax.random.key(0), blobs(), n_components=2, method="kmeans")
    fit, _, x = fitted(max_iter=0)
    with pytest.raises(ValueError, match="x must have 3 features, got 2"):
        gaussian.log_prob(fit.params, x[:, :2])
