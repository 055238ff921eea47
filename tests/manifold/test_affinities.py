"""Affinities: every row has the perplexity asked for, dense and sparse agree, edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.manifold import affinities
from unsup_jax.manifold.neighbors import knn


def data(n=200, d=5):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, d)), jnp.float32)


def squares(x):
    x = np.asarray(x, np.float64)
    found = ((x[:, None] - x[None]) ** 2).sum(2)
    np.fill_diagonal(found, np.inf)
    return jnp.asarray(found, jnp.float32)


def to_dense(p, n):
    found = np.zeros((n, n))
    np.add.at(found, (np.asarray(p.rows)[:, None], np.asarray(p.columns)), np.asarray(p.values))
    return found


@pytest.mark.parametrize("perplexity", [2.0, 30.0, 198.0])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_every_row_has_the_perplexity(perplexity, scale):
    p = np.asarray(affinities.conditional(squares(data() * scale), perplexity), np.float64)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    np.testing.assert_allclose(entropy, np.log(perplexity), atol=5e-5)


def test_duplicates_keep_the_perplexity_where_they_can():
    x = jnp.concatenate([data(), data()[:3], jnp.tile(data()[:1], (40, 1))])
    p = np.asarray(affinities.conditional(squares(x), 30.0), np.float64)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    distances = np.asarray(squares(x))
    ties = (distances == distances.min(1, keepdims=True)).sum(1)
    many = ties >= 30
    np.testing.assert_allclose(entropy[~many], np.log(30), atol=5e-5)
    # Copies of one sample, and rows nearest to them: all copies alike, and nobody else.
    assert many.sum() >= 41
    np.testing.assert_allclose(p[many].max(1), 1 / ties[many], 1e-3)


def test_joint_is_symmetric_and_sums_to_one():
    p = affinities.dense(data(), 10.0)
    np.testing.assert_allclose(p, p.T)
    assert float(p.sum()) == pytest.approx(1, rel=1e-5)
    assert float(jnp.abs(jnp.diag(p)).max()) == 0


def test_sparse_with_all_neighbours_is_dense():
    x = data()
    p = affinities.nearest(knn(x, n_neighbors=199), 10.0)
    np.testing.assert_allclose(to_dense(p, 200), affinities.dense(x, 10.0), atol=1e-7)


def test_one_pattern_serves_a_sweep_of_perplexities():
    neighbors = knn(data(), n_neighbors=60)
    where = affinities.pattern(neighbors)
    swept = jax.vmap(lambda p: affinities.from_distances(where, neighbors, p).values)(
        jnp.asarray([5.0, 20.0])
    )
    for values, perplexity in zip(swept, (5.0, 20.0), strict=True):
        alone = affinities.nearest(neighbors, perplexity)
        np.testing.assert_allclose(values, alone.values, rtol=1e-4, atol=1e-8)
        assert float(alone.values.sum()) == pytest.approx(1, rel=1e-5)
        found = to_dense(alone, 200)
        np.testing.assert_allclose(found, found.T)
        np.testing.assert_allclose(found.sum(1), alone.mass, rtol=1e-5)


def test_several_perplexities_are_averaged():
    found = affinities.conditional(squares(data()), jnp.asarray([5.0, 50.0]))
    parts = [affinities.conditional(squares(data()), p) for p in (5.0, 50.0)]
    np.testing.assert_allclose(found, (parts[0] + parts[1]) / 2, atol=1e-7)


def test_uniform_kernel_counts_neighbours():
    neighbors = knn(data(), n_neighbors=7)
    p = to_dense(affinities.uniform(neighbors), 200) * 2 * 200 * 7
    expected = np.zeros((200, 200))
    np.put_along_axis(expected, np.asarray(neighbors.indices), 1, axis=1)
    np.testing.assert_allclose(p, expected + expected.T, atol=1e-4)


def test_two_samples():
    np.testing.assert_allclose(affinities.dense(data(2), 1.0), [[0, 0.5], [0.5, 0]])


@pytest.mark.parametrize("perplexity", [0.5, 200.0, float("nan")])
def test_senseless_perplexities_are_named(perplexity):
    with pytest.raises(ValueError, match="perplexity must be at least 1 and at most 199"):
        affinities.dense(data(), perplexity)
