"""PCA beside scikit-learn: the solver it would pick, its randomized one, wide data; memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments import data
from experiments.benchmarks.timing import alternate, peak_memory, row
from unsup_jax.linear import pca

N_COMPONENTS = 50
N_ITER = 3  # of our randomized solver: the fewest with a smaller subspace error than the peer's
LARGE = (1_000_000, 128)


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` uses 5,000 images and fewer repeats."""
    repeats = 3 if quick else 7
    images = data.load("mnist5k" if quick else "mnist").x
    table = [*_tall(images, repeats), *_wide(repeats)]
    megabytes = peak_memory(_large_fit)
    what = f"PCA {LARGE[0]:,} x {LARGE[1]} to {N_COMPONENTS}: peak MB beyond the data"
    return [*table, {"what": what, "ours_s": None, "bar": 200, "quality": f"{megabytes:.0f} MB"}]


def _tall(x, repeats):
    exact = _peer(x.astype(np.float64), "full")
    for solver, peer, bar in (("auto", "covariance_eigh", 1.2), ("randomized", "randomized", 5.0)):
        ours, timing = _compare(x, solver, peer, repeats)
        quality = (
            f"variance error {_variance_error(ours[1], exact):.0e}, "
            f"theirs {_variance_error(ours[3], exact):.0e}; "
            f"subspace error {_subspace_error(ours[0], exact):.1e}, "
            f"theirs {_subspace_error(ours[2], exact):.1e}"
        )
        what = f"PCA {x.shape[0]} x {x.shape[1]} to {N_COMPONENTS}, {solver}"
        yield row(what, f"scikit-learn {peer}", timing, bar, quality)


def _wide(repeats):
    """Beside each solver that scikit-learn has for wide data; the smallest ratio counts."""
    scale = np.linspace(1, 0.1, 20_000, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal((500, 20_000), np.float32) * scale
    exact = _peer(x, "full")
    for peer in ("full", "arpack", "randomized"):
        ours, timing = _compare(x, "auto", peer, repeats)
        quality = (
            f"variance error {_variance_error(ours[1], exact):.0e}, "
            f"theirs {_variance_error(ours[3], exact):.0e}"
        )
        what = f"PCA {x.shape[0]} x {x.shape[1]} to {N_COMPONENTS}, auto"
        yield row(what, f"scikit-learn {peer}", timing, 2.0, quality)


def _compare(x, solver, peer, repeats):
    """Our components and variances, theirs, and the times."""
    on_device = jnp.asarray(x)
    key = jax.random.key(0) if solver == "randomized" else None

    def ours():
        return pca.fit(on_device, n_components=N_COMPONENTS, solver=solver, key=key, n_iter=N_ITER)

    timing = alternate(ours, lambda: _peer(x, peer), repeats)
    params, theirs = ours(), _peer(x, peer)
    variance = np.asarray(params.explained_variance) * len(x) / (len(x) - 1)
    return (params.components, variance, theirs.components_, theirs.explained_variance_), timing


def _peer(x, solver):
    from sklearn.decomposition import PCA

    return PCA(N_COMPONENTS, svd_solver=solver, random_state=0).fit(x)


def _variance_error(variance, exact):
    """Largest relative error of an explained variance."""
    return np.abs(variance / exact.explained_variance_ - 1).max()


def _subspace_error(components, exact):
    """Frobenius norm of what of the components lies outside the exact subspace."""
    components = np.asarray(components, np.float64)
    inside = components @ exact.components_.T
    return np.linalg.norm(components - inside @ exact.components_)


def _large_fit(mark):
    @jax.jit
    def make():  # in one fused loop, so that making the data takes no more than the data
        i, j = (lax.broadcasted_iota(jnp.float32, LARGE, axis) for axis in (0, 1))
        return jnp.sin(i * (1 + j) * 0.01) / (1 + j)

    x = jax.block_until_ready(make())
    mark()
    jax.block_until_ready(pca.fit(x, n_components=N_COMPONENTS))


if __name__ == "__main__":
    from experiments.benchmarks.__main__ import markdown

    print(markdown(rows()))
