"""Sparse coding by the lasso (Murphy, MLPP 13.3-13.4 and 13.8; Tibshirani, 1996).

    minimise over z    P(z) = 1/2 ||x - W z||^2 + lam ||z||_1

for every signal `x` (a row of the data), with atoms `w_j` (rows of `components`, columns of `W`)
of any length. With the residual `r = x - W z`, codes are optimal if and only if
`w_j'r = lam sign(z_j)` where `z_j != 0` and `|w_j'r| <= lam` elsewhere. Any `t = s r` with
`|w_j't| <= lam` for all j gives the lower bound `D(t) = 1/2 ||x||^2 - 1/2 ||x - t||^2` on the
optimum: the duality gap `P - D` certifies how good codes are, whatever solver they come from (Kim
et al., 2007).

Signals are solved apart: objectives, gaps and statuses have one entry a signal, and so may `lam`.

Codes have derivatives with respect to dictionary, signals and `lam`, whatever solver they come
from (`support`).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, ScalarLike

from unsup_jax.core import checks, implicit, stats
from unsup_jax.core.fit import Fit, Status
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse import fista, lars, support
from unsup_jax.sparse.fista import certificate

TILE = 2000  # signals: at first few slots each
SOLVERS = ("auto", "lars", "fista")


def objective(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    codes: Float[Array, "n k"],
    lam: Float[Array, "n"] | ScalarLike,
) -> Float[Array, "n"]:
    """`P(z) = 1/2 ||x - W z||^2 + lam ||z||_1` of every signal."""
    return certificate(components, x, codes, _per_signal(lam, x), positive=False)[0]


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
    return certificate(components, x, codes, _per_signal(lam, x), positive=positive)[1]


def lambda_max(
    components: Float[Array, "k d"], x: Float[Array, "n d"], *, positive: bool = False
) -> Float[Array, "n"]:
    """The smallest `lam` at which the codes of a signal are all zero: `max_j |w_j'x|`."""
    return fista.largest(matmul(x, components.T), positive=positive)


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
    tile_size: int | None = TILE,
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
        `status`, `n_iter` (proximal steps) and `error`, the relative duality gap of exactly these
        codes, have shape `(n,)`; `history` `(n, 1)` is the objective. A signal that is not finite
        gets codes 0 and the status `NON_FINITE`.

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
    x, lam = jnp.where(good[:, None], x, 0), jnp.where(good, lam, 1)
    atoms, signals, lams, start = lax.stop_gradient((components, x, lam, start))
    gram = matmul(atoms, atoms.T)

    def rows(tile):
        x, lam, codes = tile
        if solver == "lars":
            sizes = lars.sizes(atoms, 16)
            begin = lars.start(atoms, x, sizes[0], positive)
            codes = _homotopy(atoms, gram, x, lam, positive, begin, sizes)
        elif codes is None:
            codes = jnp.zeros((x.shape[0], atoms.shape[0]), x.dtype)
        return _certified(atoms, x, lam, tol, codes, max_iter, positive)

    length = lambda_max(atoms, signals, positive=positive) / lams
    results = _map_alike(rows, (signals, lams, start), length, tile_size)
    return _fit(components, x, lam, good, tol, *results)


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
    x = jnp.where(good[:, None], x, 0)
    atoms, signals, levels = lax.stop_gradient((components, x, lams))
    gram = matmul(atoms, atoms.T)

    def rows(x):
        homotopy = partial(_homotopy_past, atoms, gram, x, levels, positive)
        codes = _with_room(homotopy, lars.sizes(atoms, 32))

        def certify(lam_codes):
            lam, codes = lam_codes
            lam = _per_signal(lam, x)
            return _certified(atoms, x, lam, tol, codes, max_iter, positive)

        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), lax.map(certify, (levels, codes)))

    length = lambda_max(atoms, signals, positive=positive)
    results = _map_alike(rows, signals, length, tile_size)
    results = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), results)
    fit = jax.vmap(_fit, in_axes=(None, None, 0, None, None, 0, 0, 0, 0))
    return fit(components, x, lams, good, tol, *results)


def _map_alike(rows, signals, length, tile_size):
    """`rows` tile by tile. A tile takes as long as its longest path: those of like length share."""
    order = jnp.argsort(length)
    sorted_ = jax.tree.map(lambda array: array[order], signals)
    results = stats.map_rows(rows, sorted_, tile_size=tile_size)
    return jax.tree.map(lambda a: jnp.zeros_like(a).at[order].set(a), results)


def _fit(components, x, lam, good, tol, codes, value, error, n_iter):
    """What was found, with its derivatives and statuses."""
    theta = components, x, _per_signal(lam, x)
    codes = support.attach(codes, *theta)
    value = implicit.minimum(_objective, value, codes, *theta)
    error = lax.stop_gradient(error)
    status = jnp.where(
        error <= jnp.asarray(tol, error.dtype), Status.CONVERGED, Status.ITERATION_LIMIT
    )
    status = jnp.where(good & jnp.isfinite(value), status, Status.NON_FINITE).astype(jnp.int32)
    return Fit(codes, value, value[:, None], n_iter, status, error)


def _objective(codes, components, x, lam):
    return objective(components, x, codes, lam)


def _homotopy(components, gram, x, lam, positive, state, sizes):
    """Codes (B, k) at `lam` (B,), at the end of paths that stand at `state`.

    Most paths are short. Long ones, at most a quarter at a time, go on among themselves and get
    more slots.
    """
    few = x.shape[0] // 4 if len(sizes) > 1 else 0
    state = lars.advance(components, gram, state, lam, positive, 8 * sizes[0], few)
    codes = _refined(components, x, state, lam)
    if len(sizes) == 1:
        return codes

    def finish(carry):
        codes, left = carry
        rows = jnp.argsort(~left)[: max(few, 1)]
        longer = lars.select(state, rows, sizes[1])
        ends = _homotopy(components, gram, x[rows], lam[rows], positive, longer, sizes[1:])
        return codes.at[rows].set(ends), left.at[rows].set(False)

    return lax.while_loop(lambda carry: carry[1].any(), finish, (codes, state.lam > lam))[0]


def _homotopy_past(components, gram, x, lams, positive, n_slots):
    """Codes (m, B, k) at descending `lams` (m,), and which signals found no slot for an atom.

    Every signal goes at its own pace: a step takes it past one of the `lams`, and past a knot.
    """
    m, n = lams.shape[0], x.shape[0]
    goals = jnp.append(lams, jnp.inf)  # a path that has passed them all stays

    def running(carry):
        i, state, passed, _ = carry
        return (i < 8 * n_slots + m) & ((passed < m) & ~state.full).any()

    def body(carry):
        i, state, passed, codes = carry
        goal = goals[passed]
        passes = (lars.next_knot(state, positive) <= goal) & (passed < m) & ~state.full
        here = _refined(components, x, state, jnp.where(passes, goal, state.lam))
        codes = codes.at[jnp.where(passes, passed, m), jnp.arange(n)].set(here, mode="drop")
        passed = passed + passes.astype(jnp.int32)
        return i + 1, lars.step(components, gram, state, goals[passed], positive), passed, codes

    state = lars.start(components, x, n_slots, positive)
    codes = jnp.zeros((m, n, components.shape[0]), x.dtype)
    _, state, _, codes = lax.while_loop(running, body, (0, state, jnp.zeros(n, jnp.int32), codes))
    return codes, state.full


def _with_room(homotopy, sizes):
    """Codes by the first number of slots that suffices all signals of the tile."""
    codes, full = homotopy(sizes[0])
    if len(sizes) == 1:
        return codes
    return lax.cond(full.any(), partial(_with_room, homotopy, sizes[1:]), lambda: codes)


def _refined(components, x, state, lam):
    """Codes of the support, after one step of iterative refinement of their linear equations."""
    k = components.shape[0]
    z = state.offset - lam[None] * state.slope
    residual = x - matmul(lars.scatter(state, z, k), components)
    c = jnp.take_along_axis(matmul(components, residual.T), state.atoms, axis=0)
    wrong = jnp.where(state.signs != 0, c - lam[None] * state.signs, 0)
    z = z + sum(state.inverse[:, i] * wrong[i][None] for i in range(len(wrong)))
    return lars.scatter(state, jnp.where(z * state.signs > 0, z, 0), k)


def _certified(components, x, lam, tol, codes, max_iter, positive):
    """Codes with objective, relative gap and steps; by FISTA from `codes` where the gap is wide."""

    def certify(codes, n_iter):
        value, gap, _ = certificate(components, x, codes, lam, positive=positive)
        return codes, value, fista.relative(gap, value), n_iter

    def repair():
        options = {"max_iter": max_iter, "positive": positive}
        return certify(*fista.encode(components, x, lam, tol, codes, **options))

    done = certify(codes, jnp.zeros(x.shape[0], jnp.int32))
    return lax.cond((done[2] > jnp.asarray(tol, x.dtype)).any(), repair, lambda: done)


def _per_signal(lam, x):
    return jnp.broadcast_to(jnp.asarray(lam, x.dtype), x.shape[:1])


def _check(components, x, lam, start):
    checks.check_matrix("x", x)
    checks.check_matrix("components", components, n_features=x.shape[1], like=x)
    if jnp.shape(lam) not in ((), x.shape[:1]):
        raise ValueError(f"lam must have shape () or {x.shape[:1]}, got {jnp.shape(lam)}")
    shape = (x.shape[0], components.shape[0])
    if start is not None and start.shape != shape:
        raise ValueError(f"start must have shape {shape}, got {start.shape}")
