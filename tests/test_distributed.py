"""Sharded rows give the result of one device, and only sums travel."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax import distributed
from unsup_jax.autoencoders import training
from unsup_jax.linear import pca
from unsup_jax.manifold import affinities, grid, lle, neighbors, tsne
from unsup_jax.mixtures import bernoulli, gaussian, kmeans
from unsup_jax.sparse import dictionary, nmf

KEY = jax.random.key(0)
N, D, K = 101, 5, 3  # rows that no number of devices divides
X = jax.random.normal(KEY, (N, D)) + 3 * (jnp.arange(N) % K).astype(jnp.float32)[:, None]
WEIGHTS = (jnp.arange(N) % 4).astype(jnp.float32)
START = gaussian.init(KEY, X, n_components=K)


def mesh(n=8):
    return distributed.make_mesh(jax.devices()[:n])


def assert_close(a, b, tol=2e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), a, b)


@pytest.mark.parametrize(("n_devices", "weights"), [(1, None), (2, WEIGHTS), (4, None)])
def test_any_number_of_devices(n_devices, weights):
    fit = distributed.data_parallel(gaussian.fit, mesh(n_devices))
    assert_close(fit(START, X, weights, max_iter=4), gaussian.fit(START, X, weights, max_iter=4))


@pytest.mark.parametrize("solver", ["gram", "randomized"])
def test_pca(solver):
    options = {"n_components": 2, "solver": solver, "key": KEY if solver == "randomized" else None}
    sharded = distributed.data_parallel(pca.fit, mesh())(X, **options)
    assert_close(sharded, pca.fit(X, **options))


def test_dictionary():
    atoms = dictionary.init(KEY, X, n_components=8)
    run = distributed.data_parallel(dictionary.fit, mesh())
    options = {"tol": -1.0, "code_tol": 1e-6, "max_iter": 3}
    whole = dictionary.fit(atoms, X, 0.1, WEIGHTS, **options)
    assert_close(run(atoms, X, 0.1, WEIGHTS, **options), whole, 2e-3)


def test_nmf_keeps_the_codes_where_their_rows_are():
    x = jnp.abs(X)
    start = nmf.init(KEY, x, n_components=K, method="random")
    mask = jax.random.uniform(KEY, x.shape) < 0.9
    run = distributed.data_parallel(nmf.fit, mesh())
    sharded = run(start, x, None, mask, tol=-1.0, max_iter=4)
    assert sharded.params.codes.shape == (N, K)
    assert_close(sharded, nmf.fit(start, x, None, mask, tol=-1.0, max_iter=4))


def test_training_with_all_rows_in_a_batch():
    def loss(params, key, x):
        return ((x - params["m"][None]) ** 2).sum(1)

    options = {"loss": loss, "n_epochs": 3, "batch_size": N}
    start = {"m": jnp.zeros(D)}
    whole = training.fit(start, KEY, X, X[:10], WEIGHTS, 0.05, **options)
    run = distributed.data_parallel(training.fit, mesh())
    assert_close(run(start, KEY, X, X[:10], WEIGHTS, 0.05, **options), whole)


def test_rows_can_be_placed_once_for_several_fits():
    (x, fill) = distributed.shard_rows(X, mesh())
    assert len(x.sharding.device_set) == 8
    assert fill.sum() == N
    fit = distributed.data_parallel(gaussian.fit, mesh())
    placed = fit(START, x, fill, max_iter=4)
    assert_close(placed, gaussian.fit(START, X, max_iter=4))
    assert placed.params.means.shape == (K, D)


def test_neighbours_and_reconstruction_weights():
    found = distributed.knn(X, mesh(), n_neighbors=6)
    truth = neighbors.knn(X, n_neighbors=6)
    np.testing.assert_array_equal(found.indices, truth.indices)
    assert_close(found, truth)
    weights = distributed.map_rows(
        lambda rows, references: lle.weights(rows[0], references, rows[1]), mesh()
    )
    mine = weights((X, found.indices), X)
    assert_close(mine, lle.weights(X, X, truth.indices))


@pytest.mark.parametrize("n_devices", [1, 2, 4, 8])
def test_steps_of_t_sne(n_devices):
    """Slices of the affinities sharded, the map whole, its points shared: exact and on a grid."""
    p = affinities.nearest(neighbors.knn(X, n_neighbors=40), 10.0)
    assert p.rows.shape[0] % 8  # neither slices nor points divide
    begin = tsne.start(2 * jax.random.normal(KEY, (N, 2)))

    def on_grid(state, p, *, axis_name=None):
        repelled = grid.repulsion(state.embedding, size=128, axis_name=axis_name)
        kl = tsne.kl_divergence(state.embedding, p, repelled, axis_name=axis_name)
        return kl, tsne.step(state, p, repelled=repelled, axis_name=axis_name)

    def exact(state, p, *, axis_name=None):
        kl = tsne.kl_divergence(state.embedding, p, axis_name=axis_name)
        return kl, tsne.step(state, p, axis_name=axis_name)

    for step in (exact, on_grid):
        run = distributed.data_parallel(step, mesh(n_devices), per_row=affinities.PER_SLICE)
        assert_close(run(begin, affinities.pad(p, n_devices)), step(begin, p), 1e-5)

    fit = distributed.data_parallel(tsne.fit, mesh(n_devices), per_row=affinities.PER_SLICE)
    sharded = fit(begin, affinities.pad(p, n_devices), max_iter=5)
    assert_close(sharded, tsne.fit(begin, p, max_iter=5))


def all_reduces(lowered, gathers=False):
    """Shapes of what the devices add up, from the text of the compiled program."""
    text = lowered.compile().as_text()
    others = r" (all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\("
    assert gathers or not re.search(others, text)
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    return [s for result in results for s in re.findall(r"f32\[([\d,]*)\]", result)]


def floats(shapes):
    return sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes)


@pytest.mark.parametrize("n_devices", [2, 8])
@pytest.mark.parametrize(
    ("fit", "start", "expected"),
    [
        (gaussian.fit, START, K + K * D + K * D * D + 2),
        (bernoulli.fit, bernoulli.init(KEY, X / 20 + 0.4, n_components=K), K + K * D + 2),
        (kmeans.fit, kmeans.init(KEY, X, n_components=K), K + K * D + 2),
    ],
    ids=["gaussian", "bernoulli", "kmeans"],
)
def test_an_iteration_sends_the_statistics_alone(fit, start, expected, n_devices):
    run = distributed.data_parallel(fit, mesh(n_devices))
    x = X / 20 + 0.4
    # k-means gathers candidates, in a branch, where a cluster has lost its points.
    sent = all_reduces(run.lower(start, x, max_iter=3), gathers=fit is kmeans.fit)
    assert floats(sent) == expected


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="fit must take axis_name"):
        distributed.data_parallel(lle.fit, mesh())
    two = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match=r"mesh must have one axis, got \('a', 'b'\)"):
        distributed.data_parallel(gaussian.fit, two)
    with pytest.raises(ValueError, match=r"must agree, got \[3, 101\] rows"):
        distributed.data_parallel(gaussian.fit, mesh())(START, X, jnp.ones(3))


def test_every_process_reads_its_share(monkeypatch):
    assert distributed.process_rows(7) == range(7)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    parts = []
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(distributed.process_rows(7))
    assert [row for part in parts for row in part] == list(range(7))
    assert {len(part) for part in parts} == {2, 3}
