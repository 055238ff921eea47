"""The atoms' half of dictionary learning: sums over coded samples, and updates from them.

    A = sum_i w_i z_i z_i',    B = sum_i w_i z_i x_i'

    gradient:  W <- project(W - (A W - B) / ||A||)                         on the whole dictionary
    block:     w_j <- project(w_j + (B_j - sum_l A_jl w_l) / A_jj),        one j after another

where `project` shortens atoms longer than 1. Both lower `1/2 tr(W'A W) - tr(W'B)`, the part of the
objective of `dictionary` that the atoms can change while the codes stay, and never raise it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from unsup_jax.core import stats
from unsup_jax.core.lanes import any_lane
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse import blocks
from unsup_jax.sparse.prox import project_nonnegative, project_unit_ball

TILE = 4000  # rows summed at a time
UPDATES = ("block", "gradient")


class Stats(NamedTuple):
    """Additive sums over samples coded with the same dictionary.

    Attributes:
        gram: `A = sum_i w_i z_i z_i'`, shape (k, k).
        cross: `B = sum_i w_i z_i x_i'`, shape (k, d).
        loss: `sum_i w_i (1/2 ||x_i - W z_i||^2 + lam ||z_i||_1)`, shape ().
        weight: `sum_i w_i`, shape ().
    """

    gram: Float[Array, "k k"]
    cross: Float[Array, "k d"]
    loss: Float[Array, ""]
    weight: Float[Array, ""]


def statistics(
    codes: Float[Array, "n k"],
    losses: Float[Array, "n"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    *,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Stats:
    """The sums over coded samples; those of two data sets add up."""

    def local(rows, w):
        codes, losses, x = rows
        weighted = stats.weigh(codes, w).T
        if w is None:
            weight = jnp.asarray(x.shape[0], x.dtype)
        else:
            losses, weight = jnp.where(w > 0, w * losses, 0), w.sum()
        return Stats(matmul(weighted, codes), matmul(weighted, x), losses.sum(), weight)

    rows = (codes, losses, x)
    return stats.accumulate(local, rows, weights, tile_size=tile_size, axis_name=axis_name)


def update_components(
    components: Float[Array, "k d"],
    sums: Stats,
    *,
    update: str = "block",
    n_sweeps: int = 1,
    positive: bool = False,
) -> Float[Array, "k d"]:
    """Lower `1/2 tr(W' A W) - tr(W' B)` over dictionaries in the constraint set.

    Args:
        components: The dictionary the samples were coded with.
        sums: Their statistics.
        update: Static; "gradient" (projected gradient steps of length 1 / ||A||) or "block" (the
            exact minimum over one atom after another).
        n_sweeps: Static; updates of all atoms.
        positive: Static; atoms may not be negative.
    """
    gram, cross = sums.gram, sums.cross
    if update == "block":
        return blocks.descend(
            components, gram, cross, lambda atom: project(atom[None], positive)[0], n_sweeps
        )
    step = blocks.inverse(jnp.linalg.eigvalsh(gram)[-1])

    def descend(_, atoms):
        return project(atoms - step * (matmul(gram, atoms) - cross), positive)

    return lax.fori_loop(0, n_sweeps, descend, components)


def reseed(
    components: Float[Array, "k d"],
    gram: Float[Array, "k k"],
    losses: Float[Array, "n"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None,
    *,
    positive: bool,
    axis_name: str | None = None,
) -> Float[Array, "k d"]:
    """Replace atoms without codes by the worst samples, the worst for the first, and so on."""
    k = components.shape[0]
    losses = losses if weights is None else jnp.where(weights > 0, losses, -1)
    unused: Bool[Array, "k"] = jnp.diagonal(gram) <= 0

    def replace():
        largest, worst = lax.top_k(losses, min(k, x.shape[0]))
        samples = x[worst]
        if axis_name is not None:
            largest, samples = lax.all_gather((largest, samples), axis_name, tiled=True)
            samples = samples[jnp.argsort(-largest)]
        turn = jnp.minimum(jnp.cumsum(unused) - 1, samples.shape[0] - 1)
        candidates = jnp.maximum(samples, 0) if positive else samples
        return jnp.where(unused[:, None], unit_length(candidates[turn], components), components)

    # Devices agree on `unused`, so all or none of them come to gather.
    return lax.cond(any_lane(unused.any()), replace, lambda: components)


def project(components: Float[Array, "k d"], positive: bool) -> Float[Array, "k d"]:
    """Onto the unit ball, atom by atom, and the non-negative orthant if asked for."""
    return project_unit_ball(project_nonnegative(components) if positive else components)


def unit_length(atoms: Float[Array, "k d"], instead: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Atoms of length 1; those of length 0 come from `instead`."""
    length = jnp.linalg.norm(atoms, axis=1, keepdims=True)
    instead = instead / jnp.maximum(jnp.linalg.norm(instead, axis=1, keepdims=True), 1e-30)
    return jnp.where(length > 0, atoms / jnp.where(length > 0, length, 1), instead)
