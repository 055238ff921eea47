"""Clips for cosegmentation: composed from real photographs with exact masks, or read from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.registration import phase_cross_correlation
from skimage.transform import resize

from experiments import data

Start = Literal["motion", "saliency"]

# The outline of cup and saucer in the photograph "coffee": ellipses (row, column, height, width).
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
    """How a clip is composed.

    Attributes:
        background: Name of the photograph behind the object.
        path: Centre of the object in the first and in the last frame, `((y, x), (y, x))`, as
            fractions of the frame.
        exposure: Factor on all intensities, before they are clipped to 1.
    """

    background: str
    path: tuple[tuple[float, float], tuple[float, float]]
    exposure: float = 1.0


# The cup crosses the first two pictures; in the last it hardly moves, so that motion shows little
# of it. The flower, the bike and the temple have some of its colours.
SCENES = (
    Scene("flower", ((0.32, 0.22), (0.68, 0.78))),
    Scene("china", ((0.52, 0.47), (0.50, 0.53))),
)


def composed(seed: int, *, n_frames: int = 12, size: tuple[int, int] = (120, 160)) -> list[Clip]:
    """Return the default clips: one cup and saucer before several photographs.

    The camera drifts, the object turns a little as it moves, and there is noise of 0.01.
    """
    rng = np.random.default_rng(seed)
    return [compose(scene, rng, n_frames=n_frames, size=size) for scene in SCENES]


def compose(
    scene: Scene, rng: np.random.Generator, *, n_frames: int, size: tuple[int, int]
) -> Clip:
    """Return the clip of a scene, with the exact mask of the object in every frame."""
    picture = _filling(data.photograph(scene.background), (size[0] * 5 // 4, size[1] * 5 // 4))
    colours, cover = cutout(width=size[1] // 3)
    first, last = np.array(scene.path)
    phase = rng.uniform(0, 2 * np.pi)
    frames, truth = [], []
    for time in np.linspace(0, 1, n_frames):
        swing = 0.5 * np.array([np.cos(2 * time + phase), np.sin(3 * time + phase)])
        top, left = np.rint((1 + swing) * np.array(size) / 8).astype(int)
        frame = picture[top : top + size[0], left : left + size[1]].copy()
        mask = np.zeros(size)
        angle = 20 * (time - 0.5)
        alpha = np.clip(ndimage.rotate(cover, angle, reshape=False, order=1), 0, 1)
        turned = ndimage.rotate(colours, angle, reshape=False, order=1)
        corner = np.rint(((1 - time) * first + time * last) * size - np.array(alpha.shape) / 2)
        y, x = corner.astype(int)
        window = np.s_[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        frame[window] = turned + (1 - alpha[..., None]) * frame[window]
        mask[window] = alpha
        noise = 0.01 * rng.standard_normal(frame.shape)
        frames.append(np.clip(scene.exposure * frame + noise, 0, 1))
        truth.append(mask > 0.5)
    return Clip(scene.background, np.stack(frames).astype(np.float32), np.stack(truth))


def _filling(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the middle of a picture, scaled to fill `size` without changing its proportions."""
    scale = max(n / m for n, m in zip(size, picture.shape, strict=False))
    shape = [round(scale * n) for n in picture.shape[:2]]
    y, x = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
    return resize(picture, shape, anti_aliasing=True)[y : y + size[0], x : x + size[1]]


