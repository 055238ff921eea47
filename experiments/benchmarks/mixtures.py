"""Mixtures beside scikit-learn and NumPy."""

from __future__ import annotations

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments import data
from experiments.benchmarks.timing import Timing, alternate, peak_memory, row, seconds
from unsup_jax.linear import pca
from unsup_jax.mixtures import bernoulli, gaussian

ITERATIONS = 10


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` uses 5,000 images and fewer repeats."""
    warnings.filterwarnings("ignore", module="sklearn")
    images = data.load("mnist5k" if quick else "mnist").x
    images = images[:60000]
    repeats = 3 if quick else 5
    params = pca.fit(jnp.asarray(images), n_components=50)
    x = np.asarray(pca.transform(params, jnp.asarray(images)))
    table = [
        _em(x, 16, "full", "float32", 3.0, repeats),
        _em(x, 16, "full", "float64", 2.5, repeats),
        _floor(x, repeats),
        _em(x, 64, "diagonal", "float32", 3.0, repeats),
        *_bernoulli(images, repeats),
        _restarts(x[:5000, :8], repeats),
    ]
    megabytes = peak_memory(_large_fit)
    what = f"Gaussian EM, full, {LARGE[0]:,} x {LARGE[1]}, K=64: peak MB beyond the data"
    return [*table, {"what": what, "ours_s": None, "bar": 500, "quality": f"{megabytes:.0f} MB"}]


def _em(x, k, structure, dtype, bar, repeats):
    """Time of one iteration: that of 2 + ITERATIONS less that of 2, so that set-up cancels."""
    from sklearn.mixture import GaussianMixture

    x = x.astype(dtype)
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        data_x = jnp.asarray(x)
        start = gaussian.init(
            jax.random.key(0), data_x, n_components=k, covariance=structure, method="random"
        )
        dense = np.asarray(start.covariance.dense(k, x.shape[1]))
        precisions = 1 / np.diagonal(dense, axis1=1, axis2=2)
        if structure == "full":
            precisions = np.linalg.inv(dense)

        def ours(n):
            return gaussian.fit(start, data_x, tol=-1.0, max_iter=n)

        def peer(n):
            return GaussianMixture(
                k,
                covariance_type="diag" if structure == "diagonal" else structure,
                max_iter=n,
                tol=0.0,
                init_params="random_from_data",
                weights_init=np.full(k, 1 / k, dtype),
                means_init=np.asarray(start.means),
                precisions_init=precisions.astype(dtype),
                random_state=0,
            ).fit(x)

        few, many = 2, 2 + ITERATIONS
        base = alternate(lambda: ours(few), lambda: peer(few), repeats)
        timing = alternate(lambda: ours(many), lambda: peer(many), repeats)
        difference = Timing(timing.ours - base.ours, timing.peer - base.peer, timing.first)
        gap = float(ours(many).objective) - float(peer(many).score(x))
    result = row(
        f"Gaussian EM, {structure}, {x.shape[0]} x {x.shape[1]}, K={k}, {dtype}, an iteration",
        "scikit-learn",
        difference,
        bar,
        f"mean log-likelihood {gap:+.1e}",
        per=ITERATIONS,
    )
    return result | {"compile_s": timing.first - timing.ours}


def _floor(x, repeats):
    """The two matrix products of a full-covariance step alone: whitening and scatter."""
    k, d, tile = 16, x.shape[1], 2000
    data_x = jnp.asarray(x)
    start = gaussian.init(jax.random.key(0), data_x, n_components=k, method="random")
    whitening = jax.random.normal(jax.random.key(1), (k * d, d), data_x.dtype)

    @jax.jit
    def products(x, whitening):
        def body(i, total):
            xt = lax.dynamic_slice_in_dim(x, i * tile, tile).T
            y = jnp.matmul(whitening, xt, precision="highest")
            return total + jnp.matmul(y, xt.T, precision="highest")

        return lax.fori_loop(0, x.shape[0] // tile, body, jnp.zeros((k * d, d), x.dtype))

    def floor():
        return [products(data_x, whitening) for _ in range(1 + ITERATIONS)]

    def ours():
        return gaussian.fit(start, data_x, tol=-1.0, max_iter=ITERATIONS)

    timing = alternate(ours, floor, repeats)
    what = f"the same, full, float32: beside its own matrix products (floor / ours), K={k}"
    return row(what, "matrix products", timing, 1 / 3, "", per=1 + ITERATIONS)


def _bernoulli(images, repeats, k=100, n_iter=4):
    x = (images > 0.5).astype(np.float32)
    data_x = jnp.asarray(x)
    start = bernoulli.init(jax.random.key(0), data_x, n_components=k)

    def ours():
        return bernoulli.fit(start, data_x, tol=-1.0, max_iter=n_iter)

    def numpy_em():
        log_weights, mu = np.asarray(start.log_weights), np.asarray(start.means)
        for _ in range(n_iter + 1):
            joint = x @ np.log(mu / (1 - mu)).T + (np.log1p(-mu).sum(1) + log_weights)
            joint -= joint.max(1, keepdims=True)
            r = np.exp(joint, out=joint)
            r /= r.sum(1, keepdims=True)
            mass = r.sum(0)
            mu = (r.T @ x + np.float32(0.05)) / (mass[:, None] + np.float32(0.1))
            log_weights = np.log(mass / len(x))
        return mu

    @jax.jit
    def products(x, theta):
        return jnp.matmul(jnp.matmul(theta, x.T), x)

    def floor():
        return [products(data_x, start.means) for _ in range(n_iter + 1)]

    gap = np.abs(
        np.asarray(bernoulli.fit(start, data_x, tol=-1.0, max_iter=n_iter + 1).params.means)
        - numpy_em()
    ).max()
    what = f"Bernoulli EM, {x.shape[0]} x {x.shape[1]}, K={k}, float32, an iteration"
    seconds(floor)
    return [
        row(what, "NumPy", alternate(ours, numpy_em, repeats), 1.1, f"means {gap:.0e}", n_iter + 1),
        row(
            "the same, beside its own matrix products (floor / ours)",
            "matrix products",
            alternate(ours, floor, repeats),
            1 / 1.5,
            "",
            n_iter + 1,
        ),
    ]


def _restarts(x, repeats, k=5, n_restarts=32):
    from sklearn.mixture import GaussianMixture

    data_x = jnp.asarray(x)
    keys = jax.random.split(jax.random.key(0), n_restarts)

    @jax.jit
    def best_of(keys, x):
        starts = jax.vmap(lambda key: gaussian.init(key, x, n_components=k))(keys)
        fits = jax.vmap(lambda s: gaussian.fit(s, x, tol=1e-3, max_iter=100))(starts)
        return fits.objective.max()

    def peer():
        return GaussianMixture(k, n_init=n_restarts, tol=1e-3, max_iter=100, random_state=0).fit(x)

    timing = alternate(lambda: best_of(keys, data_x), peer, repeats)
    gap = float(best_of(keys, data_x)) - float(peer().score(x))
    what = f"{n_restarts} restarts of a K={k} fit, {x.shape[0]} x {x.shape[1]}, one vmap"
    return row(what, "scikit-learn n_init", timing, 3.0, f"best log-likelihood {gap:+.1e}")


LARGE = (1_000_000, 16)


def _large_fit(mark):
    x = jax.random.normal(jax.random.key(0), LARGE, jnp.float32)
    start = gaussian.init(jax.random.key(1), x[:2000], n_components=64, method="random")
    jax.block_until_ready(gaussian.fit(start, x[:4000], tol=-1.0, max_iter=1))
    mark()
    jax.block_until_ready(gaussian.fit(start, x, tol=-1.0, max_iter=1))
