"""One factor of a non-negative factorisation while the other is fixed: the updates of `nmf`.

With one factor fixed, the Frobenius loss of the other is a quadratic that needs only two products:
for the components `A = Z'Z` and `B = Z'X`, sums over samples; for the codes `W'W` and `X W`.

    HALS:            w_j <- max(0, w_j + (B_j - sum_l A_jl w_l) / A_jj),   one j after another
    multiplicative:  w_j <- w_j * B_j / (sum_l A_jl w_l)
    KL:              w_j <- w_j * sum_i z_ij x_i / (W z_i) / sum_i z_ij

and the same for the codes, with the roles exchanged. None of them ever raises the objective.
Missing entries are filled in with the current `W z_i`: the loss of the filled data lies above that
of the observed entries and touches it there, so whatever lowers one lowers the other.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float

from unsup_jax.core import stats
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse import blocks
from unsup_jax.sparse.prox import project_nonnegative

TILE = 1000  # rows: a tile and its codes stay in cache
UPDATES = ("hals", "multiplicative", "kl")


class Params(NamedTuple):
    """A factorisation `x_i ~ sum_j z_ij w_j`.

    Attributes:
        codes: `z`, one row a sample, shape (n, k).
        components: `w_j`, the parts, shape (k, d).
    """

    codes: Float[Array, "n k"]
    components: Float[Array, "k d"]


class Stats(NamedTuple):
    """Additive sums over samples that the update of the components needs.

    Attributes:
        gram: `A = sum_i w_i z_i z_i'`, shape (k, k); for KL its diagonal is `sum_i w_i z_ij`.
        cross: `B = sum_i w_i z_i x_i'`, shape (k, d); for KL `x_i / (W z_i)` replaces `x_i`.
    """

    gram: Float[Array, "k k"]
    cross: Float[Array, "k d"]


def update_codes(
    components: Float[Array, "k d"],
    codes: Float[Array, "n k"],
    x: Float[Array, "n d"],
    mask: Bool[Array, "n d"] | None = None,
    *,
    update: str = "hals",
    n_sweeps: int = 3,
) -> tuple[Float[Array, "n k"], Float[Array, "n"]]:
    """New codes of some rows, and the losses of the old ones."""
    x, residual = _fill(x, mask, codes, components, residual=update != "kl")
    if update == "kl":
        ratio, losses = _ratio(x, codes, components)
        mass = components.sum(1)[None]
        return codes * matmul(ratio, components.T) / blocks.positive(mass), losses
    gram, cross = matmul(components, components.T), matmul(components, x.T)
    # Samples run along the contiguous axis, so that a step of a sweep is one pass over memory.
    old = codes.T
    if residual is None:
        quadratic = (old * (matmul(gram, old) - 2 * cross)).sum(0)
        losses = jnp.maximum((x * x).sum(1) + quadratic, 0) / 2
    else:
        losses = (residual * residual).sum(1) / 2
    return _sweep(old, gram, cross, update, n_sweeps).T, losses


def statistics(
    params: Params,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    mask: Bool[Array, "n d"] | None = None,
    *,
    update: str = "hals",
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Stats:
    """The sums over samples that `update_components` needs; those of two data sets add up."""

    def local(rows, w):
        codes, x, mask = rows
        x, _ = _fill(x, mask, codes, params.components)
        weighted = stats.weigh(codes, w).T
        if update == "kl":
            ratio, _ = _ratio(x, codes, params.components)
            return Stats(jnp.diag(weighted.sum(1)), matmul(weighted, ratio))
        return Stats(matmul(weighted, codes), matmul(weighted, x))

    rows = (params.codes, x, mask)
    return stats.accumulate(local, rows, weights, tile_size=tile_size, axis_name=axis_name)


def update_components(
    components: Float[Array, "k d"], sums: Stats, *, update: str = "hals", n_sweeps: int = 3
) -> Float[Array, "k d"]:
    """New components from the sums over samples taken at these."""
    if update == "kl":
        return components * sums.cross / blocks.positive(jnp.diagonal(sums.gram)[:, None])
    return _sweep(components, sums.gram, sums.cross, update, n_sweeps)


def _sweep(factor, gram, cross, update, n_sweeps):
    """Lower `1/2 <F, gram F> - <F, cross>` over `F >= 0`, shape (k, m), from `factor`."""
    if update == "multiplicative":
        rescale = lambda _, f: f * cross / blocks.positive(matmul(gram, f))  # noqa: E731
        return lax.fori_loop(0, n_sweeps, rescale, factor)
    return blocks.descend(factor, gram, cross, project_nonnegative, n_sweeps)


def _fill(x, mask, codes, components, residual=False):
    """`x` with its missing entries predicted, and, if asked for, the residual of the observed."""
    if mask is None:
        return x, None
    predicted = matmul(codes, components)
    filled = jnp.where(mask, x, predicted)
    return filled, filled - predicted if residual else None


def _ratio(x, codes, components):
    """`x / (W z)` and the Kullback-Leibler loss of each row."""
    floor = jnp.sqrt(jnp.finfo(x.dtype).tiny)  # far below any datum, and its inverse is finite
    predicted = jnp.maximum(matmul(codes, components), floor)
    ratio = x / predicted
    return ratio, (xlogy(x, ratio) - x + predicted).sum(1)
