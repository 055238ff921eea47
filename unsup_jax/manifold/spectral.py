"""The smallest eigenpairs of `M = A'A` for a tall matrix `A` of small local rows that sum to zero.

What every variant of locally linear embedding ends in. The wanted eigenvalues lie between 1e-5 and
1e-11 for a matrix of norm about 8, so all of this wants float64 (`jax.enable_x64`).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import LinearOperator, eigsh, splu

from unsup_jax.core import linalg, stats

SOLVERS = ("auto", "dense", "factor", "chebyshev")

_SMALL = 256  # samples: dense
_CACHED = 2**19  # entries of a gathered tile
_DEGREES = 100, 1000  # of a filter polynomial, and so products with M a round
_PRODUCTS = 10_000  # in all, about
_GAIN = 1e3  # of a round on the wanted vectors, at most: the next knows better what to damp
_SPARE = 6  # columns of the iterated block beyond those wanted, at least
_TOLERANCE = 1e-10  # of a residual
_WORTH = 2e6  # operations a factor may cost for each sample


class Stencil(NamedTuple):
    """`A` in small pieces: `r` rows for each of the `n` samples, with `s` entries each.

    Attributes:
        columns: The columns in which the rows of a sample may differ from 0, shape `(n, s)`.
        rows: The entries there, shape `(n, r, s)`; each row sums to 0, so that `A 1 = 0`.
    """

    columns: Int[Array, "n s"]
    rows: Float[Array, "n r s"]


class Eigenpairs(NamedTuple):
    """Eigenpairs of `M`, smallest eigenvalue first, the constant vector left out.

    Attributes:
        values: Eigenvalues, shape `(q,)`.
        vectors: Eigenvectors as columns, orthonormal and orthogonal to 1, shape `(n, q)`.
        residuals: `||M v - lambda v||`, shape `(q,)`.
    """

    values: Float[Array, "q"]
    vectors: Float[Array, "n q"]
    residuals: Float[Array, "q"]


def apply(stencil: Stencil, v: Float[Array, "n b"]) -> Float[Array, "n b"]:
    """`M v = A'(A v)` by one gather and one scatter over the entries of `A`."""

    def local(tile, weights):
        columns, rows = tile
        products = linalg.einsum("nrs,nsb->nrb", rows, v[columns])
        products = products if weights is None else products * weights[:, None, None]
        return jnp.zeros_like(v).at[columns].add(linalg.einsum("nrs,nrb->nsb", rows, products))

    # The gathered entries of a tile stay in cache, or the cost of a sample grows with their number.
    tile_size = max(1, _CACHED // (stencil.columns.shape[1] * v.shape[1]))
    return stats.accumulate(local, tuple(stencil), tile_size=tile_size)


def to_dense(stencil: Stencil) -> Float[Array, "n n"]:
    """`M` as an array."""
    columns, rows = stencil
    n = columns.shape[0]
    local = linalg.einsum("nrs,nrt->nst", rows, rows)
    m = jnp.zeros((n, n), rows.dtype)
    return m.at[columns[:, :, None], columns[:, None, :]].add(local)


def to_sparse(stencil: Stencil) -> sparse.csc_array:
    """`M` as a SciPy matrix of compressed columns."""
    columns, rows = map(np.asarray, stencil)
    n, r, s = rows.shape
    entries = np.broadcast_to(columns[:, None], rows.shape).ravel()
    starts = np.arange(0, n * r * s + 1, s)
    a = sparse.csr_array((rows.ravel(), entries, starts), shape=(n * r, n))
    return (a.T @ a).tocsc()


def bottom(stencil: Stencil, *, n_vectors: int, solver: str = "auto") -> Eigenpairs:
    """The `n_vectors` eigenpairs of `M` with the smallest eigenvalues, but for the constant vector.

    - "dense": LAPACK's `eigh`; for up to a few thousand samples, and the choice under `jit`.
    - "factor": shift-invert Lanczos on a sparse factorisation, on the host. It resolves the tiny
      gaps (1e-11) of curved sheets, whose neighbourhood graphs factorise with little fill.
    - "chebyshev": subspace iteration with a polynomial filter, on the device, in time and memory
      linear in n. For data of many dimensions, whose factors fill up but whose gaps are wide.
    - "auto": "dense" under `jit` or for at most 256 samples. Otherwise by the graph: the widest
      ring of a breadth-first search separates it, and a factor is about as costly as a dense one of
      that many rows. While that is cheap, "factor"; else "chebyshev", and "factor" after all
      should its residuals not come down.
    """
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in stencil)
    n = stencil.columns.shape[0]
    if solver == "dense" or (solver == "auto" and (traced or n <= _SMALL)):
        return _dense(stencil, n_vectors=n_vectors)
    if traced and solver == "factor":
        raise ValueError("solver 'factor' works on the host: use 'dense' or 'chebyshev' under jit")
    if solver == "factor" or (solver == "auto" and _fills_little(stencil)):
        return _factor(stencil, n_vectors=n_vectors)
    found = _chebyshev(stencil, n_vectors=n_vectors)
    if solver == "auto" and not bool((found.residuals <= _TOLERANCE).all()):
        return _factor(stencil, n_vectors=n_vectors)
    return found


def _rayleigh_ritz(stencil, basis):
    """The best eigenpairs within the span of some orthonormal columns."""
    image = apply(stencil, basis)
    values, rotation = jnp.linalg.eigh(linalg.matmul(basis.T, image))
    vectors, image = linalg.matmul(basis, rotation), linalg.matmul(image, rotation)
    return Eigenpairs(values, vectors, jnp.linalg.norm(image - vectors * values[None], axis=0))


def _orthonormal(v):
    """Orthonormal columns with the span of `v`, less the constant vector."""
    return jnp.linalg.qr(v - v.mean(0)[None])[0]


@partial(jax.jit, static_argnames=("n_vectors",))
def _dense(stencil, *, n_vectors):
    m = to_dense(stencil)
    # Lift the constant vector from the bottom of the spectrum above the rest of it.
    m = m + _norm_bound(stencil) / m.shape[0]
    return _rayleigh_ritz(stencil, _orthonormal(jnp.linalg.eigh(m)[1][:, :n_vectors]))


def _norm_bound(stencil):
    """A bound of the largest eigenvalue: the largest sum of magnitudes in a row of `|A|'|A|`."""
    magnitudes = Stencil(stencil.columns, jnp.abs(stencil.rows))
    return apply(magnitudes, jnp.ones((stencil.columns.shape[0], 1), stencil.rows.dtype)).max()


def _factor(stencil, *, n_vectors):
    """Shift-invert Lanczos: the largest eigenvalues of `(M - sigma I)^-1` off the constant."""
    m = to_sparse(stencil)
    n = m.shape[0]
    # Just below 0, and far above the rounding of M, so that a factor without pivoting exists.
    sigma = -1e-13 * m.diagonal().max()
    factor = splu(
        m - sigma * sparse.eye_array(n, format="csc"),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )

    def solve(v):
        v = factor.solve(v - v.mean())
        return v - v.mean()

    inverse = LinearOperator((n, n), matvec=solve, dtype=m.dtype)
    start = np.random.default_rng(0).normal(size=n)
    # The inverse's eigenvalues lie far apart: a short basis is enough.
    basis = min(max(10, 3 * n_vectors), n - 1)
    start = start - start.mean()
    vectors = eigsh(m, n_vectors, sigma=sigma, OPinv=inverse, v0=start, ncv=basis)[1]
    return _polish(stencil, jnp.asarray(vectors))


@jax.jit
def _polish(stencil, vectors):
    return _rayleigh_ritz(stencil, _orthonormal(vectors))


def _fills_little(stencil):
    return widest_rings(np.asarray(stencil.columns)) ** 3 <= _WORTH * stencil.columns.shape[0]


def widest_rings(columns: np.ndarray) -> int:
    """Rows in the widest two adjacent rings of a breadth-first search: they separate the graph."""
    n, s = columns.shape
    starts = np.arange(0, n * s + 1, s)
    graph = sparse.csr_array((np.ones(n * s), columns.ravel(), starts), shape=(n, n))
    far = 0
    for _ in range(2):  # a second search, from the rim, has narrower rings
        rings = csgraph.dijkstra(graph, directed=False, indices=far, unweighted=True)
        rings = np.where(np.isfinite(rings), rings, -1).astype(int)
        far = int(rings.argmax())
    return int(np.convolve(np.bincount(rings[rings >= 0]), [1, 1]).max())


@partial(jax.jit, static_argnames=("n_vectors",))
def _chebyshev(stencil, *, n_vectors):
    """Subspace iteration with Chebyshev polynomials of `M`, the constant vector projected out.

    A round multiplies the part of the block along an eigenvalue below `cut`, the largest Ritz value
    of the block, by the polynomial that is at most 1 in magnitude between `cut` and the norm. Its
    degree is what the residuals still need; long polynomials gain more by each product.
    """
    n = stencil.columns.shape[0]
    dtype = stencil.rows.dtype
    width = min(-(-(n_vectors + _SPARE) // 8) * 8, n - 1)  # whole vector registers
    top = _largest(stencil)

    def round_(state):
        pairs, products = state
        cut = jnp.minimum(pairs.values[-1], top / 2)
        missing = pairs.residuals[:n_vectors].max() / _TOLERANCE
        degree = _degree(pairs.values[n_vectors - 1], cut, top, 2 * missing)
        block = _filter(stencil, pairs.vectors, cut, top, degree)
        return _rayleigh_ritz(stencil, _orthonormal(block)), products + degree

    def unfinished(state):
        pairs, products = state
        return (products < _PRODUCTS) & ~(pairs.residuals[:n_vectors] <= _TOLERANCE).all()

    start = _rayleigh_ritz(stencil, _orthonormal(_noise(0, n, width, dtype)))
    pairs, _ = lax.while_loop(unfinished, round_, (start, jnp.int32(0)))
    return Eigenpairs(
        pairs.values[:n_vectors], pairs.vectors[:, :n_vectors], pairs.residuals[:n_vectors]
    )


def _noise(seed, n, width, dtype):
    # 32 bits throughout: random numbers of 64 do not lower under the float32 `jit` of a caller.
    key = jax.random.key(np.uint32(seed))
    return jax.random.normal(key, (n, width), jnp.float32).astype(dtype)


def _degree(value, cut, top, gain):
    """Of the Chebyshev polynomial on `[cut, top]` that is `gain` at `value`, within limits."""

    def arccosh(t):  # of 1 + t
        return jnp.log1p(t + jnp.sqrt(t * (t + 2)))

    rate = arccosh(2 * jnp.maximum(cut - value, 0) / (top - cut))
    degree = arccosh(jnp.clip(gain, 2, _GAIN) - 1) / jnp.maximum(rate, 1e-9)
    return jnp.clip(degree, *_DEGREES).astype(jnp.int32)


def _filter(stencil, v, cut, top, degree):
    """`T((M - c) / h) v`, T the Chebyshev polynomial; `[cut, top]` goes to `[-1, 1]`."""
    centre, half = (top + cut) / 2, (top - cut) / 2

    def scaled(v):
        return (apply(stencil, v) - centre * v) / half

    def step(_, pair):
        old, new = pair
        return new, 2 * scaled(new) - old

    return lax.fori_loop(1, degree, step, (v, scaled(v)))[1]


def _largest(stencil):
    """An upper estimate of the largest eigenvalue of `M`, by power iteration.

    The filter explodes along eigenvalues above the estimate, hence the margin.
    """
    n = stencil.columns.shape[0]
    v = _orthonormal(_noise(1, n, 4, stencil.rows.dtype))
    v = lax.fori_loop(0, 30, lambda _, v: _orthonormal(apply(stencil, v)), v)
    pairs = _rayleigh_ritz(stencil, v)
    return jnp.minimum(1.05 * pairs.values[-1] + pairs.residuals[-1], _norm_bound(stencil))
