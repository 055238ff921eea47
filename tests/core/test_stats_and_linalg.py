"""Sums over tiles, and factors, signs and distances at the edge of rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.core import linalg, stats


@pytest.mark.parametrize("tile_size", [None, 1, 7, 50, 99, 100, 101])
def test_accumulate_and_map_rows_do_not_depend_on_tiles(tile_size):
    x = jnp.arange(200.0).reshape(100, 2)
    weights = jnp.arange(100.0) % 3

    def local(rows, w):
        return (rows.sum(0) if w is None else (rows * w[:, None]).sum(0), jnp.sin(rows).max() * 0)

    total = (
        stats.accumulate(local, x, tile_size=tile_size) if tile_size in (None, 50, 1, 100) else None
    )
    if total is not None:
        np.testing.assert_allclose(total[0], x.sum(0))
    weighted = stats.accumulate(local, x, weights, tile_size=tile_size)
    np.testing.assert_allclose(weighted[0], (x * weights[:, None]).sum(0))
    doubled = stats.map_rows(lambda rows: (2 * rows, rows[:, 0]), x, tile_size=tile_size)
    np.testing.assert_array_equal(doubled[0], 2 * x)
    np.testing.assert_array_equal(doubled[1], x[:, 0])


def test_ragged_tiles_pass_weights_that_count_each_row_once():
    x = jnp.ones((100, 1))

    def local(rows, w):
        return rows.sum() if w is None else (rows[:, 0] * w).sum()

    for tile_size in (3, 7, 33, 51, 99):
        assert stats.accumulate(local, x, tile_size=tile_size) == 100


def test_mean_keeps_its_digits_far_from_the_origin():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(10_000, 3)) + 1e4).astype(np.float32)
    exact = x.astype(np.float64).mean(0)
    np.testing.assert_allclose(stats.mean(jnp.asarray(x), tile_size=512), exact, rtol=1e-7)
    weights = jnp.asarray(rng.random(10_000), jnp.float32)
    exact = np.average(x.astype(np.float64), axis=0, weights=np.asarray(weights, np.float64))
    np.testing.assert_allclose(stats.mean(jnp.asarray(x), weights), exact, rtol=1e-7)


def test_safe_cholesky_leaves_good_matrices_alone_and_mends_bent_ones():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    good = jnp.asarray(root @ root.T + np.eye(5), jnp.float32)
    bent = good.at[0].set(good[1]).at[:, 0].set(good[:, 1]).at[0, 0].set(good[1, 1] * (1 - 1e-6))
    assert not np.isfinite(jnp.linalg.cholesky(bent)).all()
    factors = linalg.safe_cholesky(jnp.stack([good, bent, jnp.zeros((5, 5))]))
    np.testing.assert_array_equal(factors[0], jnp.linalg.cholesky(good))
    assert np.isfinite(factors).all()
    np.testing.assert_allclose(factors[1] @ factors[1].T, bent, atol=1e-3)
    gradient = jax.grad(lambda a: linalg.safe_cholesky(a).sum())(good)
    assert np.isfinite(gradient).all()


def test_squared_distances_survive_an_offset():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 3))
    exact = ((x[:, None] - y[None]) ** 2).sum(2)
    for offset in (0.0, 1e4):
        a, b = (jnp.asarray(z + offset, jnp.float32) for z in (x, y))
        np.testing.assert_allclose(linalg.squared_distances(a, b), exact, atol=1e-5 + 1e-6 * offset)
    same = linalg.squared_distances(a, a)
    assert same.min() >= 0


def test_signs_make_the_largest_entry_positive():
    rows = jnp.asarray([[1.0, -3.0], [2.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(linalg.fix_signs(rows), [[-1, 3], [2, 1], [0, 0]])


def test_inverse_tril_matches_the_triangular_solve_and_has_its_derivatives():
    rng = np.random.default_rng(0)
    lower = jnp.asarray(np.tril(rng.normal(size=(3, 6, 6))) + 3 * np.eye(6), jnp.float32)
    inverse = linalg.inverse_tril(lower)
    np.testing.assert_allclose(inverse, np.linalg.inv(np.asarray(lower, np.float64)), atol=1e-6)
    np.testing.assert_array_equal(inverse, jnp.tril(inverse))
    np.testing.assert_array_equal(linalg.inverse_tril(lower[1]), inverse[1])
    ours = jax.grad(lambda a: (linalg.inverse_tril(jnp.tril(a)) ** 2).sum())(lower)
    exact = jax.grad(lambda a: (jnp.linalg.inv(jnp.tril(a)) ** 2).sum())(lower)
    np.testing.assert_allclose(ours, exact, atol=1e-5)


def test_the_middle_lies_amid_the_rows_wherever_a_tenth_of_them_are():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 81, 1000):
        x = rng.normal(size=(n, 3)).astype(np.float32)
        x[: n // 10] = 1e30
        assert (np.abs(linalg.middle(jnp.asarray(x))) < 3).all()


def test_means_and_distances_do_not_suffer_from_far_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    far = jnp.asarray(np.concatenate([np.full((1, 3), 1e10, np.float32), x]))
    weights = jnp.ones(51).at[0].set(0.0)
    np.testing.assert_allclose(stats.mean(far, weights), x.mean(0), atol=1e-6)
    exact = ((x[:, None] - x[None]) ** 2).sum(2)
    np.testing.assert_allclose(linalg.squared_distances(far, far)[1:, 1:], exact, atol=1e-5)
