"""Derivatives through the equation a solver solved, not through the solver."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads

from unsup_jax.core import implicit


def newton(a):
    """Square root, by a loop that reverse mode can't pass."""
    return lax.while_loop(lambda s: jnp.abs(s * s - a).max() > 1e-13, lambda s: (s + a / s) / 2, a)


def square_root(a):
    root = newton(lax.stop_gradient(a))
    return implicit.root(lambda z, a: z * z - a, lambda z, _, v: v / (2 * z), root, a)


def test_a_root_has_derivatives_of_any_order(x64):
    a = jnp.asarray([0.3, 2.0, 7.0])
    np.testing.assert_allclose(square_root(a), jnp.sqrt(a), rtol=1e-12)
    check_grads(square_root, (a,), order=2, modes=["fwd", "rev"])
    hessian = jax.vmap(jax.grad(jax.grad(lambda a: square_root(a[None])[0])))(a)
    np.testing.assert_allclose(hessian, -(a**-1.5) / 4, rtol=1e-10)


def test_a_minimum_moves_as_its_objective_does(x64):
    """`min_z z^4/4 - z^2 (a + 1/2) / 2`, at `z^2 = a + 1/2`, is `-(a + 1/2)^2 / 4`."""

    def objective(z, a):
        return z**4 / 4 - z**2 * (a + 0.5) / 2

    def minimum(a):
        z = square_root(a + 0.5)
        return implicit.minimum(objective, objective(z, a), z, a)

    a = jnp.asarray([0.3, 2.0, 7.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(minimum))(a), -(a + 0.5) / 2, rtol=1e-10)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(minimum)))(a), -0.5, rtol=1e-10)
