"""Photographs freed from noise by sparse codes of their patches in a dictionary of their own.

The pipeline of Elad and Aharon (2006): a dictionary is learned with L1 codes from the noisy
image's own patches, every overlapping patch is approximated by orthogonal matching pursuit until
its error is that of the noise, and the overlaps are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.report import Report, UserError
from experiments.sparse import _patches as patches
from unsup_jax.sparse import dictionary, omp

GAIN = 1.15  # a patch of 64 pixels is done at an error of 64 (GAIN sigma)^2: Elad and Aharon's
AVERAGE = 0.5  # weight of the noisy image in the average, times sigma / 25 on a scale of 255


@dataclass(frozen=True)
class Config:
    """Settings."""

    photographs: tuple[str, ...] = ("camera", "astronaut")
    """Names of shipped photographs."""
    sigmas: tuple[int, ...] = (15, 25, 50)
    """Standard deviations of the noise, of 255."""
    side: int = 256
    """Photographs are made smaller by a whole factor, and cut, to this many pixels square."""
    n_components: int = 256
    """Number of atoms."""
    peer: Literal["none", "scikit-learn", "spams"] = "none"
    """Whose dictionary, of the same patches from the same start, to put beside ours."""
    seed: int = 0
    """Seed of all random numbers."""
    quick: bool = False
    """One small photograph and one noise level."""


LAM = 3.0  # of sigma: correlations of an atom with noise alone rarely reach it
SIZE, N_PATCHES, BATCH = 8, 20_000, 512


def run(config: Config, report: Report) -> None:
    """Denoise with each dictionary, tabulate and draw."""
    names, sigmas, side = config.photographs, config.sigmas, config.side
    if config.quick:
        names, sigmas, side = names[:1], sigmas[1:2], side // 2
    table: list[dict[str, Any]] = []
    shown = []
    cases = [(name, sigma) for name in names for sigma in sigmas]
    for name, sigma in report.progress(cases, "Denoising"):
        image = _smaller(patches.grey(name), side)
        rng = np.random.default_rng([config.seed, sigma])
        noisy = (image + sigma / 255 * rng.standard_normal(image.shape)).astype(np.float32)
        x = training(noisy, config.seed)
        start = dictionary.init(
            jax.random.key(config.seed), jnp.asarray(x), n_components=config.n_components
        )
        atoms = {
            "DCT": patches.dct(SIZE, round(np.sqrt(config.n_components)))[1:],
            "learned": learn(x, start, LAM * sigma / 255, config.seed),
        }
        if config.peer != "none":
            learner = {"scikit-learn": learn_scikit_learn, "spams": learn_spams}[config.peer]
            atoms[config.peer] = learner(x, np.array(start), LAM * sigma / 255, config.seed)
        results = {"noisy": noisy}
        results |= {kind: denoise(noisy, each, sigma / 255) for kind, each in atoms.items()}
        scores = {kind: patches.psnr(result, image) for kind, result in results.items()}
        table.append({"photograph": name, "sigma": sigma, **scores})
        shown.append((name, sigma, image, results, scores, atoms["learned"]))
    report.table(
        "psnr",
        table,
        "Peak signal-to-noise ratio in dB: the dictionary differs, the pipeline is the same",
    )
    for other in ("noisy", "DCT", config.peer):
        if other != "none":
            gains = [row["learned"] - row[other] for row in table]
            report.metric(f"decibels above {other}: least and mean", [min(gains), np.mean(gains)])
    _draw(report, [case for case in shown if case[1] == sigmas[len(sigmas) // 2]])
    _draw_atoms(report, *shown[len(sigmas) // 2])


def training(noisy: np.ndarray, seed: int) -> np.ndarray:
    """Return random patches of the noisy image without their means."""
    windows = patches.centre(patches.cut(noisy, SIZE))[0]
    rows = np.random.default_rng(seed).permutation(len(windows))[:N_PATCHES]
    return windows[rows]


def learn(x: np.ndarray, start: jax.Array, lam: float, seed: int) -> np.ndarray:
    """Return atoms learned from noisy patches with L1 codes; `lam` grows with the noise."""
    key = jax.random.key(seed)
    options = {"batch_size": BATCH, "max_iter": 60, "n_sweeps": 4}
    fit = dictionary.fit_online(key, start, jnp.asarray(x), lam, 5.0, -1.0, **options)
    return np.asarray(fit.params)


def learn_scikit_learn(x: np.ndarray, start: np.ndarray, lam: float, seed: int) -> np.ndarray:
    """Return atoms that scikit-learn learns from the same patches, objective and start."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    learner = MiniBatchDictionaryLearning(
        len(start), alpha=lam, dict_init=start, fit_algorithm="lars", max_iter=2,
        batch_size=BATCH, max_no_improvement=None, tol=0, random_state=seed,
    )  # fmt: skip
    return learner.fit(x).components_.astype(np.float32)


