"""Forces between all pairs of points of a t-SNE map: exact, or through a grid and the FFT.

Both return the potential and the repulsive force on each point, for Student's kernel of `dof`
degrees of freedom, `alpha`:

    k(d) = (1 + d^2 / alpha)^(-(alpha + 1) / 2),
    phi_i = sum_(j != i) k(|y_i - y_j|),    force_i = -grad phi_i.

The normaliser of the map's similarities is `Z = sum_i phi_i`.

The grid is a particle mesh. Points are charges, spread over the nearest nodes (4 along each axis)
by cubic B-splines; one convolution with the kernel, by FFT on a grid of twice the side (no images),
gives the potential at the nodes; the same splines and their derivatives read potential and force
off it. The spectrum of the kernel is divided by that of the spline squared, which undoes the
smoothing of spreading and reading (as in smooth particle-mesh Ewald: Essmann et al., J. Chem. Phys.
103, 1995). The use of FFTs in t-SNE is due to Linderman et al., Nature Methods 16 (2019).

Inside, the coordinates of points and nodes come first: on a CPU that makes the gathers ten times
faster than rows of a few numbers.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from unsup_jax.core.linalg import matmul
from unsup_jax.core.stats import collect_rows, map_rows, share_rows

SPACING = 0.42  # of the nodes, at most, in widths of the kernel: forces within 2%
# Nodes a side that `size_for` chooses from: few, for each is a program to compile.
_SIDES = (128, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
SIZES = {1: (128, 512, 2**11, 2**13, 2**15, 2**17), 2: _SIDES}
_GROWTH = 1.15  # of a map, before it needs another grid
_MARGIN = 4  # nodes: a spline reaches beyond the outermost points


class Repulsion(NamedTuple):
    """What all other points do to each.

    Attributes:
        potential: `phi_i`, shape `(n,)`.
        force: `-grad phi_i`, shape `(n, q)`.
    """

    potential: Float[Array, "n"]
    force: Float[Array, "n q"]

    @property
    def normalizer(self) -> Float[Array, ""]:
        """`Z = sum_i phi_i`; as a matrix product, which compiles faster than a sum."""
        return matmul(jnp.ones_like(self.potential), self.potential)


class Kernel(NamedTuple):
    """The kernel on a grid, ready to be convolved with.

    Attributes:
        spectrum: Its transform on a grid of twice the side over that of the squared spline.
        spacing: Distance of neighbouring nodes.
        level: What was subtracted from it: its value at a distance of one side. A small map sees
            only the tip of the kernel, whose height would drown its slope in rounding.
        core: What a node does to itself and to the next three along each axis.
    """

    spectrum: Float[Array, "*double"]
    spacing: Float[Array, ""]
    level: Float[Array, ""]
    core: Float[Array, "*four"]


class Field(NamedTuple):
    """The potential of fixed points, on a grid.

    Attributes:
        values: At the nodes, less `level`, `size` along each axis.
        origin: Coordinates of the first node, shape `(q,)`.
        spacing: Distance of neighbouring nodes.
        level: Of the potential.
    """

    values: Float[Array, "*size"]
    origin: Float[Array, "q"]
    spacing: Float[Array, ""]
    level: Float[Array, ""]


def kernel(
    squares: Float[Array, "*shape"], *, dof: float = 1.0
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """`(w, k)` of squared distances: `w = 1 / (1 + d^2 / alpha)` and `k = w^((alpha + 1) / 2)`."""
    if dof == 1:
        w = 1 / (1 + squares)
        return w, w
    w = 1 / (1 + squares / dof)
    return w, w ** ((dof + 1) / 2)


def squared_distances(y: Float[Array, "m q"], z: Float[Array, "n q"]) -> Float[Array, "m n"]:
    """Squared distances from differences: exact for close points, and cheap in few dimensions."""
    first, *others = ((y[:, i, None] - z[None, :, i]) ** 2 for i in range(y.shape[1]))
    return sum(others, first)


def exact(
    y: Float[Array, "m q"],
    others: Float[Array, "n q"] | None = None,
    *,
    dof: float = 1.0,
    tile_pairs: int = 2**20,
    axis_name: str | None = None,
) -> Repulsion:
    """All pairs, in tiles; in any dimension.

    Args:
        y: The points that feel the force.
        others: The points that exert it; `None` means `y`, without each point's force on itself.
        dof: Static; degrees of freedom.
        tile_pairs: Static; pairs at a time.
        axis_name: Static; the mapped axis whose devices, all of which know all points, share them.
    """
    sources = y if others is None else others
    shared = y if axis_name is None else share_rows(y, axis_name)[0]
    ones = jnp.ones_like(sources[:, :1])
    charges = jnp.concatenate([sources, ones], 1)

    def rows(tile):
        w, k = kernel(squared_distances(tile, sources), dof=dof)
        # sum_j g_ij (y_i - y_j): sums over j are matrix products, which use all cores
        sums = matmul(w * k, charges)
        force = (dof + 1) / dof * (tile * sums[:, -1:] - sums[:, :-1])
        return matmul(k, ones)[:, 0], force

    potential, force = map_rows(rows, shared, tile_size=max(1, tile_pairs // sources.shape[0]))
    mine = Repulsion(potential - (1 if others is None else 0), force)
    return mine if axis_name is None else collect_rows(mine, y.shape[0], axis_name)


def grid(
    y: Float[Array, "n q"], *, dof: float = 1.0, size: int, axis_name: str | None = None
) -> Repulsion:
    """All pairs of points of a line or plane, through a grid of `size` nodes along each axis.

    The grid stretches or shrinks with the map (see `spacing_for`); `size_for` tells how many nodes
    its accuracy needs.
    """
    spacing = spacing_for(y, size=size)
    kernel = kernel_on_grid(spacing, n_dims=y.shape[1], dof=dof, size=size)
    return on_grid(y, kernel, size=size, axis_name=axis_name)


def on_grid(
    y: Float[Array, "n q"], kernel: Kernel, *, size: int, axis_name: str | None = None
) -> Repulsion:
    """All pairs of points, through a grid that holds them (see `fits`).

    The devices of `axis_name`, all of which know all points, share them and add up their grids.
    """
    made = field(y, kernel, size=size, axis_name=axis_name)
    if axis_name is None:
        return _from_others(made, y, kernel, size)
    mine = _from_others(made, share_rows(y, axis_name)[0], kernel, size)
    return collect_rows(mine, y.shape[0], axis_name)


def _from_others(made, y, kernel, size):
    """What a field does to the points that made it, each without itself."""
    potential, force = read(made, y)
    # The splines make what a point does to itself differ a little from k(0) and from no force:
    # much, where points are far apart.
    _, fractions = _locate(y.T, made.origin, kernel.spacing, size)
    overlaps, slopes = jax.jvp(_overlaps, (fractions,), (jnp.ones_like(fractions),))
    own, own_slopes = _contract(list(kernel.core.reshape(-1)), overlaps, slopes)
    # Half the derivative, for the charge stays where it is.
    own_force = -jnp.stack(own_slopes, 1) / (2 * kernel.spacing)
    return Repulsion(potential - own - kernel.level, force - own_force)


def size_for(y: Float[Array, "n q"], *, dof: float = 1.0) -> int:
    """The smallest grid on which a map may grow by 15%; not under `jit`."""
    spacing = SPACING * min(1.0, dof**0.5)
    needed = _GROWTH * float(jnp.ptp(y, axis=0).max()) / spacing + _MARGIN
    sizes = SIZES[y.shape[1]]
    return next((size for size in sizes if size >= needed), sizes[-1])


def spacing_for(y: Float[Array, "n q"], *, size: int) -> Float[Array, ""]:
    """The distance of nodes with which a grid of this size lets a map grow by 15%."""
    spacing = _GROWTH * jnp.ptp(y, axis=0).max() / (size - _MARGIN)
    return jnp.maximum(spacing, jnp.finfo(y.dtype).eps ** 2)


def fits(y: Float[Array, "n q"], spacing: Float[Array, ""], *, size: int) -> Array:
    """Whether a map lies within a grid centred on it."""
    return jnp.ptp(y, axis=0).max() <= (size - _MARGIN) * spacing


def kernel_on_grid(
    spacing: Float[Array, ""], *, n_dims: int, dof: float = 1.0, size: int
) -> Kernel:
    """The kernel for grids of `size` nodes along each of `n_dims` axes."""
    spacing = jnp.asarray(spacing)
    steps = jnp.arange(2 * size)
    squares = (jnp.minimum(steps, 2 * size - steps).astype(spacing.dtype) * spacing) ** 2
    # A cubic B-spline is 2/3 at its middle node and 1/6 at the two beside it.
    spline = (2 + jnp.cos(steps.astype(spacing.dtype) * (jnp.pi / size))) / 3
    half = (*[2 * size] * (n_dims - 1), size + 1)
    total = sum(_along(squares, i, n_dims) for i in range(n_dims))
    smoothing = math.prod(_along(spline[:m], i, n_dims) for i, m in enumerate(half))
    side = (size * spacing) ** 2
    level = (1 + side / dof) ** (-(dof + 1) / 2)
    # k(d) - level, with all its digits where both are nearly 1
    tip = level * jnp.expm1((dof + 1) / 2 * jnp.log1p((side - total) / (dof + total)))
    spectrum = jnp.fft.rfftn(tip).real / smoothing**2
    core = jnp.fft.irfftn(spectrum, tip.shape)[(slice(4),) * n_dims]
    return Kernel(spectrum, spacing, level, core)


def field(
    y: Float[Array, "n q"], kernel: Kernel, *, size: int, axis_name: str | None = None
) -> Field:
    """The potential of the points `y`, each of charge 1, at the nodes of a grid centred on them."""
    n, q = y.shape
    points = y.T
    middle = (points.max(1) + points.min(1)) / 2
    if axis_name is not None:
        mine, is_there = share_rows(y, axis_name)
        points = mine.T
    origin = middle - (size - 1) / 2 * kernel.spacing
    first, fractions = _locate(points, origin, kernel.spacing, size)
    # Of the nodes around a point, those along the last axis are neighbours in memory: one window.
    splines = [jnp.stack(_spline(t), 1) for t in fractions]
    windows = math.prod(_along(s, i, q, batch=True) for i, s in enumerate(splines))
    if axis_name is not None:
        windows = windows * _along(is_there, 0, q + 1)
    starts = first[:, None] + jnp.asarray(_stencil(size, q)[::4], jnp.int32)[None]
    window = lax.ScatterDimensionNumbers((1,), (), (0,))
    charges = lax.scatter_add(
        jnp.zeros((size**q,), y.dtype),
        starts.reshape(-1, 1),
        windows.reshape(-1, 4),
        window,
        mode="promise_in_bounds",
    )
    charges = charges if axis_name is None else lax.psum(charges, axis_name)
    shape, axes = (2 * size,) * q, tuple(range(q))
    transform = jnp.fft.rfftn(charges.reshape((size,) * q), shape, axes)
    transform = lax.complex(transform.real * kernel.spectrum, transform.imag * kernel.spectrum)
    values = jnp.fft.irfftn(transform, shape, axes)[(slice(size),) * q]
    return Field(values, origin, kernel.spacing, n * kernel.level)


def read(at: Field, y: Float[Array, "m q"]) -> Repulsion:
    """Potential and force at the points `y` of a field; outside of it, those at its edge."""
    q, size = y.shape[1], at.values.shape[0]
    first, fractions = _locate(y.T, at.origin, at.spacing, size)
    places = first[None] + jnp.asarray(_stencil(size, q), jnp.int32)[:, None]
    flat = at.values.reshape(-1)
    values = flat.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)
    potential, slopes = _contract(list(values), _spline(fractions), _slope(fractions))
    return Repulsion(potential + at.level, -jnp.stack(slopes, 1) / at.spacing)


def _contract(values, weights, slopes):
    """Sums over the nodes around points of values and weights, and their slope along each axis.

    Args:
        values: At the nodes, the last axis fastest.
        weights: Of the four nodes along each axis, four arrays `(q, n)`.
        slopes: Their derivatives.
    """
    # Once in memory, not once for each use: half the time to compile.
    values, weights, slopes = lax.optimization_barrier((values, weights, slopes))
    q = weights[0].shape[0]

    def total(steep):
        rest = values
        for axis in reversed(range(q)):
            along = [w[axis] for w in (slopes if axis == steep else weights)]
            groups = [rest[i : i + 4] for i in range(0, len(rest), 4)]
            rest = [sum(v * w for v, w in zip(group, along, strict=True)) for group in groups]
        return rest[0]

    return total(None), [total(axis) for axis in range(q)]


def _overlaps(t):
    """Sums over products of the spline's values `k` nodes apart, in both directions, `k` = 0..3."""
    s = _spline(t)
    apart = [sum(s[a] * s[a + k] for a in range(4 - k)) for k in range(4)]
    return [apart[0], *(2 * a for a in apart[1:])]


