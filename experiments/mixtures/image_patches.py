"""A Gaussian mixture of image patches, learnt from files by one process, by many, or in a stream.

Patches of photographs, their means removed, go to a few `.npy` files. Each process reads its own
share of the rows and fits them together with all others (`data_parallel`). The same files are then
streamed, as if no memory held them: pass by pass to the same result, and by stochastic EM, which
needs a pass or two. Such mixtures denoise images (Zoran and Weiss, 2011); their components are flat
areas, edges of one direction, and textures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from matplotlib import pyplot as plt

from experiments import data
from experiments.report import Report, UserError, replacing
from unsup_jax import distributed, files
from unsup_jax.core.fit import Status
from unsup_jax.mixtures import gaussian, online

DISTRIBUTED = True
PHOTOGRAPHS = ("astronaut", "camera", "china", "coffee", "flower")
N_FILES = 8
REG_COVAR = 1e-5


@dataclass(frozen=True)
class Config:
    """Settings."""

    files: tuple[Path, ...] = ()
    """Data of your own instead: `.npy` or Parquet files of square patches, one a row."""
    patch: int = 8
    """Height and width of a patch, in pixels."""
    n_patches: int = 100_000
    """Patches cut from the photographs."""
    folder: Path = Path(".cache/patches")
    """Where the patches are kept, a place that all processes see."""
    n_components: int = 16
    """Components of the mixture."""
    max_iter: int = 20
    """EM iterations, each a pass over the data."""
    batch_size: int = 2000
    """Patches of a batch of the streams."""
    seed: int = 0
    """Seed of all random numbers."""
    quick: bool = False
    """Cut few small patches, fit few components."""


def run(config: Config, report: Report) -> None:
    """Cut the patches, fit them in three ways, draw the components and the three curves."""
    patch, n, k, max_iter = config.patch, config.n_patches, config.n_components, config.max_iter
    if config.quick:
        patch, n, k, max_iter = 6, 6000, 6, 6
    try:
        paths = config.files or cut_patches(config.folder, patch, n, config.seed)
        everything = files.read(paths, batch_size=config.batch_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    mine = everything.rows(distributed.process_rows(len(everything)))
    x = mine.array()
    mesh = distributed.make_mesh()

    # A few rows of every process, gathered: all draw the same start from them.
    few = distributed.gather_rows(x[:: max(1, len(everything) // 4000)], mesh)
    key = jax.random.key(config.seed)
    start = gaussian.init(key, jnp.asarray(few), None, REG_COVAR, n_components=k)
    fit = distributed.data_parallel(gaussian.fit, mesh)
    sharded = fit(start, x, None, REG_COVAR, -1.0, max_iter=max_iter)
    streamed = distributed.fit_stream(
        gaussian.e_step,
        partial(gaussian.update, reg_covar=REG_COVAR),
        start,
        mine,
        -1.0,
        mesh,
        max_iter=max_iter,
    )
    passes, scores = stochastic(start, mine, few)

    report.metrics(
        n_samples=len(everything),
        n_features=everything.n_features,
        n_components=k,
        n_processes=jax.process_count(),
        n_devices=mesh.size,
        rows_of_this_process=len(mine),
        status=Status(int(sharded.status)),
        mean_log_likelihood=sharded.objective,
        streamed_minus_sharded=streamed.objective - sharded.objective,
        stochastic_after_one_pass=scores[len(scores) // 2],
        stochastic_after_two_passes=scores[-1],
    )
    _draw_curves(report, sharded, streamed, passes, scores)
    _draw_components(report, sharded.params)


def cut_patches(folder: Path, patch: int, n: int, seed: int) -> list[Path]:
    """Write files of patches from all photographs, each process some of them; keep old ones."""
    per_file = n // N_FILES
    paths = [folder / f"{patch}x{patch}-{per_file}-{seed}-{i}.npy" for i in range(N_FILES)]
    images = [data.photograph(name) for name in PHOTOGRAPHS]
    images = [image.mean(-1) if image.ndim == 3 else image for image in images]
    for i in range(jax.process_index(), N_FILES, jax.process_count()):
        rng = np.random.default_rng([seed, i])
        rows = []
        for which in rng.integers(len(images), size=per_file):
            image = images[which]
            a, b = (rng.integers(size - patch + 1) for size in image.shape)
            rows.append(image[a : a + patch, b : b + patch].ravel())
        x = np.stack(rows).astype(np.float32)
        with replacing(paths[i]) as temporary:
            np.save(temporary, x - x.mean(1, keepdims=True))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("all patches are written")
    return paths


def stochastic(
    start: gaussian.Params, batches: files.Files, few: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-likelihood of a few rows along two passes of stochastic EM over some batches."""
    score = jax.jit(lambda params: gaussian.log_prob(params, jnp.asarray(few)).mean())
    step = partial(online.step, reg_covar=REG_COVAR)
    state, passes, scores = online.start(start), [0.0], [score(start)]
    for number in range(2):
        for tenth in np.array_split(np.arange(len(batches)), 10):
            part = batches.rows(range(tenth[0], tenth[-1] + 1))
            state = distributed.fold(step, state, part)
            passes.append(number + (tenth[-1] + 1) / len(batches))
            scores.append(score(state.params))
    return np.asarray(passes), np.asarray(scores)


def _draw_curves(report, sharded, streamed, passes, scores):
    fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    iterations = np.arange(1, len(sharded.history) + 1)
    ax.plot(iterations, sharded.history, color="tab:blue", label="EM, rows sharded over devices")
    ax.plot(iterations, streamed.history, "o", color="black", ms=4, label="EM, rows streamed")
    ax.plot(passes[1:], scores[1:], color="tab:orange", label="stochastic EM, a step every batch")
    ax.set(xlabel="passes over the data", ylabel="mean log-likelihood (nats a patch)")
    ax.legend(loc="lower right")
    report.figure(
        fig,
        "curves",
        "The likelihood along EM with sharded rows and along EM over streamed batches, which must "
        "coincide, and along two passes of stochastic EM, measured on a few thousand patches.",
    )


def _draw_components(report, params, n_shown=12, n_axes=6):
    """The components by weight, each with the leading axes of its covariance as patches."""
    order = np.argsort(-np.asarray(params.log_weights))[:n_shown]
    k, d = params.means.shape
    size = round(d**0.5)
    covariances = np.asarray(params.covariance.dense(k, d))[order]
    values, axes = np.linalg.eigh(covariances)
    fig, grid = plt.subplots(
        n_axes, len(order), figsize=(0.8 * len(order), 0.8 * n_axes + 0.7), layout="constrained"
    )
    for j, component in enumerate(order):
        for i in range(n_axes):
            axis = axes[j][:, -1 - i]
            limit = np.abs(axis).max()
            ax = grid[i, j]
            ax.imshow(axis.reshape(size, size), cmap="gray", vmin=-limit, vmax=limit)
            ax.set(xticks=[], yticks=[])
        weight, spread = np.exp(params.log_weights[component]), np.sqrt(values[j].sum() / d)
        grid[0, j].set_title(f"{weight:.0%}\n±{spread:.3f}", fontsize=8)
    report.figure(
        fig,
        "components",
        "Each column is a component, the most frequent first: its share of the patches, the "
        "standard deviation of its pixels (intensities are 0 to 1), and its leading axes.",
    )
