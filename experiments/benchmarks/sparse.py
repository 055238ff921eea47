"""Sparse coding beside scikit-learn and SPAMS, on patches of shipped photographs."""

from __future__ import annotations

import functools
import statistics

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Timing, alternate, row, seconds
from unsup_jax.sparse import lasso, omp

N_SIGNALS, N_ATOMS, SIZE, LAM, N_NONZERO = 20_000, 256, 8, 0.15, 10


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` uses 2,000 patches and fewer repeats."""
    n, repeats = (2000, 3) if quick else (N_SIGNALS, 5)
    x, components = problem(n)
    return [*_lasso(x, components, repeats), *_omp(x, components, repeats), _path(x, components)]


def problem(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches without their mean, of unit length, and a dictionary that SPAMS learned from them."""
    import spams
    from skimage import data
    from sklearn.feature_extraction.image import extract_patches_2d

    image = data.camera().astype(np.float32) / 255
    x = extract_patches_2d(image, (SIZE, SIZE), max_patches=3 * n, random_state=0)
    x = x.reshape(len(x), -1)
    x = x - x.mean(1, keepdims=True)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = (x / np.maximum(norms, 1e-6))[norms[:, 0] > 0.1][:n]
    atoms = spams.trainDL(
        np.asfortranarray(x.T), K=N_ATOMS, lambda1=LAM, iter=100, batchsize=512, verbose=False
    )
    return x, np.ascontiguousarray(atoms.T)


def _lasso(x, components, repeats):
    import spams
    from sklearn.decomposition import sparse_encode

    x_, components_ = jnp.asarray(x), jnp.asarray(components)
    columns, atoms = np.asfortranarray(x.T), np.asfortranarray(components.T)

    def ours():
        return lasso.encode(components_, x_, LAM, 1e-6)

    def theirs():
        return spams.lasso(columns, atoms, lambda1=LAM, mode=2, numThreads=2)

    def slow():
        return sparse_encode(x, components, algorithm="lasso_lars", alpha=LAM)

    fit = ours()
    codes = jnp.asarray(theirs().todense().T)
    value = lasso.objective(components_, x_, codes, LAM)
    gap = lasso.duality_gap(components_, x_, codes, LAM) / value
    quality = (
        f"relative gap {fit.error.max():.0e}, theirs {gap.max():.0e}; "
        f"{(fit.params != 0).sum(1).mean():.1f} nonzeros"
    )
    what = f"lasso, {len(x)} x {x.shape[1]}, {len(components)} atoms, lam {LAM}"
    yield row(what, "SPAMS", alternate(ours, theirs, repeats), 0.3, quality)
    yield row(what, "scikit-learn lasso_lars", _once(ours, slow), 25.0, quality)


def _omp(x, components, repeats):
    import spams
    from sklearn.decomposition import sparse_encode

    x_, components_ = jnp.asarray(x), jnp.asarray(components)
    columns, atoms = np.asfortranarray(x.T), np.asfortranarray(components.T)

    def ours():
        return omp.encode(components_, x_, n_nonzero=N_NONZERO)

    def theirs():
        return spams.omp(columns, atoms, L=N_NONZERO, eps=0.0, numThreads=2)

    def slow():
        return sparse_encode(x, components, algorithm="omp", n_nonzero_coefs=N_NONZERO)

    def residual(codes):
        return float(((x - np.asarray(codes) @ components) ** 2).sum(1).mean())

    quality = f"mean squared residual {residual(ours()):.5f}, theirs "
    what = f"OMP, {len(x)} x {x.shape[1]}, {len(components)} atoms, {N_NONZERO} of them"
    peer = f"{residual(theirs().todense().T):.5f}"
    yield row(what, "SPAMS", alternate(ours, theirs, repeats), 0.4, quality + peer)
    peer = f"{residual(slow()):.5f}"
    yield row(what, "scikit-learn", _once(ours, slow), 30.0, quality + peer)


def _path(x, components, n=5000, n_lams=20):
    x_, components_ = jnp.asarray(x[:n]), jnp.asarray(components)
    lams = jnp.geomspace(0.8, LAM, n_lams)
    whole = functools.partial(lasso.path, components_, x_, lams, 1e-6)

    def singles():
        return [lasso.encode(components_, x_, lam, 1e-6).params for lam in lams]

    timing = alternate(whole, singles, 3)
    fit = whole()
    gap = max(np.abs(a - b).max() for a, b in zip(fit.params, singles(), strict=True))
    quality = f"relative gap {fit.error.max():.0e}, codes within {gap:.0e}"
    what = f"{n_lams}-lambda path, {len(x_)} signals"
    return row(what, "20 single solves", timing, 2.0, quality)


def _once(ours, slow):
    """A peer that takes many seconds is timed once, amid calls of ours."""
    first = seconds(ours)
    before, peer = [seconds(ours) for _ in range(3)], seconds(slow)
    return Timing(statistics.median([*before, seconds(ours), seconds(ours)]), peer, first)
