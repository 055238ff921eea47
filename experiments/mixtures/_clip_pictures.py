"""What a cosegmentation looks like: masks, an overlay video, a contact sheet, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage

from experiments.mixtures._clips import Clip, frame_ious
from experiments.report import Report, replacing

OUTLINE = (1.0, 0.95, 0.2)
COLOURS = {"start": "0.6", "alone": "tab:blue", "joint": "tab:red"}


def overlay(clip: Clip, masks: np.ndarray) -> np.ndarray:
    """Return the frames with the background greyed and the object outlined."""
    grey = 0.5 * clip.frames.mean(-1, keepdims=True) + 0.1
    shown = np.where(masks[..., None], clip.frames, grey)
    for frame, mask in zip(shown, masks, strict=True):
        frame[ndimage.binary_dilation(mask) & ~mask] = OUTLINE
    return shown


def save_masks(folder: Path, masks: np.ndarray) -> None:
    """Write one PNG a frame, white on the object, in place of those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for i, mask in enumerate(masks):
        with replacing(folder / f"{i:03d}.png") as path:
            iio.imwrite(path, mask.astype(np.uint8) * 255)


def save_video(report: Report, clips: Sequence[Clip], masks: Sequence[np.ndarray]) -> None:
    """Write the clips above their overlays, all side by side, as a GIF."""
    length = max(len(c.frames) for c in clips)
    columns = []
    for clip, mask in zip(clips, masks, strict=True):
        column = np.concatenate([clip.frames, overlay(clip, mask)], axis=1)
        columns.append(column[np.arange(length) % len(column)])  # a shorter clip starts again
    height = max(c.shape[1] for c in columns)
    pads = [[(0, 0), (0, height - c.shape[1]), (0, 0), (0, 0)] for c in columns]
    video = np.concatenate([np.pad(c, p) for c, p in zip(columns, pads, strict=True)], axis=2)
    frames = (255 * video).round().astype(np.uint8)
    with report.file("overlay.gif", "The clips, and the object found in them") as path:
        iio.imwrite(path, frames, plugin="pillow", duration=150, loop=0)


def contact_sheet(clips: Sequence[Clip], rows: Mapping[str, Sequence[np.ndarray]]) -> Any:
    """Return a figure: for each clip some frames, then a row for every set of masks."""
    n_rows = len(clips) * (1 + len(rows)) + sum(c.truth is not None for c in clips)
    fig, axes = plt.subplots(n_rows, 1, figsize=(9.5, 1.3 * n_rows), squeeze=False)
    free = iter(axes[:, 0])
    for i, clip in enumerate(clips):
        chosen = np.linspace(0, len(clip.frames) - 1, 6).round().astype(int)
        _strip(next(free), clip.name, clip.frames[chosen])
        for label, masks in rows.items():
            iou = ""
            if clip.truth is not None:
                iou = f"\n{frame_ious(masks[i], clip.truth).mean():.2f}"
            _strip(next(free), label + iou, overlay(clip, masks[i])[chosen])
        if clip.truth is not None:
            _strip(next(free), "truth", overlay(clip, clip.truth)[chosen])
    fig.subplots_adjust(hspace=0.04)
    return fig


def _strip(axis: Any, label: str, frames: np.ndarray) -> None:
    gap = np.pad(frames, [(0, 0), (0, 0), (0, 2), (0, 0)], constant_values=1)
    axis.imshow(np.concatenate(list(gap), axis=1))
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(label, rotation=0, ha="right", va="center")
    axis.spines[:].set_visible(False)


def curves(
    log_likelihood: np.ndarray, clips: Sequence[Clip], rows: Mapping[str, Sequence[np.ndarray]]
) -> Any:
    """Return a figure: the joint log-likelihood, and the overlap with the truth by frame."""
    known = [(i, c.name, c.truth) for i, c in enumerate(clips) if c.truth is not None]
    n = 1 + len(known)
    fig, axes = plt.subplots(1, n, figsize=(4 * n, 3.2), squeeze=False, layout="constrained")
    axes[0, 0].plot(np.arange(1, len(log_likelihood) + 1), log_likelihood, color="tab:red")
    axes[0, 0].set(xlabel="iteration of EM", title="log-likelihood, nats a pixel")
    for axis, (i, name, truth) in zip(axes[0, 1:], known, strict=True):
        for label, masks in rows.items():
            iou = frame_ious(masks[i], truth)
            axis.plot(iou, color=COLOURS.get(label), label=f"{label}, mean {iou.mean():.2f}")
        axis.set(xlabel="frame", title=f"intersection over union: {name}", ylim=(0, 1))
        axis.legend(loc="lower right", frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return fig
