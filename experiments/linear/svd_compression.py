"""A photograph at several ranks: the best matrices of each rank, their error and their bytes.

The colour channels are set side by side into one matrix, whose leading singular triples are kept.
By Eckart and Young's theorem no matrix of that rank is nearer: the spectral error is the first
singular value dropped, the Frobenius error the root of the sum of the squares of all those dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data
from experiments.report import Report, UserError
from unsup_jax.linear import svd


@dataclass(frozen=True)
class Config:
    """Settings."""

    photograph: str = "china"
    """A picture shipped with scikit-image or scikit-learn."""
    ranks: tuple[int, ...] = (1, 5, 20, 50, 100)
    """Ranks that are drawn."""
    seed: int = 0
    """Unused: nothing here is random."""
    quick: bool = False
    """Take every fourth pixel."""


def run(config: Config, report: Report) -> None:
    """Compress the photograph at every rank, compare with the theorem, draw."""
    image = data.photograph(config.photograph)
    image = image[::4, ::4] if config.quick else image
    height, width = image.shape[:2]
    # Channels side by side: (height, 3 width), or (height, width) for a grey picture.
    x = jnp.asarray(np.moveaxis(np.atleast_3d(image), 2, 1).reshape(height, -1))
    ranks = [rank for rank in config.ranks if rank < min(x.shape)]
    if not ranks:
        raise UserError(f"All ranks are too large: the picture's matrix is {x.shape}. Use less.")
    s = np.asarray(svd.thin(x).singular_values)
    pictures = {rank: svd.low_rank(x, rank=rank) for rank in ranks}
    rows = [_row(x, picture, s, rank) for rank, picture in pictures.items()]
    report.table("ranks", rows, "Errors measured, errors by the theorem, and size in numbers kept.")
    report.metrics(
        shape=x.shape,
        largest_relative_deviation_from_theorem=max(row["deviation"] for row in rows),
        psnr_at_largest_rank=rows[-1]["psnr"],
    )

    def picture(matrix):
        channels = np.asarray(matrix).reshape(height, -1, width)
        return np.clip(np.moveaxis(channels, 1, 2), 0, 1).squeeze()

    shown = [(f"original: {x.size * 4 / 1e3:,.0f} kB", image)]
    for row in rows:
        title = f"rank {row['rank']}: {row['kilobytes']:,.0f} kB, {row['psnr']:.1f} dB"
        shown.append((title, picture(pictures[row["rank"]])))
    report.figure(
        _draw_pictures(shown),
        "pictures",
        "The best approximations of each rank, with the size of their float32 factors and the "
        "peak signal-to-noise ratio.",
    )
    report.figure(
        _draw_errors(s, rows),
        "errors",
        "Measured errors lie on the curves that the singular values predict.",
    )


def _row(x, picture, s, rank):
    error = np.asarray(x - picture, np.float64)
    spectral, frobenius = np.linalg.norm(error, 2), np.linalg.norm(error)
    tail = np.sqrt((s[rank:].astype(np.float64) ** 2).sum())
    numbers = rank * (sum(x.shape) + 1)
    return {
        "rank": rank,
        "spectral_error": spectral,
        "sigma_next": s[rank],
        "frobenius_error": frobenius,
        "root_of_tail_squares": tail,
        "deviation": max(abs(spectral / s[rank] - 1), abs(frobenius / tail - 1)),
        "psnr": -10 * np.log10(np.mean(error**2)),
        "kilobytes": numbers * 4 / 1e3,
        "fraction_kept": numbers / x.size,
    }


def _draw_pictures(shown):
    n_columns = 3
    n_rows = -(-len(shown) // n_columns)
    height, width = shown[0][1].shape[:2]
    size = (4.4 * n_columns, (4.4 * height / width + 0.35) * n_rows)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (title, image) in zip(axes.flat, shown, strict=False):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=11)
    return fig


def _draw_errors(s, rows):
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    tail = np.sqrt(np.cumsum(s[::-1].astype(np.float64) ** 2)[::-1])
    ranks = [row["rank"] for row in rows]
    left.semilogy(range(len(s)), s, color="tab:blue", label=r"$\sigma_{L+1}$")
    left.semilogy(range(len(s)), tail, color="tab:orange", label=r"$(\sum_{l>L}\sigma_l^2)^{1/2}$")
    left.plot(ranks, [row["spectral_error"] for row in rows], "o", color="tab:blue", ms=6)
    left.plot(ranks, [row["frobenius_error"] for row in rows], "o", color="tab:orange", ms=6)
    left.plot([], [], "o", color="0.4", label="measured")
    left.set(title="error of the best matrix of rank L", xlabel="L", ylabel="norm of the error")
    left.legend()
    right.plot([row["fraction_kept"] for row in rows], [row["psnr"] for row in rows], "o-")
    for row in rows:
        right.annotate(
            f" L = {row['rank']}", (row["fraction_kept"], row["psnr"]), va="top", fontsize=9
        )
    right.margins(x=0.12)
    right.set(
        title="quality against size",
        xlabel="numbers kept / numbers of the picture",
        ylabel="PSNR, dB",
    )
    return fig
