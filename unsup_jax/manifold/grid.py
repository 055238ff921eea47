"""Forces between all pairs of points of a t-SNE map on a line or plane, through a grid.

The grid is a particle mesh. Points are charges, spread over the nearest nodes (4 along each axis)
by cubic B-splines; one convolution with the kernel, by FFT, gives the potential at the nodes; the
same splines and their derivatives read potential and force off it. The spectrum of the kernel is
divided by that of the spline squared, which undoes the smoothing of spreading and reading (as in
smooth particle-mesh Ewald: Essmann et al., J. Chem. Phys. 103, 1995). The use of FFTs in t-SNE is
due to Linderman et al., Nature Methods 16 (2019).

Images of the charges are kept away by a grid of twice the side, all but `size` nodes of it empty.
Along the last axis nothing empty is transformed: at the frequencies `pi (4 m + 1) / (2 size)` the
transform of `2 size` real numbers is one of `size` complex ones, `x_j - i x_(size + j)`, turned by
`exp(-i pi j / (2 size))` (the "right-angle" convolution, of which the images have the other sign).

Stages are programs of their own: called outside of `jit`, `kernel_on_grid` and `field` begin each
transform in a new program. There it runs on all threads of a CPU. In the midst of a program it may
have one, and how many it has changes its rounding. And all but a few small programs serve grids of
any size up to a capacity, `size` being traced there.

Inside, the coordinates of points and nodes come first: on a CPU that makes the gathers ten times
faster than rows of a few numbers.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float, Int

from unsup_jax.core.linalg import matmul
from unsup_jax.core.stats import collect_rows, share_rows
from unsup_jax.manifold.repulsion import Repulsion

SPACING = 0.42  # of the nodes, at most, in widths of the kernel: forces within 2%
# Nodes a side that `size_for` chooses from: few, for each has programs to compile.
_SIDES = (128, 256, 512, 640, 768, 1024, 1280, 1536, 2048)
SIZES = {1: (128, 512, 2**11, 2**13, 2**15, 2**17), 2: _SIDES}
_CAPACITIES = (640**2, 1280**2, 2048**2)  # nodes in all
_GROWTH = 1.15  # of a map, before it needs another grid
_MARGIN = 4  # nodes: a spline reaches beyond the outermost points


class Kernel(NamedTuple):
    """The kernel on a grid, ready to be convolved with.

    Attributes:
        spectrum: Its transform over that of the squared spline, `2 size` along each axis but the
            last and `size` along that.
        spacing: Distance of neighbouring nodes.
        level: What was subtracted from it: its value at a distance of one side. A small map sees
            only the tip of the kernel, whose height would drown its slope in rounding.
        core: What a node does to itself and to the next three along each axis.
        turns: `exp(-i pi j / (2 size))`.
    """

    spectrum: Float[Array, "*double"]
    spacing: Float[Array, ""]
    level: Float[Array, ""]
    core: Float[Array, "*four"]
    turns: Complex[Array, "size"]

    @property
    def size(self) -> int:
        """Nodes along each axis."""
        return self.spectrum.shape[-1]


class Field(NamedTuple):
    """The potential of fixed points, on a grid.

    Attributes:
        values: At the nodes, less `level`, the last axis fastest; more room than nodes.
        size: Number of nodes along each axis.
        origin: Coordinates of the first node, shape `(q,)`.
        spacing: Distance of neighbouring nodes.
        level: Of the potential.
    """

    values: Float[Array, "capacity"]
    size: Int[Array, ""]
    origin: Float[Array, "q"]
    spacing: Float[Array, ""]
    level: Float[Array, ""]


def repulsion(
    y: Float[Array, "n q"], *, dof: float = 1.0, size: int, axis_name: str | None = None
) -> Repulsion:
    """All pairs of points of a line or plane, through a grid of `size` nodes along each axis.

    The grid stretches or shrinks with the map (see `spacing_for`); `size_for` tells how many nodes
    its accuracy needs.
    """
    kernel = kernel_on_grid(spacing_for(y, size), n_dims=y.shape[1], dof=dof, size=size)
    return through(y, kernel, axis_name=axis_name)


def through(y: Float[Array, "n q"], kernel: Kernel, *, axis_name: str | None = None) -> Repulsion:
    """All pairs of points, through a grid that holds them (see `fits`).

    The devices of `axis_name`, all of which know all points, share them and add up their grids.
    """
    made = field(y, kernel, axis_name=axis_name)
    if axis_name is None:
        return from_others(made, y, kernel.core, kernel.level)
    mine = from_others(made, share_rows(y, axis_name)[0], kernel.core, kernel.level)
    return collect_rows(mine, y.shape[0], axis_name)


def size_for(y: Float[Array, "n q"], *, dof: float = 1.0) -> int:
    """The smallest grid on which a map may grow by 15%; not under `jit`."""
    return _size(float(_width(y)), y.shape[1], dof)


def _size(width, n_dims, dof):
    needed = _GROWTH * width / (SPACING * min(1.0, dof**0.5)) + _MARGIN
    return next((size for size in SIZES[n_dims] if size >= needed), SIZES[n_dims][-1])


@jax.jit
def spacing_for(y: Float[Array, "n q"], size: int | Array) -> Float[Array, ""]:
    """The distance of nodes with which a grid of this size lets a map grow by 15%."""
    return _spacing(_width(y), size)


def _spacing(width, size):
    """On the host or the device; never 0."""
    return (_GROWTH * width + size * jnp.finfo(width.dtype).eps ** 2) / (size - _MARGIN)


def fits(y: Float[Array, "n q"], spacing: Float[Array, ""], size: int | Array) -> Array:
    """Whether a map lies within a grid centred on it."""
    return _width(y) <= jnp.asarray(size - _MARGIN, y.dtype) * spacing


def kernel_for(y: Float[Array, "n q"], *, dof: float = 1.0) -> Kernel:
    """The kernel on the grid that `size_for` names; not under `jit`."""
    width = np.asarray(_width(y))
    size = _size(float(width), y.shape[1], dof)
    spacing = jnp.asarray(_spacing(width, size), y.dtype)
    return kernel_on_grid(spacing, n_dims=y.shape[1], dof=dof, size=size)


@jax.jit
def _width(y):
    low, high = _ends(y)
    return (high - low).max()


def _ends(y):
    """The smallest and largest coordinate along each axis."""
    points = lax.optimization_barrier(y.T)  # in memory: rows are reduced faster than columns
    return points.min(1), points.max(1)


def kernel_on_grid(
    spacing: Float[Array, ""], *, n_dims: int, dof: float = 1.0, size: int
) -> Kernel:
    """The kernel for grids of `size` nodes along each of `n_dims` axes."""
    tip, level, turns = _tip(spacing, n_dims=n_dims, dof=dof, size=size)
    spectrum, core = _spectrum(jnp.fft.fftn(tip))
    return Kernel(spectrum, spacing, level, core, turns)


@partial(jax.jit, static_argnames=("n_dims", "dof", "size"))
def _tip(spacing, *, n_dims, dof, size):
    """The kernel less its level, as complex numbers that one transform takes; level and turns."""
    steps = jnp.arange(2 * size)
    squares = (jnp.minimum(steps, 2 * size - steps).astype(spacing.dtype) * spacing) ** 2
    side = (size * spacing) ** 2
    level = (1 + side / dof) ** (-(dof + 1) / 2)

    def less_level(last):
        """`k(d) - level`, with all its digits where both are nearly 1."""
        axes = [*[squares] * (n_dims - 1), last]
        total = sum(_along(squares, i, n_dims) for i, squares in enumerate(axes))
        return level * jnp.expm1((dof + 1) / 2 * jnp.log1p((side - total) / (dof + total)))

    # Nodes are less than `size` apart: no matter what is at `size` itself.
    before, after = less_level(squares[:size]), less_level(squares[size:])
    quarter = _cosines(jnp.arange(size + 1), size, spacing.dtype)
    turns = lax.complex(quarter[:size], -quarter[:0:-1])
    tip = lax.complex(before, after) * _along(turns, n_dims - 1, n_dims)
    return tip, level, turns


@jax.jit
def _spectrum(transform):
    """The kernel's transform over that of the squared spline, and its core."""
    n_dims, size = transform.ndim, transform.shape[-1]
    dtype = transform.real.dtype
    at = jnp.arange(2 * size)
    angles = [*[at * 2] * (n_dims - 1), at[:size] * 4 + 1]  # frequencies, in pi / (2 size)
    # A cubic B-spline is 2/3 at its middle node and 1/6 at the two beside it.
    splines = [(2 + _cosines(a, size, dtype)) / 3 for a in angles]
    smoothing = math.prod(_along(s, i, n_dims) for i, s in enumerate(splines))
    spectrum = transform.real / smoothing**2
    core = spectrum
    for a in angles:
        waves = _cosines(a[:, None] * jnp.arange(4)[None], size, dtype) / a.shape[0]
        core = jnp.moveaxis(core, 0, -1)
        core = matmul(core.reshape(-1, a.shape[0]), waves).reshape(*core.shape[:-1], 4)
    return spectrum, core


