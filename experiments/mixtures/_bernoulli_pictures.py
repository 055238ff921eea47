"""Pictures of Bernoulli mixtures of digits: means, responsibilities, samples, scores by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from experiments.mixtures import _style as style
from experiments.report import Report
from unsup_jax.mixtures import bernoulli

if TYPE_CHECKING:
    from experiments.mixtures.bernoulli_mnist import Mixture, Split


def _images(x: Any) -> np.ndarray:
    return np.asarray(x).reshape(-1, 28, 28)


def means(report: Report, mixtures: Sequence[Mixture]) -> None:
    """The mean of every component, with its digit and weight."""
    columns = 10
    n_rows = [-(-len(m.digit) // columns) for m in mixtures]
    fig, axes = plt.subplots(sum(n_rows), columns, figsize=(9, 1.12 * sum(n_rows)), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for mixture, top in zip(mixtures, np.cumsum([0, *n_rows]), strict=False):
        k = len(mixture.digit)
        weights = np.exp(np.asarray(mixture.fit.params.log_weights))
        images = _images(mixture.fit.params.means)
        for i in range(k):
            ax = axes[top + i // columns, i % columns]
            ax.set_axis_on()
            style.picture(ax, images[i], title=f"{mixture.digit[i]}  ·  {weights[i]:.0%}")
        axes[top, 0].set_ylabel(f"K = {k}", fontsize=11, weight="bold", color=style.INK)
    fig.tight_layout(h_pad=0.4, w_pad=0.3)
    report.figure(
        fig,
        "means",
        "The learned means: how often each pixel is ink (dark) in a component. Above each, the "
        "digit that most of its training images show, and its weight. Components are ways of "
        "writing: few of them need not be the digits, many are styles of one digit each.",
    )


def responsibilities(report: Report, mixture: Mixture, split: Split) -> None:
    """Some clear cases, and the least certain, with the bars of their responsibilities."""
    r = np.asarray(bernoulli.responsibilities(mixture.fit.params, split.test))
    n_components = r.shape[1]
    typical = r.argmax(0)[: min(n_components, 3)]
    unsure = [i for i in np.argsort(r.max(1), kind="stable") if i not in typical][:6]
    chosen = [*typical, *unsure]
    colours = style.palette(n_components)
    fig, axes = plt.subplots(2, len(chosen), figsize=(1.25 * len(chosen), 3.1), squeeze=False)
    for column, i in enumerate(chosen):
        style.picture(axes[0, column], _images(split.test[i])[0])
        axes[0, column].set_title(f"a {split.test_labels[i]}", fontsize=10, color=style.INK)
        bars = axes[1, column]
        bars.bar(range(n_components), r[i], color=colours)
        style.quiet(bars)
        bars.set_ylim(0, 1)
        bars.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if column == 0 else [""] * 3)
        bars.set_xticks([])
        _name_bars(bars, mixture)
    axes[1, 0].set_ylabel("responsibility")
    fig.tight_layout(w_pad=0.4)
    sure = np.mean(r.max(1) > 0.99)
    report.metric(f"share_above_99_percent_{n_components}", sure)
    report.figure(
        fig,
        "responsibilities",
        f"Which of K = {n_components} components, drawn below its bar by its mean, is responsible "
        f"for a test image? Above, the true digit. First {len(typical)} clear cases, then the "
        f"{len(unsure)} least certain of all: for {sure:.1%} of the test images one component "
        "takes more than 99%.",
    )


def _name_bars(bars: Any, mixture: Mixture) -> None:
    """Draw the mean of each component below its bar, while there is room for it."""
    images = _images(mixture.fit.params.means)
    if len(images) > 4:
        bars.set_xlabel("component")
        return
    for position, image in enumerate(images):
        thumbnail = OffsetImage(image, zoom=2.4 / len(images), cmap="gray_r")
        box = AnnotationBbox(
            thumbnail, (position, 0), (0, -14), boxcoords="offset points", frameon=False
        )
        bars.add_artist(box)


def samples(report: Report, mixture: Mixture, split: Split, seed: int) -> None:
    """Test images beside samples."""
    k = len(mixture.digit)
    drawn, _ = bernoulli.sample(jax.random.key(seed), mixture.fit.params, n_samples=30)
    fig = plt.figure(figsize=(9.6, 3.4))
    parts = fig.subfigures(1, 2, wspace=0.04)
    titles = "binarised test images", f"samples of the mixture, K = {k}"
    for part, images, title in zip(parts, (split.test[:30], drawn), titles, strict=True):
        part.suptitle(title, fontsize=11, color=style.INK)
        for ax, image in zip(part.subplots(5, 6).flat, _images(images), strict=False):
            style.picture(ax, image)
        part.subplots_adjust(left=0.02, right=0.98, bottom=0.01, top=0.9, wspace=0.06, hspace=0.06)
    report.figure(
        fig,
        "samples",
        "Real images beside samples. A sample has the shape of its component's mean, but its "
        "pixels are independent given the component, hence the ragged edges.",
    )


def quality(report: Report, mixtures: Sequence[Mixture]) -> None:
    """Purity, accuracy and log-likelihoods by the number of components."""
    rows = [mixture.row for mixture in mixtures]
    ks = [row["components"] for row in rows]
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    panels = [
        ("Agreement with the labels", "share of images", "purity", "test accuracy"),
        (
            "Fit to the images",
            "mean log-likelihood (nats)",
            "train log-likelihood (nats)",
            "test log-likelihood (nats)",
        ),
    ]
    for ax, (title, unit, train, test) in zip(axes, panels, strict=True):
        for name, label, marker, colour in (
            (train, "training images", "o", style.MUTED[0]),
            (test, "test images", "s", style.MUTED[2]),
        ):
            ax.plot(ks, [row[name] for row in rows], marker=marker, color=colour, label=label)
        ax.set_xscale("log")
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.minorticks_off()
        style.quiet(ax, title=title, x="number of components K", y=unit)
        ax.legend(frameon=False)
    fig.tight_layout(w_pad=2)
    report.figure(
        fig,
        "quality",
        "Left: share of images that show the majority digit of their component. Right: "
        "log-likelihood of binarised images; a widening gap is overfitting.",
    )
