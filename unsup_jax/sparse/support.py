"""Derivatives of sparse codes, whatever solver they come from.

While the support A and the signs s of codes stay, they solve `W_A'(x - W_A z_A) = lam s`, with
`lam = 0` for a least-squares fit, and move by (`core.implicit`; G = W'W)

    G_AA dz_A = d(W_A'(x - W_A z_A)) - dlam s
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from unsup_jax.core import implicit, stats
from unsup_jax.core.linalg import matmul, safe_cholesky

TILE = 1000  # signals whose small systems are solved together


def attach(
    codes: Float[Array, "n k"],
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: Float[Array, "n"],
) -> Float[Array, "n k"]:
    """`codes`, with derivatives with respect to dictionary, signals and `lam`."""
    return implicit.root(_optimality, _solve, codes, components, x, lam)


def _optimality(codes, components, x, lam):
    """0 at the optimum, near which codes outside the support stay 0."""
    c = matmul(x - matmul(codes, components), components.T)
    return jnp.where(codes != 0, lam[:, None] * jnp.sign(codes) - c, codes)


def _solve(codes, components, x, lam, v):
    """The codes at which the derivative of `_optimality` has the value `v`."""
    del x, lam
    gram = matmul(components, components.T)
    n_slots = min(components.shape)  # a support has at most as many atoms

    def rows(tile):
        codes, v = tile
        here = jnp.arange(codes.shape[0])[:, None]
        atoms = lax.top_k(jnp.abs(codes), n_slots)[1]
        inside = codes[here, atoms] != 0
        small = jnp.where(
            inside[:, :, None] & inside[:, None, :],
            gram[atoms[:, :, None], atoms[:, None, :]],
            jnp.eye(n_slots, dtype=v.dtype)[None],
        )
        solve = jax.vmap(lambda factor, b: cho_solve((factor, True), b))
        solution = solve(safe_cholesky(small), v[here, atoms])
        return v.at[here, atoms].set(solution, unique_indices=True)

    return stats.map_rows(rows, (codes, v), tile_size=TILE)
