"""Maps for t-SNE to start from: principal components, a spectral embedding, or noise.

All are tiny (a standard deviation of 1e-4), so that the first steps decide freely. A start that
knows the large-scale layout keeps it (Kobak & Berens, Nature Communications 10, 2019).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from unsup_jax.core.checks import check_count, check_matrix
from unsup_jax.core.linalg import fix_signs, matmul
from unsup_jax.linear import pca as principal
from unsup_jax.manifold.affinities import Affinities, Sparse, n_samples

SCALE = 1e-4  # standard deviation along the first axis
_JITTER = 1e-2 * SCALE
_ROUNDS = 40  # products with the affinities in search of eigenvectors


def pca(
    x: Float[Array, "n d"], key: PRNGKeyArray | None = None, *, n_components: int = 2
) -> Float[Array, "n q"]:
    """The first principal components; duplicates stay together unless a `key` jitters them.

    Raises:
        ValueError: If there are more components than samples or features.
    """
    check_matrix("x", x)
    y = principal.transform(principal.fit(x, n_components=n_components), x)
    return _scaled(y, key)


def random(key: PRNGKeyArray, x: Float[Array, "n d"], *, n_components: int = 2):
    """Noise."""
    return SCALE * jax.random.normal(key, (x.shape[0], n_components), x.dtype)


def spectral(key: PRNGKeyArray, p: Affinities, *, n_components: int = 2) -> Float[Array, "n q"]:
    """The slowest modes of the random walk along the affinities (Laplacian eigenmaps).

    These are the eigenvectors of `D^-1 P` with the largest eigenvalues below 1, `D` the sums of the
    rows: what early exaggeration tends to (Linderman & Steinerberger, SIAM J. Math. Data Sci. 1,
    2019). They are found in a Krylov space, to the accuracy a start needs.

    Raises:
        ValueError: If `n_components` exceeds n - 1.
    """
    check_count("n_components", n_components, n_samples(p) - 1)
    return _scaled(_slowest_modes(key, p, n_components=n_components), key)


@partial(jax.jit, static_argnames=("n_components",))
def _slowest_modes(key, p, *, n_components):
    mass = p.mass if isinstance(p, Sparse) else p.sum(1)
    n = mass.shape[0]
    root = jnp.sqrt(jnp.maximum(mass, jnp.finfo(mass.dtype).tiny))
    constant = root / jnp.linalg.norm(root)

    def off(v):
        """`v` less its part along the known eigenvector of eigenvalue 1."""
        return v - constant * matmul(constant, v)

    def walk(v):
        return off(_product(p, v / root) / root)

    def orthogonal(v, basis):
        for _ in range(2):
            v = off(v - matmul(matmul(v, basis.T), basis))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    def extend(i, basis):
        return basis.at[i].set(orthogonal(walk(basis[i - 1]), basis))

    size = min(_ROUNDS, n - 1)
    basis = jnp.zeros((size, n), mass.dtype)
    basis = basis.at[0].set(orthogonal(jax.random.normal(key, (n,), mass.dtype), basis))
    basis = lax.fori_loop(1, size, extend, basis)
    products = matmul(lax.map(walk, basis), basis.T)
    _, rotation = jnp.linalg.eigh((products + products.T) / 2)
    modes = matmul(rotation[:, ::-1][:, :n_components].T, basis) / root[None]
    return fix_signs(modes).T


def _product(p, v):
    if not isinstance(p, Sparse):
        return matmul(p, v)
    sums = (p.values * v[p.columns]).sum(1)
    return jax.ops.segment_sum(sums, p.rows, v.shape[0], indices_are_sorted=True)


def _scaled(y, key):
    y = y * SCALE / jnp.maximum(y[:, 0].std(), jnp.finfo(y.dtype).tiny)
    return y if key is None else y + _JITTER * jax.random.normal(key, y.shape, y.dtype)
