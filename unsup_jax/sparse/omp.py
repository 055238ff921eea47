"""Orthogonal matching pursuit (Murphy, MLPP 13.2.3.1; Pati et al., 1993).

    minimise over z    ||z||_0    subject to    ||x - W z||^2 <= tol

greedily: the atom that correlates best with the residual, `argmax_j |w_j'r| / ||w_j||`, joins the
support, and the codes become the least-squares fit on the support. Exact for a signal made of `s`
atoms of a dictionary of coherence `mu` whenever `s < (1 + 1/mu) / 2` (Tropp, 2004).
"""

from __future__ import annotations

import operator
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, ScalarLike

from unsup_jax.core import checks, stats
from unsup_jax.core.linalg import matmul

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
    """Codes on unit atoms: an orthonormal basis `Q = W_A T` of the support grows a column a step.

    Signals are the minor axis of all arrays here, as in `lars`.
    """
    k, n = atoms.shape[0], x.shape[0]
    info = jnp.finfo(x.dtype)
    floor = jnp.maximum(tol, (4 * info.eps) ** 2 * (x * x).sum(1))
    index = jnp.arange(k, dtype=jnp.int32)[:, None]

    def step(i, state):
        residual, c, basis, images, triangle, codes, support = state
        size = jnp.abs(c)
        # An argmax made of two reductions that are passes over wide rows.
        atom = jnp.where(size == size.max(0)[None], index, k - 1).min(0)
        along = jnp.take_along_axis(images, atom[None, None], axis=1)[:, 0]  # Q'w_j
        fresh = atoms[atom].T - _combine(basis, along)
        square = (fresh * fresh).sum(0)
        take = ((residual * residual).sum(0) > floor) & (square > 32 * info.eps)
        scale = jnp.where(take, 1 / jnp.sqrt(jnp.where(take, square, 1)), 0)
        fresh = scale[None] * fresh
        image = matmul(atoms, fresh)
        load = (fresh * residual).sum(0)
        column = (-scale[None] * _combine(triangle, along)).at[i].set(scale)
        return (
            residual - load[None] * fresh,
            c - load[None] * image,
            basis.at[i].set(fresh),
            images.at[i].set(image),
            triangle.at[i].set(column),
            codes + load[None] * column,
            support.at[i].set(jnp.where(take, atom, k)),
        )

    start = (
        x.T,
        matmul(atoms, x.T),
        jnp.zeros((n_nonzero, x.shape[1], n), x.dtype),  # the columns of Q,
        jnp.zeros((n_nonzero, k, n), x.dtype),  # their products with all atoms,
        jnp.zeros((n_nonzero, n_nonzero, n), x.dtype),  # and those of T
        jnp.zeros((n_nonzero, n), x.dtype),
        jnp.full((n_nonzero, n), k, jnp.int32),
    )
    _, c, _, _, triangle, codes, support = lax.fori_loop(0, n_nonzero, step, start)
    # What is left of the support's correlations is rounding error, worth one correction.
    rest = jnp.take_along_axis(c, jnp.minimum(support, k - 1), axis=0)
    codes = codes + _combine(triangle, (triangle * rest[None]).sum(1))
    return jnp.zeros((n, k), x.dtype).at[jnp.arange(n)[None], support].add(codes, mode="drop")


def _combine(columns, factors):
    """`sum_j factors_j columns_j`: one elementwise expression, compiled to a vectorised loop."""
    return reduce(operator.add, [f[None] * c for f, c in zip(factors, columns, strict=True)])