def learn_spams(x: np.ndarray, start: np.ndarray, lam: float, seed: int) -> np.ndarray:
    """Return the same by SPAMS, in as many batches as ours."""
    del seed
    try:
        import spams
    except ImportError as error:
        raise UserError("SPAMS is not installed: pip install 'unsup-jax[bench]'") from error
    options = {"lambda1": lam, "iter": 60, "batchsize": BATCH, "numThreads": 2, "verbose": False}
    columns, atoms = np.asfortranarray(x.T), np.asfortranarray(start.T)
    learned = spams.trainDL(columns, D=atoms, K=len(start), **options)
    return np.ascontiguousarray(learned.T)


def denoise(noisy: np.ndarray, atoms: np.ndarray, sigma: float) -> np.ndarray:
    """Return the average of the patches' approximations and, a little, the noisy image itself."""
    x, means = patches.centre(patches.cut(noisy, SIZE))
    lengths = np.linalg.norm(atoms, axis=1, keepdims=True)
    unit = jnp.asarray(atoms / np.where(lengths > 0, lengths, 1))
    budget = SIZE * SIZE * (GAIN * sigma) ** 2
    codes = omp.encode(unit, jnp.asarray(x), budget, n_nonzero=16)
    clean = np.asarray(codes @ unit) + means
    averaged = patches.paste(clean, noisy.shape, SIZE)
    share = AVERAGE * sigma * 255 / 25 / (SIZE * SIZE)
    return np.clip((averaged + share * noisy) / (1 + share), 0, 1)


def _smaller(image, side):
    """The middle of an image made smaller by a whole factor, averaging, as near as it can."""
    factor = max(min(image.shape) // side, 1)
    side = min(side, min(image.shape) // factor)
    top, left = ((length - side * factor) // 2 for length in image.shape)
    image = image[top : top + side * factor, left : left + side * factor]
    return image.reshape(side, factor, side, factor).mean((1, 3))


def _draw(report, cases):
    columns = ["photograph", *cases[0][3]]
    fig, axes = plt.subplots(
        len(cases), len(columns), figsize=(2.6 * len(columns), 2.85 * len(cases)), squeeze=False
    )
    for row, (name, sigma, image, results, scores, _) in zip(axes, cases, strict=True):
        for axis, kind in zip(row, columns, strict=True):
            axis.imshow(results.get(kind, image), cmap="gray", vmin=0, vmax=1)
            title = name if kind == "photograph" else f"{kind}: {scores[kind]:.2f} dB"
            axis.set_title(f"{title}, sigma {sigma}" if kind == "noisy" else title, fontsize=10)
            axis.axis("off")
    fig.tight_layout(pad=0.4)
    report.figure(
        fig,
        "denoised",
        "The photograph, with Gaussian noise, and denoised with a fixed dictionary of cosines and "
        "with one learned from the noisy patches themselves.",
    )


def _draw_atoms(report, name, sigma, image, results, scores, atoms):
    del image, results, scores
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.9))
    for axis, each, title in zip(
        axes,
        (patches.dct(SIZE, 16), atoms),
        ("Overcomplete DCT", f"Learned from noisy patches ({name}, sigma {sigma})"),
        strict=True,
    ):
        axis.imshow(patches.mosaic(each, 16), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, loc="left", fontsize=11)
        axis.axis("off")
    fig.tight_layout()
    report.figure(fig, "atoms", "The atoms of the fixed and of the learned dictionary.")
