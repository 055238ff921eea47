"""Denoising autoencoders on digits: clean, corrupted, reconstructed; filters; error by corruption.

One hidden layer with tied weights, trained to undo masking, salt-and-pepper and Gaussian noise. All
rates of a kind are trained side by side, in one `vmap`; rate 0 is the ordinary autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.autoencoders import _digits
from experiments.report import Report, UserError
from unsup_jax.autoencoders import corruption, dae, networks, training

KINDS = {
    "masking": corruption.masking,
    "salt and pepper": corruption.salt_and_pepper,
    "Gaussian": corruption.gaussian,
}
FILTERS_OF = "salt and pepper"
COLOURS = ["0.55", "tab:blue", "tab:orange", "tab:green", "tab:red"]
LEVELS = jnp.linspace(0, 0.8, 9)


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["digits", "mnist5k", "mnist"] = "mnist5k"
    """Images of digits: 1,797 of 8 x 8, or 5,000 or 70,000 of 28 x 28."""
    n_hidden: int = 100
    """Hidden units, which is to say filters."""
    rates: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Corruption to train with, one model each; the last one is shown."""
    n_epochs: int = 20
    """Passes over the data."""
    learning_rate: float = 3e-3
    """Of Adam."""
    seed: int = 0
    """Seed of start, batches and noise."""
    quick: bool = False
    """Use few images, and the small ones."""


def run(config: Config, report: Report) -> None:
    """Train a model for every kind and rate; draw rows, filters and errors."""
    if not config.rates or not all(0 <= rate <= 1 for rate in config.rates):
        raise UserError(f"--rates must be numbers from 0 to 1, they were {config.rates}.")
    split = _digits.load("digits" if config.quick else config.dataset, quick=config.quick)
    model = networks.TiedAutoencoder(split.train.shape[1], (config.n_hidden,))
    params = {
        kind: train(model, split, kind, config) for kind in report.progress(KINDS, "Training")
    }
    key = jax.random.key(config.seed + 1)
    errors = {kind: errors_by_level(params[kind], key, split, model, kind) for kind in KINDS}
    _draw_rows(report, params, key, split, model, config)
    _draw_filters(report, params[FILTERS_OF], split, config)
    _draw_errors(report, errors, config)
    report.table(
        "errors",
        [_row(kind, rate, *errors[kind], lane)
         for kind in KINDS for lane, rate in enumerate(config.rates)],
        "Squared error of a test image, corrupted at rate 0.5, with respect to the clean one.",
    )  # fmt: skip


def train(model: Any, split: _digits.Split, kind: str, config: Config) -> Any:
    """The parameters for every rate, along the leading axis: the best of all epochs."""
    key = jax.random.key(config.seed)
    start = dae.init(key, split.train, model=model)
    loss = partial(dae.loss, model=model, corrupt=KINDS[kind])
    options = {"loss": loss, "n_epochs": 3 if config.quick else config.n_epochs, "batch_size": 50}

    def fit(rate):
        hyper = {"rate": rate}
        return training.fit(
            start, key, split.train, split.valid, None, config.learning_rate, hyper, **options
        )

    return jax.vmap(fit)(jnp.asarray(config.rates)).params


def errors_by_level(params, key, split, model, kind) -> tuple[jax.Array, jax.Array]:
    """Squared error of test images: reconstructed, (rates, levels), and as given, (levels,)."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    @partial(jax.vmap, in_axes=(None, 0))
    def both(params, level):
        found = dae.denoise(params, key, split.test, level, model=model, corrupt=KINDS[kind])
        return [dae.squared_error(split.test, x).mean() for x in reversed(found)]

    left, given = both(params, LEVELS)
    return left, given[0]


def _row(kind, rate, left, given, lane):
    at = int(jnp.argmin(jnp.abs(LEVELS - 0.5)))
    return {
        "corruption": kind,
        "trained at rate": rate,
        "corrupted": float(given[at]),
        "reconstructed": float(left[lane, at]),
        "reconstructed, clean input": float(left[lane, 0]),
    }


def _draw_rows(report, params, key, split, model, config, n_columns=14):
    rate = config.rates[-1]
    fig, axes = plt.subplots(len(KINDS), 1, figsize=(11, 7.6), layout="constrained")
    for ax, (kind, corrupt) in zip(axes, KINDS.items(), strict=True):
        clean = split.test[:n_columns]
        last = jax.tree.map(lambda leaf: leaf[-1], params[kind])
        found = dae.denoise(last, key, clean, rate, model=model, corrupt=corrupt)
        rows = jnp.clip(jnp.stack([clean, *found]), 0, 1)
        _digits.show(ax, _digits.sheet(rows, split.shape), kind)
        _digits.name_rows(ax, ["clean", "corrupted", "reconstructed"], split.shape)
    report.figure(
        fig,
        "rows",
        f"Test images, the same corrupted at rate {rate}, and what the autoencoder that was "
        "trained to undo this kind of corruption makes of them.",
    )


def _draw_filters(report, params, split, config):
    rates = config.rates
    fig, axes = plt.subplots(
        1, len(rates), figsize=(4.6 * len(rates), 5), layout="constrained", squeeze=False
    )
    for ax, rate, kernel in zip(axes[0], rates, params["kernel_0"], strict=True):
        side = int(np.sqrt(kernel.shape[1]))
        filters = np.asarray(kernel.T)
        longest = np.argsort(-(filters**2).sum(1))[: side * side]
        filters = filters[longest] / np.abs(filters[longest]).max(1, keepdims=True)
        sheet = _digits.sheet(filters.reshape(side, side, -1), split.shape, line=0)
        _digits.show(ax, sheet, f"trained at rate {rate}", cmap="RdBu_r", vmin=-1)
    report.figure(
        fig,
        "filters",
        f"What each hidden unit looks for ({FILTERS_OF}; red is positive, each filter on its own "
        "scale). To fill in what the noise has taken the units must know strokes, not pixels.",
    )


def _draw_errors(report, errors, config):
    fig, axes = plt.subplots(1, len(KINDS), figsize=(14, 4.2), layout="constrained")
    for ax, (kind, (left, given)) in zip(axes, errors.items(), strict=True):
        ax.plot(LEVELS, given, ":", color="black", label="corrupted image")
        for i, (rate, line) in enumerate(zip(config.rates, left, strict=True)):
            colour = COLOURS[i % len(COLOURS)]
            ax.plot(LEVELS, line, "o-", ms=3, color=colour, label=f"trained at rate {rate}")
        ax.set(title=kind, xlabel="rate of corruption", ylim=(0, 1.15 * float(left.max())))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("squared error of an image")
    axes[0].legend(fontsize=9)
    report.figure(
        fig,
        "errors",
        "Error of test images with respect to the clean ones, by kind and rate of corruption: a "
        "model does best near what it was trained for, and pays a little where nothing is corrupt.",
    )
