"""Denoising autoencoders (Vincent et al., 2008 and 2010; Murphy, MLPP 28.4.2).

    x' ~ corruption(x),   z = encode(x'),   y = decode(z),   loss = L(x, y)

The loss compares the reconstruction of the spoiled input with the clean one: to lower it, the code
must hold what the entries of `x` have to do with one another. With rate 0 this is the ordinary
autoencoder; a linear one with squared error spans the principal subspace.

A `model` is a module with the methods `encode` and `decode`: `networks.Autoencoder` or
`networks.TiedAutoencoder`. Losses are one number a sample, summed over features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from unsup_jax.autoencoders import corruption
from unsup_jax.core.checks import check_choice, check_matrix

Params = Any  # the pytree of a module's parameters
ERRORS = ("cross_entropy", "squared")


class Denoised(NamedTuple):
    """A spoiled input and what the autoencoder makes of it, both shape (n, d)."""

    corrupted: Float[Array, "n d"]
    reconstruction: Float[Array, "n d"]


def init(key: PRNGKeyArray, x: Float[Array, "n d"], *, model: nn.Module) -> Params:
    """Random parameters of `model` for data like `x`."""
    check_matrix("x", x)
    return model.init(key, x[:1])["params"]


def loss(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    rate: ScalarLike = 0.0,
    *,
    model: nn.Module,
    corrupt: corruption.Corruption = corruption.masking,
    error: str = "cross_entropy",
) -> Float[Array, "n"]:
    """Loss of each sample when its input is spoiled, against the clean `x`.

    `cross_entropy` takes what the decoder gives for logits `a` of pixels in [0, 1]:
    `-sum_j x_j log s(a_j) + (1 - x_j) log s(-a_j)`, in nats; `squared` takes it for the
    reconstruction: `||x - a||^2`.

    Args:
        params: Parameters of the model.
        key: Random key, of the corruption.
        x: Clean data.
        rate: Traced; how much is spoiled.
        model: Static; the network.
        corrupt: Static; a function of `corruption`, or another `(key, x, rate) -> x'`.
        error: Static; "cross_entropy" or "squared".

    Raises:
        ValueError: For an `x` that is no floating-point matrix or an unknown `error`.
    """
    check_matrix("x", x)
    check_choice("error", error, ERRORS)
    a = model.apply({"params": params}, corrupt(key, x, rate))
    return (cross_entropy if error == "cross_entropy" else squared_error)(x, a)


def cross_entropy(x: Float[Array, "*batch d"], logits: Float[Array, "*batch d"]) -> Array:
    """`-sum_j x_j log s(a_j) + (1 - x_j) log s(-a_j) = sum_j log(1 + e^a_j) - x_j a_j`."""
    return (_softplus(logits) - x * logits).sum(-1)


def squared_error(x: Float[Array, "*batch d"], y: Float[Array, "*batch d"]) -> Array:
    """`||x - y||^2`."""
    return ((x - y) ** 2).sum(-1)


@jax.custom_jvp
def _softplus(a):
    # Half the time of jax.nn.softplus. Without log1p the value is off by 1e-7 at most, which a sum
    # over features loses anyway; the derivative is exact.
    return jnp.maximum(a, 0) + jnp.log(1 + jnp.exp(-jnp.abs(a)))


_softplus.defjvps(lambda tangent, _, a: tangent * jax.nn.sigmoid(a))


def encode(params: Params, x: Float[Array, "n d"], *, model: nn.Module) -> Float[Array, "n k"]:
    """The code of each sample."""
    check_matrix("x", x)
    return model.apply({"params": params}, x, method="encode")


def reconstruct(
    params: Params, x: Float[Array, "n d"], *, model: nn.Module, error: str = "cross_entropy"
) -> Float[Array, "n d"]:
    """The reconstruction of each sample as it is, on the scale of the data."""
    check_matrix("x", x)
    check_choice("error", error, ERRORS)
    a = model.apply({"params": params}, x)
    return jax.nn.sigmoid(a) if error == "cross_entropy" else a


def denoise(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    rate: ScalarLike,
    *,
    model: nn.Module,
    corrupt: corruption.Corruption = corruption.masking,
    error: str = "cross_entropy",
) -> Denoised:
    """Spoil `x`, then reconstruct it: the rows of the lecture's picture."""
    check_matrix("x", x)
    corrupted = corrupt(key, x, rate)
    return Denoised(corrupted, reconstruct(params, corrupted, model=model, error=error))
