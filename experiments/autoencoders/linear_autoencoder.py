"""A linear autoencoder learns the principal subspace; a nonlinear one bends it and loses less.

Code sizes are lanes of one `vmap`: all networks have the largest code, and a mask keeps the first
coordinates of it. The linear ones end at the error of PCA, in its subspace, though in a basis of
their own: the principal axes are those of their reconstructions.
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
from unsup_jax.autoencoders import dae, networks, training
from unsup_jax.linear import pca

LINEAR, NONLINEAR, PCA = "tab:blue", "tab:orange", "black"


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["digits", "mnist5k", "mnist"] = "digits"
    """Images of digits: 1,797 of 8 x 8, or 5,000 or 70,000 of 28 x 28."""
    sizes: tuple[int, ...] = (1, 2, 4, 10, 16)
    """Code sizes, one lane each."""
    shown: int = 10
    """The size whose components and reconstructions are drawn."""
    n_epochs: int = 1000
    """Passes over the data of the linear networks, in 1 batch each."""
    n_epochs_bent: int = 80
    """Passes over the data of the nonlinear ones, in batches of 50."""
    seed: int = 0
    """Seed of start and batches."""
    quick: bool = False
    """Use few images, and the small ones."""


class Lanes(NamedTuple):
    """Networks that are equal but for the size of the code."""

    model: networks.Autoencoder
    sizes: tuple[int, ...]

    @property
    def masks(self) -> jax.Array:
        """1 for the coordinates of the code that a lane uses, shape (lanes, k)."""
        used = jnp.arange(max(self.sizes)) < jnp.asarray(self.sizes)[:, None]
        return used.astype(jnp.float32)


def run(config: Config, report: Report) -> None:
    """Train both kinds for all sizes, compare with PCA, draw."""
    sizes = config.sizes
    if config.shown not in sizes or min(sizes) < 1:
        raise UserError(f"--shown must be one of --sizes, it was {config.shown} of {sizes}.")
    split = _digits.load("digits" if config.quick else config.dataset, quick=config.quick)
    mean = split.train.mean(0)[None]
    x, valid, test = (part - mean for part in (split.train, split.valid, split.test))
    axes = pca.fit(x, n_components=max(sizes))
    d, k = x.shape[1], max(sizes)
    linear = Lanes(networks.Autoencoder(networks.MLP((k,)), networks.MLP((d,))), sizes)
    bent = Lanes(
        networks.Autoencoder(networks.MLP((128, k), "relu"), networks.MLP((128, d), "relu")), sizes
    )
    curve = []
    n_epochs = 20 if config.quick else config.n_epochs
    watched = {round(e) for e in np.geomspace(1, n_epochs, 60)}
    states = train(linear, x, valid, config.seed, n_epochs, 0.02, len(x))
    for number, flat in enumerate(report.progress(states, "Linear", total=n_epochs), 1):
        if number in watched:
            curve.append((number, flat.train_loss, angles_to(axes, flat.params, sizes)))
    n_epochs = 5 if config.quick else config.n_epochs_bent
    states = train(bent, x, valid, config.seed, n_epochs, 3e-3, 50)
    *_, curved = report.progress(states, "Nonlinear", total=n_epochs)
    found = {
        "PCA": [pca.inverse_transform(p, pca.transform(p, test)) for p in _truncated(axes, sizes)],
        "linear": reconstructed(linear, flat.params, test),
        "nonlinear": reconstructed(bent, curved.best, test),
    }
    errors = {
        kind: [float(dae.squared_error(test, y).mean()) for y in ys] for kind, ys in found.items()
    }
    least = np.array([float(pca.reconstruction_error(p, x)) for p in _truncated(axes, sizes)])
    report.table(
        "errors",
        [{"code size": s, **{kind: e[i] for kind, e in errors.items()}}
         for i, s in enumerate(sizes)],
        "Squared error of a test image, by size of the code.",
    )  # fmt: skip
    lane = sizes.index(config.shown)
    _, losses, angles = curve[-1]
    report.metrics(
        largest_principal_angle_radians=angles[lane],
        training_error_over_that_of_pca=losses[lane] / least[lane] - 1,
    )
    _draw_curves(report, curve, errors, least, config)
    kernel = flat.params["decoder"]["layer_0"]["kernel"][lane, : config.shown]
    own = pca.fit(reconstructed(linear, flat.params, x)[lane], n_components=config.shown)
    _draw_components(report, [kernel, own.components, axes.components[: config.shown]], split.shape)
    _draw_reconstructions(report, found, test, mean, split.shape, lane, config)


def train(lanes, x, valid, seed, n_epochs, rate, batch_size) -> Iterator[training.State]:
    """Train every code size at once; yield the state after each epoch, one lane a size."""
    n_steps = n_epochs * -(-len(x) // batch_size)
    key = jax.random.key(seed)
    options = {
        "loss": partial(_loss, model=lanes.model),
        "schedule": lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / n_steps, 1))),
        "batch_size": batch_size,
    }

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None, None))
    def epoch(state, mask, x, valid):
        return training.epoch(state, x, valid, None, rate, {"mask": mask}, **options)

    params = dae.init(key, x, model=lanes.model)
    state = jax.vmap(lambda _: training.start(params, key))(lanes.masks)
    for _ in range(n_epochs):
        state = epoch(state, lanes.masks, x, valid)
        yield state


def angles_to(axes: pca.Params, params: Any, sizes: tuple[int, ...]) -> list[float]:
    """The largest angle between what each lane's decoder spans and as many principal axes."""
    kernels = np.asarray(params["decoder"]["layer_0"]["kernel"])
    return [
        largest_angle(kernel[:size], axes.components[:size])
        for kernel, size in zip(kernels, sizes, strict=True)
    ]


def largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    """The largest principal angle, in radians, between what the rows of `a` and of `b` span."""
    a, b = (np.linalg.qr(np.asarray(m, np.float64).T)[0] for m in (a, b))
    outside = b - a @ (a.T @ b)  # its norms are the sines, exact for small angles
    return float(np.arcsin(min(1.0, np.linalg.norm(outside, 2))))


def reconstructed(lanes: Lanes, params: Any, x: jax.Array) -> jax.Array:
    """What each lane makes of `x`, shape (lanes, n, d)."""
    apply = jax.vmap(partial(_apply, lanes.model), in_axes=(0, None, 0))
    return apply(params, x, lanes.masks)


def _apply(model, params, x, mask):
    z = dae.encode(params, x, model=model) * mask[None]
    return model.apply({"params": params}, z, method="decode")


def _loss(params, key, x, mask, *, model):
    del key
    return dae.squared_error(x, _apply(model, params, x, mask))


def _truncated(axes, sizes):
    return [pca.truncate(axes, n_components=size) for size in sizes]


def _draw_curves(report, curve, errors, least, config):
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    epochs, losses, angles = (np.asarray(column) for column in zip(*curve, strict=True))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(config.sizes)))
    for i, (size, shade) in enumerate(zip(config.sizes, shades, strict=True)):
        excess = losses[:, i] / least[i] - 1
        left.loglog(epochs, np.maximum(excess, 1e-7), color=shade, label=f"{size}")
        middle.loglog(epochs, angles[:, i], color=shade, label=f"{size}")
    middle.axhline(1e-2, color="0.6", lw=1, ls=":")
    left.set(title="the linear loss falls to PCA's", ylabel="excess over PCA's error")
    middle.set(title="its decoder turns into PCA's subspace", ylabel="largest angle, radians")
    for ax in (left, middle):
        ax.set_xlabel("epoch")
    left.legend(title="code size", fontsize=9, title_fontsize=9)
    right.plot(config.sizes, errors["PCA"], "s", ms=9, mfc="none", color=PCA, label="PCA")
    right.plot(config.sizes, errors["linear"], "o-", color=LINEAR, label="linear")
    right.plot(config.sizes, errors["nonlinear"], "o-", color=NONLINEAR, label="nonlinear")
    right.set(title="test images", xlabel="code size", ylabel="squared error of an image")
    right.set_ylim(bottom=0)
    right.legend()
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
    report.figure(
        fig,
        "curves",
        "Left and middle: a linear autoencoder reaches the error and the subspace of PCA, the "
        "sooner the larger the step from its last eigenvalue to the next. Right: one more layer "
        "on either side, and a small code says more.",
    )


def _draw_components(report, rows, shape):
    rows = np.array(rows)
    rows /= np.abs(rows).max(2, keepdims=True)
    fig, ax = plt.subplots(figsize=(11, 4), layout="constrained")
    _digits.show(ax, _digits.sheet(rows, shape, line=0), cmap="RdBu_r", vmin=-1)
    names = ["the decoder's weights", "axes of its reconstructions", "axes of the data"]
    _digits.name_rows(ax, names, shape)
    report.figure(
        fig,
        "components",
        "The weights of the linear decoder are some basis of the principal subspace; the principal "
        "axes of what it decodes are those of the data (red is positive).",
    )


def _draw_reconstructions(report, found, test, mean, shape, lane, config, n_columns=14):
    rows = [test, *(ys[lane] for ys in found.values())]
    rows = jnp.clip(jnp.stack([y[:n_columns] + mean for y in rows]), 0, 1)
    fig, ax = plt.subplots(figsize=(11, 3.6), layout="constrained")
    _digits.show(ax, _digits.sheet(rows, shape))
    _digits.name_rows(ax, ["test image", *found], shape)
    report.figure(
        fig,
        "reconstructions",
        f"Test images, and what is left of them after a code of {config.shown} numbers.",
    )
