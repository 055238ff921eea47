"""t-SNE of scikit-learn's handwritten digits: a map of thumbnails, and one for each perplexity.

The maps of all perplexities are one program: `vmap` over the affinities and the whole optimisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data, projector
from experiments.manifold import _maps
from experiments.report import Report, UserError
from unsup_jax.manifold import affinities, starts, tsne
from unsup_jax.manifold.neighbors import knn

QUICK = {"n": 400, "max_iter": 200, "early_iter": 80}


@dataclass(frozen=True)
class Config:
    """Settings."""

    perplexity: float = 30.0
    """Effective number of neighbours of each digit."""
    perplexities: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    """Those of the row of small maps."""
    max_iter: int = 750
    """Updates of each map, the first 250 with early exaggeration."""
    seed: int = 0
    """Seed of the order of the digits."""
    quick: bool = False
    """400 digits, 200 updates, three small maps."""


def run(config: Config, report: Report) -> None:
    """Embed all digits, draw and score the map, and draw the small maps beside each other."""
    digits = data.digits()
    order = np.random.default_rng(config.seed).permutation(len(digits.x))
    order = order[: QUICK["n"]] if config.quick else order
    x, labels = jnp.asarray(digits.x[order]), digits.y[order]
    images = digits.x[order].reshape(-1, *digits.shape)
    perplexities = config.perplexities[1:6:2] if config.quick else config.perplexities
    if not perplexities:
        raise UserError("--perplexities must name one at least.")
    asked = (*perplexities, config.perplexity)
    if not 1 <= min(asked) <= max(asked) <= len(x) // 3:
        raise UserError(f"Perplexities must be 1 to {len(x) // 3}, a third of the digits.")
    early_iter = QUICK["early_iter"] if config.quick else 250
    max_iter = min(config.max_iter, QUICK["max_iter"]) if config.quick else config.max_iter

    start, schedule = starts.pca(x), tsne.Schedule(early_iter=early_iter)
    fit = tsne.fit(start, tsne.joint(x, config.perplexity), schedule, max_iter=max_iter)
    y = np.asarray(fit.params.embedding)
    report.metrics(
        n_digits=len(x),
        kl_divergence=fit.objective,
        nearest_neighbour_accuracy=_maps.accuracy(y, labels),
        trustworthiness=_maps.trustworthiness(x, y),
    )
    report.figure(
        _maps.thumbnails(y, images, labels),
        "thumbnails",
        f"All {len(x)} digits at perplexity {config.perplexity:g}, coloured by what they "
        "stand for, which t-SNE was not told. Only who is near whom has a meaning, not the axes.",
    )
    report.embedding(
        "map", y, labels=labels, images=1 - images, caption="The same map, to explore."
    )
    iterations = np.arange(1, max_iter + 1)
    report.figure(
        _maps.objective(iterations, fit.history, early_iter),
        "objective",
        "KL divergence by iteration, without the exaggeration of the first ones.",
    )
    swept = sweep(x, start, perplexities, schedule, max_iter)
    report.figure(
        _draw_sweep(perplexities, swept, labels),
        "perplexities",
        "One map for each perplexity, fitted at once by vmap: from many small groups to few large "
        "ones. KL divergences are to different affinities, so no measure of which map is best.",
    )
    report.table("perplexities", _scores(x, labels, perplexities, swept), "Scores of the maps.")
    projector.export(report, y, labels, images)


def sweep(
    x: jax.Array,
    start: jax.Array,
    perplexities: tuple[float, ...],
    schedule: tsne.Schedule,
    max_iter: int,
) -> tsne.Fit:
    """Fit a map for each perplexity, all in one program."""
    neighbors = knn(x, n_neighbors=min(len(x) - 1, int(3 * max(perplexities))))
    where = affinities.pattern(neighbors)

    def fit(perplexity):
        p = affinities.from_distances(where, neighbors, perplexity)
        return tsne.fit(start, p, schedule, max_iter=max_iter)

    return jax.jit(jax.vmap(fit))(jnp.asarray(perplexities, x.dtype))


def _scores(x, labels, perplexities, swept):
    return [
        {
            "perplexity": perplexity,
            "kl_divergence": objective,
            "1-NN accuracy": _maps.accuracy(y, labels),
            "trustworthiness": _maps.trustworthiness(x, y),
        }
        for perplexity, objective, y in zip(
            perplexities, swept.objective, swept.params.embedding, strict=True
        )
    ]


def _draw_sweep(perplexities, swept, labels):
    size = (2.7 * len(perplexities), 3.6)
    fig, row = plt.subplots(1, len(perplexities), figsize=size, squeeze=False, layout="constrained")
    maps = zip(row[0], perplexities, swept.objective, swept.params.embedding, strict=True)
    for axes, perplexity, objective, y in maps:
        _maps.scatter(axes, y, labels, names=False)
        axes.set_title(f"perplexity {perplexity:g}\nKL {objective:.2f}", fontsize=11)
    _maps.legend(fig, np.unique(labels))
    return fig
