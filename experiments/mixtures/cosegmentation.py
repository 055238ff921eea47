"""Video cosegmentation: clips share one Gaussian mixture for the object that is in all of them.

A pixel is its colour (CIE Lab), its place as seen from the object, and a bit m that says whether a
first guess, from motion or saliency, took it for the object. In clip c

    p_c(x | m) = pi_cm p_fg(x) + (1 - pi_cm) p_bg,c(x),    p_fg, p_bg,c Gaussian mixtures,

and one EM fits everything together. Its E-step splits each pixel between the object and the
background, and each share between that side's components; the statistics of the object add up over
the clips. So a clip whose motion shows little of the object learns its colours from the others,
what is in one clip alone goes to that clip's background, and pi_cm tells how far a guess is right.
Last, neighbouring pixels of like colour are made to agree (a Potts model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from experiments.mixtures import _clip_pictures as pictures
from experiments.mixtures import _clips
from experiments.mixtures._clips import Clip
from experiments.report import Report, UserError
from unsup_jax.core import stats
from unsup_jax.core.fit import Fit, Status, Step, iterate
from unsup_jax.mixtures import gaussian


@dataclass(frozen=True)
class Config:
    """Settings of the experiment.

    Attributes:
        seed: Seed of the composed clips and of the start of EM.
        quick: Small clips, few iterations.
        clips: Videos, GIFs or folders of frames that show one object; composed ones if none.
        start: What the first guess looks for.
        n_foreground: Components of the shared object.
        n_background: Components of each background.
        smoothing: Strength of the agreement between neighbouring pixels.
        n_frames: Frames taken from each clip, evenly spaced.
        size: Longer side of a frame, in pixels; larger ones are reduced.
        stride: EM looks at one pixel in `stride` of a row, and of a column.
        max_iter: Largest number of iterations of EM.
        repeats: Composed clips only: over how many of them, with other noise and camera paths,
            the overlaps are averaged.
    """

    seed: int = 0
    quick: bool = False
    clips: tuple[Path, ...] = ()
    start: _clips.Start = "motion"
    n_foreground: int = 6
    n_background: int = 8
    smoothing: float = 2.0
    n_frames: int = 12
    size: int = 160
    stride: int = 2
    max_iter: int = 40
    repeats: int = 3


class Pixels(NamedTuple):
    """The pixels of a clip: features, shape (n, d), and the first guess, 0 or 1, shape (n,)."""

    x: Float[Array, "n d"]
    guess: Float[Array, "n"]


class Params(NamedTuple):
    """The object's mixture; for each clip its background's, and `(pi_c0, pi_c1)`, shape (2,)."""

    foreground: gaussian.Params
    backgrounds: tuple[gaussian.Params, ...]
    shares: tuple[Float[Array, "2"], ...]

    def of(self, clip: int) -> Params:
        """Return what concerns one clip alone."""
        return Params(self.foreground, (self.backgrounds[clip],), (self.shares[clip],))


def init(
    key: PRNGKeyArray, clips: tuple[Pixels, ...], *, n_foreground: int, n_background: int
) -> Params:
    """Return the mixtures of the pixels that the first guess gives to either side."""
    everything = jax.tree.map(lambda *a: jnp.concatenate(a), *clips)
    keys = jax.random.split(key, len(clips) + 1)
    foreground = _mixture_of(keys[0], *everything, n_components=n_foreground)
    backgrounds = tuple(
        _mixture_of(k, x, 1 - guess, n_components=n_background)
        for k, (x, guess) in zip(keys[1:], clips, strict=True)
    )
    return Params(foreground, backgrounds, tuple(jnp.array([0.05, 0.8]) for _ in clips))


def _mixture_of(key, x, weights, *, n_components):
    # From a sample, to save time; of one size, to save compilations.
    key_sample, key_init = jax.random.split(key)
    rows = jax.random.choice(key_sample, len(x), (4000,), p=weights / weights.sum())
    size = {"n_components": n_components, "method": "k-means"}
    return gaussian.init(key_init, x[rows], None, 1e-4, **size)


def _log_joint(params: Params, c: int, pixels: Pixels) -> tuple[Float[Array, "n"], ...]:
    """Return `log pi_cm p_fg(x)` and `log (1 - pi_cm) p_bg,c(x)`."""
    share = jnp.where(pixels.guess > 0, params.shares[c][1], params.shares[c][0])
    inside = jnp.log(share) + gaussian.log_prob(params.foreground, pixels.x)
    return inside, jnp.log1p(-share) + gaussian.log_prob(params.backgrounds[c], pixels.x)


@jax.jit
def log_odds(params: Params, pixels: Pixels) -> Float[Array, "n"]:
    """Return the log odds of object against background for the pixels of the only clip."""
    inside, outside = _log_joint(params, 0, pixels)
    return inside - outside


@partial(jax.jit, static_argnames=("max_iter",))
def fit(
    params: Params,
    clips: tuple[Pixels, ...],
    reg_covar: ScalarLike = 1e-5,
    tol: ScalarLike = 1e-4,
    *,
    max_iter: int = 60,
) -> Fit:
    """Fit all mixtures jointly by EM; the objective is the mean log-likelihood, nats a pixel."""
    n_pixels = sum(len(clip.x) for clip in clips)

    def step(params: Params) -> Step:
        objects, backgrounds, shares, log_likelihoods = [], [], [], []
        for c, pixels in enumerate(clips):
            inside, outside = _log_joint(params, c, pixels)
            # Exact EM: the posterior of a component is that of its side times that within it.
            posterior = jax.nn.sigmoid(inside - outside)
            objects.append(gaussian.e_step(params.foreground, pixels.x, posterior))
            rest = gaussian.e_step(params.backgrounds[c], pixels.x, 1 - posterior)
            backgrounds.append(gaussian.m_step(params.backgrounds[c], rest, reg_covar))
            guesses = jnp.stack([1 - pixels.guess, pixels.guess])
            share = (guesses * posterior[None]).sum(1) / guesses.sum(1).clip(1)
            shares.append(share.clip(1e-4, 1 - 1e-4))  # no guess is beyond correction
            log_likelihoods.append(jnp.logaddexp(inside, outside).sum())
        foreground = gaussian.m_step(params.foreground, _total(objects), reg_covar)
        new = Params(foreground, tuple(backgrounds), tuple(shares))
        return Step(new, jnp.stack(log_likelihoods).sum() / n_pixels)

    return iterate(step, params, tol, max_iter=max_iter)


def _total(sums):
    total = sums[0]
    for more in sums[1:]:
        total = stats.add(total, more)
    return total


@partial(jax.jit, static_argnames=("n_iter",))
def smooth(
    log_odds: Float[Array, "t h w"],
    colours: Float[Array, "t h w d"],
    strength: ScalarLike,
    *,
    n_iter: int = 50,
) -> Float[Array, "t h w"]:
    """Return the probability of the object under a Potts model of each frame, by mean field.

    With signs s (object +1, background -1) the model is
    `p(s) ~ exp(1/2 sum_i odds_i s_i + 1/2 strength sum_ij c_ij s_i s_j)`; neighbours, of which a
    pixel has eight, are coupled by `c_ij = exp(-|x_i - x_j|^2 / 2 v)`, v the mean of the squares.
    """
    shifts = [(0, 1), (1, 0), (1, 1), (1, -1)]

    def moved(a, dy, dx):
        return jnp.roll(a, (-dy, -dx), axis=(1, 2))

    # A margin, so that what is rolled over the edge couples to nothing.
    inside = jnp.pad(jnp.ones_like(log_odds), [(0, 0), (1, 1), (1, 1)])
    colours = jnp.pad(colours, [(0, 0), (1, 1), (1, 1), (0, 0)])
    # One outlier's certainty must not outvote all its neighbours.
    unary = jnp.pad(log_odds.clip(-5, 5), [(0, 0), (1, 1), (1, 1)])
    pairs = jnp.stack([inside * moved(inside, *s) for s in shifts])
    squares = jnp.stack([((moved(colours, *s) - colours) ** 2).sum(-1) for s in shifts])
    spread = (squares * pairs).sum() / pairs.sum()
    couplings = pairs * jnp.exp(-squares / (2 * spread + jnp.finfo(spread.dtype).tiny))

    def update(mean, _):
        field = unary
        for (dy, dx), c in zip(shifts, couplings, strict=True):
            field = field + strength * (c * moved(mean, dy, dx) + moved(c * mean, -dy, -dx))
        return 0.5 * (mean + jnp.tanh(field / 2)), None  # damped, so that it cannot oscillate

    mean, _ = lax.scan(update, jnp.tanh(unary / 2), length=n_iter)
    return (0.5 * (mean + 1))[:, 1:-1, 1:-1]


def pixels_of(clip: Clip, guess: np.ndarray, *, stride: int = 1) -> Pixels:
    """Return the features of the clip's pixels, or of every `stride`-th in both directions."""
    # Covariances are full, so the scale of the layout matters to k-means alone.
    x = np.concatenate([_clips.lab(clip.frames), 0.3 * _clips.layout(guess)], axis=-1)
    x, guess = x[:, ::stride, ::stride], guess[:, ::stride, ::stride]
    return Pixels(jnp.asarray(x.reshape(-1, x.shape[-1])), jnp.asarray(guess.ravel(), x.dtype))


