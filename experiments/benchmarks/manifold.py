"""Neighbours and locally linear embedding beside scikit-learn and pynndescent; memory."""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.benchmarks.timing import alternate, peak_memory, row, seconds
from unsup_jax.linear import pca
from unsup_jax.manifold import lle
from unsup_jax.manifold.neighbors import knn

K_TSNE, K_LLE = 90, 12


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` uses 5,000 images and small rolls."""
    table = [*_neighbours(quick), *_agreement(500 if quick else 2000)]
    images = data.load("mnist5k" if quick else "mnist").x
    table.append(_embedding("swiss roll", _swiss_roll(2000 if quick else 20_000), 2.0, 3))
    sizes = ((2000, 2.0),) if quick else ((5000, 2.0), (10_000, 5.0))
    table += [_embedding("MNIST", images[:n], bar, 1) for n, bar in sizes]
    table.append(_growth(images, 2000 if quick else 10_000))
    if not quick:
        megabytes = peak_memory(_large_fit)
        what = "LLE 20000 x 784: peak MB beyond the data"
        table.append({"what": what, "ours_s": None, "bar": 4000, "quality": f"{megabytes:.0f} MB"})
    return table


def _neighbours(quick):
    if quick:
        images = data.load("mnist5k").x
    else:
        images = np.concatenate([data.mnist("train").x, data.mnist("test").x])
    params = pca.fit(jnp.asarray(images), n_components=50)
    x = pca.transform(params, jnp.asarray(images))
    host = np.asarray(x)

    def ours():
        return knn(x, n_neighbors=K_TSNE)

    def brute():
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=K_TSNE, algorithm="brute").fit(host)
        return search.kneighbors()[1]

    def approximate():
        from pynndescent import NNDescent

        return NNDescent(host, n_neighbors=K_TSNE + 1, random_state=0).neighbor_graph[0][:, 1:]

    what = f"{K_TSNE} neighbours of {len(host)} x 50"
    for name, peer, bar in (("scikit-learn brute", brute, 1.2), ("pynndescent", approximate, 1.0)):
        theirs = peer()
        timing = alternate(ours, peer, 1)
        mine = ours().indices
        quality = f"recall {_recall(mine, host):.4f}, theirs {_recall(theirs, host):.4f}"
        yield row(what, name, timing, bar, quality)


def _recall(indices, x, n_rows=500):
    """Share of the true neighbours found, by brute force in float64, ties counted as found."""
    chosen = np.random.default_rng(0).permutation(len(x))[:n_rows]
    x = x.astype(np.float64)
    found = 0.0
    for i in chosen:
        squares = ((x - x[i]) ** 2).sum(1)
        squares[i] = np.inf
        limit = np.partition(squares, K_TSNE - 1)[K_TSNE - 1]
        found += (squares[np.asarray(indices[i])] <= limit * (1 + 1e-6)).mean()
    return found / n_rows


def _swiss_roll(n):
    from sklearn.datasets import make_swiss_roll

    return make_swiss_roll(n, random_state=0)[0].astype(np.float32)


def _peer(x, method="standard", solver="arpack"):
    from sklearn.manifold import LocallyLinearEmbedding

    options = {"eigen_solver": solver, "random_state": 0, "n_jobs": -1}
    return LocallyLinearEmbedding(n_neighbors=K_LLE, n_components=2, method=method, **options).fit(
        x
    )


def _embedding(name, x, bar, repeats):
    on_device = jnp.asarray(x)

    def ours():
        return lle.fit(on_device, n_neighbors=K_LLE, n_components=2)

    timing = alternate(ours, lambda: _peer(x), repeats)
    params, theirs = ours(), _peer(x)
    quality = (
        f"error {lle.reconstruction_error(params):.6e}, theirs {theirs.reconstruction_error_:.6e}; "
        f"residuals up to {params.residuals.max():.0e}; "
        f"disparity {_disparity(theirs, params):.0e}"
    )
    what = f"LLE {name} {x.shape[0]} x {x.shape[1]}, k={K_LLE}"
    return row(what, "scikit-learn arpack", timing, bar, quality)


def _disparity(peer, params):
    from scipy.spatial import procrustes

    return procrustes(peer.embedding_, np.asarray(params.embedding, np.float64))[2]


def _agreement(n):
    x = _swiss_roll(n)
    for method in lle.METHODS:
        start = time.perf_counter()
        theirs = _peer(x, method, "dense")
        peer_s = time.perf_counter() - start
        ours = partial(lle.fit, jnp.asarray(x), n_neighbors=K_LLE, n_components=2, method=method)
        params = ours()
        ours_s = seconds(ours)
        yield {
            "what": f"LLE swiss roll {n}, {method}",
            "ours_s": ours_s,
            "peer": "scikit-learn dense",
            "peer_s": peer_s,
            "ratio": peer_s / ours_s,
            "bar": None,
            "quality": f"disparity {_disparity(theirs, params):.1e} (at most 1e-3)",
        }


def _growth(images, n):
    """Twice the samples: the time of n is the peer's column."""

    def embed(m):
        x = jnp.asarray(images[:m])
        return lambda: lle.fit(x, n_neighbors=K_LLE, n_components=2, solver="chebyshev")

    large, small = embed(2 * n), embed(n)
    seconds(small)
    timing = alternate(large, small, 1)
    quality = f"{timing.ours / timing.peer:.2f} times the time (at most 2.5)"
    return row(f"LLE MNIST {2 * n}, beside {n}", "ours, half", timing, 1 / 2.5, quality)


def _large_fit(mark):
    x = jnp.asarray(data.load("mnist").x[:20_000])
    jax.block_until_ready(x)
    mark()
    jax.block_until_ready(lle.fit(x, n_neighbors=K_LLE, n_components=2))


if __name__ == "__main__":
    from experiments.benchmarks.__main__ import markdown

    print(markdown(rows()))