def _along(values, axis, n_dims, batch=False):
    """Values along one of several axes, the rest of length 1; after a leading one for `batch`."""
    shape = [1] * n_dims
    shape[axis] = -1
    return values.reshape((values.shape[0], *shape) if batch else shape)


def _locate(points, origin, spacing, size):
    """The number of the first node around each point, and its place between the middle ones."""
    places = jnp.clip((points - origin[:, None]) / spacing, 1, size - 2.001)
    cells = jnp.floor(places)
    first = cells[0].astype(jnp.int32) - 1
    for cell in cells[1:]:
        first = first * size + cell.astype(jnp.int32) - 1
    return first, places - cells


def _stencil(size, q):
    """Numbers of the nodes around a point, counted from the first, in the order of `product`."""
    return [
        sum(k * size**i for i, k in enumerate(reversed(places)))
        for places in itertools.product(range(4), repeat=q)
    ]


def _spline(t):
    """Values at the four nodes around a point of the cubic B-spline centred on it."""
    u = 1 - t
    return [u**3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (4 - 6 * u**2 + 3 * u**3) / 6, t**3 / 6]


def _slope(t):
    """The derivatives of `_spline` with respect to the place of the point, in cells."""
    u = 1 - t
    return [-(u**2) / 2, (3 * t**2 - 4 * t) / 2, (4 * u - 3 * u**2) / 2, t**2 / 2]
