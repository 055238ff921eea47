"""Locally linear embedding of rolled-up sheets: a swiss roll, an S, and a roll with a hole.

Points on a curved sheet in three dimensions are laid out flat by four methods that only look at
neighbours. The colours follow the coordinate along the sheet, which none of them has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.report import Report, UserError
from unsup_jax.manifold import lle
from unsup_jax.manifold.neighbors import knn


@dataclass(frozen=True)
class Config:
    """Settings."""

    n_samples: int = 2000
    """Points of each sheet."""
    n_neighbors: int = 12
    """Neighbours of each point."""
    seed: int = 0
    """Seed of the points."""
    quick: bool = False
    """At most 1200 points."""


def run(config: Config, report: Report) -> None:
    """Embed each sheet with each method, draw them side by side, and score them by the truth."""
    n = min(config.n_samples, 1200) if config.quick else config.n_samples
    # Hessians of two coordinates need six neighbours.
    if not 6 <= config.n_neighbors < n:
        raise UserError(f"--n-neighbors must be 6 to {n - 1}, it was {config.n_neighbors}.")
    sheets = _sheets(n, config.seed)
    table, embeddings = [], {}
    for name, (x, truth) in sheets.items():
        x = jnp.asarray(x, jnp.float32)
        neighbors = knn(x, n_neighbors=config.n_neighbors)
        for method in lle.METHODS:
            params = lle.fit(x, neighbors, n_components=2, method=method)
            embeddings[name, method] = np.asarray(params.embedding)
            along, across = _explained(params.embedding, truth)
            row = {"sheet": name, "method": method, "along": along, "across": across}
            table.append(row | {"residual": params.residuals.max(), "groups": params.n_groups})
            report.metric(f"{name}, {method}: R2 along the sheet", along)
    report.table(
        "scores",
        table,
        "R2 of the two true coordinates, predicted affinely from the embedding; the largest "
        "residual ||Mv - lambda v||; the parts the neighbourhoods fall into.",
    )
    report.figure(
        _draw(sheets, embeddings),
        "unfolded",
        f"{n} points of each sheet, {config.n_neighbors} neighbours; axes are in units of the "
        "standard deviation. Hessian and tangent-space (ltsa) methods keep the sheet's shape up to "
        "an affine map; the standard weights bend it.",
    )


def _sheets(n, seed):
    """Points `(n, 3)` and their true coordinates along (arc length) and across the sheet."""
    from sklearn.datasets import make_s_curve, make_swiss_roll

    roll, angle = make_swiss_roll(n, random_state=seed)
    holed, holed_angle = make_swiss_roll(n, hole=True, random_state=seed)
    curve, turn = make_s_curve(n, random_state=seed)

    def spiral(t):  # arc length of r = t
        return (t * np.sqrt(1 + t**2) + np.arcsinh(t)) / 2

    return {
        "swiss roll": (roll, np.stack([spiral(angle), roll[:, 1]], 1)),
        "S-curve": (curve, np.stack([turn, curve[:, 1]], 1)),
        "roll with a hole": (holed, np.stack([spiral(holed_angle), holed[:, 1]], 1)),
    }


def _explained(embedding, truth):
    """How much of each true coordinate an affine function of the embedding explains (R2)."""
    basis = np.column_stack([np.asarray(embedding, np.float64), np.ones(len(truth))])
    fitted = basis @ np.linalg.lstsq(basis, truth, rcond=None)[0]
    return (1 - ((truth - fitted) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)).tolist()


def _draw(sheets, embeddings):
    columns = 1 + len(lle.METHODS)
    fig = plt.figure(figsize=(3 * columns, 3 * len(sheets)))
    for i, (name, (x, truth)) in enumerate(sheets.items()):
        shade = {"c": truth[:, 0], "cmap": "viridis", "s": 4, "linewidths": 0}
        axes = fig.add_subplot(len(sheets), columns, i * columns + 1, projection="3d")
        axes.scatter(x[:, 0], x[:, 2], x[:, 1], **shade)
        axes.view_init(12, -75)
        axes.set_title(name, fontsize=11)
        axes.set(xticklabels=[], yticklabels=[], zticklabels=[])
        for j, method in enumerate(lle.METHODS):
            axes = fig.add_subplot(len(sheets), columns, i * columns + 2 + j)
            axes.scatter(*embeddings[name, method].T, **shade)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#CCCCCC")
            axes.set_title(method if i == 0 else "", fontsize=11)
    fig.subplots_adjust(wspace=0.08, hspace=0.08)
    return fig
