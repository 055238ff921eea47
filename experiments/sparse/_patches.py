"""Photographs cut into patches, put together again, and dictionaries of patches drawn."""

from __future__ import annotations

import numpy as np
from scipy.fft import idct

from experiments import data

PHOTOGRAPHS = ("camera", "astronaut", "china", "flower")


def grey(name: str) -> np.ndarray:
    """Return a shipped photograph in grey, values in [0, 1]."""
    image = data.photograph(name)
    if image.ndim == 2:
        return image
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def cut(image: np.ndarray, size: int, step: int = 1) -> np.ndarray:
    """Return all overlapping square patches as rows, shape (n, size * size).

    Positions advance by `step`; the last row and column of patches always end at the border.
    """
    rows, columns = (_starts(length, size, step) for length in image.shape)
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
    return windows[np.ix_(rows, columns)].reshape(-1, size * size)


def paste(patches: np.ndarray, shape: tuple[int, int], size: int, step: int = 1) -> np.ndarray:
    """Return the image whose patches, as `cut` orders them, these are; overlaps are averaged."""
    rows, columns = (_starts(length, size, step) for length in shape)
    patches = patches.reshape(len(rows), len(columns), size, size)
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i in range(size):
        for j in range(size):
            at = np.ix_(rows + i, columns + j)
            total[at] += patches[:, :, i, j]
            count[at] += 1
    return total / count


def _starts(length, size, step):
    return np.unique(np.append(np.arange(0, length - size + 1, step), length - size))


def sample(
    rng: np.random.Generator, images: list[np.ndarray], size: int, n: int, contrast: float = 0.05
) -> np.ndarray:
    """Return random patches of the images without their means, of length 1; flat ones are left out.

    Args:
        rng: Source of the positions.
        images: Grey images.
        size: Side of a patch.
        n: Number of positions drawn, the same in every image.
        contrast: Least standard deviation of a patch.
    """
    drawn = []
    for image in images:
        i, j = (rng.integers(0, length - size + 1, n // len(images)) for length in image.shape)
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        drawn.append(windows[i, j].reshape(-1, size * size))
    patches = centre(rng.permutation(np.concatenate(drawn)))[0]
    patches = patches[patches.std(1) > contrast]
    return patches / np.linalg.norm(patches, axis=1, keepdims=True)


def centre(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return patches without their means, and the means as a column."""
    means = patches.mean(1, keepdims=True)
    return patches - means, means


def dct(size: int, n_side: int) -> np.ndarray:
    """Return an overcomplete DCT dictionary of `n_side * n_side` patches of unit length as rows.

    Products of one-dimensional cosines of `n_side` frequencies; only the first is not of mean 0.
    """
    if n_side == size:
        waves = idct(np.eye(size), axis=1, norm="ortho")
    else:
        waves = np.cos(np.outer(np.arange(n_side), np.arange(size)) * np.pi / n_side)
        waves[1:] -= waves[1:].mean(1, keepdims=True)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    return np.kron(waves, waves).astype(np.float32)


def mosaic(atoms: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Return atoms as square tiles in one picture, each stretched to its own range."""
    size = round(np.sqrt(atoms.shape[1]))
    rows = -(-len(atoms) // columns)
    picture = np.ones((rows * (size + gap) - gap, columns * (size + gap) - gap))
    for index, atom in enumerate(atoms):
        i, j = (part * (size + gap) for part in divmod(index, columns))
        scale = np.abs(atom).max() or 1
        picture[i : i + size, j : j + size] = 0.5 + 0.5 * atom.reshape(size, size) / scale
    return picture


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in decibels of an image in [0, 1]."""
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))
