"""What the t-SNE experiments share: how good a map is, and what it looks like."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib import patheffects
from matplotlib import pyplot as plt

from unsup_jax.core.stats import map_rows
from unsup_jax.manifold.neighbors import knn

COLOURS = plt.get_cmap("tab10").colors  # as in the interactive maps


def accuracy(y: Any, labels: np.ndarray, new: Any = None, new_labels: Any = None) -> float:
    """Share of points whose nearest other point has their label, or of new points among `y`."""
    y = jnp.asarray(y)
    if new is None:
        return float((labels[np.asarray(knn(y, n_neighbors=1).indices[:, 0])] == labels).mean())
    nearest = knn(jnp.asarray(new), y, n_neighbors=1).indices[:, 0]
    return float((labels[np.asarray(nearest)] == new_labels).mean())


def trustworthiness(x: Any, y: Any, *, n_neighbors: int = 12, at_most: int = 2000) -> float:
    """How far neighbours in the map are neighbours in the data: 1 if all are, about 1/2 by chance.

    One minus the scaled mean rank, beyond `n_neighbors`, of a map's neighbours among those of the
    data (Venna & Kaski, Neural Networks 14, 2001). Of more than `at_most` samples, these many,
    evenly spaced, are asked for their neighbours among all.
    """
    n = len(x)
    asked = np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(int))
    near = np.asarray(_without_self(jnp.asarray(y), asked, n_neighbors))
    excess = _excess(jnp.asarray(x), jnp.asarray(asked), jnp.asarray(near))
    worst = n_neighbors * (2 * n - 3 * n_neighbors - 1) / 2
    return 1 - float(excess.mean()) / worst


def _without_self(y, asked, k):
    found = np.asarray(knn(y[asked], y, n_neighbors=k + 1).indices)
    is_self = found == asked[:, None]
    is_self[~is_self.any(1), -1] = True  # hidden by duplicates: drop the last one instead
    return found[~is_self].reshape(len(asked), k)


@jax.jit
def _excess(x, asked, near):
    """Ranks of the map's neighbours in the data, less their number where that is positive."""
    k = near.shape[1]

    def rows(tile):
        own, near = tile
        squares = jax.vmap(lambda i: ((x - x[i][None]) ** 2).sum(1))(own)
        mine = jnp.take_along_axis(squares, near, axis=1)
        closer = lax.map(lambda m: (squares < m[:, None]).sum(1), mine.T).T  # itself included
        return jnp.maximum(closer - k, 0).sum(1).astype(x.dtype)

    return map_rows(rows, (asked, near), tile_size=50)


def frame(y: np.ndarray, margin: float = 0.04) -> tuple[np.ndarray, float]:
    """Lower corner and side of the square that a map fills."""
    low, high = y.min(0), y.max(0)
    side = (high - low).max() * (1 + 2 * margin)
    return (low + high - side) / 2, side


def scatter(axes: Any, y: Any, labels: np.ndarray, *, names: bool = True) -> None:
    """Draw a map's points by the colour of their label, its name in the middle of its points."""
    y = np.asarray(y)
    size = np.clip(12000 / len(y), 0.4, 10)
    colours = np.asarray(COLOURS)[labels]
    axes.scatter(*y.T, c=colours, s=size, linewidths=0, alpha=0.8, rasterized=True)
    bare(axes, y)
    for label in np.unique(labels) if names else []:
        _name(axes, _densest(y[labels == label], frame(y)[1] / 20), label)


def bare(axes: Any, y: np.ndarray) -> None:
    """A square that holds the map, without numbers: only distances mean something."""
    low, side = frame(y)
    axes.set(xlim=(low[0], low[0] + side), ylim=(low[1], low[1] + side), xticks=[], yticks=[])
    axes.set_aspect("equal")
    axes.spines[:].set_color("#CCCCCC")


def _densest(y, scale, at_most=500):
    """Among points, the one with most others around it."""
    y = y[:: -(-len(y) // at_most)]
    squares = ((y[:, None] - y) ** 2).sum(2) / scale**2
    return y[np.exp(-squares).sum(1).argmax()]


def _name(axes, place, label):
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    axes.text(
        *place, str(label), fontsize=13, weight="bold", ha="center", va="center", path_effects=halo
    )


def thumbnails(y: Any, images: np.ndarray, labels: np.ndarray, *, size: int = 1600) -> Any:
    """Draw every picture where its point lies, its ink in the colour of its label.

    Args:
        y: The map, shape (n, 2).
        images: Ink in [0, 1], shape (n, height, width).
        labels: One of 0 to 9 a picture.
        size: Pixels of the drawing along each side.
    """
    y = np.asarray(y)
    zoom = max(1, round(size / 100 / images.shape[1]))
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    height, width = images.shape[1:]
    low, side = frame(y)
    corners = ((y - low) / side * (size - max(height, width))).astype(int)
    canvas = np.ones((size, size, 3), np.float32)
    for (column, row), image, label in zip(corners, images, labels, strict=True):
        top = size - height - row
        under = canvas[top : top + height, column : column + width]
        np.minimum(under, 1 - image[..., None] * (1 - np.asarray(COLOURS[label])), out=under)
    fig, axes = plt.subplots(figsize=(10, 10), layout="constrained")
    axes.imshow(canvas, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#CCCCCC")
    legend(fig, np.unique(labels))
    return fig


def legend(fig: Any, labels: np.ndarray) -> None:
    """Name the colours below a figure of constrained layout."""
    dots = [plt.Line2D([], [], color=COLOURS[label], marker="o", ls="") for label in labels]
    options = {"ncols": len(labels), "frameon": False, "handletextpad": 0, "columnspacing": 1.2}
    fig.legend(dots, labels, loc="outside lower center", **options)


def objective(iterations: Any, values: Any, early_iter: int) -> Any:
    """Draw the divergence by iteration, the time of early exaggeration shaded."""
    fig, axes = plt.subplots(figsize=(7, 4))
    axes.axvspan(0, early_iter, color="#EEEEEE", label="early exaggeration")
    axes.plot(iterations, values, color="#332288", linewidth=2)
    axes.text(iterations[-1], values[-1], f"{values[-1]:.3f}\n", ha="right", va="bottom")
    axes.set(xlabel="iteration", ylabel="KL(P || Q) in nats", ylim=(0, None))
    axes.set_xlim(0, iterations[-1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return fig
