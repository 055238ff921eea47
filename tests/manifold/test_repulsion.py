"""Repulsion: the exact sums against a loop over pairs, the grid against the exact sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.manifold import grid, repulsion

through_grid = jax.jit(grid.repulsion, static_argnames=("dof", "size"))


def clusters(n, extent, q=2):
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (12, q))
    y = centres[rng.integers(0, 12, n)] + rng.normal(size=(n, q)) * 0.1
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


def errors(extent, q=2, dof=1.0):
    y = clusters(1000, extent, q)
    exact = repulsion.exact(y, dof=dof)
    found = through_grid(y, dof=dof, size=grid.size_for(y, dof=dof))
    off = jnp.linalg.norm(found.force - exact.force) / jnp.linalg.norm(exact.force)
    return float(off), float(found.potential.sum() / exact.potential.sum() - 1)


@pytest.mark.parametrize(
    ("extent", "at_most"), [(1e-3, 1e-4), (1.0, 1e-4), (30.0, 2e-3), (100.0, 1e-2), (400.0, 0.02)]
)
def test_grid_is_close_to_exact_at_any_extent(extent, at_most):
    force, potential = errors(extent)
    assert force < at_most
    assert abs(potential) < 1e-4


@pytest.mark.parametrize(("q", "dof"), [(1, 1.0), (2, 0.5)])
def test_grid_on_a_line_and_with_heavy_tails(q, dof):
    force, potential = errors(50.0, q, dof)
    assert force < 0.02
    assert abs(potential) < 1e-4


def test_a_lone_point_feels_nothing_of_itself():
    y = jnp.asarray([[0.0, 0.0], [77.0, 40.0]])
    found, exact = through_grid(y, size=256), repulsion.exact(y)
    np.testing.assert_allclose(found.force, exact.force, atol=1e-5)
    # What a point does to itself, 1, is subtracted and leaves its rounding.
    np.testing.assert_allclose(found.potential, exact.potential, rtol=1e-3, atol=5e-7)


def test_points_in_one_place():
    found = through_grid(jnp.ones((5, 2)), size=128)
    np.testing.assert_allclose(found.potential, 4, rtol=1e-6)
    np.testing.assert_allclose(found.force, 0, atol=1e-6)


def test_force_is_minus_the_gradient_of_the_potential_on_the_grid():
    y = clusters(50, 10.0)

    @jax.jit
    def both(at):
        kernel = grid.kernel_on_grid(jnp.float32(0.3), n_dims=2, size=128)
        field = grid.field(y, kernel)
        slope = jax.grad(lambda at: grid.read(field, at).potential.sum())(at)
        return grid.read(field, at).force, slope

    force, slope = both(y + 0.05)
    np.testing.assert_allclose(force, -slope, atol=1e-4)


def primitives(jaxpr):
    """Names of the operations in their order, those of inner programs in their places."""
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        if inner is None:
            yield equation.primitive.name
        else:
            yield from primitives(getattr(inner, "jaxpr", inner))


def test_every_transform_begins_a_program():
    """In the midst of one its rounding depends on the threads that happen to be free."""
    traced = jax.make_jaxpr(lambda y: grid.repulsion(y, size=128))(clusters(100, 10.0))
    programs = [list(primitives(e.params["jaxpr"])) for e in traced.eqns if "jaxpr" in e.params]
    found = [names.index("fft") for names in programs if "fft" in names]
    assert found == [0, 0, 0]  # of the kernel; of the charges, there and back
    assert sum(names.count("fft") for names in programs) == 3
