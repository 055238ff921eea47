"""Non-negative matrix factorisation: data as non-negative sums of non-negative parts.

    minimise  1/N sum_i w_i l(x_i, W z_i)   over   z_i >= 0,  w_j >= 0     N = sum_i w_i
    Frobenius:  l(x, y) = 1/2 ||x - y||^2        Kullback-Leibler:  l = sum_f x log(x/y) - x + y

With one factor fixed, the Frobenius loss of the other is a quadratic that needs only two products:
for the components `A = Z'Z` and `B = Z'X`, sums over samples; for the codes `W'W` and `X W`.

    HALS:            w_j <- max(0, w_j + (B_j - sum_l A_jl w_l) / A_jj),   one j after another
    multiplicative:  w_j <- w_j * B_j / (sum_l A_jl w_l)
    KL:              w_j <- w_j * sum_i z_ij x_i / (W z_i) / sum_i z_ij

and the same for the codes, with the roles exchanged. None of them ever raises the objective.
Missing entries are filled in with the current `W z_i`: the loss of the filled data lies above that
of the observed entries and touches it there, so whatever lowers one lowers the other.

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
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_choice, check_count, check_matrix, check_weights
from unsup_jax.core.fit import Fit, Step, iterate
from unsup_jax.core.linalg import matmul
from unsup_jax.linear import svd

TILE = 1000  # rows: a tile and its codes stay in cache
STARTS = ("random", "nndsvd", "nndsvda")
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
    check_matrix("params.components", params.components, n_features=x.shape[1])
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
        return codes * matmul(ratio, components.T) / _positive(mass), losses
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
        weighted = svd.weigh(codes, w).T
        if update == "kl":
            ratio, _ = _ratio(x, codes, params.components)
            return Stats(jnp.diag(weighted.sum(1)), matmul(weighted, ratio))
        return Stats(matmul(weighted, codes), matmul(weighted, x))

    rows = (params.codes, x, mask)
    return stats.accumulate(local, rows, weights, tile_size=tile_size, axis_name=axis_name)


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


def update_components(
    components: Float[Array, "k d"], sums: Stats, *, update: str = "hals", n_sweeps: int = 3
) -> Float[Array, "k d"]:
    """New components from the sums over samples taken at these."""
    if update == "kl":
        return components * sums.cross / _positive(jnp.diagonal(sums.gram)[:, None])
    return _sweep(components, sums.gram, sums.cross, update, n_sweeps)


def _sweep(factor, gram, cross, update, n_sweeps):
    """Lower `1/2 <F, gram F> - <F, cross>` over `F >= 0`, shape (k, m), from `factor`."""
    if update == "multiplicative":
        rescale = lambda _, f: f * cross / _positive(matmul(gram, f))  # noqa: E731
        return lax.fori_loop(0, n_sweeps, rescale, factor)
    k = factor.shape[0]
    curvature = jnp.diagonal(gram)
    # A part that nothing uses has no curvature, and stays as it is.
    step = jnp.where(curvature > 0, 1 / _positive(curvature), 0)

    def minimise_row(i, f):
        j = i % k
        row = jnp.maximum(f[j] + step[j] * (cross[j] - matmul(gram[j], f)), 0)
        return lax.dynamic_update_index_in_dim(f, row, j, 0)

    return lax.fori_loop(0, n_sweeps * k, minimise_row, factor)


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


def _into_unit_ball(params):
    """The same product with components in the unit ball; the codes take up what they lose."""
    scale = jnp.maximum(jnp.linalg.norm(params.components, axis=1), 1)
    return Params(params.codes * scale[None], params.components / scale[:, None])


def _positive(a):
    """The denominator `a`, kept off 0."""
    return jnp.maximum(a, jnp.finfo(a.dtype).tiny)


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
        mass = jnp.where(True if seen is None else seen, data, 0).sum(1) / _positive(
            components.sum()
        )
        start = jnp.tile(jnp.maximum(mass, 0)[:, None], (1, components.shape[0]))

        def step(codes):
            new, losses = update_codes(components, codes, data, seen, update=update, n_sweeps=10)
            change = jnp.abs(new - codes).max() / _positive(codes.max())
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
