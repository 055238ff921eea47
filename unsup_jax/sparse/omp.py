"""Orthogonal matching pursuit (Murphy, MLPP 13.2.3.1; Pati et al., 1993).

    minimise over z    ||z||_0    subject to    ||x - W z||^2 <= tol

greedily: the atom that correlates best with the residual, `argmax_j |w_j'r| / ||w_j||`, joins the
support, and the codes become the least-squares fit on the support. Exact for a signal made of `s`
atoms of a dictionary of coherence `mu` whenever `s < (1 + 1/mu) / 2` (Tropp, 2004).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, ScalarLike

from unsup_jax.core import checks, stats
from unsup_jax.core.linalg import einsum, matmul

TILE = 1000  # signals: what one tile needs stays in cache


@partial(jax.jit, static_argnames=("n_nonzero", "tile_size"))
def encode(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    tol: Float[Array, "n"] | ScalarLike = 0.0,
    *,
    n_nonzero: int,
    tile_size: int | None = TILE,
) -> Float[Array, "n k"]:
    """Codes `(n, k)` of every signal with at most `n_nonzero` atoms.

    A signal stops taking atoms once `||x - W z||^2 <= tol`, or when what is left is rounding error.

    Args:
        components: Atoms, of any length; zero ones are never used.
        x: Signals.
        tol: Largest squared norm of the residual; one for all signals or one a signal.
        n_nonzero: Static; largest number of atoms of a signal.
        tile_size: Static; signals at a time.

    Raises:
        ValueError: For shapes that do not match, an input that is not floating point, or
            `n_nonzero` not between 1 and `min(k, d)`.
    """
    checks.check_matrix("x", x)
    checks.check_matrix("components", components, n_features=x.shape[1])
    checks.check_count("n_nonzero", n_nonzero, min(components.shape))
    if jnp.shape(tol) not in ((), x.shape[:1]):
        raise ValueError(f"tol must have shape () or {x.shape[:1]}, got {jnp.shape(tol)}")
    tol = jnp.broadcast_to(jnp.asarray(tol, x.dtype), x.shape[:1])
    norms = jnp.sqrt((components * components).sum(1))
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    atoms = components * inverse[:, None]

    def rows(tile):
        signals, limits = tile
        return _pursue(atoms, signals, limits, n_nonzero) * inverse[None]

    return stats.map_rows(rows, (x, tol), tile_size=tile_size)


def _pursue(atoms, x, tol, n_nonzero):
    """Codes on unit atoms: `W_support = Q R` grows a column a step, and `R z = Q'x` at the end."""
    n, d = x.shape
    k = atoms.shape[0]
    info = jnp.finfo(x.dtype)
    floor = jnp.maximum(tol, (4 * info.eps) ** 2 * (x * x).sum(1))

    def step(i, state):
        residual, c, basis, triangle, loads, support = state
        atom = jnp.argmax(jnp.abs(c), axis=1)
        column = atoms[atom]
        # Twice is enough for a basis that is orthogonal to rounding error.
        along = einsum("nmd,nd->nm", basis, column)
        fresh = column - einsum("nm,nmd->nd", along, basis)
        again = einsum("nmd,nd->nm", basis, fresh)
        fresh = fresh - einsum("nm,nmd->nd", again, basis)
        norm = jnp.sqrt((fresh * fresh).sum(1))
        take = ((residual * residual).sum(1) > floor) & (norm > 16 * info.eps)
        fresh = jnp.where(take, 1 / jnp.where(take, norm, 1), 0)[:, None] * fresh
        load = (fresh * residual).sum(1)
        residual = residual - load[:, None] * fresh
        c = c - load[:, None] * matmul(fresh, atoms.T)
        basis = basis.at[:, i].set(fresh)
        column = (along + again).at[:, i].set(jnp.where(take, norm, 1))
        triangle = triangle.at[:, :, i].set(column)
        loads = loads.at[:, i].set(load)
        support = support.at[:, i].set(jnp.where(take, atom, k))
        return residual, c, basis, triangle, loads, support

    start = (
        x,
        matmul(x, atoms.T),
        jnp.zeros((n, n_nonzero, d), x.dtype),
        jnp.zeros((n, n_nonzero, n_nonzero), x.dtype),
        jnp.zeros((n, n_nonzero), x.dtype),
        jnp.zeros((n, n_nonzero), jnp.int32),
    )
    *_, triangle, loads, support = lax.fori_loop(0, n_nonzero, step, start)
    values = lax.linalg.triangular_solve(triangle, loads[..., None], left_side=True, lower=False)
    rows = jnp.arange(n)[:, None]
    return jnp.zeros((n, k), x.dtype).at[rows, support].add(values[..., 0], mode="drop")