def _cosines(angles, size, dtype):
    """Cosines of multiples of `pi / (2 size)`."""
    return jnp.cos((angles % (4 * size)).astype(dtype) * (jnp.pi / (2 * size)))


def field(y: Float[Array, "n q"], kernel: Kernel, *, axis_name: str | None = None) -> Field:
    """The potential of the points `y`, each of charge 1, at the nodes of a grid centred on them."""
    size = kernel.size
    capacity = next(c for c in _CAPACITIES if c >= size ** y.shape[1])
    charges = _spread(y, kernel.spacing, kernel.level, size, capacity=capacity, axis_name=axis_name)
    laid_out = _lay_out(charges.values, kernel.turns, n_dims=y.shape[1])
    values = _potential(_filter(laid_out, kernel.spectrum), kernel.turns, capacity=capacity)
    return charges._replace(values=values)


@partial(jax.jit, static_argnames=("capacity", "axis_name"))
def _spread(y, spacing, level, size, *, capacity, axis_name):
    """A field whose values are the charges at the nodes."""
    n, q = y.shape
    points = y.T
    low, high = _ends(y)
    if axis_name is not None:
        mine, is_there = share_rows(y, axis_name)
        points = mine.T
    origin = (low + high) / 2 - jnp.asarray(size - 1, y.dtype) / 2 * spacing
    first, fractions = _locate(points, origin, spacing, size)
    # Of the nodes around a point, those along the last axis are neighbours in memory: one window.
    splines = [jnp.stack(_spline(t), 1) for t in fractions]
    windows = math.prod(_along(s, i, q, batch=True) for i, s in enumerate(splines))
    if axis_name is not None:
        windows = windows * _along(is_there, 0, q + 1)
    starts = first[:, None] + _stencil(size, q)[None, ::4]
    window = lax.ScatterDimensionNumbers((1,), (), (0,))
    charges = lax.scatter_add(
        jnp.zeros((capacity,), y.dtype),
        starts.reshape(-1, 1),
        windows.reshape(-1, 4),
        window,
        mode="promise_in_bounds",
    )
    charges = charges if axis_name is None else lax.psum(charges, axis_name)
    return Field(charges, jnp.asarray(size, jnp.int32), origin, spacing, n * level)


