"""What is not an array of data is named."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.core.checks import check_matrix, check_weights
from unsup_jax.linear import pca, svd
from unsup_jax.manifold import lle, neighbors
from unsup_jax.mixtures import gaussian, kmeans, online


def test_matrices_are_arrays_that_are_not_empty(unchecked):
    check_matrix("x", np.ones((2, 3)))
    with pytest.raises(ValueError, match="z must be an array, got a list"):
        check_matrix("z", [[1.0, 2.0]])
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=rf"z must not be empty, got shape \({shape[0]}, "):
            check_matrix("z", np.ones(shape))
    empty = np.ones((20, 0), np.float32)
    for call in (
        lambda: svd.thin(empty),
        lambda: pca.fit(empty, n_components=1),
        lambda: neighbors.knn(empty, n_neighbors=2),
    ):
        with pytest.raises(ValueError, match=r"x must not be empty, got shape \(20, 0\)"):
            call()


def test_weights_may_be_counts_and_masks_but_of_no_other_float(x64):
    x = np.ones((3, 2), np.float32)
    for weights in (None, np.array([0, 1, 2]), np.array([True, False, True]), x[:, 0]):
        check_weights(weights, x)
    with pytest.raises(ValueError, match="weights must be float32 like x, got float64"):
        check_weights(np.ones(3), x)


def test_numbers_of_numpy_need_no_conversion(unchecked):
    """Its float64 becomes the float32 of JAX without a word, in what `jit` does not wrap too."""
    x = np.random.default_rng(0).random((30, 3))
    params = gaussian.init(jax.random.key(0), x, n_components=2)
    axes = pca.fit(x, n_components=2)
    placed = lle.fit(x, n_components=2, n_neighbors=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            kmeans.inertia(x[:2], x),
            gaussian.log_prob(params, x),
            gaussian.e_step(params, x),
            online.step(online.start(params), x),
            pca.log_prob(axes, x),
            pca.reconstruction_error(axes, x),
            lle.transform(placed, x),
        ]
    kinds = {leaf.dtype for leaf in jax.tree.leaves(results)}
    assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
