"""Locally linear embedding of pictures of one digit: what varies between them, laid out in a plane.

Each picture is a point with as many coordinates as pixels. A part of the pictures is held back and
placed afterwards, by the weights that reconstruct a picture from its neighbours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from experiments import data
from experiments.report import Report, UserError
from unsup_jax.manifold import lle
from unsup_jax.manifold.neighbors import knn


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["mnist5k", "digits", "mnist"] = "mnist5k"
    """Where the pictures come from."""
    digit: int = 2
    """The digit whose pictures are laid out."""
    n_neighbors: int = 12
    """Neighbours of each picture."""
    method: Literal["standard", "modified", "hessian", "ltsa"] = "modified"
    """Which embedding to draw; all are scored."""
    held_out: float = 0.1
    """Share of the pictures placed afterwards."""
    seed: int = 0
    """Seed of the split."""
    quick: bool = False
    """At most 200 pictures."""


def run(config: Config, report: Report) -> None:
    """Embed the pictures of one digit, draw them where they fell, and place the held-out ones."""
    seen, new, shape = _pictures(config)
    if not 6 <= config.n_neighbors < len(seen):
        limit = len(seen) - 1
        raise UserError(f"--n-neighbors must be 6 to {limit}, it was {config.n_neighbors}.")
    neighbors = knn(seen, n_neighbors=config.n_neighbors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table tells into how many parts a graph falls
        fits = {m: lle.fit(seen, neighbors, n_components=2, method=m) for m in lle.METHODS}
    table = []
    for method, params in fits.items():
        row = {"method": method, "error": lle.reconstruction_error(params)}
        row |= {"residual": params.residuals.max(), "groups": params.n_groups}
        row["near new pictures"] = _closeness(params, new)
        table.append(row)
    report.table(
        "methods",
        table,
        "Objective, largest residual and parts of each method. Last: distance in the plane of a "
        "held-out picture to its nearest picture in pixels, over that to a random one. Hessian and "
        "ltsa leave a picture that is nobody's neighbour without any row: a part of its own.",
    )
    params = fits[config.method]
    placed = np.asarray(lle.transform(params, new))
    report.metrics(n_pictures=len(seen), n_held_out=len(new), n_groups=params.n_groups)
    report.metric("closeness of held-out pictures", _closeness(params, new))
    report.figure(
        _draw(_ranks(params.embedding), np.asarray(seen), shape),
        "thumbnails",
        f"{len(seen)} pictures of a {config.digit} by {config.method} embedding; axes are ranks "
        "along each coordinate, and pictures that would cover another are left out.",
    )
    report.embedding(
        "map",
        _ranks(params.embedding),
        labels=np.asarray(seen).mean(1),
        images=1 - np.asarray(seen).reshape(-1, *shape),
        caption="The same map, all pictures in their places. Colour: mean ink.",
        axes=("first coordinate (rank)", "second coordinate (rank)"),
    )
    report.figure(
        _draw_placed(
            np.asarray(params.embedding), np.asarray(seen), placed, np.asarray(new), shape
        ),
        "held_out",
        "Held-out pictures (framed) where their reconstruction weights put them.",
    )


def _pictures(config):
    """Pictures to embed and pictures to place, as rows, and their shape."""
    pictures = data.load(config.dataset)
    x = pictures.x[pictures.y == config.digit]
    if len(x) == 0:
        raise UserError(f"--digit must be 0 to 9, it was {config.digit}.")
    if not 0 < config.held_out < 0.9:
        raise UserError(f"--held-out must be between 0 and 0.9, it was {config.held_out}.")
    x = x[np.random.default_rng(config.seed).permutation(len(x))]
    x = x[:200] if config.quick else x
    n_new = max(1, round(config.held_out * len(x)))
    return jnp.asarray(x[n_new:]), jnp.asarray(x[:n_new]), pictures.shape


def _closeness(params, new):
    placed = np.asarray(lle.transform(params, new))
    z = np.asarray(params.embedding)
    nearest = np.asarray(knn(new, params.x, n_neighbors=1).indices[:, 0])
    other = np.random.default_rng(0).permutation(len(z))[: len(new)]
    to_nearest = np.linalg.norm(placed - z[nearest], axis=1)
    return np.median(to_nearest) / np.median(np.linalg.norm(placed - z[other], axis=1))


def _ranks(z):
    """Each coordinate by its rank, from 0 to 1: outliers stop squeezing everyone else."""
    z = np.asarray(z)
    return z.argsort(0).argsort(0) / (len(z) - 1)


def _draw(places, images, shape, spacing=0.036):
    fig, axes = plt.subplots(figsize=(10, 10))
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    axes.set_xlabel("first coordinate (rank)")
    axes.set_ylabel("second coordinate (rank)")
    axes.spines[["top", "right"]].set_visible(False)
    shown = np.full((1, 2), -np.inf)
    for place, image in zip(places, images, strict=True):
        if (np.abs(shown - place).max(1) >= spacing).all():
            shown = np.vstack([shown, place])
            ink = np.zeros((*shape, 4))  # black, as opaque as the picture is dark
            ink[..., 3] = image.reshape(shape)
            box = OffsetImage(ink, zoom=26 / shape[0])
            axes.add_artist(AnnotationBbox(box, place, frameon=False, pad=0))
    return fig


def _draw_placed(z, images, placed, new, shape, n_rows=8, n_nearest=9):
    scale = (np.percentile(z, 95, axis=0) - np.percentile(z, 5, axis=0))[None]
    n_rows = min(n_rows, len(new))
    fig, grid = plt.subplots(n_rows, 1 + n_nearest, figsize=(1 + n_nearest, n_rows), squeeze=False)
    for row, place, picture in zip(grid, placed[:n_rows], new[:n_rows], strict=True):
        nearest = np.argsort((((z - place) / scale) ** 2).sum(1))[:n_nearest]
        for axes, image in zip(row, [picture, *images[nearest]], strict=True):
            axes.imshow(image.reshape(shape), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].spines[:].set(visible=True, color="#882255", linewidth=2)
    return fig
