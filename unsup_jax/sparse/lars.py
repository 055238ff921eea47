"""The whole path of lasso codes, by homotopy (LARS; Murphy, MLPP 13.4.2; Efron et al., 2004).

The codes that minimise `1/2 ||x - W z||^2 + lam ||z||_1` are piecewise linear in `lam`. While the
support A and the signs s stay, optimality `W_A'(x - W_A z_A) = lam s` gives, with G = W'W,

    z_A(lam) = offset - lam slope,     offset = G_AA^-1 W_A'x,   slope = G_AA^-1 s
    w_j'r(lam) = fixed_j + lam rate_j, fixed = W'(x - W_A offset), rate = G_A slope

As `lam` falls from `lasso.lambda_max`, the next knot is the largest `lam` at which an atom outside
reaches `|w_j'r| = lam` and enters, or one inside reaches `z_j = 0` and leaves. Both change
`G_AA^-1` by a matrix of rank one, and with it everything above.

Signals are the minor axis of all arrays here: a step is a few wide operations over many signals.
"""

from __future__ import annotations

import operator
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from unsup_jax.core import checks, stats
from unsup_jax.core.linalg import matmul

TILE = 1000  # signals: what one tile needs stays in cache


class Path(NamedTuple):
    """Knots of the path of every signal; between two of them codes are linear in `lam`.

    Attributes:
        lam: Descending from `lasso.lambda_max`, shape `(n, n_steps + 1)`; where a path has ended at
            0, or at a support of `n_nonzero` atoms, its last value repeats.
        codes: Shape `(n, n_steps + 1, k)`; zeros at the first knot.
    """

    lam: Float[Array, "n knots"]
    codes: Float[Array, "n knots k"]


class State(NamedTuple):
    """Where the paths of B signals stand; `m` slots hold their supports.

    Attributes:
        lam: Shape (B,).
        fixed: `w_j'r` is `fixed + lam rate`, shape (k, B).
        rate: Shape (k, B).
        barred: Atoms that may not enter: those inside, or that depend linearly on them.
        atoms: The atom of each slot, shape (m, B).
        signs: Its sign; 0 in a free slot.
        offset: Codes are `offset - lam slope`, shape (m, B).
        slope: Shape (m, B).
        inverse: `G_AA^-1`; rows and columns of free slots are 0. Shape (m, m, B).
        full: Signals whose next atom finds no free slot: their path has ended.
        n_steps: Atoms that entered or left so far.
    """

    lam: Float[Array, "b"]
    fixed: Float[Array, "k b"]
    rate: Float[Array, "k b"]
    barred: Bool[Array, "k b"]
    atoms: Int[Array, "m b"]
    signs: Float[Array, "m b"]
    offset: Float[Array, "m b"]
    slope: Float[Array, "m b"]
    inverse: Float[Array, "m m b"]
    full: Bool[Array, "b"]
    n_steps: Int[Array, "b"]


@partial(jax.jit, static_argnames=("n_steps", "n_nonzero", "positive", "tile_size"))
def path(
    components: Float[Array, "k d"],
    x: Float[Array, "n d"],
    *,
    n_steps: int,
    n_nonzero: int | None = None,
    positive: bool = False,
    tile_size: int | None = TILE,
) -> Path:
    """The first `n_steps` knots after `lambda_max` of the lasso path of every signal.

    An atom that is a linear combination of those inside stays out.

    Args:
        components: Atoms, of any length.
        x: Signals.
        n_steps: Static; atoms that enter or leave.
        n_nonzero: Static; room for the support; `min(k, d)`, which
            always suffices, if `None`.
        positive: Static; whether codes must not be negative.
        tile_size: Static; signals at a time.

    Raises:
        ValueError: For shapes that do not match, or sizes below 1.
    """
    checks.check_matrix("x", x)
    checks.check_matrix("components", components, n_features=x.shape[1], like=x)
    checks.check_count("n_steps", n_steps)
    n_slots = slots(components, n_nonzero, n_steps + 1)
    gram = matmul(components, components.T)

    def rows(x):
        def next_knot(state, _):
            before, inside = state.n_steps, state.signs != 0

            def waiting(state):
                return (state.n_steps == before) & (state.lam > 0) & ~state.full

            def body(state):
                target = jnp.where(waiting(state), 0, jnp.inf).astype(x.dtype)
                return step(components, gram, state, target, positive)

            state = lax.while_loop(lambda state: waiting(state).any(), body, state)
            return state, (state.lam, codes(state, inside, components.shape[0]))

        begin = start(components, x, n_slots, positive)
        _, (lam, knots) = lax.scan(next_knot, begin, length=n_steps + 1)
        return Path(lam.T, knots.transpose(1, 0, 2))

    return stats.map_rows(rows, x, tile_size=tile_size)


