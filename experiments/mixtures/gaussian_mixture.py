"""A Gaussian mixture of handwritten digits in two dimensions, and how many components they need.

The digits are projected on their first two principal components. For each covariance structure one
compiled program fits every number of components from many random starts: `K` is data, because a
component of log weight `-inf` is switched off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib import pyplot as plt
from matplotlib.patches import Ellipse
from sklearn.metrics import adjusted_rand_score

from experiments import data
from experiments.mixtures import _style as style
from experiments.report import Report, UserError
from unsup_jax.core.fit import Fit, Status
from unsup_jax.mixtures import covariance as structures
from unsup_jax.mixtures import gaussian, kmeans


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["digits", "mnist5k", "mnist"] = "digits"
    """Which digits to project."""
    structure: Literal["full", "tied", "diagonal", "spherical"] = "full"
    """Covariance structure of the mixture that is drawn."""
    n_components: int | None = None
    """Number of components of the mixture that is drawn; by default the one BIC prefers."""
    max_components: int = 12
    """Largest number of components tried."""
    restarts: int = 8
    """Random starts for each number of components."""
    max_iter: int = 300
    """Largest number of EM iterations."""
    reg_covar: float = 1e-4
    """Added to every variance."""
    seed: int = 0
    """Seed of all random numbers."""
    quick: bool = False
    """Try fewer components from fewer starts."""


class Sweep(NamedTuple):
    """All fits of one covariance structure.

    Attributes:
        fits: Leaves of shape (n_K, n_restarts, ...), one entry for every K from 1 and every start.
        bic: Bayesian information criterion of each, shape (n_K, n_restarts).
    """

    fits: Fit
    bic: jax.Array

    def best(self, k: int) -> Fit:
        """Return the fit of K components that has the highest likelihood."""
        winner = int(np.argmax(self.fits.objective[k - 1]))
        return jax.tree.map(lambda leaf: leaf[k - 1, winner], self.fits)

    def curve(self) -> np.ndarray:
        """Return the BIC of the likeliest fit of each K, shape (n_K,)."""
        winners = np.argmax(self.fits.objective, axis=1)
        return np.asarray(self.bic)[np.arange(len(winners)), winners]


def run(config: Config, report: Report) -> None:
    """Fit all mixtures, draw the chosen one, its convergence and BIC."""
    k_max, restarts = config.max_components, config.restarts
    if config.quick:
        k_max, restarts = min(k_max, 6), min(restarts, 3)
    if config.n_components is not None and not 1 <= config.n_components <= k_max:
        raise UserError(f"--n-components must be 1 to {k_max}, it is {config.n_components}.")
    digits = data.load(config.dataset)
    x, explained = project(digits.x)

    keys = jax.random.split(jax.random.key(config.seed), restarts)
    seeds = jax.jit(jax.vmap(partial(kmeans.init, n_components=k_max), (0, None)))(keys, x)
    sweeps = {}
    for name in report.progress(structures.NAMES, "Fitting mixtures"):
        sweeps[name] = sweep(seeds, x, config.reg_covar, covariance=name, max_iter=config.max_iter)
    curves = {name: each.curve() for name, each in sweeps.items()}
    chosen = sweeps[config.structure]
    k = config.n_components or int(np.argmin(curves[config.structure])) + 1
    fit = chosen.best(k)
    clusters = np.asarray(gaussian.predict(fit.params, x))

    best = min(curves, key=lambda name: curves[name].min())
    report.metrics(
        n_samples=len(x),
        explained_variance=explained,
        structure=config.structure,
        n_components=k,
        bic=curves[config.structure][k - 1],
        mean_log_likelihood=fit.objective,
        n_iter=fit.n_iter,
        status=Status(int(fit.status)),
        adjusted_rand_index=adjusted_rand_score(digits.y, clusters),
        best_structure=best,
        best_structure_n_components=int(np.argmin(curves[best])) + 1,
        best_structure_bic=curves[best].min(),
        restarts_within_hundredth_nat=np.mean(chosen.fits.objective[k - 1] > fit.objective - 0.01),
    )
    report.table("bic", _table(sweeps, curves, x, digits.y), "What BIC prefers for each structure")
    _draw_mixture(report, fit.params, np.asarray(x), k, config.structure)
    _draw_clusters(report, clusters, digits.y, k)
    _draw_convergence(report, jax.tree.map(lambda leaf: leaf[k - 1], chosen.fits), k)
    _draw_bic(report, curves)


def project(x: np.ndarray) -> tuple[jax.Array, float]:
    """Return the first two principal components and the share of the variance they explain."""
    centred = x - x.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]
    return jnp.asarray(centred @ axes.T), float((singular[:2] ** 2).sum() / (singular**2).sum())


@partial(jax.jit, static_argnames=("covariance", "max_iter"))
def sweep(
    seeds: jax.Array, x: jax.Array, reg_covar: float, *, covariance: str, max_iter: int
) -> Sweep:
    """Fit every K, from every one of the seedings (n_restarts, K_max, d), in one program.

    The restarts of one K are a `vmap`; the Ks follow one another, so each stops when it is done.
    """

    def one(seeds, k):
        start = first_components(seeds, x, k, covariance=covariance)
        fit = gaussian.fit(start, x, None, reg_covar, 2e-6, max_iter=max_iter)
        n_parameters = gaussian.n_parameters(fit.params).astype(x.dtype)
        return Sweep(fit, n_parameters * math.log(len(x)) - 2 * len(x) * fit.objective)

    restarts = jax.vmap(one, in_axes=(0, None))
    return lax.map(lambda k: restarts(seeds, k), jnp.arange(1, seeds.shape[1] + 1))


def first_components(
    seeds: jax.Array, x: jax.Array, k: jax.Array, *, covariance: str
) -> gaussian.Params:
    """Start from the first `k` of the k-means++ seeds; the other components are inactive.

    The seeds were drawn one after another: the first `k` are as good a draw as `k` alone.
    """
    active = jnp.arange(len(seeds)) < k
    # An inactive seed that repeats the first is nobody's nearest: the pooled variance ignores it.
    means = jnp.where(active[:, None], seeds, seeds[:1])
    start = gaussian.from_means(means, x, covariance=covariance)
    return start._replace(log_weights=jnp.where(active, -jnp.log(k.astype(x.dtype)), -jnp.inf))


def _table(sweeps, curves, x, labels):
    rows = []
    for name, each in sweeps.items():
        k = int(np.argmin(curves[name])) + 1
        fit = each.best(k)
        rows.append(
            {
                "structure": name,
                "components": k,
                "parameters": int(gaussian.n_parameters(fit.params)),
                "BIC": curves[name][k - 1],
                "log-likelihood (nats a sample)": fit.objective,
                "adjusted Rand index": adjusted_rand_score(
                    labels, np.asarray(gaussian.predict(fit.params, x))
                ),
            }
        )
    return rows


def _draw_mixture(report, params, x, k, structure):
    colours = style.palette(k)
    fig, axes = plt.subplots(figsize=(8, 6.6))
    low, high = x.min(0), x.max(0)
    margin = 0.06 * (high - low)
    sides = np.linspace(low - margin, high + margin, 240)
    grid = np.stack(np.meshgrid(*sides.T), axis=-1)
    log_density = gaussian.log_prob(params, jnp.asarray(grid.reshape(-1, 2), x.dtype))
    density = np.exp(np.asarray(log_density)).reshape(grid.shape[:2])
    # Levels by share of the data inside: the outermost line encloses 95% of the samples.
    inside = np.exp(np.asarray(gaussian.log_prob(params, jnp.asarray(x))))
    levels = np.unique(np.quantile(inside, [0.05, 0.2, 0.4, 0.6, 0.8, 0.95]))
    axes.contour(
        grid[..., 0], grid[..., 1], density, levels, colors=style.SOFT, linewidths=0.8, zorder=1
    )
    r = np.asarray(gaussian.responsibilities(params, jnp.asarray(x)))[:, :k]
    axes.scatter(*x.T, c=style.mix(r, colours), s=11, linewidths=0, zorder=2)
    means = np.asarray(params.means)
    covariances = np.asarray(params.covariance.dense(len(means), 2))
    for i, (mean, sigma) in enumerate(zip(means[:k], covariances[:k], strict=True)):
        values, vectors = np.linalg.eigh(sigma)
        width, height = 4 * np.sqrt(values)
        angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
        shape = Ellipse(mean, width, height, angle=angle, fill=False, lw=2, ec=colours[i], zorder=3)
        axes.add_patch(shape)
        axes.annotate(
            str(i + 1), mean, ha="center", va="center", fontsize=10, weight="bold", zorder=4,
            bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": colours[i], "lw": 1.5},
        )  # fmt: skip
    title = f"{k} Gaussians ({structure} covariance) for {len(x):,} digits"
    style.quiet(axes, title=title, x="first principal component", y="second principal component")
    axes.set_aspect("equal")
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    report.figure(
        fig,
        "mixture",
        "Each point is a digit; its colour mixes the colours of the components by their "
        "responsibility for it. Ellipses: two standard deviations of a component. Grey lines: "
        "density of the mixture; outside the outermost lie 5% of the digits, then 20, 40, 60, 80 "
        "and 95%.",
    )


def _draw_clusters(report, clusters, labels, k):
    counts = np.zeros((k, 10), int)
    np.add.at(counts, (clusters, labels), 1)
    fig, axes = plt.subplots(figsize=(6.4, 1.2 + 0.36 * k))
    axes.imshow(counts, cmap="Blues", aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = count > 0.6 * counts.max()
            axes.text(
                column, row, f"{count:,}", ha="center", va="center", fontsize=9,
                color="white" if dark else style.INK,
            )  # fmt: skip
    style.quiet(axes, title="Which digits each component holds", x="digit", y="component")
    axes.set_xticks(range(10))
    axes.set_yticks(range(k), [str(i + 1) for i in range(k)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    report.figure(
        fig,
        "clusters",
        "Number of images of each digit for which a component is the most responsible. The "
        "mixture has never seen the labels, and two dimensions don't tell all digits apart.",
    )


def _draw_convergence(report, fits, k):
    fig, axes = plt.subplots(figsize=(7, 4.2))
    winner = int(np.argmax(fits.objective))
    histories, lengths = np.asarray(fits.history), np.asarray(fits.n_iter)
    for lane, (history, length) in enumerate(zip(histories, lengths, strict=True)):
        is_best = lane == winner
        steps = np.arange(1, length + 1)
        colour = style.MUTED[0] if is_best else "#AAAAAA"
        axes.plot(steps, history[:length], color=colour, lw=2 if is_best else 1, zorder=2 + is_best)
        axes.plot(steps[-1:], history[length - 1 : length], "o", ms=4, color=colour, zorder=3)
    axes.annotate(
        "best", (lengths[winner], histories[winner, -1]), xytext=(6, 2),
        textcoords="offset points", color=style.MUTED[0], weight="bold",
    )  # fmt: skip
    # The first steps climb far; what tells the starts apart happens near the top.
    top, bottom = histories[:, -1].max(), histories[:, -1].min()
    axes.set_ylim(min(bottom, np.median(histories[:, 0])) - 0.02, top + 0.1 * (top - bottom) + 0.01)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    style.quiet(
        axes,
        title=f"EM from {len(histories)} random starts, K = {k}, run as one vmap",
        x="iteration",
        y="mean log-likelihood (nats a sample)",
    )
    report.figure(
        fig,
        "convergence",
        "Log-likelihood by iteration; a dot marks where a start converged. EM never goes down, "
        "but different starts end in different local optima, so the best of them is kept.",
    )


def _draw_bic(report, curves):
    fig, axes = plt.subplots(figsize=(7, 4.2))
    markers = dict(zip(curves, "os^D", strict=True))
    for name, colour in zip(curves, [*style.MUTED[:1], *style.MUTED[2:4], style.SOFT], strict=True):
        curve = curves[name]
        ks = np.arange(1, len(curve) + 1)
        axes.plot(ks, curve, color=colour, marker=markers[name], ms=4, lw=1.5, label=name)
        least = curve.argmin()
        axes.plot(ks[least], curve[least], markers[name], ms=11, mfc="none", mec=colour, mew=1.8)
    axes.set_xticks(np.arange(1, len(next(iter(curves.values()))) + 1))
    # One or two components fit so badly that they would flatten everything of interest.
    least = min(curve.min() for curve in curves.values())
    steep = max(curve[min(2, len(curve) - 1)] for curve in curves.values())
    axes.set_ylim(least - 0.06 * (steep - least), steep)
    axes.legend(frameon=False, title="covariance")
    style.quiet(
        axes,
        title="How many components? The lowest BIC of each structure is ringed",
        x="number of components K",
        y="BIC (lower is better)",
    )
    report.figure(
        fig,
        "bic",
        "Bayesian information criterion of the likeliest of all restarts: it charges "
        "log(n) for each parameter. The curves start above the picture. One compiled program per "
        "structure serves all K.",
    )
