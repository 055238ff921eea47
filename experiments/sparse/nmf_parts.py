"""Parts of faces and of digits by non-negative matrix factorisation, beside PCA's axes.

Parts that can only be added, never subtracted, come out local: strokes of a digit, features of a
face. Principal axes of the same number reconstruct better, but each covers the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data
from experiments.report import Report
from unsup_jax.linear import pca
from unsup_jax.sparse import nmf


@dataclass(frozen=True)
class Config:
    """Settings."""

    n_components: int = 25
    """Number of parts, and of principal axes."""
    max_iter: int = 300
    """Largest number of updates."""
    seed: int = 0
    """Seed of the start."""
    quick: bool = False
    """Fewer updates."""


def run(config: Config, report: Report) -> None:
    """Factorise faces and digits; draw parts, axes and reconstructions."""
    k, max_iter = config.n_components, 40 if config.quick else config.max_iter
    faces, digits = data.faces(), data.mnist5k()
    sets = {"faces": (faces.x[faces.y == 1], faces.shape), "digits": (digits.x, digits.shape)}
    for name, (images, shape) in sets.items():
        x = jnp.asarray(images)
        start = nmf.init(jax.random.key(config.seed), x, n_components=k)
        fit = nmf.fit(start, x, max_iter=max_iter, unit_ball=True)
        parts = fit.params
        axes = pca.fit(x, n_components=k)
        mixed = {
            "NMF": nmf.inverse_transform(parts, parts.codes),
            "PCA": pca.inverse_transform(axes, pca.transform(axes, x)),
        }
        errors = {
            kind: float(jnp.linalg.norm(y - x) / jnp.linalg.norm(x)) for kind, y in mixed.items()
        }
        report.metrics(
            **{
                f"{name}_nmf_relative_error": errors["NMF"],
                f"{name}_pca_relative_error": errors["PCA"],
                f"{name}_nmf_spread": spread(np.asarray(parts.components)),
                f"{name}_pca_spread": spread(np.asarray(axes.components)),
                f"{name}_n_iter": fit.n_iter,
            }
        )
        _draw(report, name, np.asarray(parts.components), np.asarray(axes.components), shape)
        order = np.linspace(0, len(x) - 1, 8).astype(int)
        chosen = {"image": x} | mixed
        _draw_images(
            report, name, {kind: np.asarray(y)[order] for kind, y in chosen.items()}, shape, errors
        )


def spread(components: np.ndarray) -> float:
    """Return the mean share of pixels that a component covers: `(sum |w|)^2 / (d sum w^2)`."""
    covered = np.abs(components).sum(1) ** 2 / (components**2).sum(1)
    return float(covered.mean() / components.shape[1])


def _draw(report, name, parts, axes, shape):
    # The parts that hold the most come first, as the axes do.
    fig = plt.figure(figsize=(10, 5.4))
    halves = fig.subfigures(1, 2, wspace=0.04)
    titles = ("NMF: parts, only added", "PCA: axes, added (red) or subtracted (blue)")
    side = int(np.ceil(np.sqrt(len(parts))))
    for half, rows, title in zip(halves, (parts, axes), titles, strict=True):
        half.suptitle(f"{title} ({name})", fontsize=11)
        for axis, row in zip(half.subplots(side, side).flat, rows, strict=False):
            scale = np.abs(row).max()
            if (row < 0).any():
                axis.imshow(row.reshape(shape), cmap="RdBu_r", vmin=-scale, vmax=scale)
            else:
                axis.imshow(row.reshape(shape), cmap="gray_r", vmin=0, vmax=scale)
        for axis in half.axes:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#CCCCCC")
    report.figure(
        fig,
        f"{name}_parts",
        f"What {len(parts)} non-negative parts of {name} look like, dark where they add ink or "
        "light, beside as many principal axes.",
    )


def _draw_images(report, name, rows, shape, errors):
    fig, axes = plt.subplots(3, 8, figsize=(9, 3.7))
    for line, (kind, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.reshape(shape), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        label = kind if kind == "image" else f"{kind}\nerror {errors[kind]:.0%}"
        line[0].set_ylabel(label, fontsize=10, rotation=0, ha="right", va="center")
    fig.suptitle(f"Some {name} and what the two make of them", fontsize=11)
    report.figure(
        fig,
        f"{name}_reconstructions",
        "Images, their sums of non-negative parts, and their projections on the principal axes; "
        "the error is relative to the length of all images.",
    )
