"""Sweeps: any pure function over a grid of named hyperparameters, in one compiled program.

    points = sweep.grid(key=jax.random.split(key, 32), reg_covar=jnp.geomspace(1e-6, 1e-1, 6))
    swept = sweep.run(fit_from_key, points, x, batch_size=48)    # fit_from_key(x, key, reg_covar)
    best = sweep.best(swept)                                     # best.grid["reg_covar"], best.fits

A grid is a dict of arrays, one lane an entry of the leading axis. A lane that fails carries a
status; the others do not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core.checks import check_count
from unsup_jax.core.fit import Fit, Status
from unsup_jax.core.stats import map_rows

Grid = dict[str, Any]  # by name: an array, or pytree of arrays, with the lanes along its first axis


class Sweep(NamedTuple):
    """What a function returned on every lane, beside the hyperparameters it was given.

    Attributes:
        grid: The hyperparameters.
        fits: The results: a `Fit`, or whatever the function returns, with a leading axis.
    """

    grid: Grid
    fits: Any


def zipped(**axes: Any) -> Grid:
    """A grid of lanes side by side: lane i takes entry i of every axis.

    Raises:
        ValueError: For no axes, or axes of different lengths.
    """
    is_list = lambda node: isinstance(node, list)  # noqa: E731 a list is an array, a tuple a pytree
    axes = {name: jax.tree.map(jnp.asarray, axis, is_leaf=is_list) for name, axis in axes.items()}
    lengths = {
        name: leaf.shape[:1] for name, axis in axes.items() for leaf in jax.tree.leaves(axis)
    }
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise ValueError(f"axes must be arrays of one length, got {lengths}")
    return axes


def product(*grids: Grid) -> Grid:
    """Every lane of each grid with every lane of the others; those of the last vary fastest.

    Raises:
        ValueError: For no grids, or two that share a name.
    """
    names = [name for grid in grids for name in grid]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"grids must have names of their own, got {names}")
    lengths = [size(grid) for grid in grids]
    indices = np.indices(lengths).reshape(len(grids), -1)
    crossed = [
        jax.tree.map(lambda leaf, index=index: leaf[index], grid)
        for grid, index in zip(grids, indices, strict=True)
    ]
    return {name: axis for grid in crossed for name, axis in grid.items()}


def grid(**axes: Any) -> Grid:
    """The product of named axes, each an array (or pytree of arrays) of values."""
    return product(*(zipped(**{name: axis}) for name, axis in axes.items()))


def random(
    key: PRNGKeyArray, /, *, n_lanes: int, **axes: Callable[[PRNGKeyArray, tuple[int]], Array]
) -> Grid:
    """A grid of random lanes: each axis is a function `(key, shape) -> values`, like `uniform`.

    The functions of `jax.random` are such axes.
    """
    check_count("n_lanes", n_lanes)
    keys = jax.random.split(key, len(axes))
    return zipped(
        **{name: f(k, (n_lanes,)) for k, (name, f) in zip(keys, axes.items(), strict=True)}
    )


def uniform(low: float, high: float) -> Callable[[PRNGKeyArray, tuple[int]], Array]:
    """An axis of `random` with values uniform in [low, high)."""
    return partial(jax.random.uniform, minval=low, maxval=high)


def log_uniform(low: float, high: float) -> Callable[[PRNGKeyArray, tuple[int]], Array]:
    """An axis of `random` with values whose logarithm is uniform between those of the bounds."""
    logs = uniform(np.log(low), np.log(high))
    return lambda key, shape: jnp.exp(logs(key, shape))


def size(grid: Grid) -> int:
    """The number of lanes."""
    return int(jax.tree.leaves(grid)[0].shape[0])


def run(
    fn: Callable[..., Any],
    grid: Grid,
    *args: Any,
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Sweep:
    """`fn(*args, **lane)` for every lane of the grid, vectorised, in one compiled program.

    Give data as `args`, which all lanes share: what `fn` captures becomes a constant of the
    program. Calling `run` again with the same `fn` object and shapes reuses the program.

    Args:
        fn: A pure function; its keyword arguments bear the names of the grid.
        grid: From `grid`, `zipped`, `random` or `product`.
        *args: Arrays and pytrees, the same for every lane.
        batch_size: Static; the most lanes to vectorise at once, one batch after the other: bounds
            the memory, and a batch ends when its own slowest lane has. 1 vectorises nothing, which
            fits that fill the cores by themselves may like best. `None` takes all at once, of which
            mixtures on a CPU step a few at a time (see `unsup_jax.core.lanes`).
        devices: Devices that share the lanes. `None` takes all of an accelerator but one CPU. Cores
            made devices (`jax.config.update("jax_num_cpu_devices", 2)` before anything else) suit
            small fits, which never fill all cores: each has lanes of its own and waits for none.
            But batched factorisations of larger matrices (96 x 96, not 8 x 8) that run at once on
            such devices wait for each other, and can hang.

    Returns:
        `Sweep(grid, fits)`, with the lanes of `fits` in the order of the grid.

    Raises:
        ValueError: For an empty grid or a `batch_size` below 1.
    """
    check_count("number of lanes", size(grid))
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if devices is None:
        devices = jax.local_devices()
        devices = devices[:1] if devices[0].platform == "cpu" else devices
    return Sweep(grid, _run(grid, args, fn=fn, batch_size=batch_size, devices=tuple(devices)))


@partial(jax.jit, static_argnames=("fn", "batch_size", "devices"))
def _run(grid, args, *, fn, batch_size, devices):
    def lanes(grid, args):
        def one(lane):
            return fn(*args, **lane)

        if batch_size == 1:
            return lax.map(one, grid)
        return map_rows(jax.vmap(one), grid, tile_size=batch_size)

    n, n_devices = size(grid), len(devices)
    if n_devices == 1:
        return lanes(grid, args)
    # Lanes talk to nobody: every device runs, and stops, its own.
    padded = np.minimum(np.arange(-(-n // n_devices) * n_devices), n - 1)
    mesh = Mesh(np.array(devices), ("lanes",), axis_types=(AxisType.Auto,))
    split, everywhere = PartitionSpec("lanes"), PartitionSpec()
    spread = jax.shard_map(
        lanes, mesh=mesh, in_specs=(split, everywhere), out_specs=split, check_vma=False
    )
    fits = spread(jax.tree.map(lambda leaf: leaf[padded], grid), args)
    return jax.tree.map(lambda leaf: leaf[:n], fits)


def succeeded(fit: Fit) -> Array:
    """Whether a fit, or each lane of many, ended with a finite objective and no collapse."""
    bad = (fit.status == Status.NON_FINITE) | (fit.status == Status.COLLAPSED)
    return ~bad & jnp.isfinite(fit.objective)


def best(fits: Any, score: Float[Array, "lanes"] | None = None, *, maximize: bool = True) -> Any:
    """The lane with the best score; lanes that failed, or whose score is not finite, are ignored.

    Args:
        fits: A `Sweep`, a vectorised `Fit`, or any pytree with a leading axis of lanes.
        score: One number a lane; `None` takes the objective of the fits.
        maximize: Static; whether a larger score is better.

    Returns:
        That lane of `fits`. Where all have failed it is the first, and its status says so.
    """
    results = fits.fits if isinstance(fits, Sweep) else fits
    if score is None:
        score = results.objective
    usable = jnp.isfinite(score)
    if isinstance(results, Fit):
        usable &= succeeded(results)
    index = jnp.argmax(jnp.where(usable, score if maximize else -score, -jnp.inf))
    return jax.tree.map(lambda leaf: leaf[index], fits)


def group(fits: Any, n_groups: int) -> Any:
    """Lanes in consecutive groups: leaves (n, ...) become (n_groups, n / n_groups, ...).

    With the grid `grid(k=..., key=...)` of 8 x 32 lanes, `vmap(best)(group(swept, 8))` is the best
    of the 32 keys for each of the 8 values of k.
    """
    return jax.tree.map(lambda leaf: leaf.reshape(n_groups, -1, *leaf.shape[1:]), fits)


def table(swept: Sweep) -> list[dict[str, Any]]:
    """One row a lane, as Python values: what of the grid and the results is one number a lane.

    A list of dicts is what `pandas.DataFrame` and `experiments.report` take. Host only.
    """
    results = swept.fits
    if hasattr(results, "_asdict"):
        results = results._asdict()
    elif not isinstance(results, dict):
        results = {"result": results}
    columns = {}
    for name, value in {**swept.grid, **results}.items():
        if isinstance(value, jax.Array) and value.ndim == 1:
            keys = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
            column = range(size(swept.grid)) if keys else value.tolist()
            columns[name] = [Status(v).name for v in column] if name == "status" else column
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def activate(params: Any, n_components: ScalarLike | Int[Array, ""]) -> Any:
    """Keep the first `n_components` of a mixture: the number of components as a traced axis.

    The others get the log weight `-inf` and stay out of the fit, so that one program of K_max
    components fits every smaller K. Of a k-means++ start, the first K are a k-means++ start.

    Args:
        params: A mixture with `log_weights`, shape (K_max,).
        n_components: Traced; K.
    """
    on = jnp.arange(params.log_weights.shape[0]) < n_components
    log_weights = jnp.where(on, params.log_weights, -jnp.inf)
    return params._replace(log_weights=jax.nn.log_softmax(log_weights))
