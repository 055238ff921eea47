"""Variational autoencoders (Kingma and Welling, 2014; Burda et al., 2016).

    p(z) = N(0, I),   p(x | z) = decoder,   q(z | x) = N(mu(x), diag sigma(x)^2) = encoder
    log p(x) = ELBO + KL[q(z | x) || p(z | x)]
    ELBO = E_q[log p(x | z)] - KL[q(z | x) || p(z)]
    log p(x) >= L_k = E[log 1/k sum_i w_i],   w_i = p(x | z_i) p(z_i) / q(z_i | x),   z_i ~ q

`L_1` is the ELBO, `L_k` grows with k and tends to `log p(x)`. All are in nats, one number a sample.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from unsup_jax.autoencoders.dae import cross_entropy
from unsup_jax.core import stats
from unsup_jax.core.checks import check_choice, check_count, check_matrix

Params = Any  # the pytree of the model's parameters
LIKELIHOODS = ("bernoulli", "gaussian", "gaussian_learned")
LOG_2PI = math.log(2 * math.pi)


class VAE(nn.Module):
    """An encoder, a decoder and a likelihood.

    Attributes:
        encoder: From data to `mu` and `log sigma` side by side: twice as wide as the code.
        decoder: From codes to logits ("bernoulli") or means.
        likelihood: "bernoulli" of logits, "gaussian" of fixed or "gaussian_learned" of learned
            standard deviation. Both keep its logarithm in the parameters as `log_sigma`, where it
            can be set and swept.
        sigma: What that starts from.
    """

    encoder: nn.Module
    decoder: nn.Module
    likelihood: str = "bernoulli"
    sigma: float = 1.0

    def setup(self) -> None:
        """Make the one parameter that is not a network's."""
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        if self.likelihood != "bernoulli":
            start = nn.initializers.constant(math.log(self.sigma))
            self.log_sigma = self.param("log_sigma", start, ())

    def __call__(self, x: Float[Array, "n d"]) -> Array:
        """Go through every part once, to make its parameters."""
        return self.log_prob(x, self.encode(x).mean)

    def encode(self, x: Float[Array, "n d"]) -> Posterior:
        """`q(z | x)`."""
        return Posterior(*jnp.split(self.encoder(x), 2, axis=-1))

    def decode(self, z: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Logits or means of `p(x | z)`."""
        return self.decoder(z)

    def log_prob(self, x: Float[Array, "n d"], z: Float[Array, "n k"]) -> Float[Array, "n"]:
        """`log p(x | z)`, row by row."""
        a = self.decoder(z)
        if self.likelihood == "bernoulli":
            return -cross_entropy(x, a)
        log_sigma = self.log_sigma.astype(x.dtype)
        if self.likelihood == "gaussian":
            log_sigma = lax.stop_gradient(log_sigma)
        scaled = (x - a) * jnp.exp(-log_sigma)
        return -0.5 * (scaled * scaled).sum(-1) - x.shape[-1] * (log_sigma + 0.5 * LOG_2PI)


class Posterior(NamedTuple):
    """`q(z | x)`: mean and log standard deviation, both shape (n, k)."""

    mean: Float[Array, "n k"]
    log_sigma: Float[Array, "n k"]


class Bound(NamedTuple):
    """The ELBO and its two terms, in nats, shape (n,): `elbo = reconstruction - kl`."""

    elbo: Float[Array, "n"]
    reconstruction: Float[Array, "n"]
    kl: Float[Array, "n"]


class Likelihood(NamedTuple):
    """An importance-sampling estimate, shape (n,).

    Attributes:
        log_prob: Of `log p(x)` in nats; a lower bound in expectation.
        effective_samples: `(sum_i w_i)^2 / sum_i w_i^2`, between 1 and the number of samples.
    """

    log_prob: Float[Array, "n"]
    effective_samples: Float[Array, "n"]


def init(key: PRNGKeyArray, x: Float[Array, "n d"], *, model: VAE) -> Params:
    """Random parameters of `model` for data like `x`."""
    check_matrix("x", x)
    return model.init(key, x[:1])["params"]


def kl(q: Posterior) -> Float[Array, "n k"]:
    """`KL[q(z_j | x) || N(0, 1)] = (mu_j^2 + sigma_j^2 - 1) / 2 - log sigma_j`, each coordinate."""
    return 0.5 * (q.mean**2 + jnp.exp(2 * q.log_sigma) - 1) - q.log_sigma


def elbo(params: Params, key: PRNGKeyArray, x: Float[Array, "n d"], *, model: VAE) -> Bound:
    """The evidence lower bound of each sample: one reparameterised draw, closed-form KL.

    Raises:
        ValueError: For an `x` that is no floating-point matrix.
    """
    reconstruction, divergence = _terms(params, key, x, model)
    divergence = divergence.sum(1)
    return Bound(reconstruction - divergence, reconstruction, divergence)


def loss(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    beta: ScalarLike = 1.0,
    free_bits: ScalarLike = 0.0,
    *,
    model: VAE,
) -> Float[Array, "n"]:
    """What training minimises: `-E_q[log p(x | z)] + beta sum_j max(KL_j, free_bits)`.

    Args:
        params: Parameters of the model.
        key: Random key of the draws.
        x: Data.
        beta: Traced; 1 makes this the negative ELBO (Higgins et al., 2017).
        free_bits: Traced; nats a coordinate that cost nothing (Kingma et al., 2016; here for each
            sample by itself).
        model: Static; the networks.
    """
    reconstruction, divergence = _terms(params, key, x, model)
    beta, free = (jnp.asarray(a, x.dtype) for a in (beta, free_bits))
    return beta * jnp.maximum(divergence, free).sum(1) - reconstruction


def iwae(
    params: Params, key: PRNGKeyArray, x: Float[Array, "n d"], *, model: VAE, n_samples: int
) -> Float[Array, "n"]:
    """The importance-weighted bound `L_k` of each sample, with `k = n_samples` draws.

    Its negative is a loss as well: `iwae_loss`.
    """
    check_matrix("x", x)
    check_count("n_samples", n_samples)
    q = _apply(model, params, x, method="encode")
    log_w = _log_weights(params, key, x, q, model, n_samples)
    return jax.nn.logsumexp(log_w, axis=0) - math.log(n_samples)


def iwae_loss(
    params: Params, key: PRNGKeyArray, x: Float[Array, "n d"], *, model: VAE, n_samples: int = 5
) -> Float[Array, "n"]:
    """`-L_k`, a loss for training (Burda et al., 2016)."""
    return -iwae(params, key, x, model=model, n_samples=n_samples)


def log_likelihood(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    *,
    model: VAE,
    n_samples: int = 5000,
    tile_size: int = 20,
) -> Likelihood:
    """`log p(x)` of each sample by importance sampling from `q`, with its effective sample size.

    Args:
        params: Parameters of the model.
        key: Random key.
        x: Data.
        model: Static; the networks.
        n_samples: Static; draws a sample.
        tile_size: Static; samples at a time, with 50 draws each.
    """
    check_matrix("x", x)
    check_count("n_samples", n_samples)
    chunk = min(n_samples, 50)
    n_chunks = -(-n_samples // chunk)

    def tile(rows):
        x, number = rows
        q = _apply(model, params, x, method="encode")
        key_tile = jax.random.fold_in(key, number[0])

        def add(sums, i):
            log_w = _log_weights(params, jax.random.fold_in(key_tile, i), x, q, model, chunk)
            fresh = i * chunk + jnp.arange(chunk) < n_samples
            log_w = jnp.where(fresh[:, None], log_w, -jnp.inf)
            new = jax.nn.logsumexp(log_w, axis=0), jax.nn.logsumexp(2 * log_w, axis=0)
            return jax.tree.map(jnp.logaddexp, sums, new), None

        nothing = jnp.full(x.shape[:1], -jnp.inf, x.dtype)
        (log_sum, log_squares), _ = lax.scan(add, (nothing, nothing), jnp.arange(n_chunks))
        effective = jnp.exp(2 * log_sum - log_squares)
        return Likelihood(log_sum - math.log(n_samples), effective)

    return stats.map_rows(tile, (x, jnp.arange(len(x))), tile_size=tile_size)


def encode(params: Params, x: Float[Array, "n d"], *, model: VAE) -> Posterior:
    """`q(z | x)` of each sample."""
    check_matrix("x", x)
    return _apply(model, params, x, method="encode")


def decode(params: Params, z: Float[Array, "n k"], *, model: VAE) -> Float[Array, "n d"]:
    """The mean of `p(x | z)` for each code."""
    check_matrix("z", z)
    a = _apply(model, params, z, method="decode")
    return jax.nn.sigmoid(a) if model.likelihood == "bernoulli" else a


def reconstruct(params: Params, x: Float[Array, "n d"], *, model: VAE) -> Float[Array, "n d"]:
    """Decode the mean of each sample's posterior."""
    return decode(params, encode(params, x, model=model).mean, model=model)


def sample(
    key: PRNGKeyArray, params: Params, *, model: VAE, n_components: int, n_samples: int
) -> Float[Array, "n d"]:
    """Draw codes of `n_components` coordinates from the prior; the means of what they generate."""
    check_count("n_samples", n_samples)
    dtype = jax.tree.leaves(params)[0].dtype
    return decode(params, jax.random.normal(key, (n_samples, n_components), dtype), model=model)


def interpolate(
    params: Params, a: Float[Array, "n d"], b: Float[Array, "n d"], *, model: VAE, n_steps: int = 10
) -> Float[Array, "n s d"]:
    """Decode `n_steps` points of the straight line between the codes of `a` and of `b`."""
    check_count("n_steps", n_steps, at_least=2)
    start, end = (encode(params, x, model=model).mean[:, None] for x in (a, b))
    t = jnp.linspace(0, 1, n_steps, dtype=a.dtype)[None, :, None]
    codes = start * (1 - t) + end * t
    decoded = decode(params, codes.reshape(-1, codes.shape[-1]), model=model)
    return decoded.reshape(len(a), n_steps, -1)


def latent_grid(params: Params, *, model: VAE, n_steps: int = 20) -> Float[Array, "s s d"]:
    """Decode a grid over a plane of codes, its lines at equal steps of the prior's probability.

    The first axis is the second coordinate, from large to small, as in a picture of the plane.
    """
    check_count("n_steps", n_steps, at_least=2)
    dtype = jax.tree.leaves(params)[0].dtype
    t = jax.scipy.stats.norm.ppf((jnp.arange(n_steps, dtype=dtype) + 0.5) / n_steps)
    codes = jnp.stack(jnp.meshgrid(t, t[::-1]), axis=-1)
    return decode(params, codes.reshape(-1, 2), model=model).reshape(n_steps, n_steps, -1)


def _apply(model, params, *args, method):
    return model.apply({"params": params}, *args, method=method)


def _terms(params, key, x, model):
    """`E_q[log p(x | z)]` by one draw, (n,), and the KL of every coordinate, (n, k)."""
    check_matrix("x", x)
    q = _apply(model, params, x, method="encode")
    z = q.mean + jnp.exp(q.log_sigma) * jax.random.normal(key, q.mean.shape, x.dtype)
    return _apply(model, params, x, z, method="log_prob"), kl(q)


def _log_weights(params, key, x, q, model, n_samples):
    """`log w_i = log p(x | z_i) + log p(z_i) - log q(z_i | x)`, shape (n_samples, n)."""
    noise = jax.random.normal(key, (n_samples, *q.mean.shape), x.dtype)
    z = q.mean[None] + jnp.exp(q.log_sigma)[None] * noise
    log_ratio = 0.5 * (noise**2 - z**2).sum(-1) + q.log_sigma.sum(-1)[None]
    # One product with many rows, not n_samples with few.
    repeated = jnp.broadcast_to(x[None], (n_samples, *x.shape)).reshape(-1, x.shape[1])
    log_prob = _apply(model, params, repeated, z.reshape(-1, z.shape[-1]), method="log_prob")
    return log_prob.reshape(n_samples, -1) + log_ratio
