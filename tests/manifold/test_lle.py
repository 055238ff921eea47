"""Locally linear embedding against scikit-learn and its equations; its solvers against another."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.datasets import make_swiss_roll
from sklearn.manifold import LocallyLinearEmbedding
from sklearn.neighbors import kneighbors_graph

from unsup_jax.manifold import lle, spectral
from unsup_jax.manifold.neighbors import Neighbors, knn

METHODS = ["standard", "modified", "hessian", "ltsa"]


def swiss_roll(n, dtype=np.float32):
    return jnp.asarray(make_swiss_roll(n, random_state=0)[0].astype(dtype))


def unfold(x, **changes):
    return lle.fit(x, **({"n_neighbors": 12, "n_components": 2} | changes))


@pytest.fixture(scope="module")
def digits():
    """A small cloud of many dimensions, whose graph no factorisation likes."""
    low = jax.random.normal(jax.random.key(0), (600, 8))
    high = jnp.tanh(low @ jax.random.normal(jax.random.key(1), (8, 40)))
    return high + 0.1 * jax.random.normal(jax.random.key(2), high.shape)


@pytest.mark.parametrize("method", METHODS)
def test_scikit_learn(method):
    x = swiss_roll(1000)
    peer = LocallyLinearEmbedding(
        n_neighbors=12, n_components=2, method=method, eigen_solver="dense"
    ).fit(np.asarray(x, np.float64))
    ours = unfold(x, method=method)
    # scikit-learn's "hessian" keeps every direction off the affine functions, which is its "ltsa";
    # the paper keeps the quadratic ones.
    paper = method == "hessian"
    assert procrustes(peer.embedding_, ours.embedding)[2] < (1e-4 if paper else 1e-10)
    if not paper:
        error = lle.reconstruction_error(ours)
        np.testing.assert_allclose(error, peer.reconstruction_error_, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_embedding_obeys_the_constraints(method):
    x = swiss_roll(300)
    params = unfold(x, method=method)
    z = params.embedding
    assert z.dtype == jnp.float32
    assert params.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(z.T @ z / 300, np.eye(2), atol=1e-5)
    assert (jnp.take_along_axis(z, jnp.abs(z).argmax(0)[None], 0) > 0).all()
    assert (params.residuals < 1e-12).all()
    assert (jnp.diff(params.eigenvalues) >= 0).all()
    assert params.n_groups == 1


def test_weights_reconstruct_best(x64):
    x = swiss_roll(200, np.float64)
    indices = knn(x, n_neighbors=7).indices
    w = lle.weights(x, x, indices, 1e-3)
    np.testing.assert_allclose(w.sum(1), 1, rtol=1e-12)

    def cost(w, i):
        differences = x[i][None] - x[indices[i]]
        ridge = 1e-3 * (differences**2).sum()
        return ((w @ differences) ** 2).sum() + ridge * (w**2).sum()

    gradients = jax.vmap(jax.grad(cost))(w, jnp.arange(200))
    # Lagrange: on the plane of weights that sum to 1, the gradient is normal to it.
    slack = gradients - gradients.mean(1, keepdims=True)
    np.testing.assert_allclose(slack, 0, atol=1e-10)


def test_the_objective_is_the_error_of_reconstruction(x64):
    params = unfold(swiss_roll(300, np.float64))
    indices = params.neighbors.indices
    w = lle.weights(params.x, params.x, indices)
    z = params.embedding
    misses = z - jnp.einsum("nk,nkq->nq", w, z[indices])
    error = (misses**2).sum(1).mean()
    np.testing.assert_allclose(error, lle.reconstruction_error(params), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_three_forms_of_the_same_matrix(method, x64):
    x = swiss_roll(150, np.float64)
    indices = knn(x, n_neighbors=8).indices
    local = lle.stencil(x, indices, n_components=2, method=method)
    m = spectral.to_dense(local)
    v = jax.random.normal(jax.random.key(0), (150, 3), jnp.float64)
    np.testing.assert_allclose(spectral.to_sparse(local).toarray(), m, atol=1e-12)
    np.testing.assert_allclose(spectral.apply(local, v), m @ v, atol=1e-12)
    np.testing.assert_allclose(m.sum(1), 0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_flat_already_stays_as_it_is(method, x64):
    # A sheet with an affine map to 5 dimensions costs nothing, and is found up to an affine map.
    flat = jax.random.uniform(jax.random.key(0), (300, 2), jnp.float64)
    x = flat @ jax.random.normal(jax.random.key(1), (2, 5), jnp.float64) + 7
    reg = 1e-9 if method in ("standard", "modified") else 1e-3
    z = unfold(x, method=method, reg=reg).embedding
    basis = jnp.concatenate([flat, jnp.ones((300, 1), jnp.float64)], 1)
    left = z - basis @ jnp.linalg.lstsq(basis, z)[0]
    assert jnp.abs(left).max() < 1e-4


@pytest.mark.parametrize("solver", ["factor", "chebyshev"])
def test_solvers_agree(solver, digits):
    dense = unfold(digits, solver="dense", n_components=3)
    other = unfold(digits, solver=solver, n_components=3)
    np.testing.assert_allclose(other.embedding, dense.embedding, atol=1e-4)
    np.testing.assert_allclose(other.eigenvalues, dense.eigenvalues, rtol=1e-5)
    assert (other.residuals < 1e-8).all()


def test_auto_looks_at_the_graph(digits):
    for x, sparse in ((swiss_roll(1800), True), (jnp.tile(digits, (3, 1)), False)):
        x = x + 1e-3 * jax.random.normal(jax.random.key(3), x.shape)
        indices = knn(x, n_neighbors=12).indices
        rings = spectral.widest_rings(np.asarray(indices))
        assert (rings < len(x) / 5) == sparse


def test_jit_and_vmap_over_reg():
    x = swiss_roll(120)
    regs = jnp.array([1e-4, 1e-3, 1e-2])
    run = partial(lle.fit, x, None, n_neighbors=12, n_components=2)
    lanes = jax.jit(jax.vmap(run))(regs)
    for i, reg in enumerate(regs):
        alone = run(reg)
        np.testing.assert_allclose(lanes.eigenvalues[i], alone.eigenvalues, rtol=1e-3)
        np.testing.assert_allclose(lanes.embedding[i], alone.embedding, atol=1e-3)
    assert lanes.embedding.dtype == jnp.float32


def test_an_offset_and_a_scale_change_nothing():
    x = jnp.round(swiss_roll(300) * 256) / 256
    plain, moved = unfold(x), unfold(x * 4 + 1e4)
    np.testing.assert_allclose(moved.embedding, plain.embedding, atol=1e-3)


def test_neighbours_found_elsewhere():
    x = swiss_roll(300)
    graph = kneighbors_graph(np.asarray(x), 12, mode="distance").tocsr()
    indices = jnp.asarray(graph.indices.reshape(300, 12))
    distances = jnp.asarray(graph.data.reshape(300, 12), jnp.float32)
    params = lle.fit(x, Neighbors(distances, indices), n_components=2)
    np.testing.assert_allclose(params.embedding, unfold(x).embedding, atol=1e-5)
    wider = knn(x, n_neighbors=20)
    sliced = lle.fit(x, wider, n_components=2, n_neighbors=12)
    np.testing.assert_allclose(sliced.embedding, params.embedding, atol=1e-5)


def test_transform():
    x = swiss_roll(1100)
    seen, new = x[:1000], x[1000:]
    params = unfold(seen)
    np.testing.assert_allclose(lle.transform(params, seen[:50]), params.embedding[:50], atol=1e-6)
    peer = LocallyLinearEmbedding(n_neighbors=12, n_components=2, eigen_solver="dense")
    fitted = peer.fit_transform(np.asarray(seen, np.float64)) * 1000**0.5
    signs = np.sign((fitted * np.asarray(params.embedding)).sum(0))
    expected = peer.transform(np.asarray(new, np.float64)) * 1000**0.5 * signs
    np.testing.assert_allclose(lle.transform(params, new), expected, atol=2e-3)


def test_methods_run_under_jit():
    x = swiss_roll(80)
    for method in METHODS:
        inside = jax.jit(partial(unfold, method=method))(x)
        outside = unfold(x, method=method)
        np.testing.assert_allclose(inside.embedding, outside.embedding, atol=1e-3)
    filtered = jax.jit(partial(unfold, solver="chebyshev"))(x)
    np.testing.assert_allclose(filtered.embedding, unfold(x).embedding, atol=1e-3)


@pytest.mark.parametrize("method", ["standard", "ltsa"])
def test_a_graph_that_falls_apart_is_reported(method):
    x = swiss_roll(200)
    apart = jnp.concatenate([x, x + 500])
    with pytest.warns(UserWarning, match="fall apart into 2 groups"):
        params = unfold(apart, method=method)
    assert params.n_groups == 2
    assert jnp.isfinite(params.embedding).all()
    assert jax.jit(partial(unfold, method=method))(apart).n_groups == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unfold(x, method=method)


def test_degenerate_data_stay_finite():
    x = swiss_roll(60)
    duplicates = jnp.concatenate([x, jnp.tile(x[:1], (20, 1))])
    constant_column = jnp.concatenate([x, jnp.ones((60, 1))], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the duplicates are a group of their own
        for data in (duplicates, constant_column):
            for method in METHODS:
                params = unfold(data, method=method)
                assert jnp.isfinite(params.embedding).all()
                assert jnp.isfinite(lle.transform(params, data)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_neighbors": 40}, "n_neighbors must be at least 1 and at most 39, got 40"),
        ({"n_neighbors": None}, "n_neighbors must be given"),
        ({"n_components": 39}, "n_components must be at least 1 and at most 38, got 39"),
        ({"method": "isomap"}, "method must be one of 'standard'"),
        ({"solver": "amg"}, "solver must be one of 'auto'"),
        ({"method": "hessian", "n_neighbors": 5}, "n_neighbors must be at least 6 for .*, got 5"),
        ({"method": "ltsa", "n_neighbors": 2}, "n_neighbors must be at least 3"),
        ({"x": jnp.ones(40)}, "x must have shape"),
        ({"x": jnp.full((40, 3), jnp.nan)}, "x must be finite"),
        (
            {"neighbors": Neighbors(jnp.ones((3, 4)), jnp.ones((3, 4), int))},
            r"neighbors.indices must have shape \(40, k\), got \(3, 4\)",
        ),
    ],
)
def test_errors(unchecked, change, message):
    with pytest.raises(ValueError, match=message):
        unfold(**({"x": swiss_roll(40)} | change))


def test_a_factor_cannot_be_traced(unchecked):
    with pytest.raises(ValueError, match="solver 'factor' works on the host"):
        jax.jit(partial(unfold, solver="factor"))(swiss_roll(40))
