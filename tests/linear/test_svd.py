"""The decomposition against NumPy, and Eckart and Young's theorem as the lecture states it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from unsup_jax.linear import svd

SHAPES = [(30, 12), (12, 30), (9, 9)]


def data(shape=(30, 12), key=0):
    return jax.random.normal(jax.random.key(key), shape)


def check_derivatives(function, x):
    # jit, because the check hands NumPy arrays to the function.
    check_grads(jax.jit(function), (x,), order=1, modes=["rev"])


def orthonormal(shape, key=0):
    return jnp.linalg.qr(data(shape, key))[0]


def with_values(values, shape=(30, 12)):
    k = len(values)
    u, v = orthonormal((shape[0], k), 1), orthonormal((shape[1], k), 2)
    return (u * jnp.asarray(values, u.dtype)[None]) @ v.T


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_is_the_decomposition(shape):
    x = data(shape)
    u, s, vt = svd.thin(x)
    eye = np.eye(min(shape))
    np.testing.assert_allclose((u * s[None]) @ vt, x, atol=1e-5)
    np.testing.assert_allclose(u.T @ u, eye, atol=1e-5)
    np.testing.assert_allclose(vt @ vt.T, eye, atol=1e-5)
    np.testing.assert_allclose(s, np.linalg.svd(x, compute_uv=False), rtol=1e-5)


@pytest.mark.parametrize(
    "decompose", [svd.thin, lambda x: svd.truncated(jax.random.key(3), x, rank=5)]
)
def test_signs_depend_on_the_data_alone(decompose):
    x = data()
    vt = np.asarray(decompose(x).vt)
    assert (np.take_along_axis(vt, np.abs(vt).argmax(1)[:, None], 1) > 0).all()
    # Reversing the samples leaves the right vectors alone.
    np.testing.assert_allclose(decompose(x[::-1]).vt, vt, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_low_rank_errors_are_eckart_and_youngs(shape, rank):
    """Spectral: the first singular value dropped; Frobenius: the root of the tail's squares."""
    x = data(shape)
    s = np.linalg.svd(x, compute_uv=False)
    error = np.asarray(x - svd.low_rank(x, rank=rank))
    assert np.linalg.matrix_rank(np.asarray(svd.low_rank(x, rank=rank)), tol=1e-4) == rank
    np.testing.assert_allclose(np.linalg.norm(error, 2), s[rank], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(error), np.sqrt((s[rank:] ** 2).sum()), rtol=1e-4)


def test_no_other_matrix_of_that_rank_is_nearer():
    x = data()
    best = svd.low_rank(x, rank=3)
    for key in range(5):
        u, s, vt = svd.thin(best + 0.1 * data(key=10 + key))
        other = (u[:, :3] * s[None, :3]) @ vt[:3]
        for order in (2, "fro"):
            nearest = np.linalg.norm(x - best, order)
            assert np.linalg.norm(x - other, order) >= nearest * (1 - 1e-6)


def test_full_rank_gives_the_matrix_back():
    x = data()
    np.testing.assert_allclose(svd.low_rank(x, rank=12), x, atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 80), (80, 300)])
@pytest.mark.parametrize("tile_size", [None, 64])
def test_truncated_finds_the_leading_triples(shape, tile_size):
    x = with_values(10 * 0.8 ** np.arange(60), shape)
    exact = svd.thin(x)
    found = svd.truncated(jax.random.key(0), x, rank=8, tile_size=tile_size)
    np.testing.assert_allclose(found.singular_values, exact.singular_values[:8], rtol=1e-5)
    np.testing.assert_allclose(found.vt, exact.vt[:8], atol=1e-4)
    np.testing.assert_allclose(found.u, exact.u[:, :8], atol=1e-4)
    np.testing.assert_allclose(found.u.T @ found.u, np.eye(8), atol=1e-5)


def test_truncated_finds_all_triples_of_few_rows():
    """No more directions than rows: none to spare for what rounding takes from the small ones."""
    x = with_values([3.0, 1.0, 0.1, 0.01], (4, 40))
    u, s, vt = svd.truncated(jax.random.key(0), x, rank=4)
    np.testing.assert_allclose(s, [3, 1, 0.1, 0.01], rtol=1e-4)
    np.testing.assert_allclose((u * s[None]) @ vt, x, atol=1e-5)


def test_power_iterations_sharpen_a_flat_spectrum():
    x = data((200, 100))
    exact = svd.thin(x).vt[:3]

    def error(n_iter):
        found = svd.truncated(jax.random.key(1), x, rank=3, n_oversamples=2, n_iter=n_iter).vt
        return float(jnp.linalg.norm(exact - exact @ found.T @ found))

    assert error(12) < 0.03 < error(3) < error(0)


@pytest.mark.parametrize("rank_of_x", [0, 2])
def test_truncated_beyond_the_rank_of_the_data(rank_of_x):
    x = with_values([3.0, 2.0][:rank_of_x]) if rank_of_x else jnp.zeros((30, 12))
    u, s, vt = svd.truncated(jax.random.key(0), x, rank=6, n_oversamples=2)
    np.testing.assert_allclose(s, [3, 2, 0, 0, 0, 0] if rank_of_x else 0, atol=1e-5)
    np.testing.assert_allclose((u * s[None]) @ vt, x, atol=1e-5)
    np.testing.assert_allclose(vt @ vt.T, np.eye(6), atol=1e-5)


def test_derivatives_match_finite_differences(x64):
    for shape in [(6, 4), (4, 6)]:
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
        check_derivatives(svd.thin, x)
        check_derivatives(lambda x: svd.low_rank(x, rank=2), x)
    check_derivatives(lambda x: svd.truncated(jax.random.key(0), x, rank=2, n_oversamples=0), x)


def test_derivatives_at_repeated_singular_values(x64):
    """A low-rank matrix that keeps a repeated group whole has its derivative; bases are finite."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=s))[0] for s in [(9, 5), (5, 5)])
    x = jnp.asarray((u * [3.0, 3.0, 1.0, 1.0, 0.0]) @ v.T)
    check_derivatives(lambda x: svd.low_rank(x, rank=2), x)
    check_derivatives(lambda x: svd.thin(x).singular_values[:2].sum(), x)
    for gradient in jax.tree.leaves(jax.jacobian(svd.thin)(x)):
        assert jnp.isfinite(gradient).all()


def test_errors_name_the_argument(unchecked):
    x = data()
    with pytest.raises(ValueError, match=r"rank must be at least 1 and at most 12, got 13"):
        svd.low_rank(x, rank=13)
    with pytest.raises(ValueError, match=r"rank must be at least 1 and at most 12, got 0"):
        svd.truncated(jax.random.key(0), x, rank=0)
    with pytest.raises(ValueError, match=r"n_iter must be at least 0, got -1"):
        svd.truncated(jax.random.key(0), x, rank=2, n_iter=-1)
    with pytest.raises(ValueError, match=r"x must be floating point, got int32"):
        svd.thin(jnp.ones((3, 2), jnp.int32))
