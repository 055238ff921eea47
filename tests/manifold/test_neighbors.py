"""Neighbours against brute force in float64, and the shape of the graph against SciPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import csgraph
from sklearn.neighbors import NearestNeighbors

from unsup_jax.core import linalg
from unsup_jax.manifold import neighbors, search
from unsup_jax.manifold.neighbors import Neighbors, knn


def brute_force(x, y=None, *, k):
    """Sorted by exact distance, ties by index."""
    x = np.asarray(x, np.float64)
    references = x if y is None else np.asarray(y, np.float64)
    squares = ((x[:, None] - references[None]) ** 2).sum(2)
    if y is None:
        np.fill_diagonal(squares, np.inf)
    indices = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squares, indices, axis=1)), indices


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("n", [20, 130, 1500])
@pytest.mark.parametrize("separate", [False, True])
def test_brute_force(n, separate):
    x = normal(0, n, 5)
    y = normal(1, n + 9, 5) if separate else None
    found = knn(x, y, n_neighbors=7)
    distances, indices = brute_force(x, y, k=7)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)


def test_every_tile_size_gives_the_same():
    x = normal(0, 301, 4)
    whole = knn(x, n_neighbors=5, tile_size=301)
    for tile_size in (1, 7, 100, 1000):
        np.testing.assert_array_equal(
            knn(x, n_neighbors=5, tile_size=tile_size).indices, whole.indices
        )


def test_an_offset_changes_nothing():
    # Multiples of 2^-8 stay exact in float32 when 10,000 is added.
    x = jnp.round(normal(0, 500, 6) * 256) / 256
    near, far = knn(x, n_neighbors=10), knn(x + 1e4, n_neighbors=10)
    np.testing.assert_array_equal(near.indices, far.indices)
    np.testing.assert_allclose(near.distances, far.distances, rtol=1e-6)


def test_small_clusters_far_apart_are_searched_by_differences():
    # Squared norms are 1e8 here: products alone would lose every digit of distances near 1.
    n = 1000
    side = (jnp.arange(n) % 2).astype(jnp.float32)[:, None]
    x = jnp.round(normal(0, n, 3) * 256) / 256 + 1e4 * side
    _, indices = brute_force(x, k=8)
    squares = linalg.squared_distances(x, x) + jnp.diag(jnp.full(n, 1e9))
    assert (jnp.argsort(squares)[:, :8] != indices).any()
    np.testing.assert_array_equal(knn(x, n_neighbors=8).indices, indices)
    np.testing.assert_array_equal(knn(x, n_neighbors=8, tile_size=50).indices, indices)


def test_ties_and_duplicates_by_index():
    x = jax.random.bernoulli(jax.random.key(3), 0.5, (400, 6)).astype(jnp.float32)
    _, indices = brute_force(x, k=20)
    found = knn(x, n_neighbors=20)
    np.testing.assert_array_equal(found.indices, indices)
    assert not (found.indices == jnp.arange(400)[:, None]).any()
    assert (found.distances[:, 0] == 0).mean() > 0.9  # 64 patterns: nearly all have duplicates


def test_ties_among_many_references():
    # Thresholds pass too many of them: they are left to the search by order.
    x = jax.random.randint(jax.random.key(3), (1600, 3), 0, 5).astype(jnp.float32)
    _, indices = brute_force(x, k=7)
    np.testing.assert_array_equal(knn(x, n_neighbors=7).indices, indices)
    np.testing.assert_array_equal(knn(x, n_neighbors=7, tile_size=90).indices, indices)


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_many_features(noise):
    """A few axes tell the neighbours of all rows, of some, or hold too little of the data."""
    y = normal(0, 2100, 10) @ normal(1, 10, 600) + noise * 10**0.5 * normal(2, 2100, 600)
    x = y[:20] + noise * normal(3, 20, 600)
    _, share = search._main_axes(y)
    assert (share > search._SHARE) == (noise < 1)
    found = knn(x, y, n_neighbors=1, tile_size=13)
    distances, indices = brute_force(x, y, k=1)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)


def test_gradients():
    x = normal(0, 30, 4)

    def total(x):
        return (knn(x, n_neighbors=3).distances ** 2).sum()

    indices = knn(x, n_neighbors=3).indices
    expected = jax.grad(lambda x: ((x[:, None] - x[indices]) ** 2).sum())(x)
    np.testing.assert_allclose(jax.grad(total)(x), expected, rtol=1e-4, atol=1e-5)


def test_cosine():
    x, y = normal(0, 60, 4).at[5].set(0), normal(1, 200, 4)
    found = knn(x, y, n_neighbors=6, metric="cosine")
    peer = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(np.asarray(y))
    distances, indices = peer.kneighbors(np.asarray(x))
    rows = np.arange(60) != 5
    np.testing.assert_array_equal(found.indices[rows], indices[rows])
    np.testing.assert_allclose(found.distances, distances, atol=1e-6)
    np.testing.assert_allclose(found.distances[5], 1, rtol=1e-6)


def test_all_other_rows_and_one_reference():
    x = normal(0, 12, 3)
    _, indices = brute_force(x, k=11)
    np.testing.assert_array_equal(knn(x, n_neighbors=11).indices, indices)
    assert (knn(x, x[3:4], n_neighbors=1).indices == 0).all()


def test_jit_vmap_and_dtype(x64):
    x = jax.random.normal(jax.random.key(0), (3, 40, 2), jnp.float32)
    run = partial(knn, n_neighbors=4)
    lanes = jax.vmap(run)(x)
    for i in range(3):
        alone = jax.jit(run)(x[i])
        assert alone.distances.dtype == jnp.float32
        assert alone.indices.dtype == jnp.int32
        np.testing.assert_array_equal(lanes.indices[i], alone.indices)
    assert run(x[0].astype(jnp.float64)).distances.dtype == jnp.float64


def test_lanes_with_and_without_doubt():
    x = normal(0, 2, 1600, 3)
    x = x.at[1].set(jnp.round(x[1]))
    run = partial(knn, n_neighbors=7, tile_size=300)
    lanes = jax.vmap(run)(x)
    for i in range(2):
        np.testing.assert_array_equal(lanes.indices[i], run(x[i]).indices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_neighbors": 10}, "n_neighbors must be at least 1 and at most 9, got 10"),
        ({"n_neighbors": 0}, "n_neighbors must be at least 1"),
        ({"y": jnp.ones((5, 2))}, "n_neighbors must be at least 1 and at most 5"),
        ({"y": jnp.ones((9, 3))}, "y must have 2 features, got 3"),
        ({"metric": "chebyshev"}, "metric must be one of 'euclidean', 'cosine', got 'chebyshev'"),
        ({"x": jnp.ones((10, 2), int)}, "x must be floating point"),
        ({"x": jnp.ones((10, 2)).at[3, 1].set(jnp.nan)}, "x must be finite"),
        ({"y": jnp.ones((10, 2)).at[3, 1].set(jnp.inf)}, "y must be finite"),
    ],
)
def test_errors(unchecked, change, message):
    arguments = {"x": normal(0, 10, 2), "n_neighbors": 6} | change
    with pytest.raises(ValueError, match=message):
        knn(**arguments)


def test_drop_self():
    x = normal(0, 50, 3).at[7].set(0).at[8].set(0).at[9].set(0)
    with_self = NearestNeighbors(n_neighbors=5).fit(np.asarray(x)).kneighbors(np.asarray(x))
    found = neighbors.drop_self(Neighbors(*map(jnp.asarray, with_self)))
    assert not (found.indices == jnp.arange(50)[:, None]).any()
    np.testing.assert_allclose(found.distances, knn(x, n_neighbors=4).distances, atol=1e-6)
    missing = Neighbors(jnp.ones((2, 3)), jnp.array([[1, 0, 1], [0, 0, 0]]))
    np.testing.assert_array_equal(neighbors.drop_self(missing).indices, [[1, 1], [0, 0]])


def random_graphs():
    n = 40
    for seed in range(60):
        rng = np.random.default_rng(seed)
        reach = 2 + seed % 4
        yield (np.arange(n)[:, None] + rng.integers(-reach, reach + 1, (n, 2))).clip(0, n - 1)


def test_closed_groups():
    counts = []
    for indices in random_graphs():
        reach = np.eye(len(indices))
        np.put_along_axis(reach, indices, 1, axis=1)
        reach = np.linalg.matrix_power(reach, 64) > 0
        closed = [row for i, row in enumerate(reach) if reach[row, i].all()]
        counts.append(len(np.unique(closed, axis=0)))
        assert jax.jit(neighbors.count_closed)(jnp.asarray(indices)) == counts[-1]
    assert len(set(counts)) > 3


def test_connected_components():
    counts = []
    for sets in random_graphs():
        n, k = sets.shape
        edges = (np.ones(n * k), (np.repeat(sets[:, 0], k), sets.ravel()))
        graph = sparse.coo_array(edges, shape=(n, n))
        counts.append(csgraph.connected_components(graph, directed=False)[0])
        assert jax.jit(neighbors.count_connected)(jnp.asarray(sets)) == counts[-1]
    assert len(set(counts)) > 3


def test_a_long_chain_is_one_component():
    chain = jnp.clip(jnp.arange(2000)[:, None] + jnp.array([[-1, 1]]), 0, 1999)
    assert neighbors.count_closed(chain) == 1
    assert neighbors.count_connected(chain) == 1
