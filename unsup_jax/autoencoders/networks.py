"""Encoders and decoders: Flax Linen modules from rows to rows.

A module is a description (hashable, equal by value, so equal ones share a compiled program); its
parameters are an explicit pytree: `params = model.init(key, x)["params"]`. Images are rows of
pixels for convolutional networks too. `dtype` is the type of the computation (`jnp.bfloat16`, say);
parameters and results keep theirs.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unsup_jax.core.checks import check_choice, check_matrix

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def _activation(name: str):
    check_choice("activation", name, tuple(ACTIVATIONS))
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Dense layers; the last one is linear. One width and no activation: a linear map.

    Attributes:
        widths: Output width of every layer.
        activation: Between the layers: "tanh", "relu", "softplus", "sigmoid" or "identity".
        final: After the last layer.
        dtype: Of the computation; that of the input by default.
    """

    widths: tuple[int, ...]
    activation: str = "tanh"
    final: str = "identity"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Apply the layers to each row."""
        h = x
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            h = nn.Dense(width, dtype=self.dtype, param_dtype=x.dtype, name=f"layer_{i}")(h)
            h = _activation(self.final if last else self.activation)(h)
        return h.astype(x.dtype)


class ConvEncoder(nn.Module):
    """Convolutions of 3 x 3 that halve the sides, then one dense layer.

    Attributes:
        shape: `(height, width)` of the images that the rows hold.
        channels: Of every convolution.
        n_outputs: Width of the result.
        activation: After every convolution.
        dtype: Of the computation; that of the input by default.
    """

    shape: tuple[int, int]
    channels: tuple[int, ...]
    n_outputs: int
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Apply to each row, an image of `shape`."""
        check_matrix("x", x, n_features=math.prod(self.shape))
        h = x.reshape(-1, *self.shape, 1)
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": x.dtype}
        for width in self.channels:
            h = nn.Conv(width, (3, 3), strides=(2, 2), **options)(h)
            h = _activation(self.activation)(h)
        return nn.Dense(self.n_outputs, **options)(h.reshape(len(h), -1)).astype(x.dtype)


class ConvDecoder(nn.Module):
    """The mirror image: one dense layer, then transposed convolutions that double the sides.

    Attributes:
        shape: `(height, width)` of the images.
        channels: Of the small image, then after all but the last convolution.
        activation: Before every convolution.
        dtype: Of the computation; that of the input by default.
    """

    shape: tuple[int, int]
    channels: tuple[int, ...]
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Map each row to an image of `shape`, as a row."""
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": z.dtype}
        height, width = (-(-side // 2 ** len(self.channels)) for side in self.shape)
        h = nn.Dense(height * width * self.channels[0], **options)(z)
        h = h.reshape(-1, height, width, self.channels[0])
        for channels in (*self.channels[1:], 1):
            h = _activation(self.activation)(h)
            h = nn.ConvTranspose(channels, (3, 3), strides=(2, 2), **options)(h)
        # Sides that are no multiple of the scale are rounded up on the way and cut here.
        h = h[:, : self.shape[0], : self.shape[1], 0]
        return h.reshape(len(h), -1).astype(z.dtype)


class Autoencoder(nn.Module):
    """An encoder and a decoder with parameters of their own."""

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def encode(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """The code of each row."""
        return self.encoder(x)

    def decode(self, z: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """What each code stands for: logits, or means."""
        return self.decoder(z)


class TiedAutoencoder(nn.Module):
    """Dense layers whose decoder uses the encoder's matrices, transposed: `W_i` and `W_i'`.

    Attributes:
        n_features: Width of the data.
        widths: Of the encoder's layers; the last is the code.
        activation: After every layer of the encoder, and between the decoder's.
        dtype: Of the computation; that of the input by default.
    """

    n_features: int
    widths: tuple[int, ...]
    activation: str = "sigmoid"
    dtype: Any = None

    def setup(self) -> None:
        """Make one matrix a layer and two biases."""
        sizes = (self.n_features, *self.widths)
        ends = list(itertools.pairwise(sizes))
        glorot, zeros = nn.initializers.glorot_uniform(), nn.initializers.zeros
        self.kernels = [self.param(f"kernel_{i}", glorot, end) for i, end in enumerate(ends)]
        self.up = [self.param(f"encode_{i}", zeros, (end[1],)) for i, end in enumerate(ends)]
        self.down = [self.param(f"decode_{i}", zeros, (end[0],)) for i, end in enumerate(ends)]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def _layer(self, h, kernel, bias):
        h, kernel, bias = (a.astype(self.dtype or kernel.dtype) for a in (h, kernel, bias))
        return h @ kernel + bias[None]

    def encode(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """The code of each row."""
        check_matrix("x", x, n_features=self.n_features)
        h = x
        for kernel, bias in zip(self.kernels, self.up, strict=True):
            h = _activation(self.activation)(self._layer(h, kernel, bias))
        return h.astype(x.dtype)

    def decode(self, z: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """What each code stands for: logits, or means."""
        h = z
        for i in reversed(range(len(self.kernels))):
            h = self._layer(h, self.kernels[i].T, self.down[i])
            h = _activation(self.activation)(h) if i else h
        return h.astype(z.dtype)
