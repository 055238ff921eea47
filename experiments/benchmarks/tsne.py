"""t-SNE beside openTSNE and scikit-learn: whole jobs in fresh processes, from the same start.

A job goes from the 50 principal components to the map: neighbours, affinities, 250 + 500 updates,
and our compilation. All maps are judged by one exact divergence.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.benchmarks.timing import Timing, alone, alternate, on_devices, row
from unsup_jax import sweep
from unsup_jax.linear import pca
from unsup_jax.manifold import affinities, starts, tsne
from unsup_jax.manifold.neighbors import knn

PERPLEXITIES = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0)


class Job(NamedTuple):
    """Seconds, the map, and the largest resident memory of its process in GB."""

    seconds: float
    embedding: np.ndarray
    gigabytes: float


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` leaves out the large and the slow jobs."""
    if quick:
        return [*_small(_columns("mnist5k", 1000)), *on_devices(_sweep, 200)]
    x = _columns("mnist", 70_000)
    return [
        *_small(x[:2000]),
        _compare(x[:10_000], *OPEN_TSNE, 4.0),
        *on_devices(_sweep, 750),
        _compare(x, *OPEN_TSNE, 3.5, repeats=1),
    ]


def _columns(dataset, n):
    """The 50 first principal components of MNIST in random order."""
    pictures = data.load(dataset).x
    if dataset == "mnist":
        pictures = np.concatenate([pictures, data.mnist("test").x])
    pixels = jnp.asarray(pictures[np.random.default_rng(0).permutation(len(pictures))[:n]])
    return np.asarray(pca.transform(pca.fit(pixels, n_components=50), pixels))


def _time(job, *args):
    imported = job()  # libraries are loaded before the clock starts
    start = time.perf_counter()
    embedding = imported(*args)
    seconds = time.perf_counter() - start
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return Job(seconds, embedding, peak / 2**20)


def _ours():
    return lambda x, start: np.asarray(tsne.embed(jnp.asarray(x), start=jnp.asarray(start)))


def _open_tsne():
    from openTSNE import TSNE

    return lambda x, start: np.asarray(TSNE(initialization=start, n_jobs=2, random_state=0).fit(x))


def _exact():
    from sklearn.manifold import TSNE

    options = {"max_iter": 750, "method": "exact", "n_jobs": 2}
    return lambda x, start: TSNE(init=start, **options).fit_transform(x)


def _barnes_hut():
    from sklearn.manifold import TSNE

    options = {"max_iter": 750, "method": "barnes_hut", "n_jobs": 2}
    return lambda x, start: TSNE(init=start, **options).fit_transform(x)


OPEN_TSNE = ("openTSNE, 2 threads", _open_tsne)


def _compare(x, name, job, bar, repeats=3):
    """A row of our job beside a peer's, one after the other, `repeats` times; medians."""
    start = np.asarray(starts.pca(jnp.asarray(x)))
    runs = [(alone(_time, _ours, x, start), alone(_time, job, x, start)) for _ in range(repeats)]
    ours, theirs = zip(*runs, strict=True)
    seconds, peer_seconds = (
        float(np.median([run.seconds for run in side])) for side in (ours, theirs)
    )
    judge, p = jax.jit(tsne.kl_divergence), tsne.joint(jnp.asarray(x))
    mine, peer = (
        float(judge(jnp.asarray(side[0].embedding, jnp.float32), p)) for side in (ours, theirs)
    )
    peak = max(run.gigabytes for run in ours)
    quality = f"KL {mine:.3f}, theirs {peer:.3f}; peak {peak:.1f} GB"
    timing = Timing(seconds, peer_seconds, seconds)
    return row(f"t-SNE, MNIST {len(x)} x 50, whole job", name, timing, bar, quality)


def _small(x):
    return [
        _compare(x, "scikit-learn exact", _exact, 25.0),
        _compare(x, "scikit-learn barnes_hut", _barnes_hut, 2.0),
        _compare(x, *OPEN_TSNE, 1.0),
    ]


def _sweep(devices, max_iter):
    """Maps of all digits at eight perplexities in one program, beside one after the other."""
    x = jnp.asarray(data.digits().x)
    start, neighbors = starts.pca(x), knn(x, n_neighbors=int(3 * max(PERPLEXITIES)))
    shared = start, affinities.pattern(neighbors), neighbors
    points = sweep.grid(perplexity=jnp.asarray(PERPLEXITIES))

    def fit(start, where, neighbors, perplexity):
        p = affinities.from_distances(where, neighbors, perplexity)
        return tsne.fit(start, p, max_iter=max_iter).objective

    single = jax.jit(fit)

    def ours():
        return sweep.run(fit, points, *shared, devices=devices).fits

    def loop():
        return jnp.stack([single(*shared, p) for p in points["perplexity"]])

    what = f"{len(PERPLEXITIES)} t-SNE maps of {len(x)} digits, a sweep of perplexities"
    what += f", devices: {len(devices)}"
    timing = alternate(ours, loop, 3)
    gap = float(jnp.abs(ours() - loop()).max())
    return row(what, "one after the other", timing, 1.5, f"KL within {gap:.0e}")


if __name__ == "__main__":
    from experiments.benchmarks.__main__ import markdown

    print(markdown(rows()))
