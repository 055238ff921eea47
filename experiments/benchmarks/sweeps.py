"""Sweeps in one program beside loops: mixtures of every K and seed, and a cross-validation."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.benchmarks.timing import alternate, on_devices, row
from unsup_jax import selection, sweep
from unsup_jax.linear import pca
from unsup_jax.mixtures import bernoulli, gaussian

TOL = 1e-4


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` uses fewer seeds and repeats."""
    return [
        *on_devices(_mixtures, 4 if quick else 32, 1 if quick else 3),
        *on_devices(_cross_validation, 1 if quick else 4, 1 if quick else 5),
    ]


def _fit(x, k, key):
    """All seeds and all K in one program of nine components."""
    start = gaussian.init(key, x, n_components=9)
    fit = gaussian.fit(sweep.activate(start, k), x, tol=TOL, max_iter=200)
    return fit.objective, fit.n_iter, fit.status


def _mixtures(devices, n_seeds, repeats):
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from sklearn.mixture import GaussianMixture

    warnings.filterwarnings("ignore", module="sklearn")
    images = jnp.asarray(data.mnist5k().x)
    x = pca.transform(pca.fit(images, n_components=8), images)
    counts = np.arange(2, 10)
    keys = jax.random.split(jax.random.key(0), n_seeds)
    points = sweep.grid(k=counts, key=keys)
    rows_x = np.asarray(x)

    def ours():
        return sweep.run(_fit, points, x, devices=devices).fits[0]

    def peer_fit(k, seed):
        mixture = GaussianMixture(k, tol=TOL, max_iter=200, random_state=seed).fit(rows_x)
        return mixture.score(rows_x)

    def peer():
        jobs = (delayed(peer_fit)(k, seed) for k in counts for seed in range(n_seeds))
        return np.asarray(workers(jobs)).reshape(len(counts), n_seeds)

    with Parallel(2) as workers:
        timing = alternate(ours, peer, repeats)
        gaps = np.asarray(ours()).reshape(len(counts), n_seeds).max(1) - peer().max(1)
    get_reusable_executor().shutdown()  # this process, a child itself, would wait for them
    what = f"{len(counts) * n_seeds} Gaussian mixtures, K=2..9 x {n_seeds} seeds, {x.shape[0]} x 8"
    what += f", devices: {len(devices)}"
    quality = f"best log-likelihood of each K {gaps.min():+.1e} to {gaps.max():+.1e}"
    return row(what, "scikit-learn, 2 processes", timing, 3.0, quality)


def _held_out(x, folds, fold, k, key):
    train, test = selection.split(folds, fold)
    start = bernoulli.init(key, x, train, n_components=9)
    fit = bernoulli.fit(sweep.activate(start, k), x, train, max_iter=100)
    return selection.score(bernoulli.log_prob(fit.params, x), test)


def _cross_validation(devices, n_seeds, repeats):
    x = jnp.asarray(data.digits().x > 0.5, jnp.float32)
    counts = jnp.arange(2, 10)
    folds = selection.folds(jax.random.key(1), x.shape[0], n_folds=5)
    keys = jax.random.split(jax.random.key(0), n_seeds)
    points = sweep.grid(k=counts, fold=jnp.arange(5), key=keys)

    def ours():
        return sweep.run(_held_out, points, x, folds, devices=devices).fits

    one = jax.jit(_held_out)

    def loop():
        lanes = (jax.tree.map(lambda leaf, i=i: leaf[i], points) for i in range(sweep.size(points)))
        return jnp.stack([one(x, folds, **lane) for lane in lanes])

    what = f"5-fold x 8 K x {n_seeds} seeds, Bernoulli mixture, {x.shape[0]} x {x.shape[1]}"
    what += f", devices: {len(devices)}"
    timing = alternate(ours, loop, repeats)
    gap = float(jnp.abs(ours() - loop()).max())
    return row(what, "a loop over our own jitted fit", timing, 3.0, f"scores within {gap:.0e}")


if __name__ == "__main__":
    from experiments.benchmarks.__main__ import markdown

    print(markdown(rows()))
