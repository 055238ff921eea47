"""What `vmap` makes of a loop: lanes that have finished should cost nothing.

`any_lane` lets a branch stay a branch. `in_turns` goes further: a few lanes run at a time, and the
place of one that has finished is taken by the next, so that none waits for the slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

Pytree = Any


@jax.custom_batching.custom_vmap
def any_lane(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """`flag` of a single fit; under `vmap`, whether any lane has it: a predicate without lanes.

    A `lax.cond` on it stays a branch under `vmap`: a sweep ends with its last running lane, and no
    lane pays for a careful path that none needs.
    """
    return flag


@any_lane.def_vmap
def _any_lane_vmap(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    del axis_size
    return any_lane(flag.any(0) if in_batched[0] else flag), False


class Loop(NamedTuple):
    """`begin(*args)`, then `advance(carry, *args)` while `running(carry)`, then `end(carry)`.

    Functions of one lane, which close over no array and use no named axis.
    """

    begin: Callable[..., Pytree]
    running: Callable[[Pytree], Bool[Array, ""]]
    advance: Callable[..., Pytree]
    end: Callable[[Pytree], Pytree]


def in_turns(whole: Callable[..., Pytree], loop: Loop, *args: Pytree, lanes: int) -> Pytree:
    """`whole(*args)`; under `vmap` on a CPU the same `loop`, at most `lanes` lanes at a time.

    Derivatives are those of `whole`, under `vmap` or not.

    Args:
        whole: The function, of one lane.
        loop: The function in pieces.
        *args: Arrays and pytrees.
        lanes: Static. A few lanes keep a CPU busy, with their data in its cache; an accelerator
            takes all of them at once.
    """
    leaves, tree = jax.tree.flatten(args)

    def one(*leaves):
        return whole(*jax.tree.unflatten(tree, leaves))

    @jax.custom_jvp
    def run(*leaves):
        of_one_lane = _queue(one, loop, tree, lanes, 1, [None] * len(leaves))(*leaves)
        return jax.tree.map(lambda leaf: leaf[0], of_one_lane)

    run.defjvp(lambda primals, tangents: jax.jvp(one, primals, tangents))
    return run(*leaves)


def _queue(one, loop, tree, lanes, size, axes):
    """`one` for `size` lanes: along axis 0 of a leaf, or sharing it where `axes` has None."""

    def together(*leaves):
        return jax.vmap(one, axes, axis_size=size)(*leaves)

    @jax.custom_batching.custom_vmap
    def run(*leaves):
        if size <= lanes:
            return together(*leaves)
        few = partial(_few_at_a_time, loop, tree, lanes, size, axes)
        return lax.platform_dependent(*leaves, cpu=few, default=together)

    @run.def_vmap
    def lanes_of_lanes(n, batched, *leaves):  # they wait in one queue
        merged = [_merge(n, size, *each) for each in zip(batched, axes, leaves, strict=True)]
        either = [0 if b or a == 0 else None for b, a in zip(batched, axes, strict=True)]
        out = _queue(one, loop, tree, lanes, n * size, either)(*merged)
        out = jax.tree.map(lambda leaf: leaf.reshape(n, size, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return run


def _merge(n, size, outer, axis, leaf):
    """A leaf of `n` lanes of `size` lanes, made `n * size` lanes; one that all share stays."""
    if axis is None and not outer:
        return leaf
    leaf = leaf if outer else leaf[None]
    leaf = leaf[:, None] if axis is None else leaf
    return jnp.broadcast_to(leaf, (n, size, *leaf.shape[2:])).reshape(-1, *leaf.shape[2:])


def _few_at_a_time(loop, tree, lanes, size, axes, *leaves):
    begin = jax.vmap(
        lambda *leaves: loop.begin(*jax.tree.unflatten(tree, leaves)), axes, axis_size=size
    )
    running = jax.vmap(loop.running)
    advance = jax.vmap(
        lambda carry, *leaves: loop.advance(carry, *jax.tree.unflatten(tree, leaves)), (0, *axes)
    )

    def turn(carry):
        # Where fewer lanes run, `size` fills up: it reads the last lane and is never written.
        chosen = jnp.nonzero(running(carry), size=lanes, fill_value=size)[0]
        read = lambda leaf: leaf.at[chosen].get(mode="clip")  # noqa: E731
        mine = [a if axis is None else read(a) for a, axis in zip(leaves, axes, strict=True)]
        new = advance(jax.tree.map(read, carry), *mine)
        return jax.tree.map(lambda a, b: a.at[chosen].set(b, mode="drop"), carry, new)

    last = lax.while_loop(lambda carry: running(carry).any(), turn, begin(*leaves))
    return jax.vmap(loop.end)(last)
