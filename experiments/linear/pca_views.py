"""The two views of PCA: the axis that keeps most variance is the one that loses least.

Left: samples of a Gaussian, its principal axes, and the samples' projections on the first. Middle:
for every direction, the variance of the projection and the error of the reconstruction; their sum
does not change, so the maximum of one is the minimum of the other. Right: the same trade for the
number of axes, on handwritten digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data
from experiments.report import Report
from unsup_jax.linear import pca

KEPT, LOST, AXES = "tab:blue", "tab:orange", "black"


@dataclass(frozen=True)
class Config:
    """Settings."""

    n_samples: int = 300
    """Samples of the Gaussian."""
    dataset: Literal["digits", "mnist5k", "mnist"] = "digits"
    """Images of the right panel."""
    seed: int = 0
    """Seed of all random numbers."""
    quick: bool = False
    """Use fewer samples and the small digits."""


def run(config: Config, report: Report) -> None:
    """Fit both data sets and draw the three panels."""
    n = 60 if config.quick else config.n_samples
    root = jnp.asarray([[2.0, 0.0], [1.1, 0.6]])
    x = jax.random.normal(jax.random.key(config.seed), (n, 2)) @ root.T + jnp.asarray([[3.0, 1.0]])
    params = pca.fit(x, n_components=2)
    images = data.load("digits" if config.quick else config.dataset)

    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    _draw_projection(left, x, params)
    report.metrics(**_draw_directions(middle, x, params))
    report.metrics(**_draw_numbers(right, jnp.asarray(images.x)))
    report.figure(
        fig,
        "views",
        "The first principal axis keeps the most variance and loses the least of the samples; "
        f"so do the first L axes together ({config.dataset}).",
    )


def _draw_projection(ax, x, params):
    first = pca.truncate(params, n_components=1)
    shown = pca.inverse_transform(first, pca.transform(first, x))
    for point, image in zip(x[:80], shown[:80], strict=True):
        ax.plot(*np.stack([point, image]).T, color=LOST, lw=0.8, zorder=1)
    ax.scatter(*x.T, s=9, color="0.6", zorder=2)
    ax.scatter(*shown[:80].T, s=12, color=KEPT, zorder=3)
    for i, (axis, variance) in enumerate(
        zip(params.components, params.explained_variance, strict=True)
    ):
        arrow = 2 * jnp.sqrt(variance) * axis
        ax.annotate(
            "",
            params.mean + arrow,
            params.mean,
            arrowprops={"arrowstyle": "-|>", "color": AXES, "lw": 2.2},
            zorder=4,
        )
        text = params.mean + arrow * (1.12 if i == 0 else 1.5)
        ax.text(*text, f"$w_{i + 1}$", fontsize=14, ha="center", va="center")
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(title="projections on the first axis", xlabel="$x_1$", ylabel="$x_2$")


def _draw_directions(ax, x, params):
    angles = jnp.linspace(0, jnp.pi, 181)
    directions = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)

    def both(direction):
        along = params._replace(components=direction[None])
        return pca.transform(along, x).var(), pca.reconstruction_error(along, x)

    variance, error = jax.vmap(both)(directions)
    degrees = np.degrees(angles)
    best = np.degrees(np.arctan2(*params.components[0][::-1])) % 180
    ax.plot(degrees, variance, color=KEPT, label="variance of the projection")
    ax.plot(degrees, error, color=LOST, label="reconstruction error")
    ax.plot(degrees, variance + error, color="0.6", ls=":", label="sum: total variance")
    ax.axvline(best, color=AXES, lw=1, ls="--", label="direction of $w_1$")
    for level in params.explained_variance:
        ax.axhline(float(level), color="0.85", lw=1, zorder=0)
    ax.set(title="every direction", xlabel="angle of $w$, degrees", ylabel="variance")
    ax.set_xticks(range(0, 181, 45))
    ax.set_ylim(0, 1.35 * float((variance + error).max()))
    ax.legend(fontsize=9, loc="upper center", ncols=2)
    spread = jnp.ptp(variance + error) / (variance + error).mean()
    return {
        "angle_of_first_axis_degrees": best,
        "angle_of_largest_variance_degrees": degrees[variance.argmax()],
        "angle_of_smallest_error_degrees": degrees[error.argmin()],
        "lambda_1": params.explained_variance[0],
        "largest_projected_variance": variance.max(),
        "relative_change_of_the_sum": spread,
    }


def _draw_numbers(ax, x):
    d = x.shape[1]
    params = pca.fit(x, n_components=d)
    numbers = sorted({*range(1, min(d, 10)), *np.linspace(10, d, 12).astype(int).tolist()})

    def kept(number):
        # The same basis without the axes beyond `number`: one program for every number of axes.
        on = jnp.arange(d) < number
        first = params._replace(components=params.components * on[:, None])
        return pca.reconstruction_error(first, x)

    error = jax.lax.map(kept, jnp.asarray(numbers))
    explained = jnp.cumsum(params.explained_variance)
    total = explained[-1]
    ax.plot(range(1, d + 1), explained / total, color=KEPT, label=r"$\sum_{l \leq L} \lambda_l$")
    ax.plot(range(1, d + 1), 1 - explained / total, color=LOST, label=r"$\sum_{l > L} \lambda_l$")
    ax.plot(numbers, error / total, "o", ms=4, color=LOST, label="reconstruction error, measured")
    wanted = pca.n_components_for(params, 0.9)
    ax.axvline(int(wanted), color=AXES, lw=1, ls="--", label=f"90% with {int(wanted)} axes")
    ax.set(title=f"L of {d} axes", xlabel="L", ylabel="fraction of the total variance")
    ax.legend(fontsize=9, loc="center right")
    difference = error - (total - explained[jnp.asarray(numbers) - 1])
    return {
        "axes_for_90_percent": wanted,
        "largest_difference_of_error_and_tail": jnp.abs(difference).max() / total,
    }
