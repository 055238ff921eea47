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
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse import support

TILE = 2000  # signals: what one tile needs stays in cache


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
    Codes have the derivatives of the least-squares fit on their support.

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
    checks.check_matrix("components", components, n_features=x.shape[1], like=x)
    checks.check_count("n_nonzero", n_nonzero, min(components.shape))
    if jnp.shape(tol) not in ((), x.shape[:1]):
        raise ValueError(f"tol must have shape () or {x.shape[:1]}, got {jnp.shape(tol)}")
    tol = jnp.broadcast_to(jnp.asarray(tol, x.dtype), x.shape[:1])
    fixed, signals, limits = lax.stop_gradient((components, x, tol))
    norms = jnp.sqrt((fixed * fixed).sum(1))
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    atoms = fixed * inverse[:, None]

    def rows(tile):
        signals, limits = tile
        return _pursue(atoms, signals, limits, n_nonzero)

    values, chosen = stats.map_rows(rows, (signals, limits), tile_size=tile_size)
    values = values * inverse[jnp.minimum(chosen, len(inverse) - 1)]
    codes = jnp.zeros((x.shape[0], len(inverse)), x.dtype)
    codes = codes.at[jnp.arange(x.shape[0])[:, None], chosen].add(values, mode="drop")
    return support.attach(codes, components, x, jnp.zeros_like(tol))


def _pursue(atoms, x, tol, m):
    """Codes `(n, m)` on unit atoms, and which atoms these are; `k` where there is none.

    An orthonormal basis `Q = W_A T` of the support grows a column a step. Signals are the minor
    axis of all arrays here, as in `lars`.
    """
    k, n = atoms.shape[0], x.shape[0]
    eps = jnp.finfo(x.dtype).eps
    floor = jnp.maximum(tol, (4 * eps) ** 2 * (x * x).sum(1))
    index = jnp.arange(k, dtype=jnp.int32)[:, None]

    def project(i, basis, triangle, vectors):
        """Take the first `i` columns of Q from vectors: what is left, and the codes of the rest."""

        def column(j, state):
            left, codes = state
            along = (basis[j] * left).sum(0)
            return left - along[None] * basis[j], codes + along[None] * triangle[j]

        return lax.fori_loop(0, i, column, (vectors, jnp.zeros((m, n), x.dtype)))

    def step(i, state):
        residual, basis, triangle, codes, chosen = state
        # An argmax made of reductions that are passes over wide rows.
        c = matmul(atoms, residual)
        largest = jnp.maximum(c.max(0), -c.min(0))
        atom = jnp.where(jnp.abs(c) == largest[None], index, k - 1).min(0)
        fresh, known = project(i, basis, triangle, atoms[atom].T)
        square = (fresh * fresh).sum(0)
        take = ((residual * residual).sum(0) > floor) & (square > 32 * eps)
        scale = jnp.where(take, 1 / jnp.sqrt(jnp.where(take, square, 1)), 0)
        fresh = scale[None] * fresh
        load = (fresh * residual).sum(0)
        column = (-scale[None] * known).at[i].set(scale)
        return (
            residual - load[None] * fresh,
            basis.at[i].set(fresh),
            triangle.at[i].set(column),
            codes + load[None] * column,
            chosen.at[i].set(jnp.where(take, atom, k)),
        )

    start = (
        x.T,
        jnp.zeros((m, x.shape[1], n), x.dtype),  # the columns of Q
        jnp.zeros((m, m, n), x.dtype),  # and those of T
        jnp.zeros((m, n), x.dtype),
        jnp.full((m, n), k, jnp.int32),
    )
    residual, basis, triangle, codes, chosen = lax.fori_loop(0, m, step, start)
    # What the residual still has along the support is rounding error, worth one correction.
    codes = codes + project(m, basis, triangle, residual)[1]
    return codes.T, chosen.T
