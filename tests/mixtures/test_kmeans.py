"""K-means against scikit-learn and by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from tests.conformance.registry import blobs
from unsup_jax.core.fit import Status
from unsup_jax.mixtures import kmeans


def test_lloyd_equals_scikit_learn_from_the_same_start(x64):
    x = blobs(jnp.float64, scale=3.0)
    centers = kmeans.init(jax.random.key(0), x, n_components=5)
    fit = kmeans.fit(centers, x, tol=1e-20, max_iter=300)
    peer = KMeans(5, init=np.asarray(centers), n_init=1, tol=0.0).fit(np.asarray(x))
    assert fit.status == Status.CONVERGED
    np.testing.assert_allclose(fit.params, peer.cluster_centers_, rtol=1e-4)
    np.testing.assert_array_equal(kmeans.assign(fit.params, x), peer.labels_)
    np.testing.assert_allclose(kmeans.inertia(fit.params, x), peer.inertia_, rtol=1e-5)
    np.testing.assert_allclose(fit.objective * x.shape[0], peer.inertia_, rtol=1e-5)


def test_fixed_point_centres_are_the_means_of_their_samples():
    x = blobs(scale=2.0, offset=1e4)
    fit = kmeans.fit(kmeans.init(jax.random.key(1), x, n_components=4), x, tol=0.0)
    labels = np.asarray(kmeans.assign(fit.params, x))
    distances = ((np.asarray(x, float)[:, None] - np.asarray(fit.params, float)) ** 2).sum(2)
    np.testing.assert_allclose(distances[np.arange(301), labels], distances.min(1), rtol=1e-2)
    for k in range(4):
        np.testing.assert_allclose(fit.params[k], np.asarray(x)[labels == k].mean(0), atol=2e-2)


def test_seeding_spreads_better_than_chance_and_honours_weights():
    x = blobs(scale=0.1)
    keys = jax.random.split(jax.random.key(0), 20)
    seeds = jax.vmap(lambda key: kmeans.init(key, x, n_components=3))(keys)
    chance = jax.vmap(lambda key: jax.random.choice(key, x, (3,), replace=False))(keys)
    potential = jax.vmap(lambda centers: kmeans.inertia(centers, x))
    assert potential(seeds).max() < 0.1 * potential(chance).mean()
    weights = jnp.zeros(301).at[:7].set(1.0)
    chosen = kmeans.init(jax.random.key(0), x, weights, n_components=7)
    np.testing.assert_array_equal(np.unique(chosen, axis=0), np.unique(x[:7], axis=0))


def test_empty_clusters_are_reseeded():
    x = blobs(scale=0.1)
    away = jnp.concatenate([x[:1], x[:1] + 1e3, x[:1] + 2e3])
    fit = kmeans.fit(away, x)
    assert set(np.unique(kmeans.assign(fit.params, x))) == {0, 1, 2}
    best = KMeans(3, n_init=5, random_state=0).fit(np.asarray(x)).inertia_
    np.testing.assert_allclose(kmeans.inertia(fit.params, x), best, rtol=1e-3)


def test_reseeding_ignores_removed_samples():
    x = blobs(scale=0.1).at[0].set(1e3)
    weights = jnp.ones(301).at[0].set(0.0)
    fit = kmeans.fit(jnp.concatenate([x[1:2], x[1:2] + 1e4]), x, weights)
    assert jnp.abs(fit.params).max() < 100
