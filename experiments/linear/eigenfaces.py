"""Eigenfaces: principal axes of faces, reconstructions from few of them, and faces PPCA makes up.

Faces that the fit has not seen are reconstructed from more and more axes, and scored by
probabilistic PCA, which tells how many axes the data support.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data
from experiments.report import Report, UserError
from unsup_jax.linear import pca


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["lfw", "olivetti"] = "lfw"
    """The 100 small faces of scikit-image, or 400 of Olivetti (downloaded by scikit-learn)."""
    n_components: int | None = None
    """Axes of the model that faces are sampled from; by default what held-out faces prefer."""
    seed: int = 0
    """Seed of the split and of the samples."""
    quick: bool = False
    """Try fewer numbers of axes."""


class Faces(NamedTuple):
    """Faces to fit and faces to judge by, as rows, and the shape of an image."""

    train: jax.Array
    test: jax.Array
    shape: tuple[int, int]


def run(config: Config, report: Report) -> None:
    """Fit the faces, choose the number of axes, draw axes, reconstructions and samples."""
    faces = _load(config)
    # One less than the centred faces span, so that some noise is left for the likelihood.
    most = min(len(faces.train) - 2, faces.train.shape[1] - 1)
    if config.n_components is not None and not 1 <= config.n_components <= most:
        raise UserError(f"--n-components must be 1 to {most}, it was {config.n_components}.")
    numbers = np.unique(np.geomspace(1, most, 8 if config.quick else 25).astype(int)).tolist()
    largest = pca.fit(faces.train, n_components=most)
    fits = {k: pca.truncate(largest, n_components=k) for k in numbers}
    scores = {k: float(pca.log_prob(params, faces.test).mean()) for k, params in fits.items()}
    chosen = config.n_components or max(scores, key=scores.__getitem__)
    model = pca.truncate(largest, n_components=chosen)

    report.figure(
        _draw_axes(largest, faces.shape),
        "eigenfaces",
        "The mean face and the first principal axes: red adds light, blue takes it away.",
    )
    steps = [k for k in (1, 4, 16, 64, 256) if k <= most]
    report.figure(
        _draw_reconstructions(largest, faces, steps),
        "reconstructions",
        "Faces the fit has not seen, from the first L axes.",
    )
    report.figure(
        _draw_samples(jax.random.key(config.seed), model, faces),
        "samples",
        f"Faces sampled from probabilistic PCA with {chosen} axes, with and without its noise, "
        "above faces of the data.",
    )
    report.figure(
        _draw_scores(fits, scores, faces, chosen),
        "choice",
        "Reconstruction always gains from more axes; the likelihood of held-out faces does not.",
    )
    report.metrics(
        n_train=len(faces.train),
        n_test=len(faces.test),
        n_components=chosen,
        explained_variance_ratio=pca.explained_variance_ratio(model).sum(),
        axes_for_90_percent=pca.n_components_for(largest, 0.9),
        test_log_likelihood=pca.log_prob(model, faces.test).mean(),
        test_error_per_pixel=pca.reconstruction_error(model, faces.test) / faces.test.shape[1],
    )


def _load(config: Config) -> Faces:
    if config.dataset == "lfw":
        faces = data.faces()
        x, shape = faces.x[faces.y == 1], faces.shape
    else:
        x, shape = _olivetti(), (64, 64)
    order = np.random.default_rng(config.seed).permutation(len(x))
    held_out = len(x) // 5
    train, test = jnp.asarray(x[order[held_out:]]), jnp.asarray(x[order[:held_out]])
    return Faces(train, test, shape)


def _olivetti() -> np.ndarray:
    from sklearn.datasets import fetch_olivetti_faces

    try:
        return data.check(fetch_olivetti_faces().data, "olivetti")
    except OSError as error:
        raise UserError(
            f"Can't download the Olivetti faces ({error}). The offline faces: --dataset lfw."
        ) from error


def _grid(rows, titles=(), labels=(), scale=1.15):
    """Draw rows of `(image, options)`; a row may be shorter than the others."""
    n_rows, n_columns = len(rows), max(map(len, rows))
    fig, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(scale * n_columns, scale * n_rows + 0.3),
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_frame_on(False)
    for line, images in zip(axes, rows, strict=True):
        for ax, (image, options) in zip(line, images, strict=False):
            ax.imshow(image, **options)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=9)
    for ax, label in zip(axes[:, 0], labels, strict=False):
        ax.set_ylabel(label, fontsize=9)
    return fig


def _grey(images, shape):
    options = {"cmap": "gray", "vmin": 0, "vmax": 1}
    return [(np.asarray(image).reshape(shape), options) for image in images]


def _draw_axes(params, shape, n_columns=6, n_rows=3):
    images = _grey([params.mean], shape)
    for axis in np.asarray(params.components)[: n_columns * n_rows - 1]:
        limit = np.abs(axis).max()
        options = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        images.append((axis.reshape(shape), options))
    rows = [images[i : i + n_columns] for i in range(0, len(images), n_columns)]
    fig = _grid(rows, scale=1.4)
    ratios = np.asarray(pca.explained_variance_ratio(params))
    titles = ["mean", *(f"{i + 1}: {ratio:.1%}" for i, ratio in enumerate(ratios))]
    for ax, title in zip(fig.axes, titles, strict=False):
        ax.set_title(title, fontsize=9)
    return fig


def _draw_reconstructions(params, faces, steps, n_faces=8):
    shown = faces.test[:n_faces]
    rows = [_grey(shown, faces.shape)]
    for k in steps:
        first = pca.truncate(params, n_components=k)
        back = pca.inverse_transform(first, pca.transform(first, shown))
        rows.append(_grey(back, faces.shape))
    return _grid(rows, labels=["face", *(f"L = {k}" for k in steps)])


def _draw_samples(key, params, faces, n_faces=10):
    # The same latent vectors twice: the model without its noise is the mean of x given z.
    silent = params._replace(
        explained_variance=params.explained_variance - params.noise_variance,
        noise_variance=jnp.zeros_like(params.noise_variance),
    )
    rows = [
        _grey(pca.sample(key, silent, n_samples=n_faces), faces.shape),
        _grey(pca.sample(key, params, n_samples=n_faces), faces.shape),
        _grey(faces.train[:n_faces], faces.shape),
    ]
    return _grid(rows, labels=["$Bz + \\mu$", "with noise", "data"])


def _draw_scores(fits, scores, faces, chosen):
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, x in (("fitted", faces.train), ("held out", faces.test)):
        error = [pca.reconstruction_error(p, x) / x.shape[1] for p in fits.values()]
        left.loglog(list(fits), np.maximum(error, 1e-7), "o-", ms=3, label=name)
    left.set(title="reconstruction error a pixel", xlabel="L", ylabel="mean squared error")
    left.legend()
    right.semilogx(list(scores), list(scores.values()), "o-", ms=3, color="tab:orange")
    right.axvline(chosen, color="black", lw=1, ls="--")
    best, worst = max(scores.values()), scores[1]
    right.set_ylim(best - 2 * (best - worst), best + 0.2 * (best - worst))
    right.set(title="probabilistic PCA, held-out faces", xlabel="L", ylabel="log-likelihood, nats")
    return fig
