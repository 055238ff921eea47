"""Video cosegmentation: one Gaussian mixture for the object that the clips share, one per backdrop.

A pixel of clip c, with colour x, belongs to the shared object with probability pi_c:

    p_c(x) = pi_c p_fg(x) + (1 - pi_c) p_bg,c(x),    p_fg and every p_bg,c a Gaussian mixture

One EM fits all of them together. Its E-step splits each pixel between object and background, and
its share of the object between the object's components; the statistics of the shared mixture add
up over the clips. So a clip whose motion shows little of the object learns its colours from the
others, and what is in only one of the clips is explained by that clip's background.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logit
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.mixtures import _clips
from experiments.report import Report
from unsup_jax.core import stats
from unsup_jax.core.fit import Fit, Step, iterate
from unsup_jax.mixtures import gaussian


class Params(NamedTuple):
    """The object's mixture, and for each clip its background's mixture and the object's share."""

    foreground: gaussian.Params
    backgrounds: tuple[gaussian.Params, ...]
    share: tuple[Float[Array, ""], ...]


def init(
    key: PRNGKeyArray,
    clips: tuple[Float[Array, "n d"], ...],
    guesses: tuple[Float[Array, "n"], ...],
    *,
    n_foreground: int,
    n_background: int,
) -> Params:
    """Return the mixtures of the pixels that a first guess (0 or 1) gives to either side."""
    keys = jax.random.split(key, len(clips) + 1)
    start = partial(gaussian.init, method="k-means", reg_covar=1e-4)
    foreground = start(
        keys[0], jnp.concatenate(clips), jnp.concatenate(guesses), n_components=n_foreground
    )
    backgrounds = tuple(
        start(k, x, 1 - guess, n_components=n_background)
        for k, x, guess in zip(keys[1:], clips, guesses, strict=True)
    )
    return Params(foreground, backgrounds, tuple(jnp.array([0.05, 0.8]) for g in guesses))


def log_odds(params: Params, clips, guesses) -> list[Float[Array, "n"]]:
    """Return for every pixel the log odds of object against background."""
    return [odds for odds, _ in _sides(params, clips, guesses)]


def _sides(params, clips, guesses):
    """For each clip the log odds of its pixels, and their log probability."""
    for x, guess, background, share in zip(
        clips, guesses, params.backgrounds, params.share, strict=True
    ):
        share = share[guess.astype(int)]
        object_ = jnp.log(share) + gaussian.log_prob(params.foreground, x)
        rest = jnp.log1p(-share) + gaussian.log_prob(background, x)
        yield object_ - rest, jnp.logaddexp(object_, rest)


@partial(jax.jit, static_argnames=("max_iter",))
def fit(
    params: Params,
    clips: tuple[Float[Array, "n d"], ...],
    guesses,
    reg_covar: Float[Array, ""] | float = 1e-5,
    tol: Float[Array, ""] | float = 1e-4,
    *,
    max_iter: int = 50,
) -> Fit:
    """Fit all mixtures jointly by EM; the objective is the mean log-likelihood, nats a pixel."""
    n_pixels = sum(len(x) for x in clips)

    def step(params: Params) -> Step:
        total, log_likelihood, backgrounds, shares = None, 0.0, [], []
        for x, guess, background, (odds, log_prob) in zip(
            clips, guesses, params.backgrounds, _sides(params, clips, guesses), strict=True
        ):
            posterior = jax.nn.sigmoid(odds)
            sums = gaussian.e_step(params.foreground, x, posterior)
            total = sums if total is None else stats.add(total, sums)
            rest = gaussian.e_step(background, x, jax.nn.sigmoid(-odds))
            backgrounds.append(gaussian.m_step(background, rest, reg_covar))
            sh = jnp.stack(
                [
                    (posterior * (1 - guess)).sum() / (1 - guess).sum(),
                    (posterior * guess).sum() / guess.sum(),
                ]
            )
            shares.append(sh.clip(1e-4, 1 - 1e-4))
            log_likelihood += log_prob.sum()
        foreground = gaussian.m_step(params.foreground, total, reg_covar)
        new = Params(foreground, tuple(backgrounds), tuple(shares))
        return Step(new, log_likelihood / n_pixels)

    return iterate(step, params, tol, max_iter=max_iter)


@partial(jax.jit, static_argnames=("n_iter",))
def smooth(
    odds: Float[Array, "t h w"],
    colours: Float[Array, "t h w d"],
    strength: Float[Array, ""] | float,
    *,
    n_iter: int = 50,
) -> Float[Array, "t h w"]:
    """Return posteriors of a Potts model by mean field: neighbours of like colour want one label.

    The coupling of two neighbours is `strength * exp(-|x_i - x_j|^2 / 2 s^2)`, `s^2` being the
    mean of these squares over the clip.
    """
    odds = odds.clip(-5, 5)  # an outlier's certainty must not outvote all its neighbours
    shifts = [(0, 1), (1, 0), (1, 1), (1, -1)]
    inside = jnp.pad(jnp.ones(odds.shape[1:], odds.dtype), 1)[None]

    def moved(a, dy, dx):
        return jnp.roll(a, (-dy, -dx), axis=(1, 2))

    padded = jnp.pad(colours, [(0, 0), (1, 1), (1, 1), (0, 0)])
    squares = [((moved(padded, *s) - padded) ** 2).sum(-1) for s in shifts]
    pairs = [inside * moved(inside, *s) for s in shifts]
    spread = sum((q * p).sum() for q, p in zip(squares, pairs, strict=True))
    spread = spread / (odds.shape[0] * sum(p.sum() for p in pairs))
    couplings = [p * jnp.exp(-q / (2 * spread)) for q, p in zip(squares, pairs, strict=True)]
    unary = jnp.pad(odds, [(0, 0), (1, 1), (1, 1)])

    def update(mean, _):
        field = unary
        for (dy, dx), c in zip(shifts, couplings, strict=True):
            field = field + strength * (c * moved(mean, dy, dx) + moved(c * mean, -dy, -dx))
        return 0.5 * (mean + jnp.tanh(field / 2)), None  # damped, so that it cannot oscillate

    mean, _ = lax.scan(update, jnp.tanh(unary / 2), length=n_iter)
    return (0.5 * (mean + 1))[:, 1:-1, 1:-1]
