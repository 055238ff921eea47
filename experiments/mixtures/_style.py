"""How the figures of this folder look: one colour-blind-safe palette, quiet axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

# Paul Tol's "muted" scheme, made to be told apart with any common colour vision, and its grey.
MUTED = [
    "#332288",
    "#DDCC77",
    "#CC6677",
    "#117733",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#BBBBBB",
]
INK = "#222222"
SOFT = "#777777"


def palette(n: int) -> np.ndarray:
    """Return `n` colours, shape (n, 3); beyond ten they come round again, lighter."""
    base = np.array([to_rgb(colour) for colour in MUTED])
    rounds = np.arange(n) // len(base)
    return 1 - (1 - base[np.arange(n) % len(base)]) * 0.55 ** rounds[:, None]


def mix(responsibilities: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return one colour a sample: the components' colours mixed as light, by responsibility."""
    linear = responsibilities @ colours**2.2
    return np.clip(linear, 0, 1) ** (1 / 2.2)


def quiet(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Name the axes of a plot and drop the lines that show nothing."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def picture(axes: Any, image: np.ndarray, *, title: str = "", invert: bool = True) -> None:
    """Show a grey image of values in [0, 1] without axes, ink dark on paper."""
    axes.imshow(image, cmap="gray_r" if invert else "gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8, color=INK, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="#CCCCCC", linewidth=0.6)