def segment(
    clips: Sequence[Clip], guesses: Sequence[np.ndarray], config: Config, seed: int
) -> tuple[list[np.ndarray], Fit]:
    """Return the masks of the object that the clips share, and the joint fit."""
    pairs = list(zip(clips, guesses, strict=True))
    sparse = tuple(pixels_of(clip, guess, stride=config.stride) for clip, guess in pairs)
    sizes = {"n_foreground": config.n_foreground, "n_background": config.n_background}
    start = init(jax.random.key(seed), sparse, **sizes)
    fitted = fit(start, sparse, max_iter=config.max_iter)
    masks = []
    for c, (clip, guess) in enumerate(pairs):
        odds = log_odds(fitted.params.of(c), pixels_of(clip, guess)).reshape(guess.shape)
        probability = smooth(odds, jnp.asarray(_clips.lab(clip.frames)), config.smoothing)
        masks.append(_clips.large_parts(np.asarray(probability) > 0.5))
    return masks, fitted


def segment_alone(
    clips: Sequence[Clip], guesses: Sequence[np.ndarray], config: Config, seed: int
) -> list[np.ndarray]:
    """Return the masks that the same method finds with each clip on its own."""
    pairs = zip(clips, guesses, strict=True)
    return [segment([clip], [guess], config, seed)[0][0] for clip, guess in pairs]


