"""A variational autoencoder of digits: ELBO curves, samples, the plane of codes, interpolations.

Two networks, with 2 and with 20 latents; pixels are drawn from their intensities anew for every
batch. The larger is trained for several values of beta side by side, in one `vmap`: beta above 1
makes codes cheap and pictures blurred, below 1 the reverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.autoencoders import _digits
from experiments.report import Report, UserError
from unsup_jax.autoencoders import corruption, networks, training, vae

COLOURS = {2: "tab:orange", 20: "tab:blue"}


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["digits", "mnist5k", "mnist"] = "mnist5k"
    """Images of digits: 1,797 of 8 x 8, or 5,000 or 70,000 of 28 x 28."""
    betas: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Weights of the KL term, one lane each; 1 must be among them."""
    n_epochs: int = 20
    """Passes over the data, in batches of 50."""
    learning_rate: float = 2e-3
    """Of Adam, falling along a cosine."""
    seed: int = 0
    """Seed of start, batches, draws and samples."""
    quick: bool = False
    """Use few images, and the small ones."""


class Trained(NamedTuple):
    """One network, trained once a beta.

    Attributes:
        model: The module.
        betas: Of the lanes.
        params: The best parameters of each lane.
        train_loss: After each epoch, shape (epochs, lanes).
        held_out: `vae.Bound` of held-out images, their means, each of shape (epochs, lanes).
    """

    model: vae.VAE
    betas: tuple[float, ...]
    params: Any
    train_loss: np.ndarray
    held_out: vae.Bound

    def of(self, beta: float) -> Any:
        """The parameters of one lane."""
        return jax.tree.map(lambda leaf: leaf[self.betas.index(beta)], self.params)


def run(config: Config, report: Report) -> None:
    """Train both networks, draw everything."""
    if 1.0 not in config.betas:
        raise UserError(f"1 must be among --betas, they were {config.betas}.")
    split = _digits.load("digits" if config.quick else config.dataset, quick=config.quick)
    small = train(split, 2, (1.0,), config, report)
    large = train(split, 20, config.betas, config, report)
    report.table(
        "betas",
        [_row(n, trained, lane)
         for n, trained in ((2, small), (20, large)) for lane in range(len(trained.betas))],
        "Held-out images after the last epoch, in nats: ELBO = reconstruction - KL.",
    )  # fmt: skip
    report.metrics(
        held_out_elbo_2=small.held_out.elbo[-1, 0],
        held_out_elbo_20=large.held_out.elbo[-1, config.betas.index(1.0)],
    )
    _draw_curves(report, small, large)
    _draw_plane(report, small, split)
    _draw_samples(report, large, split, config)
    _draw_reconstructions(report, small, large, split)
    _draw_interpolations(report, large, split)


def train(split, n_latents, betas, config, report) -> Trained:
    """Train a network of `n_latents` for every beta at once."""
    n_epochs, d = 3 if config.quick else config.n_epochs, split.train.shape[1]
    encoder, decoder = networks.MLP((200, 200, 2 * n_latents)), networks.MLP((200, 200, d))
    model = vae.VAE(encoder, decoder)
    states = report.progress(
        _epochs(model, split, jnp.asarray(betas), config, n_epochs),
        f"{n_latents} latents",
        total=n_epochs,
    )
    losses, bounds = [], []
    for state, bound in states:
        losses.append(state.train_loss)
        bounds.append(bound)
    curves = jax.tree.map(lambda *leaves: np.stack(leaves), *bounds)
    return Trained(model, betas, state.best, np.stack(losses), curves)


def _epochs(model, split, betas, config, n_epochs) -> Iterator[tuple[training.State, vae.Bound]]:
    n_steps = n_epochs * -(-len(split.train) // 50)
    options = {
        "loss": partial(_loss, model=model),
        "schedule": lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / n_steps, 1))),
        "batch_size": 50,
    }
    key = jax.random.key(config.seed)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None, None))
    def epoch(state, beta, x, valid):
        rate = config.learning_rate
        state = training.epoch(state, x, valid, None, rate, {"beta": beta}, **options)
        key_pixels, key_codes = jax.random.split(key)
        bound = vae.elbo(
            state.params, key_codes, corruption.binarize(key_pixels, valid), model=model
        )
        return state, jax.tree.map(jnp.mean, bound)

    params = vae.init(key, split.train, model=model)
    # From the mean image on, codes need not learn which pixels are always dark.
    mean = split.train.mean(0).clip(0.01, 0.99)
    params["decoder"]["layer_2"]["bias"] = jnp.log(mean / (1 - mean))
    state = jax.vmap(lambda _: training.start(params, key))(betas)
    for _ in range(n_epochs):
        state, bound = epoch(state, betas, split.train, split.valid)
        yield state, bound


def _loss(params, key, x, beta, *, model):
    key_pixels, key_codes = jax.random.split(key)
    return vae.loss(params, key_codes, corruption.binarize(key_pixels, x), beta, model=model)


def _row(n_latents, trained, lane):
    found = trained.held_out
    return {
        "latents": n_latents,
        "beta": trained.betas[lane],
        "ELBO": found.elbo[-1, lane],
        "reconstruction": found.reconstruction[-1, lane],
        "KL": found.kl[-1, lane],
    }


