"""t-SNE: its gradient against autodiff of the divergence, its steps, sweeps and new points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from unsup_jax.core.fit import Status
from unsup_jax.manifold import affinities, tsne
from unsup_jax.manifold.neighbors import knn


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    return jnp.asarray(bunch.data / 16, jnp.float32), bunch.target


@pytest.fixture(scope="module")
def small(digits):
    x = digits[0][:150]
    return x, tsne.init(x), affinities.dense(x, 20.0)


def divergence(y, p, dof):
    """The lecture's definition, term by term."""
    squares = ((y[:, None] - y[None]) ** 2).sum(2)
    k = (1 + squares / dof) ** (-(dof + 1) / 2) * (1 - jnp.eye(len(y)))
    q = k / k.sum()
    safe = jnp.where(p > 0, p, 1)
    return jnp.where(p > 0, p * jnp.log(safe / jnp.where(q > 0, q, 1)), 0).sum()


@pytest.mark.parametrize("dof", [1.0, 0.6])
def test_gradient_is_the_derivative_of_the_divergence(small, dof):
    x, _, dense = small
    p = affinities.nearest(knn(x, n_neighbors=149), 20.0)
    y = jnp.asarray(np.random.default_rng(1).normal(size=(150, 2)) * 3, jnp.float32)
    expected = jax.grad(divergence)(y, dense, dof)
    for each in (dense, p):
        assert tsne.kl_divergence(y, each, dof) == pytest.approx(
            float(divergence(y, dense, dof)), rel=1e-5
        )
        np.testing.assert_allclose(tsne.gradient(y, each, 1.0, dof), expected, atol=2e-6)


def test_sparse_attraction_in_three_dimensions(small):
    x, _, dense = small
    p = affinities.nearest(knn(x, n_neighbors=149), 20.0)
    y = jnp.asarray(np.random.default_rng(1).normal(size=(150, 3)), jnp.float32)
    np.testing.assert_allclose(tsne.gradient(y, p), tsne.gradient(y, dense), atol=2e-6)


def test_a_step_as_written_down(small):
    _, y, p = small
    schedule = tsne.Schedule(learning_rate=50.0, early_exaggeration=4.0, early_momentum=0.5)
    first = tsne.step(tsne.start(y), p, schedule)
    second = tsne.step(first, p, schedule)
    # At rest every gain shrinks or grows by the rule; 4 x p in the gradient's first part.
    slope = np.asarray(tsne.gradient(first.embedding, p, 4.0))
    against = np.sign(first.velocity) != np.sign(slope)
    gains = np.where(against, first.gains + 0.2, first.gains * 0.8 + 0.01)
    velocity = 0.5 * np.asarray(first.velocity) - 50 / 4 * gains * slope
    assert np.linalg.norm(velocity, axis=1).max() < 5
    np.testing.assert_allclose(second.gains, gains, rtol=1e-6)
    np.testing.assert_allclose(second.velocity, velocity, atol=1e-6)
    moved = np.asarray(first.embedding) + velocity
    np.testing.assert_allclose(second.embedding, moved - moved.mean(0), atol=1e-6)
    assert int(second.n_steps) == 2


def test_chunks_and_resuming_change_nothing(small):
    _, y, p = small
    whole = tsne.fit(y, p, max_iter=40)
    *_, once = tsne.iterate(y, p, max_iter=40, chunk=50)
    *_, half = tsne.iterate(y, p, max_iter=20, chunk=10)
    *_, resumed = tsne.iterate(half, p, max_iter=40, chunk=10)
    for each in (once, resumed):
        np.testing.assert_allclose(each.embedding, whole.params.embedding, rtol=1e-3, atol=1e-7)
    assert int(whole.status) == Status.ITERATION_LIMIT
    assert whole.objective == pytest.approx(
        float(tsne.kl_divergence(whole.params.embedding, p)), rel=1e-5
    )


def test_a_vmapped_sweep_is_a_loop(small):
    x, y, _ = small

    def run(perplexity, rate):
        schedule = tsne.Schedule(learning_rate=rate, early_iter=20)
        p = affinities.dense(x, perplexity)
        return tsne.fit(y, p, schedule, max_iter=30)

    perplexities, rates = jnp.asarray([5.0, 20.0]), jnp.asarray([10.0, 30.0])
    swept = jax.vmap(run)(perplexities, rates)
    for i in range(2):
        alone = run(perplexities[i], rates[i])
        np.testing.assert_allclose(swept.history[i], alone.history, rtol=1e-3)


@pytest.fixture(scope="module")
def embedded(digits):
    x, labels = digits
    y = tsne.embed(x[:1500], max_iter=500)
    return x, labels, y


def test_digits_are_told_apart(embedded):
    x, labels, y = embedded
    near = np.asarray(knn(y, n_neighbors=1).indices[:, 0])
    assert (labels[:1500][near] == labels[:1500]).mean() > 0.95
    assert float(tsne.kl_divergence(y, tsne.joint(x[:1500]))) < 0.9


def test_new_digits_land_where_they_would_have_been(embedded, digits):
    x, labels, y = embedded
    placed = tsne.transform(x[1500:], x[:1500], y)
    accuracy = KNeighborsClassifier(1).fit(y, labels[:1500]).score(placed, labels[1500:])
    together = np.asarray(tsne.embed(x, max_iter=500))
    expected = KNeighborsClassifier(1).fit(together[:1500], labels[:1500])
    assert accuracy > expected.score(together[1500:], labels[1500:]) - 0.01


def test_the_grid_finds_as_good_a_map(embedded, digits):
    x, _, exact = embedded
    p = tsne.joint(x[:1500])
    *_, state = tsne.iterate(tsne.init(x[:1500]), p, max_iter=500, gradient="grid")
    assert int(state.n_steps) == 500
    assert float(tsne.kl_divergence(state.embedding, p)) == pytest.approx(
        float(tsne.kl_divergence(exact, p)), abs=0.02
    )


def test_few_and_degenerate_samples():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    assert jnp.isfinite(tsne.embed(x, 1.0, max_iter=10)).all()
    # Duplicates, a constant column.
    x = jnp.concatenate([jnp.tile(x[:1], (20, 1)), jnp.tile(x[1:], (20, 1))])
    x = jnp.concatenate([x, jnp.ones((40, 1))], 1)
    assert jnp.isfinite(tsne.embed(x, 5.0, key=jax.random.key(0), max_iter=10)).all()


def test_senseless_arguments_are_named(small, unchecked):
    x, y, p = small
    with pytest.raises(ValueError, match="perplexity must be at least 1 and at most 149"):
        tsne.embed(x, 150.0)
    with pytest.raises(ValueError, match="p must have shape"):
        tsne.fit(y, p[:10], max_iter=1)
    with pytest.raises(ValueError, match="gradient must be 'exact'"):
        next(tsne.iterate(tsne.init(x, n_components=3), p, gradient="grid"))
    with pytest.raises(ValueError, match="method must be one of"):
        tsne.init(x, method="magic")
    with pytest.raises(ValueError, match="embedding must have 150 rows"):
        tsne.transform(x, x, y[:3])


def test_float64_stays(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))
    assert tsne.embed(x, 3.0, max_iter=3).dtype == jnp.float64
