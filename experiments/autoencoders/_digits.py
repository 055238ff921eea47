"""What the experiments of this folder share: digits in three parts, and sheets of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments import data

N_HELD_OUT = {"digits": 150, "mnist5k": 500, "mnist": 5000}


class Split(NamedTuple):
    """Grey images in [0, 1] as rows, in an order of chance.

    Attributes:
        train: To learn from.
        valid: To choose the best epoch.
        test: To score.
        labels: Of `test`.
        shape: `(height, width)`.
    """

    train: Float[Array, "n d"]
    valid: Float[Array, "m d"]
    test: Float[Array, "t d"]
    labels: np.ndarray
    shape: tuple[int, int]


def load(dataset: data.Dataset, *, quick: bool = False) -> Split:
    """Images of `dataset`, the same parts whatever the seed; a few of them if `quick`."""
    known = data.load(dataset)
    order = np.random.default_rng(0).permutation(len(known.x))
    x, y = known.x[order], known.y[order]
    n = N_HELD_OUT[dataset]
    if dataset == "mnist":
        test, labels, _ = data.mnist("test")
    else:
        test, labels, x = x[:n], y[:n], x[n:]
    valid, train = x[:n], x[n:]
    if quick:
        train, valid, test, labels = train[:600], valid[:100], test[:100], labels[:100]
    return Split(*map(jnp.asarray, (train, valid, test)), labels, known.shape)


def sheet(images: Any, shape: tuple[int, int], line: float = 1.0) -> np.ndarray:
    """One picture of a table of images, shape (rows, columns, d), with lines between them."""
    images = np.asarray(images)
    rows, columns = images.shape[:2]
    margins = [(0, 0), (0, 0), (0, 1), (0, 1)]
    tiles = np.pad(images.reshape(rows, columns, *shape), margins, constant_values=line)
    height, width = tiles.shape[2:]
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width)[:-1, :-1]


def show(ax: Any, picture: np.ndarray, title: str = "", **options: Any) -> None:
    """Draw a picture of values in [0, 1] without axes."""
    ax.imshow(picture, **({"cmap": "gray", "vmin": 0, "vmax": 1} | options))
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, loc="left", fontsize=11)
    ax.spines[:].set_visible(False)


def name_rows(ax: Any, names: Sequence[str], shape: tuple[int, int]) -> None:
    """Write a name beside each row of a sheet."""
    middles = (np.arange(len(names)) + 0.5) * (shape[0] + 1) - 1
    ax.set_yticks(middles, names, fontsize=10)
    ax.tick_params(length=0)
