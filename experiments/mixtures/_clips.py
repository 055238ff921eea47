"""Clips for cosegmentation: composed from photographs with exact masks, or read from disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.registration import phase_cross_correlation
from skimage.transform import resize

from experiments import data
from experiments.report import UserError

Start = Literal["motion", "saliency"]

# The outline of cup and saucer in the photograph "coffee": two ellipses, each with its centre
# (row, column) and its half axes (vertical, horizontal).
CUP = (222.0, 278.0, 165.0, 202.0), (112.0, 291.0, 96.0, 118.0)


class Clip(NamedTuple):
    """A video, and where it is known its true segmentation.

    Attributes:
        name: What to call it; names the output files.
        frames: RGB in [0, 1], float32, shape `(t, h, w, 3)`.
        truth: True on the object, bool, shape `(t, h, w)`; None if unknown.
    """

    name: str
    frames: np.ndarray
    truth: np.ndarray | None = None


class Scene(NamedTuple):
    """How a clip is composed: a photograph, and the way the object takes before it.

    Attributes:
        background: Name of the photograph.
        first: Centre of the object in the first frame, `(y, x)` as fractions of the frame.
        last: The same in the last frame.
    """

    background: str
    first: tuple[float, float]
    last: tuple[float, float]


# Before the flower, which has the colour of the coffee, the cup travels; before the temple, which
# has its red, it hardly moves, so that motion shows little more than its edges.
SCENES = (
    Scene("flower", (0.32, 0.22), (0.68, 0.78)),
    Scene("china", (0.52, 0.47), (0.50, 0.53)),
)


def composed(seed: int, *, n_frames: int, size: int) -> list[Clip]:
    """Return the default clips: one cup and saucer before several photographs.

    The camera drifts, the object turns as it moves, and there is noise of 0.01.
    """
    rng = np.random.default_rng(seed)
    return [compose(scene, rng, n_frames=n_frames, size=size) for scene in SCENES]


def compose(scene: Scene, rng: np.random.Generator, *, n_frames: int, size: int) -> Clip:
    """Return the clip of a scene, `size` pixels wide, with the exact mask of the object."""
    extent = np.array([3 * size // 4, size])
    picture = _filling(data.photograph(scene.background), extent * 5 // 4)
    colours, opacity = cutout(width=size // 3)
    phase = rng.uniform(0, 2 * np.pi)
    frames, truth = [], []
    for time in np.linspace(0, 1, n_frames):
        swing = 0.5 * np.array([np.cos(2 * time + phase), np.sin(3 * time + phase)])
        y, x = ((1 + swing) * extent / 8).round().astype(int)
        frame = picture[y : y + extent[0], x : x + extent[1]].copy()
        angle = 20 * (time - 0.5)
        turned = ndimage.rotate(colours, angle, reshape=False, order=1)
        alpha = ndimage.rotate(opacity, angle, reshape=False, order=1)
        centre = (1 - time) * np.array(scene.first) + time * np.array(scene.last)
        y, x = (centre * extent - len(alpha) / 2).round().astype(int)
        window = np.s_[y : y + len(alpha), x : x + len(alpha)]
        frame[window] = turned + (1 - alpha[..., None]) * frame[window]
        mask = np.zeros(extent, bool)
        mask[window] = alpha > 0.5
        noise = 0.01 * rng.standard_normal(frame.shape)
        frames.append(np.clip(frame + noise, 0, 1))
        truth.append(mask)
    return Clip(scene.background, np.stack(frames).astype(np.float32), np.stack(truth))


def cutout(*, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cup on a square with room to turn in: colours times opacity, and opacity."""
    picture = data.photograph("coffee")
    rows, columns = np.indices(picture.shape[:2])
    mask = np.zeros(picture.shape[:2])
    for y, x, height, breadth in CUP:
        mask[((rows - y) / height) ** 2 + ((columns - x) / breadth) ** 2 < 1] = 1
    box = ndimage.find_objects(mask.astype(int))[0]
    mask, picture = mask[box], (picture * mask[..., None])[box]
    side = max(mask.shape) * 5 // 4
    pads = [((side - n) // 2, side - n - (side - n) // 2) for n in mask.shape]
    mask, picture = np.pad(mask, pads), np.pad(picture, [*pads, (0, 0)])
    small = (width * 5 // 4, width * 5 // 4)
    return resize(picture, small, anti_aliasing=True), resize(mask, small, anti_aliasing=True)


def _filling(picture: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Return the middle of a picture, scaled to fill `extent` with its proportions kept."""
    scale = max(extent / picture.shape[:2])
    shape = [max(round(scale * m), n) for m, n in zip(picture.shape[:2], extent, strict=True)]
    y, x = (shape[0] - extent[0]) // 2, (shape[1] - extent[1]) // 2
    return resize(picture, shape, anti_aliasing=True)[y : y + extent[0], x : x + extent[1]]


def load(paths: Sequence[Path], *, n_frames: int, size: int) -> list[Clip]:
    """Return clips from disk: `n_frames` of each, the longer side at most `size` pixels."""
    clips: list[Clip] = []
    for path in paths:
        frames = data.read_frames(path)
        frames = frames[np.unique(np.linspace(0, len(frames) - 1, n_frames).round().astype(int))]
        scale = min(1.0, size / max(frames.shape[1:3]))
        shape = [max(1, round(scale * n)) for n in frames.shape[1:3]]
        small = [resize(f, shape, anti_aliasing=True) if scale < 1 else f for f in frames]
        name = re.sub(r"[^\w-]+", "_", path.stem) or "clip"
        taken = [clip.name for clip in clips]
        if name in taken:
            name = f"{name}_{len(clips) + 1}"
        clips.append(Clip(name, np.clip(np.stack(small), 0, 1).astype(np.float32)))
    return clips


def lab(frames: np.ndarray) -> np.ndarray:
    """Return CIE Lab colours over 100, so that all three are of order one."""
    return (rgb2lab(frames) / 100).astype(np.float32)


def guess(clip: Clip, method: Start) -> np.ndarray:
    """Return a first guess of the object, bool, shape `(t, h, w)`.

    "motion" is the difference from the background, which is the median of the frames once the
    camera's motion has been undone; "saliency" the distance of a colour from those at the border.

    Raises:
        UserError: If this method sees nothing in the clip.
    """
    colours = lab(clip.frames)
    score = _motion(colours) if method == "motion" else _saliency(colours)
    score = ndimage.gaussian_filter(score, (0, 1.5, 1.5))
    found = score > threshold_otsu(score)
    if not found.any():
        other = "saliency" if method == "motion" else "motion"
        raise UserError(
            f"There is no {method} in the clip '{clip.name}' ({len(colours)} frames) to start "
            f"from. Try --start {other}, or a clip in which the object moves."
        )
    return found


def camera_path(colours: np.ndarray) -> np.ndarray:
    """Return where the camera points in each frame, whole pixels from the first: `(t, 2)`."""
    light = colours[..., 0]
    steps = [phase_cross_correlation(a, b)[0] for a, b in pairwise(light)]
    return np.cumsum([np.zeros(2), *steps], axis=0).round().astype(int)


def _motion(colours: np.ndarray) -> np.ndarray:
    t, h, w, _ = colours.shape
    path = camera_path(colours)
    path -= path.min(0)
    height, width = path.max(0) + np.array([h, w])
    canvas = np.full((t, height, width, 3), np.nan, np.float32)
    for frame, place, (y, x) in zip(colours, canvas, path, strict=True):
        place[y : y + h, x : x + w] = frame
    # The median by hand, because nanmedian warns of the corners that no frame covers.
    middle = (np.maximum(np.isfinite(canvas).sum(0), 1) - 1) // 2
    still = np.take_along_axis(np.sort(canvas, axis=0), middle[None], axis=0)[0]
    background = np.stack([still[y : y + h, x : x + w] for y, x in path])
    return np.linalg.norm(colours - background, axis=-1)


def _saliency(colours: np.ndarray) -> np.ndarray:
    edge = max(1, min(colours.shape[1:3]) // 20)
    border = np.ones(colours.shape[1:3], bool)
    border[edge:-edge, edge:-edge] = False
    seen = colours[:, border].reshape(-1, 3)
    precision = np.linalg.inv(np.cov(seen.T) + 1e-4 * np.eye(3))
    centred = colours - seen.mean(0)
    return np.sqrt(np.einsum("thwi,ij,thwj->thw", centred, precision, centred))


def layout(found: np.ndarray) -> np.ndarray:
    """Return where each pixel is as seen from the object, in its radii: `(t, h, w, 2)`.

    The object's centre is the median of the first guess in each frame, its radius the median
    distance of the guess from there. So a clip of a larger or wandering object has the same layout.
    """
    place = np.moveaxis(np.indices(found.shape[1:]), 0, -1).astype(np.float32)
    middle = np.median(np.argwhere(found)[:, 1:], axis=0)
    centres = np.stack([np.median(place[f], axis=0) if f.any() else middle for f in found])
    centres = ndimage.median_filter(centres, (3, 1), mode="nearest").astype(np.float32)
    relative = place[None] - centres[:, None, None]
    radius = np.median(np.linalg.norm(relative[found], axis=-1))
    return relative / np.float32(max(radius, 1))


def large_parts(masks: np.ndarray, *, fraction: float = 0.2) -> np.ndarray:
    """Return the masks with holes filled, without parts below a fraction of the largest."""
    cleaned = []
    for mask in masks:
        filled = ndimage.binary_fill_holes(mask)
        parts, _ = ndimage.label(filled)
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        cleaned.append(filled & (areas >= fraction * areas.max())[parts])
    return np.stack(cleaned)


def frame_ious(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return intersection over union in each frame, shape `(t,)`."""
    both = (masks & truth).sum((1, 2))
    return both / np.maximum((masks | truth).sum((1, 2)), 1)
