"""Sparse coding by the lasso (Murphy, MLPP 13.3-13.4 and 13.8; Tibshirani, 1996).

    minimise over z    P(z) = 1/2 ||x - W z||^2 + lam ||z||_1

for every signal `x` (a row of the data), with atoms `w_j` (rows of `components`, columns of `W`) of
any length. With the residual `r = x - W z`, codes are optimal if and only if `w_j'r = lam sign(z_j)`
where `z_j != 0` and `|w_j'r| <= lam` elsewhere. Any `t = s r` with `|w_j't| <= lam` for all j gives
the lower bound `D(t) = 1/2 ||x||^2 - 1/2 ||x - t||^2` on the optimum: the duality gap `P - D`
certifies how good codes are, whatever solver they come from (Kim et al., 2007).

Signals are solved apart: objectives, gaps and statuses have one entry a signal, and so may `lam`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from unsup_jax.core import checks
from unsup_jax.core.fit import Fit, Status, Step, iterate
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse.prox import soft_threshold

SOLVERS = ("auto", "fista")


def objective(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    codes: Float[Array, "n k"],
    lam: Float[Array, "n"] | ScalarLike,
) -> Float[Array, "n"]:
    """`P(z) = 1/2 ||x - W z||^2 + lam ||z||_1` of every signal."""
    return _certificate(components, x, codes, _per_signal(lam, x), False)[0]


def duality_gap(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    codes: Float[Array, "n k"],
    lam: Float[Array, "n"] | ScalarLike,
    *,
    positive: bool = False,
) -> Float[Array, "n"]:
    """`P(z) - D(s r)` of every signal: `P(z)` is at most this far above its minimum.

    The residual is scaled by the largest `s <= 1` that makes it feasible. Written as
    `1/2 (1 - s)^2 ||r||^2 + sum_j (lam |z_j| - s w_j'r z_j)`, a sum of terms that are not negative,
    it keeps its digits near 0.
    """
    return _certificate(components, x, codes, _per_signal(lam, x), positive)[1]


def lambda_max(
    components: Float[Array, "k d"], x: Float[Array, "n d"], *, positive: bool = False
) -> Float[Array, "n"]:
    """The smallest `lam` at which the codes of a signal are all zero: `max_j |w_j'x|`."""
    return _largest(matmul(x, components.T), positive)


def kkt_violation(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    codes: Float[Array, "n k"],
    lam: Float[Array, "n"] | ScalarLike,
    *,
    positive: bool = False,
) -> Float[Array, "n"]:
    """How far each signal's codes are from the optimality conditions, in the units of `lam`.

    The largest over the atoms of `|w_j'r - lam sign(z_j)|` where `z_j != 0`, and of
    `max(|w_j'r| - lam, 0)` (`max(w_j'r - lam, 0)` for non-negative codes) where `z_j = 0`.
    """
    lam = _per_signal(lam, x)[:, None]
    c = matmul(x - matmul(codes, components), components.T)
    outside = jnp.maximum((c if positive else jnp.abs(c)) - lam, 0)
    inside = jnp.abs(c - lam * jnp.sign(codes))
    return jnp.where(codes != 0, inside, outside).max(1)


@partial(jax.jit, static_argnames=("max_iter", "positive", "solver"))
def encode(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: Float[Array, "n"] | ScalarLike,
    tol: ScalarLike = 1e-5,
    start: Float[Array, "n k"] | None = None,
    *,
    max_iter: int = 2000,
    positive: bool = False,
    solver: str = "auto",
) -> Fit:
    """The lasso codes of every signal.

    Args:
        components: Atoms, of any length.
        x: Signals.
        lam: Positive; one for all signals or one a signal.
        tol: Largest relative duality gap, `(P - D) / P`.
        start: Codes to start from; zeros if `None`.
        max_iter: Static; largest number of iterations.
        positive: Static; whether codes must not be negative.
        solver: Static; "fista" or "auto".

    Returns:
        `Fit` with the codes `(n, k)` as `params`. `objective`, `status` and `n_iter` have one entry
        a signal; `history` `(n, max_iter)` holds what is certified: the relative duality gap. A
        signal that is not finite gets codes 0 and the status `NON_FINITE`.

    Raises:
        ValueError: For shapes that do not match, an input that is not floating point, or an unknown
            solver.
    """
    _check(components, x, lam, start)
    checks.check_choice("solver", solver, SOLVERS)
    lam = _per_signal(lam, x)
    start = jnp.zeros((x.shape[0], components.shape[0]), x.dtype) if start is None else start
    return _fista(components, x, lam, tol, start, max_iter, positive)


def _fista(components, x, lam, tol, start, max_iter, positive):
    """Beck and Teboulle (2009), with the restart of O'Donoghue and Candes (2015)."""
    k, d = components.shape
    small = matmul(components.T, components) if d < k else matmul(components, components.T)
    lipschitz = jnp.linalg.eigvalsh(small)[-1] * (1 + 16 * jnp.finfo(x.dtype).eps)
    rate = 1 / jnp.where(lipschitz > 0, lipschitz, 1)

    def solve(x, lam, codes):
        def step(state):
            z, z_old, c_old, t = state
            value, gap, c = _certificate(components, x, z, lam, positive)
            t_next = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
            momentum = (t - 1) / t_next
            ahead = z + momentum * (z - z_old)
            uphill = c + momentum * (c - c_old)  # minus the gradient at `ahead`: it is affine
            new = soft_threshold(ahead + rate * uphill, rate * lam, positive=positive)
            # Momentum that points against the step taken does harm: begin afresh.
            t_next = jnp.where(((ahead - new) * (new - z)).sum() > 0, 1, t_next)
            relative = _relative(gap, value)
            return Step((new, z, c, t_next), relative, error=relative)

        state = (codes, codes, jnp.zeros_like(codes), jnp.ones((), x.dtype))
        fit = iterate(step, state, tol, max_iter=max_iter)
        codes = fit.params[0]
        return fit._replace(
            params=codes, objective=_certificate(components, x, codes, lam, False)[0]
        )

    return jax.vmap(solve)(x, lam, start)


def _certificate(components, x, codes, lam, positive):
    """Objective, duality gap and correlations `w_j'r` of one signal or of a row each."""
    residual = x - matmul(codes, components)
    c = matmul(residual, components.T)
    energy = (residual * residual).sum(-1)
    l1 = lam * jnp.abs(codes).sum(-1)
    largest = _largest(c, positive)
    s = jnp.where(largest > lam, lam / jnp.where(largest > 0, largest, 1), 1)
    slack = (lam[..., None] * jnp.abs(codes) - s[..., None] * c * codes).sum(-1)
    gap = 0.5 * (1 - s) ** 2 * energy + jnp.maximum(slack, 0)
    return 0.5 * energy + l1, gap, c


def _largest(c, positive):
    return jnp.maximum(c.max(-1), 0) if positive else jnp.abs(c).max(-1)


def _relative(gap, value):
    return jnp.where(value > 0, gap / jnp.where(value > 0, value, 1), gap)


def _per_signal(lam, x):
    return jnp.broadcast_to(jnp.asarray(lam, x.dtype), x.shape[:1])


def _check(components, x, lam, start):
    checks.check_matrix("x", x)
    checks.check_matrix("components", components, n_features=x.shape[1])
    if jnp.shape(lam) not in ((), x.shape[:1]):
        raise ValueError(f"lam must have shape () or {x.shape[:1]}, got {jnp.shape(lam)}")
    shape = (x.shape[0], components.shape[0])
    if start is not None and start.shape != shape:
        raise ValueError(f"start must have shape {shape}, got {start.shape}")