def cutout(*, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cup, its colours multiplied by its opacity, and the opacity, with a margin."""
    picture = data.photograph("coffee")
    rows, columns = np.indices(picture.shape[:2])
    mask = np.zeros(picture.shape[:2])
    for y, x, height, breadth in CUP:
        mask[((rows - y) / height) ** 2 + ((columns - x) / breadth) ** 2 < 1] = 1
    y, x = np.nonzero(mask)
    box = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
    mask, picture = mask[box], picture[box] * mask[box][..., None]
    side = max(mask.shape) * 5 // 4  # room to turn in
    before = [(side - n) // 2 for n in mask.shape]
    pads = [(b, side - n - b) for b, n in zip(before, mask.shape, strict=True)]
    mask, picture = np.pad(mask, pads), np.pad(picture, [*pads, (0, 0)])
    small = (width * 5 // 4,) * 2
    return resize(picture, small, anti_aliasing=True), resize(mask, small, anti_aliasing=True)


def load(path: Path, *, n_frames: int, size: int) -> Clip:
    """Return a clip from disk: `n_frames` of it, the longer side at most `size` pixels."""
    frames = data.read_frames(path)
    chosen = np.unique(np.linspace(0, len(frames) - 1, n_frames).round().astype(int))
    frames = frames[chosen]
    scale = min(1.0, size / max(frames.shape[1:3]))
    shape = [round(scale * n) for n in frames.shape[1:3]]
    small = [resize(f, shape, anti_aliasing=True) if scale < 1 else f for f in frames]
    return Clip(path.stem, np.stack(small).astype(np.float32))


def lab(frames: np.ndarray) -> np.ndarray:
    """Return CIE Lab colours over 100, so that all three are of order one."""
    return (rgb2lab(frames) / 100).astype(np.float32)


def start(colours: np.ndarray, method: Start) -> np.ndarray:
    """Return a first guess of the object, bool, shape `(t, h, w)`.

    "motion" is the difference from the background, which is the median of the frames after the
    camera's motion has been undone; "saliency" the distance of a colour from those at the border.
    """
    score = _motion(colours) if method == "motion" else _saliency(colours)
    score = np.stack([ndimage.gaussian_filter(frame, 1.5) for frame in score])
    return score > threshold_otsu(score)


def camera_path(colours: np.ndarray) -> np.ndarray:
    """Return where the camera points in each frame, in whole pixels from the first: `(t, 2)`."""
    grey = colours[..., 0]
    steps = [
        phase_cross_correlation(b, a, overlap_ratio=0.5)[0]
        for a, b in zip(grey[:-1], grey[1:], strict=True)
    ]
    return np.rint(np.cumsum([np.zeros(2), *steps], axis=0)).astype(int) * -1


def _motion(colours: np.ndarray) -> np.ndarray:
    path = camera_path(colours)
    path -= path.min(0)
    t, h, w, _ = colours.shape
    canvas = np.full((t, *(path.max(0) + (h, w)), 3), np.nan, np.float32)
    for frame, place, (y, x) in zip(colours, canvas, path, strict=True):
        place[y : y + h, x : x + w] = frame
    still = _median(canvas)
    background = np.stack([still[y : y + h, x : x + w] for y, x in path])
    return np.linalg.norm(colours - background, axis=-1)


def _median(canvas: np.ndarray) -> np.ndarray:
    # Not nanmedian, which warns of corners that no frame covers.
    ordered = np.sort(canvas, axis=0)  # NaN last
    count = np.isfinite(canvas).sum(0)
    middle = np.maximum(count - 1, 0)[None] // 2
    return np.take_along_axis(ordered, middle, axis=0)[0]


def _saliency(colours: np.ndarray) -> np.ndarray:
    edge = max(2, min(colours.shape[1:3]) // 20)
    inner = np.zeros(colours.shape[1:3], bool)
    inner[edge:-edge, edge:-edge] = True
    border = colours[:, ~inner].reshape(-1, 3)
    mean, covariance = border.mean(0), np.cov(border.T) + 1e-4 * np.eye(3)
    centred = colours - mean
    return np.sqrt(np.einsum("thwi,ij,thwj->thw", centred, np.linalg.inv(covariance), centred))


def overlay(clip: Clip, masks: np.ndarray) -> np.ndarray:
    """Return the frames with the background greyed and the outline drawn, uint8."""
    grey = 0.5 * clip.frames.mean(-1, keepdims=True) + 0.15
    shown = np.where(masks[..., None], clip.frames, grey)
    for frame, mask in zip(shown, masks, strict=True):
        frame[ndimage.binary_dilation(mask) & ~mask] = (1, 1, 0)
    return (255 * np.clip(shown, 0, 1)).round().astype(np.uint8)


def mean_iou(masks: np.ndarray, truth: np.ndarray) -> float:
    """Return intersection over union, averaged over the frames."""
    both = (masks & truth).sum((1, 2))
    either = (masks | truth).sum((1, 2))
    return float(np.mean(both / np.maximum(either, 1)))


def side_by_side(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return several videos as one, each fitted into the frame of the tallest."""
    t = min(len(c) for c in clips)
    h = max(c.shape[1] for c in clips)
    padded = [np.pad(c[:t], [(0, 0), (0, h - c.shape[1]), (0, 0), (0, 0)]) for c in clips]
    return np.concatenate(padded, axis=2)


def layout(guess: np.ndarray) -> np.ndarray:
    """Return each pixel's place about the object, in radii of the object: `(t, h, w, 2)`.

    The centre is the median of the guess in each frame, the radius its median distance from there
    over the clip.
    """
    t, h, w = guess.shape
    place = np.stack(np.indices((h, w)), axis=-1).astype(np.float32)
    everywhere = np.array([h, w]) / 2
    centres = np.stack([np.median(place[g], 0) if g.any() else everywhere for g in guess])
    centres = ndimage.median_filter(centres, (3, 1), mode="nearest")
    relative = place[None] - centres[:, None, None].astype(np.float32)
    radius = np.median(np.linalg.norm(relative[guess], axis=-1)) if guess.any() else h / 4
    return relative / np.float32(max(radius, 1))
