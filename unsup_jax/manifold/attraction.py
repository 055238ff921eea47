"""The attraction between the points of a t-SNE map, for dense and for sparse affinities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from unsup_jax.core.linalg import matmul
from unsup_jax.core.stats import map_rows
from unsup_jax.manifold import repulsion
from unsup_jax.manifold.affinities import Affinities, Sparse

_TILE = 2**18  # pairs at a time


def attraction(
    y: Float[Array, "n q"], p: Affinities, *, dof: float = 1.0, axis_name: str | None = None
) -> Float[Array, "n q"]:
    """The attractive forces `sum_j p_ij w_ij (y_i - y_j)`, with `w = 1 / (1 + d^2 / alpha)`.

    The slices of sparse affinities may be sharded over the devices of `axis_name`.
    """
    if isinstance(p, Sparse):
        force = _sparse_attraction(y, p, dof)
        return force if axis_name is None else lax.psum(force, axis_name)
    charges = jnp.concatenate([y, jnp.ones_like(y[:, :1])], 1)

    def rows(tile):
        points, p = tile
        w, _ = repulsion.kernel(repulsion.squared_distances(points, y), dof=dof)
        sums = matmul(p * w, charges)
        return points * sums[:, -1:] - sums[:, :-1]

    return map_rows(rows, (y, p), tile_size=max(1, _TILE // y.shape[0]))


def _sparse_attraction(y, p, dof):
    if y.shape[1] == 2:
        apart = _apart_in_plane(y, p)
        w, _ = repulsion.kernel(apart.real**2 + apart.imag**2, dof=dof)
        pull = p.values * w
        force = lax.complex(pull * apart.real, pull * apart.imag).sum(1)
        force = jnp.stack([force.real, force.imag], 1)
    else:
        apart = _get(y, p.rows)[:, None] - _get(y, p.columns)
        w, _ = repulsion.kernel((apart**2).sum(2), dof=dof)
        force = (apart * (p.values * w)[:, :, None]).sum(1)
    return jax.ops.segment_sum(force, p.rows, y.shape[0], indices_are_sorted=True)


def energy(
    y: Float[Array, "n q"], p: Affinities, *, dof: float = 1.0, axis_name: str | None = None
) -> Float[Array, ""]:
    """`-sum_ij p_ij log k_ij`: the divergence but for `log Z` and the entropy of `p`."""
    if isinstance(p, Sparse):
        total = -_sparse_energies(y, p, dof).sum()
        return total if axis_name is None else lax.psum(total, axis_name)

    def rows(tile):
        points, p = tile
        return -(p * _log_kernel(repulsion.squared_distances(points, y), dof)).sum(1)

    return map_rows(rows, (y, p), tile_size=max(1, _TILE // y.shape[0])).sum()


def _sparse_energies(y, p, dof):
    """`sum_j p_ij log k_ij` of every slice."""
    if y.shape[1] != 2:
        squares = ((_get(y, p.rows)[:, None] - _get(y, p.columns)) ** 2).sum(2)
        return (p.values * _log_kernel(squares, dof)).sum(1)
    # Under `vmap` on a CPU it is far faster to gather twice, while adding, than to hold what the
    # attraction gathers in memory for both. A sum of complex numbers is one that XLA adds so.
    apart = _apart_in_plane(lax.optimization_barrier(y), p)
    terms = p.values * _log_kernel(apart.real**2 + apart.imag**2, dof)
    return lax.complex(terms, jnp.zeros_like(terms)).sum(1).real


@jax.jit
def along_curve(y: Float[Array, "n q"]) -> Int[Array, "n"]:
    """The order in which a Z-order curve (Morton, 1966) visits points: near ones come together."""
    q = y.shape[1]
    n_bits = min(10, 30 // q)
    low = y.min(0)
    widest = jnp.maximum((y.max(0) - low).max(), jnp.finfo(y.dtype).tiny)
    cells = ((y - low[None]) / widest * (2**n_bits - 1)).astype(jnp.int32)
    bits = (((cells[:, i] >> b) & 1) << (b * q + i) for b in range(n_bits) for i in range(q))
    return jnp.argsort(sum(bits, jnp.zeros_like(cells[:, 0]))).astype(jnp.int32)


def _apart_in_plane(y, p):
    """Differences of points in the plane as complex numbers: one gather for both coordinates."""
    z = lax.complex(y[:, 0], y[:, 1])
    return _get(z, p.rows)[:, None] - _get(z, p.columns)


def _log_kernel(squares, dof):
    return -(dof + 1) / 2 * jnp.log1p(squares / dof)


def _get(a, places):
    return a.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)