@partial(jax.jit, static_argnames=("n_dims",))
def _lay_out(charges, turns, *, n_dims):
    size = turns.shape[0]
    charges = charges[: size**n_dims].reshape(-1, size)
    turned = lax.complex(charges * turns.real[None], charges * turns.imag[None])
    turned = turned.reshape((size,) * n_dims)
    return jnp.pad(turned, (*[(0, size)] * (n_dims - 1), (0, 0)))


@jax.jit
def _filter(laid_out, spectrum):
    transform = jnp.fft.fftn(laid_out)
    return lax.complex(transform.real * spectrum, transform.imag * spectrum)


@partial(jax.jit, static_argnames=("capacity",))
def _potential(transform, turns, *, capacity):
    size = turns.shape[0]
    turned = jnp.fft.ifftn(transform)[(slice(size),) * transform.ndim].reshape(-1, size)
    # Turned back; the imaginary part belongs to the empty half of the grid.
    values = turned.real * turns.real[None] + turned.imag * turns.imag[None]
    return jnp.pad(values.reshape(-1), (0, capacity - values.size))


def read(at: Field, y: Float[Array, "m q"]) -> Repulsion:
    """Potential and force at the points `y` of a field; outside of it, those at its edge."""
    first, fractions = _locate(y.T, at.origin, at.spacing, at.size)
    places = first[None] + _stencil(at.size, y.shape[1])[:, None]
    values = at.values.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)
    potential, slopes = _contract(list(values), _spline(fractions), _slope(fractions))
    return Repulsion(potential + at.level, -jnp.stack(slopes, 1) / at.spacing)


@jax.jit
def from_others(
    made: Field, y: Float[Array, "m q"], core: Float[Array, "*four"], level: Float[Array, ""]
) -> Repulsion:
    """What a field does to points that took part in making it, each without itself.

    Args:
        made: The field.
        y: The points.
        core: That of the kernel.
        level: That of the kernel.
    """
    potential, force = read(made, y)
    # The splines make what a point does to itself differ a little from k(0) and from no force:
    # much, where points are far apart.
    _, fractions = _locate(y.T, made.origin, made.spacing, made.size)
    overlaps, slopes = jax.jvp(_overlaps, (fractions,), (jnp.ones_like(fractions),))
    own, own_slopes = _contract(list(core.reshape(-1)), overlaps, slopes)
    # Half the derivative, for the charge stays where it is.
    own_force = -jnp.stack(own_slopes, 1) / (2 * made.spacing)
    return Repulsion(potential - own - level, force - own_force)


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
    last = jnp.asarray(size, points.dtype) - 2.001
    places = jnp.clip((points - origin[:, None]) / spacing, 1, last)
    cells = jnp.floor(places)
    first = cells[0].astype(jnp.int32) - 1
    for cell in cells[1:]:
        first = first * size + cell.astype(jnp.int32) - 1
    return first, places - cells


def _stencil(size, q):
    """Numbers of the nodes around a point, counted from the first, in the order of `product`."""
    return jnp.stack(
        [
            jnp.int32(sum(k * size**i for i, k in enumerate(reversed(places))))
            for places in itertools.product(range(4), repeat=q)
        ]
    )


def _spline(t):
    """Values at the four nodes around a point of the cubic B-spline centred on it."""
    u = 1 - t
    return [u**3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (4 - 6 * u**2 + 3 * u**3) / 6, t**3 / 6]


def _slope(t):
    """The derivatives of `_spline` with respect to the place of the point, in cells."""
    u = 1 - t
    return [-(u**2) / 2, (3 * t**2 - 4 * t) / 2, (4 * u - 3 * u**2) / 2, t**2 / 2]
