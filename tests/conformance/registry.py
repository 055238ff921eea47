"""Every iterative algorithm of the library, once: the conformance tests walk this list."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unsup_jax.manifold import affinities, tsne
from unsup_jax.mixtures import bernoulli, gaussian, kmeans
from unsup_jax.sparse import dictionary, nmf


def blobs(dtype=jnp.float32, n=301, d=3, centres=3, scale=1.0, offset=0.0):
    """Three loose clusters of real-valued data; 301 rows divide neither tiles nor devices."""
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(centres, d)) * 4
    x = middle[np.arange(n) % centres] + rng.normal(size=(n, d)) * scale + offset
    return jnp.asarray(x, dtype)


def bits(dtype=jnp.float32, n=301, d=8):
    """Binary data from three prototypes with a tenth of the bits flipped."""
    rng = np.random.default_rng(0)
    prototypes = rng.random((3, d)) < 0.5
    return jnp.asarray(prototypes[np.arange(n) % 3] ^ (rng.random((n, d)) < 0.1), dtype)


def amounts(dtype=jnp.float32):
    """The same clusters, without signs."""
    return jnp.abs(blobs(dtype))


@dataclass(frozen=True)
class Algorithm:
    """How to start and fit one algorithm, and what is true of it.

    Attributes:
        name: Shown in test ids.
        fit: `fit(params, x, weights=None, ..., *, max_iter, tile_size, axis_name) -> Fit`.
        start: `start(key, x, weights=None) -> params`.
        data: `data(dtype) -> x`.
        sweep: Three values of every traced hyperparameter of `fit`.
        sign: +1 if the objective is maximised, -1 if minimised, 0 if it need not be monotone.
        exact: Fixed values of hyperparameters at which the objective is exactly monotone.
        is_sum: Whether `fit` sums over samples: takes weights, tiles and shards.
    """

    name: str
    fit: Callable[..., Any]
    start: Callable[..., Any]
    data: Callable[..., Any]
    sweep: dict[str, tuple[float, float, float]]
    sign: int
    exact: dict[str, float] = field(default_factory=dict)
    is_sum: bool = True

    @property
    def traced(self) -> list[str]:
        parameters = inspect.signature(self.fit).parameters.values()
        traced = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        return [name for name in traced if name not in ("params", "centers", "x", "weights")]

    def __str__(self) -> str:
        return self.name


def _gaussian(structure):
    return Algorithm(
        f"gaussian-{structure}",
        gaussian.fit,
        partial(gaussian.init, n_components=3, covariance=structure),
        blobs,
        # No improvement of these fits is within rounding of a tolerance: lanes stop where loops do.
        {"reg_covar": (1e-6, 1e-2, 1.0), "tol": (1e-2, 3e-4, 0.0)},
        sign=1,
        exact={"reg_covar": 0.0},
    )


def _embed(params, x, perplexity=10.0, learning_rate=10.0, tol=-1.0, *, max_iter=100):
    """t-SNE from data to map: one expression in all that can be swept.

    At twice this learning rate rounding triples every few steps.
    """
    p = affinities.dense(x, perplexity)
    return tsne.fit(params, p, tsne.Schedule(learning_rate), tol, max_iter=max_iter)


def _scattered(key, x, weights=None):
    """A map to start from, wide enough for steps not to hang on rounding."""
    return tsne.start(jax.random.normal(key, (x.shape[0], 2), x.dtype))


def _dictionary_start(key, x, weights=None):
    return dictionary.init(key, x, n_components=3)


def _dictionary_fit(params, x, weights=None, lam=0.5, tol=1e-4, code_tol=1e-4, **static):
    return dictionary.fit(params, x, lam, weights, tol, code_tol, **static)


def _parts_start(key, x, weights=None):
    return nmf.init(key, x, n_components=3, method="nndsvda").components


def _parts_fit(params, x, weights=None, tol=1e-5, **static):
    """The parts alone, as codes belong to rows: those start from ones."""
    codes = jnp.ones((x.shape[0], params.shape[0]), params.dtype)
    fit = nmf.fit(nmf.Params(codes, params), x, weights, None, tol, **static)
    return fit._replace(params=fit.params.components)


def _static(fit):
    """`fit` with the signature of its model's, whose keywords it hands on."""
    model = {_dictionary_fit: dictionary.fit, _parts_fit: nmf.fit}[fit]
    own, whole = inspect.signature(fit), inspect.signature(model)
    names = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    names += [p for p in whole.parameters.values() if p.kind is p.KEYWORD_ONLY]
    fit.__signature__ = own.replace(parameters=names)
    return fit


ALGORITHMS = [
    Algorithm(
        "kmeans",
        kmeans.fit,
        partial(kmeans.init, n_components=3),
        blobs,
        {"tol": (1e-1, 1e-3, 0.0)},
        sign=-1,
    ),
    *(_gaussian(structure) for structure in ("full", "tied", "diagonal", "spherical")),
    Algorithm(
        "bernoulli",
        bernoulli.fit,
        partial(bernoulli.init, n_components=3),
        bits,
        # As above: the improvements about a tolerance are 6e-4 and 2e-4.
        {"smoothing": (0.0, 0.05, 1.0), "tol": (1e-2, 3e-4, 0.0)},
        sign=1,
    ),
    Algorithm(
        "tsne",
        _embed,
        _scattered,
        partial(blobs, n=60),
        {
            "perplexity": (5.0, 10.0, 15.0),
            "learning_rate": (5.0, 10.0, 20.0),
            "tol": (-1.0, 1e-3, 0.0),
        },
        sign=0,
        is_sum=False,
    ),
    Algorithm(
        "dictionary",
        _static(_dictionary_fit),
        _dictionary_start,
        blobs,
        {"lam": (0.1, 0.5, 2.0), "tol": (1e-2, 1e-3, 0.0), "code_tol": (1e-3, 1e-4, 1e-6)},
        sign=-1,
        exact={"code_tol": 1e-13},
    ),
    Algorithm(
        "nmf", _static(_parts_fit), _parts_start, amounts, {"tol": (1e-2, 1e-4, 0.0)}, sign=-1
    ),
]


def start(algorithm, x, weights=None, seed=0):
    return algorithm.start(jax.random.key(seed), x, weights)
