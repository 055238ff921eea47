"""Sparse coding by the lasso (Murphy, MLPP 13.3-13.4 and 13.8; Tibshirani, 1996).

    minimise over z    P(z) = 1/2 ||x - W z||^2 + lam ||z||_1

for every signal `x` (a row of the data), with atoms `w_j` (rows of `components`, columns of `W`)
of any length. With the residual `r = x - W z`, codes are optimal if and only if
`w_j'r = lam sign(z_j)` where `z_j != 0` and `|w_j'r| <= lam` elsewhere. Any `t = s r` with
`|w_j't| <= lam` for all j gives the lower bound `D(t) = 1/2 ||x||^2 - 1/2 ||x - t||^2` on the
optimum: the duality gap `P - D` certifies how good codes are, whatever solver they come from (Kim
et al., 2007).

Signals are solved apart: objectives, gaps and statuses have one entry a signal, and so may `lam`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, ScalarLike

from unsup_jax.core import checks, stats
from unsup_jax.core.fit import Fit, Status, Step, iterate
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse import lars
from unsup_jax.sparse.prox import soft_threshold

SOLVERS = ("auto", "lars", "fista")


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


@partial(jax.jit, static_argnames=("max_iter", "positive", "solver", "tile_size"))
def encode(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lam: Float[Array, "n"] | ScalarLike,
    tol: ScalarLike = 1e-5,
    start: Float[Array, "n k"] | None = None,
    *,
    max_iter: int = 1000,
    positive: bool = False,
    solver: str = "auto",
    tile_size: int | None = lars.TILE,
) -> Fit:
    """The lasso codes of every signal.

    Solvers:
        lars: the homotopy of `lars`, down to `lam`: exact, and fast for sparse codes.
        fista: proximal gradient steps on all atoms; slow, needs no memory for supports.
        auto: `lars`, or `fista` if there is a `start`. Either way `fista` goes on from codes that
            miss the tolerance.

    Args:
        components: Atoms, of any length.
        x: Signals.
        lam: Positive; one for all signals or one a signal.
        tol: Largest relative duality gap, `(P - D) / P`.
        start: Codes to start from, for `fista`.
        max_iter: Static; largest number of proximal gradient steps.
        positive: Static; whether codes must not be negative.
        solver: Static.
        tile_size: Static; signals at a time.

    Returns:
        `Fit` with the codes `(n, k)` as `params`. Every signal is a fit of its own: `objective`,
        `status` and `n_iter` (proximal steps) have shape `(n,)`, and `history` `(n, 1)` holds the
        certificate, the relative duality gap. A signal that is not finite gets codes 0 and the
        status `NON_FINITE`.

    Raises:
        ValueError: For shapes that do not match, an input that is not floating point, or an unknown
            solver.
    """
    _check(components, x, lam, start)
    checks.check_choice("solver", solver, SOLVERS)
    if solver == "auto":
        solver = "lars" if start is None else "fista"
    lam = _per_signal(lam, x)
    good = jnp.isfinite(x).all(1) & jnp.isfinite(lam) & jnp.isfinite(components).all()
    gram = matmul(components, components.T)

    def rows(tile):
        x, lam, codes = tile
        if solver == "lars":
            codes = _homotopy(components, gram, x, lam[None], positive, lars.sizes(components))[0]
        elif codes is None:
            codes = jnp.zeros((x.shape[0], components.shape[0]), x.dtype)
        return _certified(components, gram, x, lam, tol, codes, max_iter, positive)

    # A tile takes as long as its longest path: signals with paths of like length share one.
    x, lam = jnp.where(good[:, None], x, 0), jnp.where(good, lam, 1)
    order = jnp.argsort(lambda_max(components, x, positive=positive) / lam)
    sorted_ = jax.tree.map(lambda array: array[order], (x, lam, start))
    results = stats.map_rows(rows, sorted_, tile_size=tile_size)
    codes, value, gap, n_iter = jax.tree.map(lambda a: jnp.zeros_like(a).at[order].set(a), results)
    return Fit(codes, value, gap[:, None], n_iter, _status(good, value, gap, tol))


@partial(jax.jit, static_argnames=("max_iter", "positive", "tile_size"))
def path(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    lams: Float[Array, "m"],
    tol: ScalarLike = 1e-5,
    *,
    max_iter: int = 1000,
    positive: bool = False,
    tile_size: int | None = lars.TILE,
) -> Fit:
    """Codes at many `lams`, for little more than the smallest alone: one homotopy passes them all.

    Args:
        components: Atoms, of any length.
        x: Signals.
        lams: Positive, in descending order.
        tol: Largest relative duality gap.
        max_iter: Static; largest number of proximal gradient steps for codes that miss it.
        positive: Static; whether codes must not be negative.
        tile_size: Static; signals at a time.

    Returns:
        What `encode` returns for each of the `lams`, along a new leading axis.
    """
    _check(components, x, 0.0, None)
    if jnp.ndim(lams) != 1:
        raise ValueError(f"lams must have shape (n_lams,), got {jnp.shape(lams)}")
    good = jnp.isfinite(x).all(1) & jnp.isfinite(components).all()
    gram = matmul(components, components.T)

    def rows(x):
        at = jnp.tile(lams[:, None], (1, x.shape[0]))
        codes = _homotopy(components, gram, x, at, positive, lars.sizes(components))

        def certify(lam_codes):
            lam, codes = lam_codes
            return _certified(components, gram, x, lam, tol, codes, max_iter, positive)

        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), lax.map(certify, (at, codes)))

    results = stats.map_rows(rows, jnp.where(good[:, None], x, 0), tile_size=tile_size)
    codes, value, gap, n_iter = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), results)
    return Fit(codes, value, gap[..., None], n_iter, _status(good[None], value, gap, tol))


def _homotopy(components, gram, x, lams, positive, sizes):
    """Codes (m, B, k) at descending `lams` (m, B), from supports of at most `sizes[0]` atoms.

    Signals that need more atoms send the whole tile to the next size.
    """

    def at(state, lam):
        state = lars.advance(components, gram, state, lam, positive, 8 * sizes[0])
        return state, (_refined(components, x, state, lam), state.full.any())

    state = lars.start(components, x, sizes[0], positive)
    state, (codes, full) = lax.scan(at, state, lams)
    if len(sizes) == 1:
        return codes
    again = partial(_homotopy, components, gram, x, lams, positive, sizes[1:])
    return lax.cond(full.any(), again, lambda: codes)


def _refined(components, x, state, lam):
    """Codes of the support, after one step of iterative refinement of their linear equations."""
    k = components.shape[0]
    z = state.offset - lam[None] * state.slope
    residual = x - matmul(lars.scatter(state, z, k), components)
    c = jnp.take_along_axis(matmul(components, residual.T), state.atoms, axis=0)
    wrong = jnp.where(state.signs != 0, c - lam[None] * state.signs, 0)
    z = z + sum(state.inverse[:, i] * wrong[i][None] for i in range(len(wrong)))
    return lars.scatter(state, jnp.where(z * state.signs > 0, z, 0), k)


def _certified(components, gram, x, lam, tol, codes, max_iter, positive):
    """Codes with objective, relative gap and steps; by FISTA from `codes` where the gap is wide."""
    value, gap, _ = _certificate(components, x, codes, lam, positive)
    relative = _relative(gap, value)

    def repair():
        codes_, n_iter = _fista(components, gram, x, lam, tol, codes, max_iter, positive)
        value, gap, _ = _certificate(components, x, codes_, lam, positive)
        return codes_, value, _relative(gap, value), n_iter

    done = codes, value, relative, jnp.zeros(x.shape[0], jnp.int32)
    return lax.cond((relative > jnp.asarray(tol, x.dtype)).any(), repair, lambda: done)


def _fista(components, gram, x, lam, tol, start, max_iter, positive):
    """Beck and Teboulle (2009), with the restart of O'Donoghue and Candes (2015)."""
    k, d = components.shape
    small = matmul(components.T, components) if d < k else gram
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
        return fit.params[0], fit.n_iter

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


def _status(good, value, gap, tol):
    status = jnp.where(gap <= jnp.asarray(tol, gap.dtype), Status.CONVERGED, Status.ITERATION_LIMIT)
    return jnp.where(good & jnp.isfinite(value), status, Status.NON_FINITE).astype(jnp.int32)


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