def interpolate(path: Path, lam: Float[Array, "n"]) -> Float[Array, "n k"]:
    """Codes at one `lam` a signal: exact, as codes are linear between knots.

    Zeros above the first knot; the codes of the last knot below it.
    """

    def one(knots, codes, lam):
        after = jnp.clip(jnp.searchsorted(-knots, -lam), 1, len(knots) - 1)
        high, low = knots[after - 1], knots[after]
        share = jnp.clip((high - lam) / jnp.where(high > low, high - low, 1), 0, 1)
        between = codes[after - 1] * (1 - share) + codes[after] * share
        return jnp.where(lam < knots[0], between, 0)

    return jax.vmap(one)(path.lam, path.codes, lam)


def slots(components: Array, n_nonzero: int | None, most: int | None = None) -> int:
    """The number of slots: `n_nonzero`, or as many as a support can need."""
    needed = min(*components.shape, *(() if most is None else (most,)))
    if n_nonzero is None:
        return needed
    checks.check_count("n_nonzero", n_nonzero)
    return min(n_nonzero, needed)


def sizes(components: Array, size: int) -> tuple[int, ...]:
    """Numbers of slots to try, one after the other: most supports are small."""
    most, tried = slots(components, None), []
    while size < most:
        tried.append(size)
        size *= 2
    return (*tried, most)


def start(components: Array, x: Array, n_slots: int, positive: bool) -> State:
    """The state at `lambda_max`, where all codes are 0."""
    k, n = components.shape[0], x.shape[0]
    fixed = matmul(components, x.T)
    zeros = jnp.zeros((n_slots, n), x.dtype)
    return State(
        lam=(jnp.maximum(fixed, 0) if positive else jnp.abs(fixed)).max(0),
        fixed=fixed,
        rate=jnp.zeros_like(fixed),
        barred=jnp.zeros((k, n), bool),
        atoms=jnp.zeros((n_slots, n), jnp.int32),
        signs=zeros,
        offset=zeros,
        slope=zeros,
        inverse=jnp.zeros((n_slots, n_slots, n), x.dtype),
        full=jnp.zeros(n, bool),
        n_steps=jnp.zeros(n, jnp.int32),
    )


def select(state: State, signals: Array, n_slots: int) -> State:
    """The state of some signals, with room for more atoms."""
    state = jax.tree.map(lambda a: a[..., signals], state)
    more = (0, n_slots - state.signs.shape[0])
    slots = {name: getattr(state, name) for name in ("atoms", "signs", "offset", "slope")}
    slots = {name: jnp.pad(values, (more, (0, 0))) for name, values in slots.items()}
    inverse = jnp.pad(state.inverse, (more, more, (0, 0)))
    return state._replace(**slots, inverse=inverse, full=jnp.zeros_like(state.full))


def advance(
    components: Array,
    gram: Array,
    state: State,
    target: Array,
    positive: bool,
    max_steps: int,
    few: int = 0,
) -> State:
    """Follow every path down to its `target`, but for the last `few`, for `max_steps` at most."""

    def running(carry):
        i, state = carry
        left = state.lam > target
        return (i < max_steps) & (left & ~state.full).any() & (left.sum() > few)

    def body(carry):
        i, state = carry
        return i + 1, step(components, gram, state, target, positive)

    return lax.while_loop(running, body, (0, state))[1]


def next_knot(state: State, positive: bool) -> Array:
    """The `lam` of the next knot of every path."""
    knot = jnp.maximum(_next_entry(state, positive)[0], _next_exit(state)[0])
    return jnp.minimum(knot, state.lam)


