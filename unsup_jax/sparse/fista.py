"""Lasso codes by proximal gradient steps, and the certificate of any codes (see `lasso`).

FISTA is the reference: it needs nothing but products with the dictionary, has no trouble with
dependent atoms, and comes as near to the optimum as it is given time for.

Source: Beck and Teboulle (2009), with the restart of O'Donoghue and Candes (2015).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from unsup_jax.core.fit import Step, iterate
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse.prox import soft_threshold


def certificate(
    components: Float[Array, "k d"],
    x: Float[Array, "... d"],
    codes: Float[Array, "... k"],
    lam: Float[Array, "..."],
    *,
    positive: bool,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "... k"]]:
    """Objective, duality gap and correlations `w_j'r` of one signal, or of a row each."""
    residual = x - matmul(codes, components)
    c = matmul(residual, components.T)
    energy = (residual * residual).sum(-1)
    l1 = lam * jnp.abs(codes).sum(-1)
    highest = largest(c, positive=positive)
    s = jnp.where(highest > lam, lam / jnp.where(highest > 0, highest, 1), 1)
    slack = (lam[..., None] * jnp.abs(codes) - s[..., None] * c * codes).sum(-1)
    gap = 0.5 * (1 - s) ** 2 * energy + jnp.maximum(slack, 0)
    return 0.5 * energy + l1, gap, c


def encode(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: Float[Array, "n"],
    tol: ScalarLike,
    start: Float[Array, "n k"],
    *,
    max_iter: int,
    positive: bool,
) -> tuple[Float[Array, "n k"], Int[Array, "n"]]:
    """Codes of every signal, and the number of steps that led to them from `start`."""
    k, d = components.shape
    small = matmul(components.T, components) if d < k else matmul(components, components.T)
    lipschitz = jnp.linalg.eigvalsh(small)[-1] * (1 + 16 * jnp.finfo(x.dtype).eps)
    rate = 1 / jnp.where(lipschitz > 0, lipschitz, 1)

    def solve(x, lam, codes):
        def step(state):
            z, z_old, c_old, t = state
            value, gap, c = certificate(components, x, z, lam, positive=positive)
            t_next = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
            momentum = (t - 1) / t_next
            ahead = z + momentum * (z - z_old)
            uphill = c + momentum * (c - c_old)  # minus the gradient at `ahead`: it is affine
            new = soft_threshold(ahead + rate * uphill, rate * lam, positive=positive)
            # Momentum that points against the step taken does harm: begin afresh.
            t_next = jnp.where(((ahead - new) * (new - z)).sum() > 0, 1, t_next)
            error = relative(gap, value)
            return Step((new, z, c, t_next), error, error=error)

        state = (codes, codes, jnp.zeros_like(codes), jnp.ones((), x.dtype))
        fit = iterate(step, state, tol, max_iter=max_iter)
        return fit.params[0], fit.n_iter

    return jax.vmap(solve)(x, lam, start)


def largest(c: Float[Array, "... k"], *, positive: bool) -> Float[Array, "..."]:
    """What the correlations `w_j'r` are compared by: `max_j |w_j'r|`, or `max_j w_j'r`."""
    return jnp.maximum(c.max(-1), 0) if positive else jnp.abs(c).max(-1)


def relative(gap: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """`(P - D) / P`."""
    return jnp.where(value > 0, gap / jnp.where(value > 0, value, 1), gap)
