"""New points in a t-SNE map that stays (Policar, Strazar & Zupan, Machine Learning, 2021)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, ScalarLike

from unsup_jax.core.checks import check_matrix
from unsup_jax.manifold import affinities, grid, repulsion
from unsup_jax.manifold.neighbors import knn

EXACT_UP_TO = 1000  # samples of the map
_FOR_START = 25  # neighbours


def transform(
    x_new: Float[Array, "m d"],
    x: Float[Array, "n d"],
    embedding: Float[Array, "n q"],
    perplexity: ScalarLike = 5.0,
    exaggeration: ScalarLike = 4.0,
    learning_rate: ScalarLike = 1.0,
    *,
    dof: float = 1.0,
    max_iter: int = 250,
) -> Float[Array, "m q"]:
    """Place new samples in a map that stays as it is, each on its own.

    A sample starts at the median of its 25 nearest neighbours and minimises the divergence of its
    own similarities from `p_(j|i)`. Runs on the host.

    Args:
        x_new: New samples.
        x: Those that were embedded.
        embedding: Their map.
        perplexity: Effective number of neighbours.
        exaggeration: Factor of the attraction. The map does not make room for new samples: with
            1 they are pushed to the edges of clusters, and more often into a wrong one.
        learning_rate: Of the gradient without its factor of 4.
        dof: Degrees of freedom.
        max_iter: Number of updates.

    Raises:
        ValueError: If shapes do not match, or the perplexity exceeds n.
    """
    check_matrix("x", x)
    check_matrix("embedding", embedding)
    n, q = embedding.shape
    if n != x.shape[0]:
        raise ValueError(f"embedding must have {x.shape[0]} rows, got {n}")
    affinities.check_perplexity(perplexity, n)
    found = knn(x_new, x, n_neighbors=min(n, max(_FOR_START, int(3 * jnp.asarray(perplexity)))))
    on_grid = q in grid.SIZES and n > EXACT_UP_TO
    field = grid.field(embedding, grid.kernel_for(embedding, dof=dof)) if on_grid else None
    rates = (perplexity, exaggeration, learning_rate)
    return _place(*found, embedding, field, rates, dof=dof, max_iter=max_iter)


@partial(jax.jit, static_argnames=("dof", "max_iter"))
def _place(distances, indices, embedding, field, rates, *, dof, max_iter):
    perplexity, exaggeration, rate = (jnp.asarray(a, embedding.dtype) for a in rates)
    p = affinities.conditional(distances**2, perplexity)
    targets = embedding[indices]

    def slope(y):
        """A quarter of the gradient, at most 1/4 long."""
        if field is None:
            potential, force = repulsion.exact(y, embedding, dof=dof)
        else:
            potential, force = grid.read(field, y)
        apart = y[:, None] - targets
        w, _ = repulsion.kernel((apart**2).sum(2), dof=dof)
        pull = (dof + 1) / dof * (apart * (p * w)[:, :, None]).sum(1)
        tiny = jnp.finfo(y.dtype).eps
        g = (exaggeration * pull - force / jnp.maximum(potential, tiny)[:, None]) / 2
        return g * (0.25 / jnp.maximum(jnp.linalg.norm(g, axis=1, keepdims=True), 0.25))

    def update(_, state):
        y, velocity, gains = state
        g = slope(y)
        gains = jnp.where(jnp.sign(velocity) != jnp.sign(g), gains + 0.2, gains * 0.8 + 0.01)
        velocity = 0.8 * velocity - rate * gains * g
        return y + velocity, velocity, gains

    y = jnp.median(targets[:, :_FOR_START], axis=1)
    return lax.fori_loop(0, max_iter, update, (y, jnp.zeros_like(y), jnp.ones_like(y)))[0]
