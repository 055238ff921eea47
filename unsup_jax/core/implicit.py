"""Derivatives of a solution through the equation it solves, whatever found it.

A root `z(theta)` of `F(z, theta) = 0` moves, to first order, by

    dz = -(dF/dz)^-1 (dF/dtheta) dtheta

so that neither the steps of the solver nor their memory matter, only where it ended; and the
minimum `P(z(theta), theta)` moves by `dP/dtheta dtheta` alone, as `dP/dz = 0` there. The functions
here return what a solver found, unchanged, and give it these derivatives, forward and reverse and
of any order. The solver must work on arguments that went through `jax.lax.stop_gradient`.

Source: Blondel et al. (2022), "Efficient and modular implicit differentiation".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

Pytree = Any


def root(
    optimality: Callable[..., Array], solve: Callable[..., Array], z: Array, *theta: Pytree
) -> Array:
    """`z`, with the derivatives of the root of `optimality(z, *theta) = 0`.

    Args:
        optimality: `F`, of the shape of `z`. Must not close over what is differentiated.
        solve: `solve(z, *theta, v)` is `(dF/dz)^-1 v`, linear in `v`. The same holds.
        z: What a solver found.
        *theta: Pytrees of arrays that the root depends on.
    """

    @jax.custom_jvp
    def attached(z, theta):  # noqa: ARG001
        return z

    @attached.defjvp
    def tangent(primals, tangents):
        z, theta = primals
        z = attached(z, theta)  # the derivative has derivatives itself
        _, moved = jax.jvp(lambda theta: optimality(z, *theta), (theta,), (tangents[1],))
        return z, -solve(z, *theta, moved)

    return attached(lax.stop_gradient(z), theta)


def minimum(objective: Callable[..., Array], value: Array, z: Array, *theta: Pytree) -> Array:
    """`value`, with the derivatives of `objective(z, *theta)` at its minimum over `z`.

    Args:
        objective: `P`, of the shape of `value`. Must not close over what is differentiated.
        value: What a solver found.
        z: Where it found it: from `root`, if second derivatives are wanted.
        *theta: Pytrees of arrays that the minimum depends on.
    """

    @jax.custom_jvp
    def attached(value, z, theta):  # noqa: ARG001
        return value

    @attached.defjvp
    def tangent(primals, tangents):
        value, z, theta = primals
        value = attached(value, z, theta)
        return value, jax.jvp(lambda theta: objective(z, *theta), (theta,), (tangents[2],))[1]

    return attached(lax.stop_gradient(value), z, theta)
