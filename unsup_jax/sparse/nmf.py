"""Non-negative matrix factorisation: data as non-negative sums of non-negative parts.

    minimise  1/N sum_i w_i l(x_i, W z_i)   over   z_i >= 0,  w_j >= 0     N = sum_i w_i
    Frobenius:  l(x, y) = 1/2 ||x - y||^2        Kullback-Leibler:  l = sum_f x log(x/y) - x + y

Codes, then components, are updated while the other factor stays (`factors`): by HALS, or by
multiplicative updates for either loss. None of them ever raises the objective.

Source: Murphy, *Machine Learning: a Probabilistic Perspective*, section 13.8.1; Lee and Seung
(2001), "Algorithms for non-negative matrix factorization"; Cichocki and Phan (2009), "Fast local
algorithms for large scale nonnegative matrix and tensor factorizations"; Gillis and Glineur (2012),
"Accelerated multiplicative updates and hierarchical ALS algorithms": several sweeps a product.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_choice, check_count, check_matrix, check_weights
from unsup_jax.core.fit import Fit, Step, iterate
from unsup_jax.core.linalg import matmul
from unsup_jax.linear import svd
from unsup_jax.sparse import blocks
from unsup_jax.sparse.factors import (
    TILE,
    UPDATES,
    Params,
    Stats,
    statistics,
    update_codes,
    update_components,
)

STARTS = ("random", "nndsvd", "nndsvda")


@partial(jax.jit, static_argnames=("n_components", "method"))
def init(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    mask: Bool[Array, "n d"] | None = None,
    *,
    n_components: int,
    method: str = "nndsvd",
) -> Params:
    """A non-negative start.

    Args:
        key: Random key.
        x: Non-negative data, shape (n, d).
        mask: True where `x` was observed, shape (n, d); `None` means everywhere.
        n_components: Static; the number of parts.
        method: Static; "nndsvd" (the dominant non-negative part of each singular pair: sparse, for
            HALS), "nndsvda" (the same with the mean of the data, shared by the parts, in place of
            zeros, from which multiplicative updates can't escape) or "random".

    Raises:
        ValueError: For an unknown method, or `n_components` below 1 or, but for "random", above
            `min(n, d)`.

    Source: Boutsidis and Gallopoulos (2008), "SVD based initialization: a head start for
    nonnegative matrix factorization".
    """
    check_matrix("x", x)
    _check_mask(mask, x)
    check_choice("method", method, STARTS)
    check_count("n_components", n_components, None if method == "random" else min(x.shape))
    observed = jnp.ones_like(x) if mask is None else mask.astype(x.dtype)
    seen = x if mask is None else jnp.where(mask, x, 0)
    level = jnp.maximum(seen.sum() / jnp.maximum(observed.sum(), 1), 0)
    scale = jnp.sqrt(level / n_components)
    if method == "random":
        draw = [
            scale * jnp.abs(jax.random.normal(part, (size, n_components), x.dtype))
            for part, size in zip(jax.random.split(key), x.shape, strict=True)
        ]
        return Params(draw[0], draw[1].T)
    means = seen.sum(0) / jnp.maximum(observed.sum(0), 1)
    filled = x if mask is None else jnp.where(mask, x, means[None])
    codes, components = _nonnegative_pairs(svd.truncated(key, filled, rank=n_components))
    if method == "nndsvda":
        codes, components = (jnp.where(a > 0, a, scale) for a in (codes, components))
    return Params(codes, components)


def _nonnegative_pairs(triples: svd.Svd) -> tuple[Array, Array]:
    """The larger of the non-negative and the non-positive part of each singular pair."""
    u, v = triples.u, triples.vt.T
    parts = [(jnp.maximum(sign * u, 0), jnp.maximum(sign * v, 0)) for sign in (1, -1)]
    lengths = [(jnp.linalg.norm(a, axis=0), jnp.linalg.norm(b, axis=0)) for a, b in parts]
    positive = lengths[0][0] * lengths[0][1] >= lengths[1][0] * lengths[1][1]
    a, b, p, q = (
        jnp.where(positive if plus.ndim == 1 else positive[None], plus, minus)
        for plus, minus in zip((*parts[0], *lengths[0]), (*parts[1], *lengths[1]), strict=True)
    )
    scale = jnp.sqrt(triples.singular_values * p * q)
    tiny = jnp.finfo(u.dtype).tiny
    return a * (scale / jnp.maximum(p, tiny))[None], (b * (scale / jnp.maximum(q, tiny))[None]).T


@partial(
    jax.jit,
    static_argnames=("max_iter", "update", "n_sweeps", "unit_ball", "tile_size", "axis_name"),
)
def fit(
    params: Params,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None = None,
    mask: Bool[Array, "n d"] | None = None,
    tol: ScalarLike = 1e-5,
    *,
    max_iter: int = 200,
    update: str = "hals",
    n_sweeps: int = 3,
    unit_ball: bool = False,
    tile_size: int | None = TILE,
    axis_name: str | None = None,
) -> Fit:
    """Factorise from the given start: codes, then components, in turn.

    Args:
        params: Non-negative start.
        x: Non-negative data, shape (n, d).
        weights: Non-negative weights, shape (n,): a weight of 2 counts a sample twice.
        mask: True where `x` was observed, shape (n, d); other entries may hold anything, NaN too.
        tol: Stops when the objective changes by at most this fraction of that of `W = 0` (for KL,
            of the mean over samples of `sum_f x_if`).
        max_iter: Static; largest number of updates of both factors.
        update: Static; "hals", "multiplicative" (both Frobenius) or "kl" (multiplicative).
        n_sweeps: Static; cheap passes over a factor for each expensive product (not for "kl").
        unit_ball: Static; keeps the components in the lecture's set `{w_j >= 0, w_j'w_j <= 1}`.
        tile_size: Static; rows at a time.
        axis_name: Static; mapped axis over which the rows (and codes) are sharded.

    Returns:
        `Fit` with the mean loss of a sample over its observed entries as objective, non-increasing
        up to rounding. The Frobenius loss is resolved to rounding errors of `||x_i||^2`.

    Raises:
        ValueError: For shapes that do not match, an unknown update, or an `x` that is not floating
            point.
    """
    check_matrix("x", x)
    check_matrix("params.components", params.components, n_features=x.shape[1], like=x)
    shape = (x.shape[0], params.components.shape[0])
    if params.codes.shape != shape:
        raise ValueError(f"params.codes must have shape {shape}, got {params.codes.shape}")
    check_weights(weights, x)
    _check_mask(mask, x)
    check_choice("update", update, UPDATES)
    check_count("n_sweeps", n_sweeps)
    total = stats.total_weight(x, weights, axis_name)

    def mean(losses):
        # A weight of 0 removes a sample, whatever its loss.
        losses = losses if weights is None else jnp.where(weights > 0, weights * losses, 0)
        summed = losses.sum() if axis_name is None else lax.psum(losses.sum(), axis_name)
        return summed / total

    def step(params):
        def of_rows(rows):
            return update_codes(params.components, *rows, update=update, n_sweeps=n_sweeps)

        codes, losses = stats.map_rows(of_rows, (params.codes, x, mask), tile_size=tile_size)
        new = params._replace(codes=codes)
        tiles: dict[str, Any] = {"tile_size": tile_size, "axis_name": axis_name}
        sums = statistics(new, x, weights, mask, update=update, **tiles)
        components = update_components(params.components, sums, update=update, n_sweeps=n_sweeps)
        new = Params(codes, components)
        return Step(_into_unit_ball(new) if unit_ball else new, mean(losses))

    seen = x if mask is None else jnp.where(mask, x, 0)
    zero = mean(seen.sum(1) if update == "kl" else (seen * seen).sum(1) / 2)
    start = _into_unit_ball(params) if unit_ball else params
    return iterate(step, start, jnp.asarray(tol, x.dtype) * zero, max_iter=max_iter)


class Pass(NamedTuple):
    """What one pass over batches of the data leaves; see `batch_step`.

    Attributes:
        sums: `statistics` of the new codes.
        loss: Sum of the losses of the old ones, shape ().
        weight: Sum of the weights, shape ().
    """

    sums: Stats
    loss: Float[Array, ""]
    weight: Float[Array, ""]


def batch_step(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    weights: Float[Array, "n"] | None,
    codes: Float[Array, "n k"],
    *,
    update: str = "hals",
    n_sweeps: int = 3,
) -> tuple[Pass, Float[Array, "n k"]]:
    """New codes of a batch, and its share of what `pass_update` needs.

    `distributed.fit_stream(nmf.batch_step, nmf.pass_update, components, batches, rows=codes)` takes
    the steps of `fit` on data that no memory holds; so may the codes, in a memory map.
    """
    new, losses = update_codes(components, codes, x, update=update, n_sweeps=n_sweeps)
    sums = statistics(Params(new, components), x, weights, update=update)
    if weights is not None:
        losses = jnp.where(weights > 0, weights * losses, 0)
    return Pass(sums, losses.sum(), stats.total_weight(x, weights)), new


def pass_update(
    components: Float[Array, "k d"], total: Pass, *, update: str = "hals", n_sweeps: int = 3
) -> Step:
    """New components from the sums of a whole pass."""
    new = update_components(components, total.sums, update=update, n_sweeps=n_sweeps)
    return Step(new, total.loss / total.weight)


def _into_unit_ball(params):
    """The same product with components in the unit ball; the codes take up what they lose."""
    scale = jnp.maximum(jnp.linalg.norm(params.components, axis=1), 1)
    return Params(params.codes * scale[None], params.components / scale[:, None])


@partial(jax.jit, static_argnames=("max_iter", "update", "tile_size"))
def transform(
    params: Params,
    x: Float[Array, "n d"],
    mask: Bool[Array, "n d"] | None = None,
    tol: ScalarLike = 1e-4,
    *,
    max_iter: int = 200,
    update: str = "hals",
    tile_size: int | None = TILE,
) -> Float[Array, "n k"]:
    """Codes of new data: non-negative least squares (or KL) with the components as they are.

    Args:
        params: A factorisation, of which only the components are used.
        x: Non-negative data, shape (n, d).
        mask: True where `x` was observed, shape (n, d).
        tol: Stops when no code changes by more than this fraction of the largest of its tile.
        max_iter: Static; largest number of updates, of ten sweeps each (one for "kl").
        update: Static; as for `fit`.
        tile_size: Static; rows at a time.

    Raises:
        ValueError: For shapes that do not match, or an unknown update.
    """
    components = params.components
    check_matrix("x", x, n_features=components.shape[1])
    _check_mask(mask, x)
    check_choice("update", update, UPDATES)

    def of_rows(rows):
        data, seen = rows
        mass = jnp.where(True if seen is None else seen, data, 0).sum(1) / blocks.positive(
            components.sum()
        )
        start = jnp.tile(jnp.maximum(mass, 0)[:, None], (1, components.shape[0]))

        def step(codes):
            new, losses = update_codes(components, codes, data, seen, update=update, n_sweeps=10)
            change = jnp.abs(new - codes).max() / blocks.positive(codes.max())
            return Step(new, losses.mean(), change)

        return iterate(step, start, tol, max_iter=max_iter).params

    return stats.map_rows(of_rows, (x, mask), tile_size=tile_size)


def inverse_transform(params: Params, codes: Float[Array, "n k"]) -> Float[Array, "n d"]:
    """The data that codes stand for, `W z_i`."""
    check_matrix("codes", codes, n_features=params.components.shape[0])
    return matmul(codes, params.components)


def _check_mask(mask, x):
    if mask is None:
        return
    if mask.shape != x.shape or mask.dtype != jnp.bool_:
        raise ValueError(
            f"mask must be boolean of shape {x.shape}, got {mask.dtype} of shape {mask.shape}"
        )
