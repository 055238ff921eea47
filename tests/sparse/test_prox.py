"""Proximal operators minimise what they say; projections are the nearest points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.sparse import prox


@pytest.mark.parametrize("positive", [False, True])
def test_soft_threshold_minimises_its_definition(positive):
    grid = np.linspace(0 if positive else -3, 3, 6001)
    for v in (-2.0, -0.3, 0.0, 0.4, 1.7):
        best = grid[np.argmin(0.5 * np.abs(grid) + 0.5 * (grid - v) ** 2)]
        found = prox.soft_threshold(jnp.asarray(v), 0.5, positive=positive)
        np.testing.assert_allclose(found, best, atol=1e-3)


def test_projection_on_the_ball_moves_long_atoms_only():
    atoms = jax.random.normal(jax.random.key(0), (20, 3))
    found = prox.project_unit_ball(atoms)
    norms = np.linalg.norm(atoms, axis=1)
    np.testing.assert_allclose(
        found, np.where(norms[:, None] > 1, atoms / norms[:, None], atoms), rtol=1e-5
    )
    huge = prox.project_unit_ball(jnp.asarray([[1e30, 1e30], [0.0, 0.0]]))
    np.testing.assert_allclose(huge, [[0.5**0.5, 0.5**0.5], [0, 0]], rtol=1e-6)


def test_projection_on_the_orthant():
    x = jnp.asarray([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(prox.project_nonnegative(x), [0, 0, 2])
