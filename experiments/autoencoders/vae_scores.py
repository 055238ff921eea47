"""Test log-likelihoods of variational autoencoders, by importance sampling, in nats.

The network of the literature: two layers of 200 tanh units on either side of 50 latents. Pixels are
drawn from their intensities, anew for every batch (dynamic binarisation) or once (static); models
are trained on the ELBO, or on the importance-weighted bound of several draws. Test images are
always drawn once. With `--dataset mnist` the table stands beside published figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.autoencoders import _digits
from experiments.report import Report, UserError
from unsup_jax.autoencoders import checkpoint, corruption, networks, training, vae

# Burda et al. (2016), their static images being another draw; and a public reproduction.
PUBLISHED = {
    ("dynamic", 1): (86.76, 87.75),
    ("dynamic", 5): (85.54, 85.50),
    ("dynamic", 50): (84.78, 84.65),
    ("static", 1): (88.71, 89.93),
    ("static", 5): (87.63, 87.65),
    ("static", 50): (87.10, 86.71),
}
N_LATENT = 50
PIXEL_KEYS = {"train": 1, "valid": 2, "test": 3}  # no option: scores of other draws don't compare
Scores = dict[int, vae.Likelihood]  # by number of samples

COLOURS = {"dynamic": "tab:blue", "static": "tab:orange"}

likelihood = jax.jit(vae.log_likelihood, static_argnames=("model", "n_samples", "tile_size"))


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["digits", "mnist5k", "mnist"] = "digits"
    """Images of digits: 1,797 of 8 x 8, or 5,000 or 70,000 of 28 x 28."""
    binarisations: tuple[Literal["dynamic", "static"], ...] = ("dynamic", "static")
    """How pixels are drawn, one model each."""
    bounds: tuple[int, ...] = (1, 5)
    """Draws of the bound to train on, one model each; 1 is the ELBO."""
    n_epochs: int = 100
    """Passes over the data, the learning rate falling along a cosine."""
    learning_rate: float = 2e-3
    """Of Adam, at the start."""
    n_samples: int = 5000
    """Importance samples of the score."""
    n_test: int = 1000
    """Test images, at most."""
    checkpoints: Path | None = None
    """Save each epoch into this folder and go on from what it holds, after a kill, say."""
    seed: int = 0
    """Seed of start, batches and draws."""
    quick: bool = False
    """Use few images, epochs and samples."""


class Trained(NamedTuple):
    """A model after training, and how it went.

    Attributes:
        binarisation: "dynamic" or "static".
        n_draws: Of the bound it was trained on.
        state: At the end; `best` has the parameters to use.
        curves: Loss on training and validation images after each epoch of this process.
    """

    binarisation: str
    n_draws: int
    state: training.State
    curves: np.ndarray


def run(config: Config, report: Report) -> None:
    """Train every model, score the test images, write the table and draw the bounds."""
    if min(config.bounds, default=0) < 1 or not config.binarisations:
        raise UserError("--bounds and --binarisations need at least one value, bounds from 1 on.")
    split = _digits.load(config.dataset, quick=config.quick)
    n_features = math.prod(split.shape)
    model = vae.VAE(
        networks.MLP((200, 200, 2 * N_LATENT)), networks.MLP((200, 200, n_features)), "bernoulli"
    )
    test = _drawn("test", split.test[:: max(1, len(split.test) // config.n_test)][: config.n_test])
    pairs = [(b, k) for b in config.binarisations for k in config.bounds]
    models, scores = [], []
    for binarisation, n_draws in pairs:
        trained = train(model, split, binarisation, n_draws, config, report)
        models.append(trained)
        scores.append(score(model, trained, test, config))
        nll, error = _nll(scores[-1])
        name = f"test_nll_{binarisation}_{n_draws}"
        report.metrics(**{name: nll, f"{name}_standard_error": error})
    report.table(
        "scores",
        [_row(*pair, config.dataset) for pair in zip(models, scores, strict=True)],
        f"{len(test):,} test images of {config.dataset}, {n_features} pixels drawn once; "
        f"{_samples(config):,} importance samples; nats. Gap: between log-likelihood and ELBO. "
        "Effective samples: median over images.",
    )
    _draw(report, models, scores, config)


def train(model, split, binarisation, n_draws, config, report) -> Trained:
    """Train a model, from its last checkpoint if there are any."""
    x, valid = split.train, split.valid
    if binarisation == "static":
        x, valid = _drawn("train", x), _drawn("valid", valid)
    n_epochs = 3 if config.quick else config.n_epochs
    n_steps = n_epochs * -(-len(x) // 100)
    # The generator that makes pixels fastest on a CPU; it isn't mapped over here.
    key = jax.random.key(config.seed, impl="rbg")
    params = vae.init(jax.random.key(config.seed), x, model=model)
    state = training.start(params, key)
    folder = None
    if config.checkpoints is not None:
        settings = f"{n_epochs}-epochs-rate-{config.learning_rate}-seed-{config.seed}"
        folder = config.checkpoints / f"{config.dataset}-{binarisation}-{n_draws}-{settings}"
        state = checkpoint.resume(folder, state)
    epochs = training.epochs(
        state,
        x,
        valid,
        None,
        config.learning_rate,
        loss=partial(_loss, model=model, n_draws=n_draws, dynamic=binarisation == "dynamic"),
        schedule=lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / n_steps, 1))),
        n_epochs=n_epochs,
    )
    curves = []
    left = n_epochs - int(state.epoch)
    for state in report.progress(epochs, f"Training: {binarisation}, {n_draws}", total=left):
        curves.append((state.train_loss, state.valid_loss))
        if folder is not None:
            checkpoint.save(folder, state)
    return Trained(binarisation, n_draws, state, np.reshape(curves, (-1, 2)))


def score(model: vae.VAE, trained: Trained, test: jax.Array, config: Config) -> Scores:
    """The importance-weighted bound of each test image with 1, 10, 100, ... draws, up to all."""
    n = _samples(config)
    numbers = [*(k for k in (1, 10, 100, 1000) if k < n), n]
    key = jax.random.key(config.seed + 1)
    return {k: likelihood(trained.state.best, key, test, model=model, n_samples=k) for k in numbers}


def _loss(params, key, x, *, model, n_draws, dynamic):
    key_pixels, key_codes = jax.random.split(key)
    if dynamic:
        x = corruption.binarize(key_pixels, x)
    if n_draws == 1:
        return vae.loss(params, key_codes, x, model=model)
    return vae.iwae_loss(params, key_codes, x, model=model, n_samples=n_draws)


def _drawn(part, x):
    return corruption.binarize(jax.random.key(PIXEL_KEYS[part]), x)


def _samples(config):
    return min(config.n_samples, 50) if config.quick else config.n_samples


def _nll(scored):
    """Mean negative log-likelihood, and its standard error."""
    log_prob = np.asarray(scored[max(scored)].log_prob, np.float64)
    return -log_prob.mean(), log_prob.std() / np.sqrt(len(log_prob))


def _row(trained: Trained, scored: Scores, dataset: str) -> dict[str, Any]:
    nll, error = _nll(scored)
    best = scored[max(scored)]
    row = {
        "binarisation": trained.binarisation,
        "draws of the bound": trained.n_draws,
        "best epoch": int(trained.state.best_epoch),
        "test NLL": nll,
        "standard error": error,
        "gap": float(best.log_prob.mean() - scored[1].log_prob.mean()),
        "effective samples": float(jnp.median(best.effective_samples)),
    }
    if dataset == "mnist":
        published = PUBLISHED.get((trained.binarisation, trained.n_draws), (None, None))
        row |= dict(zip(("Burda et al.", "reproduction"), published, strict=True))
    return row


def _draw(report, models, scores, config):
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for trained, scored in zip(models, scores, strict=True):
        colour, style = COLOURS[trained.binarisation], "-" if trained.n_draws == 1 else "--"
        label = f"{trained.binarisation}, {_bound(trained.n_draws)}"
        last = int(trained.state.epoch)
        epochs = np.arange(last - len(trained.curves), last) + 1
        left.plot(epochs, -trained.curves[:, 0], style, color=colour, alpha=0.35)
        left.plot(epochs, -trained.curves[:, 1], style, color=colour, label=label)
        means = [float(found.log_prob.mean()) for found in scored.values()]
        right.plot(list(scored), means, style, color=colour, marker="o", ms=4, label=label)
        published = PUBLISHED.get((trained.binarisation, trained.n_draws))
        if config.dataset == "mnist" and published:
            right.plot(max(scored), -published[0], "*", ms=12, mfc="none", color=colour)
    lowest = min(-trained.curves[:, 1].min(initial=np.inf) for trained in models)
    if np.isfinite(lowest):
        highest = max(-trained.curves.min(initial=np.inf) for trained in models)
        middle = np.median([-c for t in models for c in t.curves[:, 1]])
        left.set_ylim(middle - 3 * (highest - middle), highest + 0.2 * (highest - middle))
    left.set(title="training (pale) and held-out images", xlabel="epoch", ylabel="bound, nats")
    right.set(title="test images", xlabel="importance samples", ylabel="bound, nats")
    right.set_xscale("log")
    right.legend(title="trained on", fontsize=9)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    stars = " Stars: published." if config.dataset == "mnist" else ""
    report.figure(
        fig,
        "bounds",
        "Left: the bound that each model was trained on. Fixed pixels are learned by heart; pixels "
        "drawn anew are not. Right: with more importance samples the bound rises from the ELBO "
        f"towards the log-likelihood, most where the posterior is fitted worst.{stars}",
    )


def _bound(n_draws):
    return "ELBO" if n_draws == 1 else f"bound of {n_draws}"
