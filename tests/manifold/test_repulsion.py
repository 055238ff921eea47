"""Repulsion: the exact sums against a loop over pairs, the grid against the exact sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.manifold import repulsion


def clusters(n, extent, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-1, 1, (12, 2))
    y = centres[rng.integers(0, 12, n)] + rng.normal(size=(n, 2)) * 0.1
    return jnp.asarray(y * extent / np.ptp(y), jnp.float32)


@pytest.mark.parametrize("dof", [1.0, 0.5])
def test_exact_is_the_sum_over_pairs(dof):
    y = np.random.default_rng(0).normal(size=(30, 3))
    apart = y[:, None] - y[None]
    k = (1 + (apart**2).sum(2) / dof) ** (-(dof + 1) / 2)
    w = 1 / (1 + (apart**2).sum(2) / dof)
    np.fill_diagonal(k, 0)
    potential, force = repulsion.exact(jnp.asarray(y, jnp.float32), dof=dof)
    np.testing.assert_allclose(potential, k.sum(1), rtol=1e-5)
    expected = (dof + 1) / dof * ((w * k)[:, :, None] * apart).sum(1)
    np.testing.assert_allclose(force, expected, atol=2e-5)


@pytest.mark.parametrize("extent", [1e-3, 10.0, 50.0])
def test_grid_is_close_to_exact(extent):
    y = clusters(2000, extent)
    exact, grid = repulsion.exact(y), repulsion.grid(y, size=128)
    error = jnp.linalg.norm(grid.force - exact.force) / jnp.linalg.norm(exact.force)
    assert error < 0.02
    assert grid.potential.sum() == pytest.approx(float(exact.potential.sum()), rel=1e-3)


def test_force_is_minus_the_gradient_of_the_potential_on_the_grid():
    y = clusters(50, 10.0)
    spacing = jnp.float32(0.45)
    spectrum = repulsion.kernel_spectrum(spacing, size=64)
    field = repulsion.field(y, spectrum, spacing, size=64)

    def total(at):
        return repulsion.read(field, at).potential.sum()

    at = y + 0.05
    np.testing.assert_allclose(repulsion.read(field, at).force, -jax.grad(total)(at), atol=1e-4)