def run(config: Config, report: Report) -> None:
    """Segment the clips jointly and one by one; draw, save and, with the truth known, score."""
    if config.quick:
        config = _quicker(config)
    if len(config.clips) == 1:
        raise UserError("One clip can't share anything. Give --clips two paths or more.")
    clips = _read(config, config.seed)
    guesses = [_clips.guess(clip, config.start) for clip in clips]
    joint, fitted = segment(clips, guesses, config, config.seed)
    alone = segment_alone(clips, guesses, config, config.seed)
    rows = {"start": guesses, "alone": alone, "joint": joint}

    _record_fit(report, clips, fitted)
    if not config.clips:
        _record_overlaps(report, config, clips, rows)
    history = np.asarray(fitted.history[: int(fitted.n_iter)])
    sheet = (
        "Each clip, its first guess, the clip on its own, and all clips jointly, with the mean IoU"
    )
    report.figure(pictures.contact_sheet(clips, rows), "contact_sheet", sheet)
    report.figure(pictures.curves(history, clips, rows), "curves", "The joint EM, and its gain")
    pictures.save_video(report, clips, joint)
    for clip, masks in zip(clips, joint, strict=True):
        pictures.save_masks(report.folder / "masks" / clip.name, masks)


def _quicker(config: Config) -> Config:
    small = {"size": 96, "n_frames": 8, "stride": 1, "max_iter": 30, "repeats": 1}
    return replace(config, **{name: min(getattr(config, name), n) for name, n in small.items()})


def _read(config: Config, seed: int) -> list[Clip]:
    if config.clips:
        return _clips.load(config.clips, n_frames=config.n_frames, size=config.size)
    return _clips.composed(seed, n_frames=config.n_frames, size=config.size)


def _record_fit(report: Report, clips: Sequence[Clip], fitted: Fit) -> None:
    report.metrics(
        log_likelihood_per_pixel=fitted.objective,
        n_iter=fitted.n_iter,
        status=Status(int(fitted.status)),
    )
    rows = [
        {"clip": clip.name, "guessed object": share[1], "guessed background": share[0]}
        for clip, share in zip(clips, fitted.params.shares, strict=True)
    ]
    report.table("share", rows, "Probability that a pixel is the object's, given the first guess")


def _record_overlaps(
    report: Report, config: Config, clips: list[Clip], rows: dict[str, list[np.ndarray]]
) -> None:
    """Score the run that is drawn, and others with other seeds."""
    scores = [_overlaps(clips, rows)]
    others = range(config.seed + 1, config.seed + config.repeats)
    for seed in report.progress(others, "other noise and camera paths", len(others)):
        clips = _read(config, seed)
        guesses = [_clips.guess(clip, config.start) for clip in clips]
        joint, _ = segment(clips, guesses, config, seed)
        alone = segment_alone(clips, guesses, config, seed)
        scores.append(_overlaps(clips, {"start": guesses, "alone": alone, "joint": joint}))
    table = np.stack(scores)  # (repeats, methods, clips)
    for i, label in enumerate(rows):
        report.metric(f"iou_{label}", table[0, i].mean())
        report.metric(f"iou_{label}_by_clip", table[0, i])
        report.metric(f"iou_{label}_all_repeats", table[:, i].mean())
    overlaps = [
        {"clip": clip.name, "repeat": r, **dict(zip(rows, table[r, :, c], strict=True))}
        for r in range(len(table))
        for c, clip in enumerate(clips)
    ]
    caption = "Mean intersection over union with the truth; repeat 0 is the one in the pictures"
    report.table("overlap", overlaps, caption)


def _overlaps(clips: list[Clip], rows: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Return the mean intersection over union, shape `(methods, clips)`."""
    truths = [clip.truth for clip in clips if clip.truth is not None]
    pairs = [list(zip(masks, truths, strict=True)) for masks in rows.values()]
    return np.array([[_clips.frame_ious(*pair).mean() for pair in row] for row in pairs])
