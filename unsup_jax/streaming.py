"""Data larger than memory: batches of rows go by, their statistics stay.

    total = stream(gaussian.e_step, batches)                     # params -> sums over all rows
    params = gaussian.m_step(params, total(params))              # one exact step of EM
    fit = fit_stream(gaussian.e_step, gaussian.update, params, batches)        # all of them
    state = fold(online.step, start, batches)                    # one pass, a step for each batch

Batches are anything that can be iterated over, once a pass: a list of arrays, or the files of
`unsup_jax.files.read`. The next one is read while the device computes with this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import ScalarLike

from unsup_jax.core import stats
from unsup_jax.core.checks import check_matrix
from unsup_jax.core.fit import Fit, Params, Step, iterate_on_host

Stats = TypeVar("Stats")
State = TypeVar("State")
Batches = Iterable[Any]  # of arrays (n_i, d)


class Batch(NamedTuple):
    """A batch, filled up to the length of the first; `weights` are `None` if it needed no filling.

    `n` is the number of its rows before that.
    """

    x: Any
    weights: Any
    n: int


def stream(
    local: Callable[..., Stats],
    batches: Batches,
    mesh: Mesh | None = None,
    rows: np.ndarray | None = None,
) -> Callable[[Params], Stats]:
    """The function `params -> sum of local(params, x, weights)` over all batches `x`.

    Exact: what `local` gives for all rows at once, up to rounding. One batch and the next are in
    memory, no more. Batches should be equally long, for each length is compiled for; one shorter
    than the first is filled up with rows of weight 0.

    Args:
        local: Sums of some rows, such as a model's `e_step`. It must treat a weight of 0 as a
            missing row; `weights` is `None` where no row is missing.
        batches: Iterated over at each call.
        mesh: Of one axis: each process shards its own batches over its own devices, and the sums of
            all are added once a pass. `None` stands for one device.
        rows: An array, or a memory map, with one row for each row of the data that `local` may
            change, such as its code: `local(params, x, weights, rows) -> (sums, new rows)`.

    Raises:
        ValueError: At a call, if there are no batches (as from an iterator that was read before),
            or a batch is no floating-point matrix of the width of the first.
    """
    devices = None if mesh is None else mesh.local_mesh
    whole, sharded = _shardings(devices)
    program = jax.jit(_over_devices(local, devices, rows is not None))
    add = jax.jit(stats.add)

    def total_of(params: Params) -> Stats:
        params = jax.device_put(params, whole)
        total, done = None, 0
        for x, weights, n in _filled(batches, 1 if devices is None else devices.size):
            part = None if rows is None else _pad(rows[done : done + n], len(x))
            sums, new = program(params, *jax.device_put((x, weights, part), sharded))
            waiting, total = total, sums if total is None else add(total, sums)
            if rows is not None:
                rows[done : done + n] = np.asarray(new)[:n]
            # One batch is computed with while the next is read; they shall not queue up.
            jax.block_until_ready(waiting)
            done += n
        return jax.tree.map(lambda a: a[0], total) if mesh is None else _sum_shards(total, mesh)

    return total_of


def fit_stream(
    local: Callable[..., Stats],
    update: Callable[[Params, Stats], Step],
    params: Params,
    batches: Batches,
    tol: ScalarLike = 1e-5,
    mesh: Mesh | None = None,
    rows: np.ndarray | None = None,
    *,
    max_iter: int = 100,
) -> Fit:
    """An exact fit by passes over the batches: the model's own `fit`, for data that fit no memory.

    Args:
        local: Sums of some rows, as for `stream`.
        update: What a model makes of the sums over all rows; `gaussian.update`, say.
        params: The start.
        batches: Iterated over `max_iter + 1` times at most, as the last updates are evaluated too.
        tol: As for the model's `fit`.
        mesh: As for `stream`.
        rows: As for `stream`; at the end they belong to the parameters that were tried last.
        max_iter: Largest number of updates.
    """
    total, update = stream(local, batches, mesh, rows), jax.jit(update)
    return iterate_on_host(lambda p: update(p, total(p)), params, tol, max_iter=max_iter)


def fold(step: Callable[..., State], state: State, batches: Batches) -> State:
    """The last of the states `state = step(state, x, weights)`: one pass, a step for each batch.

    Stochastic EM and online dictionary learning are such steps. `step` is compiled here; keep the
    same function object to compile once.
    """
    step = jax.jit(step)
    for batch in _filled(batches, 1):
        waiting = state
        state = step(state, batch.x, batch.weights)
        jax.block_until_ready(waiting)
    return state


def prefetch(batches: Iterable[Any]) -> Iterator[Any]:
    """The same items, each fetched by a thread while its predecessor is in use."""
    end = object()
    with ThreadPoolExecutor(1) as reader:
        items = iter(batches)
        ahead = reader.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = reader.submit(next, items, end)
            yield item


def _filled(batches: Batches, n_devices: int) -> Iterator[Batch]:
    """The batches, checked, and those shorter than the first filled up to its length."""
    size = width = None
    for x in prefetch(batches):
        check_matrix("each batch", x, n_features=width)
        n, width = x.shape
        size = max(size or 0, -(-n // n_devices) * n_devices)
        weights = None if n == size else (np.arange(size) < n).astype(x.dtype)
        yield Batch(_pad(x, size), weights, n)
    if size is None:
        raise ValueError("batches must not be empty; an iterator can be read once only")


def _pad(x, size):
    """Rows repeated up to `size`: copies of the first lie where the data do."""
    missing = size - len(x)
    return x if missing == 0 else np.concatenate([x, np.repeat(x[:1], missing, axis=0)])


def _shardings(devices):
    """Where parameters and rows go; `None` leaves them to JAX."""
    if devices is None:
        return None, None
    return NamedSharding(devices, P()), NamedSharding(devices, P(*devices.axis_names))


def _over_devices(local, devices, with_rows):
    """`local` on the rows of each device: its sums, with an axis for the device, and its rows."""

    def shard(params, x, weights, rows):
        result = local(params, x, weights, *([rows] if with_rows else []))
        sums, rows = result if with_rows else (result, None)
        return jax.tree.map(lambda a: a[None], sums), rows

    if devices is None:
        return shard
    of_rows = P(*devices.axis_names)
    specs = P(), of_rows, of_rows, of_rows
    return jax.shard_map(shard, mesh=devices, in_specs=specs, out_specs=of_rows, check_vma=False)


def _sum_shards(total, mesh):
    """The sums of the devices of all processes: one reduction a pass."""
    sharding = NamedSharding(mesh, P(*mesh.axis_names))

    def everywhere(a):
        shards = [shard.data for shard in a.addressable_shards]
        shape = (mesh.size, *a.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    whole = NamedSharding(mesh, P())
    reduce = jax.jit(lambda t: jax.tree.map(lambda a: a.sum(0), t), out_shardings=whole)
    total = reduce(jax.tree.map(everywhere, total))
    return jax.tree.map(lambda a: a.addressable_data(0), total)