def _draw_curves(report, small, large):
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for n_latents, trained in ((2, small), (20, large)):
        lane, colour = trained.betas.index(1.0), COLOURS[n_latents]
        epochs = np.arange(1, len(trained.train_loss) + 1)
        elbo = trained.held_out.elbo[:, lane]
        left.plot(epochs, -trained.train_loss[:, lane], color=colour, alpha=0.4)
        left.plot(epochs, elbo, color=colour, label=f"{n_latents} latents")
    worst = small.held_out.elbo[len(epochs) // 8, 0]
    left.set_ylim(bottom=worst - 10)
    left.set(title="ELBO: training (pale), held out", xlabel="epoch", ylabel="nats an image")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend()
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(large.betas)))
    for lane, (beta, shade) in enumerate(zip(large.betas, shades, strict=True)):
        path = large.held_out.kl[:, lane], -large.held_out.reconstruction[:, lane]
        right.plot(*path, color=shade, lw=1, alpha=0.6)
        right.plot(path[0][-1], path[1][-1], "o", color=shade, label=f"beta = {beta:g}")
    kl, error = large.held_out.kl, -large.held_out.reconstruction
    right.set_xlim(0, 1.15 * kl.max())
    right.set_ylim(0.9 * error.min(), 1.1 * error[len(epochs) // 8 :].max())
    end = large.held_out.elbo[-1, large.betas.index(1.0)]
    line = np.linspace(0, 1.15 * kl.max())
    right.plot(line, -end - line, ":", color="0.6", lw=1, label="equal ELBO")
    right.set(
        title="what codes cost and what they leave, 20 latents",
        xlabel="KL: nats of the code",
        ylabel="-reconstruction, nats",
    )
    right.legend()
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    report.figure(
        fig,
        "curves",
        "Left: the evidence lower bound in training. Right: its two terms on held-out images, by "
        "epoch (lines, from above) and at the end (dots): beta chooses the exchange between them; "
        "only beta = 1 climbs the ELBO.",
    )


def _draw_plane(report, small, split):
    params = small.of(1.0)
    grid = vae.latent_grid(params, model=small.model, n_steps=20)
    codes = vae.encode(params, split.test, model=small.model).mean
    fig, (left, right) = plt.subplots(1, 2, figsize=(13, 6.4), layout="constrained")
    picture = _digits.sheet(grid, split.shape, line=0)
    _digits.show(left, picture, "decoded")
    u = np.asarray(jax.scipy.stats.norm.cdf(codes))
    for digit in range(10):
        of = split.labels == digit
        right.plot(*u[of].T, "o", ms=4, color=plt.get_cmap("tab10")(digit), label=str(digit))
    right.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    right.set(xlabel=r"$\Phi(z_1)$", ylabel=r"$\Phi(z_2)$")
    right.set_title("test images, encoded", loc="left", fontsize=11)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    report.figure(
        fig,
        "plane",
        "The plane of codes of the network with 2 latents, at equal steps of the prior's "
        "probability. Left: what each point decodes to. Right: where test images lie, by digit.",
    )
    report.embedding(
        "explore",
        u,
        labels=split.labels,
        images=1 - np.asarray(split.test).reshape(-1, *split.shape),
        caption="The test images in the plane of codes, to explore.",
        axes=("first code (probability)", "second code (probability)"),
    )


def _draw_samples(report, large, split, config):
    key = jax.random.key(config.seed + 1)
    n = len(large.betas)
    fig, axes = plt.subplots(1, n, figsize=(4.4 * n, 4.8), layout="constrained", squeeze=False)
    for ax, beta in zip(axes[0], large.betas, strict=True):
        drawn = vae.sample(key, large.of(beta), model=large.model, n_components=20, n_samples=100)
        sheet = _digits.sheet(drawn.reshape(10, 10, -1), split.shape, line=0)
        _digits.show(ax, sheet, f"beta = {beta:g}")
    report.figure(
        fig,
        "samples",
        "Decoded draws from the prior, 20 latents, the same draws for each beta: a small one "
        "leaves holes where no digit is encoded, a large one shows averages.",
    )


def _draw_reconstructions(report, small, large, split, n_columns=14):
    x = split.test[:n_columns]
    rows = {
        "test image": x,
        "2 latents": vae.reconstruct(small.of(1.0), x, model=small.model),
        "20 latents": vae.reconstruct(large.of(1.0), x, model=large.model),
    }
    fig, ax = plt.subplots(figsize=(11, 2.7), layout="constrained")
    _digits.show(ax, _digits.sheet(np.stack(list(rows.values())), split.shape))
    _digits.name_rows(ax, list(rows), split.shape)
    report.figure(fig, "reconstructions", "Test images, decoded from the means of their codes.")


def _draw_interpolations(report, large, split, n_rows=7):
    first, second = split.test[:n_rows], split.test[n_rows : 2 * n_rows]
    lines = vae.interpolate(large.of(1.0), first, second, model=large.model, n_steps=12)
    rows = np.concatenate([first[:, None], lines, second[:, None]], axis=1)
    fig, ax = plt.subplots(figsize=(11, 5.6), layout="constrained")
    _digits.show(ax, _digits.sheet(rows, split.shape))
    report.figure(
        fig,
        "interpolations",
        "Between two test images (outer columns): 12 steps on the straight line between their "
        "codes, 20 latents.",
    )
