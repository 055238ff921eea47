"""The sparse experiments run on their shipped data, and their figures make sense."""

import numpy as np

from experiments.sparse import _patches as patches
from experiments.sparse import denoising, dictionary, l1_geometry, nmf_parts, saliency


def test_nmf_parts(quick_run):
    found = quick_run(nmf_parts)["metrics"]
    for name in ("faces", "digits"):
        # No rank-25 matrix about the mean is nearer than PCA's; parts are smaller than axes.
        assert found[f"{name}_pca_relative_error"] < found[f"{name}_nmf_relative_error"] < 0.7
        assert found[f"{name}_nmf_spread"] < found[f"{name}_pca_spread"]


def test_l1_has_corners(quick_run):
    found = quick_run(l1_geometry)["metrics"]
    assert found["share_of_random_problems_with_a_zero_on_l1"] > 0.3
    assert found["share_of_random_problems_with_a_zero_on_l2"] < 0.05
    # In units of a penalty that ends at 1/1900 of its start, of which float32 knows 1e-6.
    assert found["largest_violation_of_optimality_on_the_path"] < 2e-3


def test_learned_atoms_cost_less(quick_run):
    found = quick_run(dictionary)["metrics"]
    assert found["learned_objective"] < min(found["DCT_objective"], found["PCA_objective"])


def test_noise_is_taken_away(quick_run):
    found = quick_run(denoising)["metrics"]
    assert found["decibels above noisy: least and mean"][0] > 6
    assert found["decibels above DCT: least and mean"][0] > -0.1


def test_objects_stand_out(quick_run):
    found = quick_run(saliency)["metrics"]
    assert found["mean AUC of surprise"] > 0.75
    assert found["mean AUC of surprise"] > found["mean AUC of local contrast"]


def test_spread_is_the_share_of_pixels_covered():
    part = np.zeros((2, 100))
    part[0, :25] = 3.0
    part[1] = -1.0
    np.testing.assert_allclose(nmf_parts.spread(part), (0.25 + 1) / 2)


def test_patches_are_put_together_again():
    image = np.random.default_rng(0).random((13, 10)).astype(np.float32)
    for step in (1, 3):
        whole = patches.paste(patches.cut(image, 4, step), image.shape, 4, step)
        np.testing.assert_allclose(whole, image, rtol=1e-6)
