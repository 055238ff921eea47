"""t-SNE of MNIST: how the map unfolds, how good it is, and new digits placed into it.

The pictures' 50 first principal components are embedded; all 70,000 with `--dataset mnist`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data, projector
from experiments.manifold import _maps
from experiments.report import Report, UserError
from unsup_jax.linear import pca
from unsup_jax.manifold import grid, starts, tsne

N_COMPONENTS = 50
CHUNK = 25  # updates between two looks at the map
SHOWN = 5000  # pictures drawn as thumbnails, at most
_divergence = jax.jit(tsne.kl_divergence)
QUICK = {"n": 600, "max_iter": 200, "early_iter": 100}


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["mnist5k", "digits", "mnist"] = "mnist5k"
    """Where the pictures come from; "mnist" is all 70,000."""
    perplexity: float = 30.0
    """Effective number of neighbours of each picture."""
    max_iter: int = 750
    """Updates, the first 250 with early exaggeration."""
    held_out: float = 0.1
    """Share of the pictures placed into a map of the others; 0 skips that."""
    seed: int = 0
    """Seed of the order of the pictures."""
    quick: bool = False
    """600 pictures and 200 updates."""


def run(config: Config, report: Report) -> None:
    """Embed the pictures, score and draw the map, then place held-out ones into one of the rest."""
    pictures = load(config.dataset, config.seed)
    if config.quick:
        pictures = pictures._replace(x=pictures.x[: QUICK["n"]], y=pictures.y[: QUICK["n"]])
    if not 1 <= config.perplexity < len(pictures.x) / 3:
        limit = len(pictures.x) // 3
        raise UserError(f"--perplexity must be 1 to {limit}, it was {config.perplexity}.")
    if not 0 <= config.held_out < 0.9:
        raise UserError(f"--held-out must be 0 to 0.9, it was {config.held_out}.")
    x, labels = columns(pictures.x), pictures.y
    images = pictures.x.reshape(-1, *pictures.shape)

    start = time.perf_counter()
    p = tsne.joint(x, config.perplexity)
    maps, objectives = {}, {}
    for state in report.progress(_states(x, p, config), "t-SNE", _max_iter(config) / CHUNK):
        n_steps, y = int(state.n_steps), state.embedding
        maps[n_steps] = np.asarray(y)
        repelled = grid.repulsion(y, size=grid.size_for(y))
        objectives[n_steps] = float(_divergence(y, p, repelled))
    seconds = time.perf_counter() - start
    report.metrics(
        n_pictures=len(x),
        seconds=seconds,
        kl_divergence=tsne.kl_divergence(y, p),
        nearest_neighbour_accuracy=_maps.accuracy(y, labels),
        nearest_neighbour_accuracy_before=_maps.accuracy(x, labels),
        trustworthiness=_maps.trustworthiness(x, y),
    )
    y = np.asarray(y)
    _draw(report, config, y, images, labels, maps, objectives)
    if config.held_out:
        _place(report, config, x, labels, y)
    projector.export(report, y, labels, images)


def load(dataset: data.Dataset, seed: int = 0) -> data.Labelled:
    """Return the pictures in random order; of MNIST the training and the test ones."""
    pictures = data.load(dataset)
    if dataset == "mnist":
        test = data.mnist("test")
        x, y = np.concatenate([pictures.x, test.x]), np.concatenate([pictures.y, test.y])
        pictures = data.Labelled(x, y, pictures.shape)
    order = np.random.default_rng(seed).permutation(len(pictures.x))
    return pictures._replace(x=pictures.x[order], y=pictures.y[order])


def columns(x: np.ndarray) -> jnp.ndarray:
    """Return the first 50 principal components of pictures."""
    pixels = jnp.asarray(x)
    return pca.transform(pca.fit(pixels, n_components=N_COMPONENTS), pixels)


def _max_iter(config):
    return min(config.max_iter, QUICK["max_iter"]) if config.quick else config.max_iter


def _early_iter(config):
    return QUICK["early_iter"] if config.quick else 250


def _states(x, p, config):
    schedule = tsne.Schedule(early_iter=_early_iter(config))
    return tsne.iterate(starts.pca(x), p, schedule, max_iter=_max_iter(config), chunk=CHUNK)


def _draw(report, config, y, images, labels, maps, objectives):
    shown = np.unique(np.linspace(0, len(y) - 1, min(SHOWN, len(y))).astype(int))
    fig, axes = plt.subplots(figsize=(10, 10))
    _maps.scatter(axes, y, labels)
    report.figure(
        fig,
        "map",
        f"{len(y)} pictures at perplexity {config.perplexity:g}, coloured by digit, which t-SNE "
        "was not told. Only who is near whom has a meaning, not the axes.",
    )
    report.figure(
        _maps.thumbnails(y[shown], images[shown], labels[shown]),
        "thumbnails",
        f"The same map with {len(shown)} of the pictures themselves.",
    )
    report.embedding(
        "explore",
        y,
        labels=labels,
        images=1 - images,
        caption="The same map, to explore.",
        at_most=SHOWN,
    )
    report.figure(
        _draw_unfolding(maps, labels),
        "unfolding",
        "How the map unfolds; each picture in its own scale. Early exaggeration gathers clusters, "
        "which then spread out.",
    )
    report.figure(
        _maps.objective(list(objectives), list(objectives.values()), _early_iter(config)),
        "objective",
        f"KL divergence every {CHUNK} iterations, without the exaggeration of the first ones.",
    )


def _draw_unfolding(maps, labels, n_shown=5):
    steps = list(maps)
    steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, n_shown).astype(int))]
    size = (3 * len(steps), 3.4)
    fig, row = plt.subplots(1, len(steps), figsize=size, squeeze=False, layout="constrained")
    for axes, n_steps in zip(row[0], steps, strict=True):
        _maps.scatter(axes, maps[n_steps], labels, names=n_steps == steps[-1])
        axes.set_title(f"iteration {n_steps}", fontsize=11)
    return fig


def _place(report, config, x, labels, together):
    """Score held-out pictures placed into a map of the others, beside embedding all together."""
    n = round(len(x) * (1 - config.held_out))
    *_, state = _states(x[:n], tsne.joint(x[:n], config.perplexity), config)
    y = state.embedding
    placed = np.asarray(tsne.transform(x[n:], x[:n], y))

    def score(known, new):
        return _maps.accuracy(known, labels[:n], new, labels[n:])

    report.table(
        "held out",
        [
            {"held-out pictures": "placed into the map", "1-NN accuracy": score(y, placed)},
            {"held-out pictures": "embedded with the others"}
            | {"1-NN accuracy": score(together[:n], together[n:])},
            {"held-out pictures": "as principal components"}
            | {"1-NN accuracy": score(x[:n], x[n:])},
        ],
        f"How many of {len(placed)} held-out pictures have the digit of the nearest other one.",
    )
    y = np.asarray(y)
    fig, axes = plt.subplots(figsize=(8, 8), layout="constrained")
    axes.scatter(*y.T, c="#DDDDDD", s=np.clip(12000 / len(y), 0.4, 10), linewidths=0)
    _maps.scatter(axes, placed, labels[n:], names=False)
    _maps.bare(axes, np.concatenate([y, placed]))
    _maps.legend(fig, np.unique(labels))
    report.figure(
        fig,
        "held_out",
        f"{len(placed)} held-out pictures, coloured by digit, placed into a map of the others "
        "(grey) without moving it.",
    )
