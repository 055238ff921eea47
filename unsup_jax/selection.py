"""Model selection through sample weights: folds, bootstrap, information criteria, stability.

Removing a row is a weight of 0 and drawing it twice a weight of 2, so that every fold and every
resample has the same shapes: folds x seeds x K is one `vmap` (see `unsup_jax.sweep`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from unsup_jax.core.checks import check_count
from unsup_jax.core.linalg import matmul


def log_likelihood(
    log_prob: Float[Array, "n"], weights: Float[Array, "n"] | None = None
) -> Float[Array, ""]:
    """`sum_i w_i log p(x_i)`, in nats; a weight of 0 removes a sample whatever its value."""
    if weights is None:
        return log_prob.sum()
    return jnp.where(weights > 0, weights * log_prob, 0).sum()


def score(
    log_prob: Float[Array, "n"], weights: Float[Array, "n"] | None = None
) -> Float[Array, ""]:
    """Mean log-likelihood in nats a sample; with the weights of held-out rows, the held-out one."""
    total = log_prob.shape[0] if weights is None else weights.sum()
    return log_likelihood(log_prob, weights) / total


def aic(
    log_likelihood: Float[Array, "..."], n_parameters: ScalarLike | Array
) -> Float[Array, "..."]:
    """Akaike's criterion `-2 log L + 2 p`, in nats; smaller is better (MLPP 5.3.2.4).

    Args:
        log_likelihood: `log L`, the sum over samples at the maximum-likelihood fit.
        n_parameters: `p`, the number of free parameters.
    """
    return -2 * log_likelihood + 2 * jnp.asarray(n_parameters).astype(log_likelihood.dtype)


def bic(
    log_likelihood: Float[Array, "..."],
    n_parameters: ScalarLike | Array,
    n_samples: ScalarLike | Array,
) -> Float[Array, "..."]:
    """The Bayesian criterion `-2 log L + p log n`, in nats; smaller is better (MLPP 5.3.2.4).

    Args:
        log_likelihood: `log L`, the sum over samples at the maximum-likelihood fit.
        n_parameters: `p`, the number of free parameters.
        n_samples: `n`, the number of samples or the sum of their weights.
    """
    n, p = (jnp.asarray(v).astype(log_likelihood.dtype) for v in (n_samples, n_parameters))
    return -2 * log_likelihood + p * jnp.log(n)


def folds(key: PRNGKeyArray, n_samples: int, *, n_folds: int) -> Int[Array, "n"]:
    """Deal the samples to folds at random; the sizes of the folds differ by one at most.

    Raises:
        ValueError: If `n_folds` is not between 2 and `n_samples`.
    """
    check_count("n_folds", n_folds, n_samples, at_least=2)
    return jax.random.permutation(key, jnp.arange(n_samples, dtype=jnp.int32) % n_folds)


def split(
    folds: Int[Array, "n"], fold: ScalarLike | Int[Array, ""], dtype: Any = jnp.float32
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Weights of the training rows, all but those of `fold`, and of the held-out rows."""
    held_out = folds == fold
    return (~held_out).astype(dtype), held_out.astype(dtype)


def bootstrap(key: PRNGKeyArray, n_samples: int, dtype: Any = jnp.float32) -> Float[Array, "n"]:
    """How often each sample is drawn by `n_samples` draws with replacement (Efron 1979).

    Rows of weight 0 are out of the bag: about 37% of them.
    """
    check_count("n_samples", n_samples)
    rows = jax.random.randint(key, (n_samples,), 0, n_samples)
    return jnp.zeros(n_samples, dtype).at[rows].add(1)


@partial(jax.jit, static_argnames=("n_clusters",))
def adjusted_rand(a: Int[Array, "n"], b: Int[Array, "n"], *, n_clusters: int) -> Float[Array, ""]:
    """Agreement of two clusterings, whatever their labels: 1 is equal, about 0 is chance.

    With `n_kl` samples in cluster k of one and l of the other, over pairs of samples `C(n, 2)`:

        (sum_kl C(n_kl, 2) - E) / ((A + B) / 2 - E),  A = sum_k C(n_k., 2),  B = sum_l C(n_.l, 2),
        E = A B / C(n, 2)                                              (Hubert & Arabie 1985)

    Args:
        a: Labels from 0 to `n_clusters - 1`.
        b: Labels of the same samples.
        n_clusters: Static; a bound on the number of clusters of both.
    """
    # Shares of all pairs: integers beyond 2^24 are not exact in float32, ratios suffer less.
    one_hot = partial(jax.nn.one_hot, num_classes=n_clusters)
    counts = matmul(one_hot(a).T, one_hot(b))
    n = a.shape[0]
    share = lambda m: (m / n * ((m - 1) / max(n - 1, 1))).sum()  # noqa: E731
    both, one, other = share(counts), share(counts.sum(1)), share(counts.sum(0))
    expected, largest = one * other, (one + other) / 2
    # Both all in one cluster, or all alone: the same clustering.
    trivial = largest - expected <= 0
    return jnp.where(trivial, 1, (both - expected) / jnp.where(trivial, 1, largest - expected))


def stability(labels: Int[Array, "m n"], *, n_clusters: int) -> Float[Array, ""]:
    """Mean adjusted Rand index of all pairs of m clusterings of the same samples.

    Near 1, fits of other seeds or resamples find the same clusters; a K for which they do not has
    more clusters than the data.

    Raises:
        ValueError: For fewer than two clusterings.
    """
    check_count("number of clusterings", labels.shape[0], at_least=2)
    one, other = jnp.triu_indices(labels.shape[0], 1)
    index = partial(adjusted_rand, n_clusters=n_clusters)
    return jax.vmap(lambda i, j: index(labels[i], labels[j]))(one, other).mean()


def interval(
    params: Any, level: ScalarLike = 0.95, usable: Bool[Array, "lanes"] | None = None
) -> tuple[Any, Any]:
    """Percentile bootstrap interval of every parameter: bounds that hold `level` of the resamples.

    Start the resampled fits from the fit to all data: components then keep their places.

    Args:
        params: Pytree of arrays with a leading axis of resamples.
        level: Traced; the share of resamples between the bounds.
        usable: Which resamples count, for instance `sweep.succeeded(fits)`; `None` means all.

    Returns:
        The lower and the upper bounds, each shaped like one resample.
    """
    tail = (1 - jnp.asarray(level, jnp.float32)) / 2

    def quantile(q):
        def leaf(a):
            q_ = q.astype(a.dtype)
            if usable is None:
                return jnp.quantile(a, q_, axis=0)
            on = usable.reshape(-1, *[1] * (a.ndim - 1))
            return jnp.nanquantile(jnp.where(on, a, jnp.nan), q_, axis=0)

        return jax.tree.map(leaf, params)

    return quantile(tail), quantile(1 - tail)
