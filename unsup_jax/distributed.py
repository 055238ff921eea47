"""Many devices, processes and machines: rows are sharded, parameters replicated, sums added.

    with distributed.processes():                        # only where there are several
        mesh = distributed.make_mesh()
        fit = distributed.data_parallel(gaussian.fit, mesh)(params, x, max_iter=50)

Every process runs the same program and gives its own rows; on one process these are all rows. The
runtime is JAX's own: `jax.distributed`, `jax.shard_map`, and collectives over NCCL, gloo or ICI.
Data that no memory holds are read batch by batch: `stream`, `fold` and `fit_stream`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from unsup_jax.manifold import neighbors
from unsup_jax.manifold.neighbors import Neighbors
from unsup_jax.streaming import fit_stream, fold, stream

__all__ = [
    "data_parallel",
    "fit_stream",
    "fold",
    "gather_rows",
    "knn",
    "make_mesh",
    "map_rows",
    "process_rows",
    "processes",
    "shard_rows",
    "stream",
]

Rows = TypeVar("Rows")  # an array, or a pytree of arrays, with one row a sample
PER_ROW = ("x", "weights", "mask", "params.codes")


@contextlib.contextmanager
def processes(*, timeout: int = 30, **options: Any) -> Iterator[None]:
    """Join the other processes of this job; when one of them fails, all end.

    Who they are is said by `options` (those of `jax.distributed.initialize`), by the environment
    variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or found out by JAX
    from the scheduler (SLURM, Open MPI, Kubernetes, a TPU slice). To be entered before anything is
    computed.

    A process that leaves the block by an exception shows it and ends at once, with status 1 (by
    `SystemExit`, with its status and in silence): its connections close, and whoever waits for it
    gets an error instead of waiting on. One that has vanished without closing them is given up
    after `timeout` seconds, and all others are ended.

    Args:
        timeout: Seconds without a sign of life after which a process counts as lost.
        options: Passed on to `jax.distributed.initialize`; its `initialization_timeout` bounds the
            wait for all to have started (300 seconds by default).
    """
    for name, variable in (("num_processes", "NUM_PROCESSES"), ("process_id", "PROCESS_ID")):
        if f"JAX_{variable}" in os.environ:
            options.setdefault(name, int(os.environ[f"JAX_{variable}"]))
    jax.distributed.initialize(
        heartbeat_timeout_seconds=timeout,
        shutdown_timeout_seconds=timeout,
        **options,
    )
    try:
        yield
    except SystemExit as request:
        _end(request.code if isinstance(request.code, int) else 1)
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, jax.errors.JaxRuntimeError):
            print("error: has another process of this job ended? See its output.", file=sys.stderr)
        _end(1)
    jax.distributed.shutdown()


def _end(status):
    """End this process now: an orderly exit would wait for the others, who wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "rows", over some devices: by default all, of all processes."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("rows",), axis_types=(AxisType.Auto,))