def step(components: Array, gram: Array, state: State, target: Array, positive: bool) -> State:
    """Go to the next knot of every path, or to its `target` if that comes first."""
    enter, entering = _next_entry(state, positive)
    leave, leaving = _next_exit(state)
    drop = leave >= enter
    knot = jnp.minimum(jnp.maximum(enter, leave), state.lam)
    used = state.signs != 0
    slot = jnp.where(drop, leaving, jnp.argmin(used, axis=0).astype(jnp.int32))
    lack = ~drop & used.all(0)
    live = (knot > target) & ~state.full
    full = state.full | (live & lack)
    live = live & ~lack
    lam = jnp.where(full, jnp.minimum(state.lam, jnp.maximum(knot, target)), target)
    lam = jnp.where(live, knot, jnp.minimum(lam, state.lam))

    # G_AA^-1 changes by gain v v'. With g = G_Aj, h = G_AA^-1 g and c = g_jj - g'h:
    #   j enters:  v = h - e_j, gain = 1 / c;    j leaves:  v = column j, gain = -1 / v_j.
    m, k = state.signs.shape[0], gram.shape[0]
    here = jnp.arange(m, dtype=jnp.int32)[:, None] == slot[None]
    row = jnp.where(used, gram.reshape(-1)[state.atoms * k + entering[None]], 0)
    row = jnp.where(drop[None], here.astype(row.dtype), row)
    column = _product(state.inverse, row)
    own = jnp.diagonal(gram)[entering]
    schur = own - (row * column).sum(0)
    dependent = ~drop & (schur <= 32 * jnp.finfo(own.dtype).eps * own)
    pivot = jnp.where(drop, -_pick(here, column), schur)
    gain = jnp.where(live & ~dependent, 1 / jnp.where(pivot == 0, 1, pivot), 0)
    v = column - (here & ~drop[None]).astype(column.dtype)
    keep = ~(here & (drop & live)[None])
    inverse = state.inverse + gain[None, None] * v[:, None] * v[None]
    inverse = jnp.where(keep[:, None] & keep[None], inverse, 0)

    # The products of v with W_A'x and s have known values.
    at = lambda array: jnp.take_along_axis(array, entering[None], axis=0)[0]  # noqa: E731
    fixed_j, rate_j = at(state.fixed), at(state.rate)
    # The sign at the knot: see `_next_entry`.
    sign = jnp.where((fixed_j < 0) & (not positive), -1, 1).astype(own.dtype)
    d_offset = jnp.where(drop, _pick(here, state.offset), -fixed_j)
    d_slope = jnp.where(drop, _pick(here, state.slope), rate_j - sign)
    atoms = jnp.where(here & (live & ~drop)[None], entering[None], state.atoms)
    image = sum((gain * v[i])[:, None] * components[atoms[i]] for i in range(m))
    image = matmul(components, image.T)

    moved = jnp.where(drop, _pick(here, state.atoms), entering)
    moved = (jnp.arange(k, dtype=jnp.int32)[:, None] == moved[None]) & live[None]
    joins = here & (live & ~drop & ~dependent)[None]
    return State(
        lam=lam,
        fixed=state.fixed - d_offset[None] * image,
        rate=state.rate + d_slope[None] * image,
        barred=jnp.where(moved, ~drop[None], state.barred),
        atoms=atoms,
        signs=jnp.where(keep, jnp.where(joins, sign[None], state.signs), 0),
        offset=jnp.where(keep, state.offset + (gain * d_offset)[None] * v, 0),
        slope=jnp.where(keep, state.slope + (gain * d_slope)[None] * v, 0),
        inverse=inverse,
        full=full,
        n_steps=state.n_steps + (live & ~dependent).astype(jnp.int32),
    )


def codes(state: State, inside: Array, n_components: int) -> Array:
    """The dense codes (B, k) at a knot; the slot it filled, not `inside` before, holds a 0."""
    z = state.offset - state.lam[None] * state.slope
    return scatter(state, jnp.where(inside & (z * state.signs > 0), z, 0), n_components)


def scatter(state: State, values: Array, n_components: int) -> Array:
    """Values of the slots (m, B) at their atoms, shape (B, k)."""
    n = values.shape[1]
    atoms = jnp.where(state.signs != 0, state.atoms, n_components)
    dense = jnp.zeros((n, n_components), values.dtype)
    return dense.at[jnp.arange(n)[None], atoms].set(values, mode="drop")


def _next_entry(state, positive):
    """The largest `lam` at which an atom outside reaches `|w_j'r| = lam`, and the atom.

    For either sign `s` it is `s fixed / (1 - s rate)`, if the atom moves out as `lam` falls; only
    the sign of `fixed` can make it positive. One that is out already, by rounding, comes at once.
    """
    fixed, rate = state.fixed, state.rate
    sign = jnp.where((fixed < 0) & (not positive), -1, 1).astype(fixed.dtype)
    outward = 1 - sign * rate
    possible = (outward > 16 * jnp.finfo(fixed.dtype).eps) & ~state.barred
    knot = jnp.where(possible, sign * fixed / jnp.where(possible, outward, 1), -1)
    largest = knot.max(0)
    index = jnp.arange(fixed.shape[0], dtype=jnp.int32)[:, None]
    return largest, jnp.where(knot == largest[None], index, fixed.shape[0] - 1).min(0)


def _next_exit(state):
    """The largest `lam` at which a code inside reaches 0, and its slot."""
    shrinks = state.signs * state.slope < 0
    knot = jnp.where(shrinks, state.offset / jnp.where(shrinks, state.slope, 1), -1)
    return knot.max(0), jnp.argmax(knot, axis=0).astype(jnp.int32)


def _product(inverse, row):
    """`G_AA^-1 g` of every signal, for a symmetric inverse."""
    n_slots, n = row.shape
    if n < 128:  # the form below is compiled to a loop over signals, which must be many
        return (inverse * row[:, None]).sum(0)
    return reduce(operator.add, [inverse[:, i] * row[i][None] for i in range(n_slots)])


def _pick(here, values):
    """The value of the slot that is marked in each column."""
    return jnp.where(here, values, 0).sum(0, dtype=values.dtype)
