"""Forces between all pairs of points of a t-SNE map (`grid` has them through a grid and the FFT).

The potential and the repulsive force on each point, for Student's kernel of `dof` degrees of
freedom, `alpha`:

    k(d) = (1 + d^2 / alpha)^(-(alpha + 1) / 2),
    phi_i = sum_(j != i) k(|y_i - y_j|),    force_i = -grad phi_i.

The normaliser of the map's similarities is `Z = sum_i phi_i`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from unsup_jax.core.linalg import matmul
from unsup_jax.core.stats import collect_rows, map_rows, share_rows


class Repulsion(NamedTuple):
    """What all other points do to each.

    Attributes:
        potential: `phi_i`, shape `(n,)`.
        force: `-grad phi_i`, shape `(n, q)`.
    """

    potential: Float[Array, "n"]
    force: Float[Array, "n q"]

    @property
    def normalizer(self) -> Float[Array, ""]:
        """`Z = sum_i phi_i`; as a matrix product, which compiles faster than a sum."""
        return matmul(jnp.ones_like(self.potential), self.potential)


def kernel(
    squares: Float[Array, "*shape"], *, dof: float = 1.0
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """`(w, k)` of squared distances: `w = 1 / (1 + d^2 / alpha)` and `k = w^((alpha + 1) / 2)`."""
    if dof == 1:
        w = 1 / (1 + squares)
        return w, w
    w = 1 / (1 + squares / dof)
    return w, w ** ((dof + 1) / 2)


def squared_distances(y: Float[Array, "m q"], z: Float[Array, "n q"]) -> Float[Array, "m n"]:
    """Squared distances from differences: exact for close points, and cheap in few dimensions."""
    first, *others = ((y[:, i, None] - z[None, :, i]) ** 2 for i in range(y.shape[1]))
    return sum(others, first)


def exact(
    y: Float[Array, "m q"],
    others: Float[Array, "n q"] | None = None,
    *,
    dof: float = 1.0,
    tile_pairs: int = 2**20,
    axis_name: str | None = None,
) -> Repulsion:
    """All pairs, in tiles; in any dimension.

    Args:
        y: The points that feel the force.
        others: The points that exert it; `None` means `y`, without each point's force on itself.
        dof: Static; degrees of freedom.
        tile_pairs: Static; pairs at a time.
        axis_name: Static; the mapped axis whose devices, all of which know all points, share them.
    """
    sources = y if others is None else others
    shared = y if axis_name is None else share_rows(y, axis_name)[0]
    ones = jnp.ones_like(sources[:, :1])
    charges = jnp.concatenate([sources, ones], 1)

    def potentials(tile):
        _, k = kernel(squared_distances(tile, sources), dof=dof)
        return matmul(k, ones)[:, 0]

    def forces(tile):
        w, k = kernel(squared_distances(tile, sources), dof=dof)
        # sum_j g_ij (y_i - y_j): sums over j are matrix products, which use all cores
        sums = matmul(w * k, charges)
        return (dof + 1) / dof * (tile * sums[:, -1:] - sums[:, :-1])

    # One after the other: on a CPU the weights of a single product are found again in less time
    # than those of two are kept.
    tile_size = max(1, tile_pairs // sources.shape[0])
    potential = map_rows(potentials, shared, tile_size=tile_size)
    force = map_rows(forces, shared, tile_size=tile_size)
    mine = Repulsion(potential - (1 if others is None else 0), force)
    return mine if axis_name is None else collect_rows(mine, y.shape[0], axis_name)