def process_rows(n: int) -> range:
    """The rows of a data set of `n` that this process is to read: an even share, in order."""
    index, count = jax.process_index(), jax.process_count()
    return range(n * index // count, n * (index + 1) // count)


def data_parallel(
    fit: Callable[..., Any], mesh: Mesh, *, per_row: Sequence[str] = PER_ROW
) -> Callable[..., Any]:
    """`fit` with the rows of the data sharded over `mesh` and everything else replicated.

    For any fit that sums over samples and takes `axis_name`; called with the same arguments, it
    returns the same result, up to rounding, to every process. Rows that the devices do not divide
    are filled up with rows of weight 0. A compiled program is kept for every choice of static
    arguments; as with `jax.jit`, `.lower(...)` lets you look at one, and at what it sends.
    (Training shuffles the rows of each device on their own: other batches, drawn alike.)

    Args:
        fit: The fit, `fit(..., x, weights=None, ..., *, axis_name=None)`.
        mesh: Of one axis.
        per_row: The arguments, or parts of arguments and of the result, with one row a sample.
            Rows are those of this process, or arrays that `shard_rows` has placed already.

    Raises:
        ValueError: If the mesh has several axes, `fit` takes no `axis_name`, or the arguments with
            one row a sample do not have the same number of them.
    """
    axis = _axis(mesh)
    signature = inspect.signature(fit)
    if "axis_name" not in signature.parameters:
        raise ValueError(f"fit must take axis_name to be sharded, got {fit}")
    is_row = partial(_is_named, per_row)

    @partial(jax.jit, static_argnames="static")
    def program(traced, static):
        specs = jax.tree_util.tree_map_with_path(
            lambda path, _: P(axis) if is_row(path) else P(), traced
        )
        structure = None

        def shard(traced):
            nonlocal structure
            result = fit(**traced, **dict(static), axis_name=axis)
            leaves, structure = jax.tree_util.tree_flatten_with_path(result)
            rows = {i: leaf for i, (path, leaf) in enumerate(leaves) if is_row(path)}
            return rows, {i: leaf for i, (_, leaf) in enumerate(leaves) if i not in rows}

        parts = jax.shard_map(
            shard, mesh=mesh, in_specs=(specs,), out_specs=(P(axis), P()), check_vma=False
        )(traced)
        leaves = parts[0] | parts[1]
        return jax.tree.unflatten(structure, [leaves[i] for i in range(len(leaves))])

    def prepare(*args, **kwargs):
        arguments = signature.bind(*args, **kwargs).arguments
        static = {n: a for n, a in arguments.items() if _is_static(signature.parameters[n], a)}
        traced = {n: a for n, a in arguments.items() if n not in static}
        leaves, structure = jax.tree_util.tree_flatten_with_path(traced)
        rows = {i: leaf for i, (path, leaf) in enumerate(leaves) if is_row(path)}
        rows, fill, n = _place(rows, mesh)
        leaves = [
            rows[i] if i in rows else _replicate(leaf, mesh) for i, (_, leaf) in enumerate(leaves)
        ]
        traced = jax.tree.unflatten(structure, leaves)
        if fill is not None:
            given = traced.get("weights")
            traced["weights"] = fill if given is None else fill.astype(given.dtype) * given
        return traced, tuple(sorted(static.items())), n

    @wraps(fit)
    def run(*args, **kwargs):
        traced, static, n = prepare(*args, **kwargs)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _own_rows(leaf, mesh, n) if is_row(path) else _own_copy(leaf),
            program(traced, static),
        )

    def lower(*args, **kwargs):
        return program.lower(*prepare(*args, **kwargs)[:2])

    run.lower = lower  # type: ignore[attr-defined]
    return run


def map_rows(function: Callable[..., Rows], mesh: Mesh) -> Callable[..., Rows]:
    """`function(rows, *others)`, which treats rows alone, with the rows sharded over `mesh`.

    What it returns has one entry a row along the leading axis. The other arguments are whole on
    every device: what a row is compared with, an embedding, say (see `gather_rows`).
    """
    axis = _axis(mesh)
    program = jax.jit(
        jax.shard_map(
            lambda rows, others: function(rows, *others),
            mesh=mesh,
            in_specs=(P(axis), P()),
            out_specs=P(axis),
            check_vma=False,
        )
    )

    def run(rows, *others):
        placed, _, n = _place(rows, mesh)
        others = jax.tree.map(partial(_replicate, mesh=mesh), others)
        return jax.tree.map(partial(_own_rows, mesh=mesh, n=n), program(placed, others))

    return run


def knn(
    x: Float[Array, "n d"], mesh: Mesh, *, n_neighbors: int, metric: str = "euclidean"
) -> Neighbors:
    """`manifold.neighbors.knn` of the rows of this process among those of all, sharded.

    Indices count the rows of all processes, in order.
    """
    everything = gather_rows(x, mesh)
    # One more, for each row finds itself.
    search = partial(neighbors.knn, n_neighbors=n_neighbors + 1, metric=metric)
    found = map_rows(search, mesh)(x, everything)
    first = sum(_counts(len(x))[: jax.process_index()])
    kept = neighbors.drop_self(found._replace(indices=found.indices - first))
    return kept._replace(indices=kept.indices + first)


