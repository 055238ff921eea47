"""Photographs freed from noise by sparse codes of their patches in a dictionary of their own.

The pipeline of Elad and Aharon (2006): a dictionary is learned with L1 codes from the noisy
image's own patches, every overlapping patch is approximated by orthogonal matching pursuit until
its error is that of the noise, and the overlaps are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.report import Report
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
    """The middle of each photograph, this many pixels square, is used."""
    n_components: int = 256
    """Number of atoms."""
    seed: int = 0
    """Seed of all random numbers."""
    quick: bool = False
    """One small photograph and one noise level."""


SIZE = 8


def run(config: Config, report: Report) -> None:
    """Denoise with each dictionary, tabulate and draw."""
    names, sigmas, side = config.photographs, config.sigmas, config.side
    if config.quick:
        names, sigmas, side = names[:1], sigmas[1:2], min(side, 128)
    table, shown = [], []
    cases = [(name, sigma) for name in names for sigma in sigmas]
    for name, sigma in report.progress(cases, "Denoising"):
        image = _middle(patches.grey(name), side)
        rng = np.random.default_rng([config.seed, sigma])
        noisy = (image + sigma / 255 * rng.standard_normal(image.shape)).astype(np.float32)
        atoms = {
            "DCT": patches.dct(SIZE, 16)[1 : config.n_components],
            "learned": learn(noisy, sigma / 255, config.n_components, config.seed),
            "scikit-learn": learn_peer(noisy, sigma / 255, config.n_components, config.seed),
        }
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
    gaps = [row["learned"] - row["scikit-learn"] for row in table]
    report.metrics(
        learned_minus_scikit_learn=gaps,
        learned_minus_dct=[row["learned"] - row["DCT"] for row in table],
        worst_gap_to_scikit_learn=min(gaps),
    )
    _draw(report, [case for case in shown if case[1] == sigmas[len(sigmas) // 2]])
    _draw_atoms(report, *shown[len(sigmas) // 2])


def training(noisy: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return random patches of the noisy image without their means."""
    windows = patches.centre(patches.cut(noisy, SIZE))[0]
    rows = np.random.default_rng(seed).permutation(len(windows))[:n]
    return windows[rows]


def learn(noisy: np.ndarray, sigma: float, n_components: int, seed: int) -> np.ndarray:
    """Return atoms learned from the noisy patches with L1 codes; `lam` grows with the noise."""
    x = jnp.asarray(training(noisy, 20_000, seed))
    key_start, key_order = jax.random.split(jax.random.key(seed))
    start = dictionary.init(key_start, x, n_components=n_components)
    fit = dictionary.fit_online(
        key_order, start, x, LAM * sigma, 5.0, -1.0, batch_size=512, max_iter=60, n_sweeps=4
    )
    return np.asarray(fit.params)


LAM = 3.0  # of sigma: correlations of an atom with noise alone rarely reach it


def learn_peer(noisy: np.ndarray, sigma: float, n_components: int, seed: int) -> np.ndarray:
    """Return atoms that scikit-learn learns from the same patches, objective and start."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    x = training(noisy, 20_000, seed)
    start = dictionary.init(jax.random.key(seed), jnp.asarray(x), n_components=n_components)
    learner = MiniBatchDictionaryLearning(
        n_components, alpha=LAM * sigma, dict_init=np.array(start), fit_algorithm="lars",
        max_iter=1, batch_size=512, max_no_improvement=None, tol=0, random_state=seed,
    )  # fmt: skip
    return learner.fit(x).components_.astype(np.float32)


def denoise(noisy: np.ndarray, atoms: np.ndarray, sigma: float) -> np.ndarray:
    """Return the average of the patches' approximations and, a little, the noisy image itself."""
    x, means = patches.centre(patches.cut(noisy, SIZE))
    lengths = np.linalg.norm(atoms, axis=1, keepdims=True)
    atoms = jnp.asarray(atoms / np.where(lengths > 0, lengths, 1))
    budget = SIZE * SIZE * (GAIN * sigma) ** 2
    codes = omp.encode(atoms, jnp.asarray(x), budget, n_nonzero=16)
    clean = np.asarray(jnp.asarray(codes) @ atoms) + means
    averaged = patches.paste(clean, noisy.shape, SIZE)
    share = AVERAGE * sigma * 255 / 25 / (SIZE * SIZE)
    return np.clip((averaged + share * noisy) / (1 + share), 0, 1)


def _middle(image, side):
    top, left = ((length - min(side, length)) // 2 for length in image.shape)
    return image[top : top + side, left : left + side]


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
        "The photograph, with Gaussian noise, and denoised with a fixed dictionary of cosines, "
        "with one learned from the noisy patches, and with scikit-learn's learned from the same.",
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
