"""Atoms learned from patches of photographs: oriented edges, beside the cosines of the DCT.

Learned so that patches have sparse codes, atoms become localised, oriented and band-pass (as
Olshausen and Field found in 1996), and held-out patches cost less than in an overcomplete DCT of as
many atoms or in the patches' own principal axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments.report import Report
from experiments.sparse import _patches as patches
from unsup_jax.linear import pca
from unsup_jax.sparse import dictionary, lasso, omp

MOST = 12  # atoms of a patch in matching pursuit


@dataclass(frozen=True)
class Config:
    """Settings."""

    photographs: tuple[str, ...] = patches.PHOTOGRAPHS
    """Names of shipped photographs."""
    size: int = 12
    """Side of a patch in pixels."""
    n_side: int = 16
    """The square of this is the number of atoms."""
    n_patches: int = 30_000
    """Patches to learn from."""
    lam: float = 0.15
    """Price of a unit of a code; patches have length 1."""
    max_iter: int = 150
    """Mini-batches of 512 patches."""
    seed: int = 0
    """Seed of all random numbers."""
    quick: bool = False
    """Fewer, smaller patches and fewer atoms."""


def run(config: Config, report: Report) -> None:
    """Learn the atoms; draw them, what held-out patches cost, and a patch taken apart."""
    size, n_side, n, max_iter = config.size, config.n_side, config.n_patches, config.max_iter
    if config.quick:
        size, n_side, n, max_iter = 8, 10, 3000, 20
    rng = np.random.default_rng(config.seed)
    images = [patches.grey(name) for name in config.photographs]
    x = jnp.asarray(patches.sample(rng, images, size, n))
    held_out, x = x[: len(x) // 10], x[len(x) // 10 :]
    key_start, key_order = jax.random.split(jax.random.key(config.seed))
    start = dictionary.init(key_start, x, n_components=n_side**2)
    options = {"batch_size": 512, "max_iter": max_iter, "n_sweeps": 4}
    fit = dictionary.fit_online(key_order, start, x, config.lam, 3.0, -1.0, **options)
    # Made up with zeros to as many rows, so that all share their programs.
    atoms = {
        "learned": fit.params,
        "DCT": jnp.asarray(patches.dct(size, n_side)).at[0].set(0),  # patches have no mean
        "PCA": jnp.zeros_like(start)
        .at[: size**2 - 1]
        .set(pca.fit(x, n_components=size**2 - 1).components),
    }
    codes = {name: lasso.encode(each, held_out, config.lam) for name, each in atoms.items()}
    for name, coded in codes.items():
        report.metric(f"{name}_objective", coded.objective.mean())
        report.metric(f"{name}_nonzeros", (coded.params != 0).sum(1).mean())
    _draw_atoms(report, atoms, codes["learned"].params, n_side)
    _draw_costs(report, fit.history, atoms, codes, held_out, config)
    _draw_codes(report, atoms["learned"], codes["learned"].params, held_out)


def _draw_atoms(report, atoms, codes, n_side):
    # Atoms that are used most come first.
    order = np.argsort(-np.abs(np.asarray(codes)).sum(0))
    fig, axes = plt.subplots(1, 2, figsize=(13, 6.9), layout="constrained")
    learned = np.asarray(atoms["learned"])[order]
    for ax, each, title in zip(
        axes,
        (learned, np.asarray(atoms["DCT"])),
        ("learned, most used first", "overcomplete DCT"),
        strict=True,
    ):
        ax.imshow(patches.mosaic(each, n_side), cmap="gray", vmin=0, vmax=1)
        ax.set_title(title)
        ax.axis("off")
    report.figure(
        fig,
        "atoms",
        "Atoms learned from patches of photographs, and the fixed atoms of the DCT: the learned "
        "ones are edges and bars at one place, the fixed ones waves across the patch.",
    )


def _draw_costs(report, history, atoms, codes, x, config):
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    batches = np.arange(1, len(history) + 1)
    left.plot(batches, history, lw=1, label="each new batch, before learning from it")
    for name, colour in zip(codes, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        cost = float(codes[name].objective.mean())
        left.axhline(cost, color=colour, ls="--", lw=1.2, label=f"{name}, held-out: {cost:.3f}")
    left.set(title="cost of a patch while learning", xlabel="batches of 512 patches")
    left.set_ylabel(rf"$\frac{{1}}{{2}}\|x - Wz\|^2 + {config.lam}\,\|z\|_1$")
    left.legend(fontsize=9)
    enough = jnp.array([0.5, 0.3, 0.2, 0.12, 0.07, 0.04, 0.0])
    for name, colour in zip(atoms, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        counts, errors = np.array([_pursuit(atoms[name], x, tol) for tol in enough]).T
        report.metric(f"{name}_energy_left_after_{MOST}_atoms", errors[-1])
        right.plot(counts, errors, "o-", ms=4, color=colour, label=name)
    right.set(
        title="energy left of held-out patches", xlabel="mean atoms of a patch, by matching pursuit"
    )
    right.set(ylabel=r"mean $\|x - Wz\|^2$ of $\|x\|^2 = 1$", yscale="log")
    right.legend(fontsize=9)
    report.figure(
        fig,
        "costs",
        "Sparse codes in the learned dictionary cost less than in the fixed ones, and as many "
        "atoms leave less of a patch over: a patch takes atoms until a share of it is left, from "
        f"half to none, or {MOST} are taken. Patches and atoms have length 1.",
    )


def _pursuit(atoms, x, tol):
    codes = omp.encode(atoms, x, tol, n_nonzero=MOST)
    return (codes != 0).sum(1).mean(), ((x - codes @ atoms) ** 2).sum(1).mean()


def _draw_codes(report, atoms, codes, x, n_rows=3, n_shown=7):
    """Some patches as sums of atoms."""
    count = np.asarray((codes != 0).sum(1))
    chosen = np.flatnonzero((count >= n_shown) & (count <= n_shown + 3))[:n_rows]
    side = round(np.sqrt(x.shape[1]))
    fig, axes = plt.subplots(
        n_rows, n_shown + 2, figsize=(1.45 * (n_shown + 2), 1.75 * n_rows), layout="constrained"
    )
    for row, i in zip(axes, chosen, strict=False):
        z = np.asarray(codes[i])
        largest = np.argsort(-np.abs(z))[:n_shown]
        pictures = [x[i], codes[i] @ atoms, *(atoms[j] for j in largest)]
        titles = ["patch", f"{count[i]} atoms", *(f"{z[j]:+.2f} x" for j in largest)]
        for ax, picture, title in zip(row, pictures, titles, strict=True):
            scale = float(jnp.abs(picture).max())
            ax.imshow(picture.reshape(side, side), cmap="gray", vmin=-scale, vmax=scale)
            ax.set_title(title, fontsize=10)
            ax.axis("off")
    report.figure(
        fig,
        "codes",
        f"Held-out patches, what their codes make of them, and the {n_shown} atoms of the largest "
        "codes.",
    )