def shard_rows(x: Rows, mesh: Mesh) -> tuple[Rows, Float[Array, "m"] | None]:
    """Place the rows of this process on its devices, for several fits of the same data.

    Returns:
        Arrays of the rows of all processes, sharded over `mesh`; and the weights to fit them with:
        0 for those that were added so that the devices get equal numbers, `None` if none were.
    """
    return _place(x, mesh)[:2]


def gather_rows(x: Rows, mesh: Mesh) -> Rows:
    """The rows of all processes, in order, whole on each of them."""
    del mesh  # all processes take part, whatever devices they use
    counts = _counts(len(jax.tree.leaves(x)[0]))
    if len(counts) == 1:
        return x

    def gather(leaf):
        leaf = np.asarray(leaf)
        padded = np.pad(leaf, [(0, max(counts) - len(leaf)), *[(0, 0)] * (leaf.ndim - 1)])
        every = multihost_utils.process_allgather(padded)
        return np.concatenate([rows[:n] for rows, n in zip(every, counts, strict=True)])

    return jax.tree.map(gather, x)


def _axis(mesh):
    if len(mesh.axis_names) != 1:
        raise ValueError(f"mesh must have one axis, got {mesh.axis_names}")
    return mesh.axis_names[0]


def _is_named(names, path):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return any(name == known or name.startswith(f"{known}.") for known in names)


def _is_static(parameter, value):
    keyword_only = parameter.kind is parameter.KEYWORD_ONLY
    return keyword_only and not isinstance(value, jax.Array)  # a random key, say


def _counts(n):
    """The number of rows of every process."""
    if jax.process_count() == 1:
        return [n]
    return [int(m) for m in multihost_utils.process_allgather(np.asarray(n)).ravel()]


def _place(rows, mesh):
    """Sharded rows, weights that are 0 for rows added, and the number of rows of this process."""
    axis, leaves = _axis(mesh), jax.tree.leaves(rows)
    if all(_is_placed(leaf, mesh) for leaf in leaves):
        return rows, None, None
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(f"arguments with one row a sample must agree, got {sorted(sizes)} rows")
    (n,) = sizes
    counts, local = _counts(n), mesh.local_mesh.size
    # Every device of every process gets as many rows as the fullest.
    each = max(-(-count // local) for count in counts)
    sharding = NamedSharding(mesh, P(axis))

    def place(leaf):
        leaf = _pad(leaf, each * local)
        if len(counts) == 1:
            return jax.device_put(leaf, sharding)
        shape = (each * mesh.size, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), shape)

    fill = None
    if any(count != each * local for count in counts):
        dtype = next(a.dtype for a in leaves if jnp.issubdtype(a.dtype, jnp.floating))
        fill = place(np.arange(each * local) < n).astype(dtype)
    return jax.tree.map(place, rows), fill, n


def _pad(leaf, n):
    """Rows repeated up to `n`: copies of the first lie where the data do."""
    missing = n - leaf.shape[0]
    if missing == 0:
        return leaf
    module = np if isinstance(leaf, np.ndarray) else jnp
    return module.concatenate([leaf, module.repeat(leaf[:1], missing, axis=0)])


def _is_placed(leaf, mesh):
    sharding = getattr(leaf, "sharding", None)
    return isinstance(sharding, NamedSharding) and sharding.mesh == mesh


def _replicate(leaf, mesh):
    """The same value on all devices; that it is the same in all processes is checked."""
    sharding = NamedSharding(mesh, P())
    if not isinstance(leaf, (jax.Array, np.ndarray)):
        return leaf
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _replicate(jax.random.key_data(leaf), mesh)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    bits = np.frombuffer(value.tobytes(), np.uint8)  # of which even NaN equals itself
    multihost_utils.assert_equal(bits, "arguments but the rows must agree in all processes")
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _own_copy(leaf):
    return leaf.addressable_data(0)


def _own_rows(leaf, mesh, n):
    """The rows of this process, without those that were added."""
    if n is None:  # they were placed by the caller
        return leaf
    if jax.process_count() > 1:
        leaf = multihost_utils.global_array_to_host_local_array(leaf, mesh, P(_axis(mesh)))
    return leaf[:n]
