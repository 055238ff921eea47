"""The mixture experiments run on their shipped data, and their figures make sense."""

from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

from experiments import data
from experiments.mixtures import bernoulli_mnist, gaussian_mixture, image_patches
from experiments.report import UserError
from unsup_jax.mixtures import gaussian, kmeans


def test_gaussian_mixture(quick_run):
    results = quick_run(gaussian_mixture)
    metrics = results["metrics"]
    assert len(results["figures"]) == 4
    # One Gaussian for the ten digits is clearly beaten; the best of 1 to 6 needs several.
    assert 4 <= metrics["n_components"] <= 6
    assert 0.15 < metrics["adjusted_rand_index"] < 0.6
    table = {row["structure"]: row for row in results["tables"][0]["rows"]}
    assert set(table) == {"full", "tied", "diagonal", "spherical"}
    for row in table.values():
        log_likelihood = row["log-likelihood (nats a sample)"]
        bic = row["parameters"] * np.log(1797) - 2 * 1797 * log_likelihood
        assert row["BIC"] == pytest.approx(bic, rel=1e-5)
    assert metrics["best_structure_bic"] == min(row["BIC"] for row in table.values())


def test_projection_is_pca():
    x = data.digits().x
    ours, explained = gaussian_mixture.project(x)
    theirs = PCA(2).fit(x)
    scores = theirs.transform(x)
    signs = np.sign((scores * np.asarray(ours)).sum(0))
    np.testing.assert_allclose(ours, scores * signs, atol=1e-3)
    assert explained == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-4)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_inactive_components_fit_like_a_smaller_mixture(covariance):
    x, _ = gaussian_mixture.project(data.digits().x[:300])
    seeds = kmeans.init(jax.random.key(0), x, n_components=3)
    swept = gaussian_mixture.sweep(seeds[None], x, 1e-4, covariance=covariance, max_iter=10)
    for k in (2, 3):
        start = gaussian.from_means(seeds[:k], x, covariance=covariance)
        alone = gaussian.fit(start, x, None, 1e-4, 2e-6, max_iter=10)
        assert swept.fits.objective[k - 1, 0] == pytest.approx(float(alone.objective), abs=1e-4)
        bic = float(gaussian.n_parameters(alone.params)) * np.log(300) - 600 * alone.objective
        assert swept.bic[k - 1, 0] == pytest.approx(float(bic), rel=1e-4)


def test_bernoulli_mnist(quick_run):
    results = quick_run(bernoulli_mnist, n_components=(1, 10))
    metrics = results["metrics"]
    assert len(results["figures"]) == 4
    # One component knows nothing about the digit; ten find most of it.
    assert metrics["purity_1"] < 0.45
    assert metrics["purity_10"] > 0.6
    assert metrics["test_accuracy_10"] > 0.5
    assert metrics["test_log_likelihood_10"] > metrics["test_log_likelihood_1"] + 15
    assert -784 * np.log(2) < metrics["test_log_likelihood_10"] < 0


def test_image_patches(tmp_path, quick_run):
    metrics = quick_run(image_patches, folder=tmp_path / "patches")["metrics"]
    assert len(list((tmp_path / "patches").iterdir())) == image_patches.N_FILES
    assert metrics["n_devices"] == jax.device_count()
    assert metrics["streamed_minus_sharded"] == pytest.approx(0, abs=0.01)
    # Two passes of a step for each batch do what several of EM do.
    first, second = metrics["stochastic_after_one_pass"], metrics["stochastic_after_two_passes"]
    assert first < second < metrics["mean_log_likelihood"] < second + 6
    with pytest.raises(UserError, match=r"'missing.npy' does not exist"):
        quick_run(image_patches, files=(Path("missing.npy"),))


def test_purity_counts_by_hand():
    counts = bernoulli_mnist.count(np.array([0, 0, 0, 2]), np.array([3, 3, 5, 8]), 3)
    assert counts.shape == (3, 10)
    assert counts[0, 3] == 2
    assert counts[0, 5] == 1
    assert counts[1].sum() == 0
    assert counts.max(1).sum() / counts.sum() == 0.75


def test_binarisation_is_one_fixed_draw_of_the_intensity():
    grey = np.full((200, 784), 0.25, np.float32)
    bits = bernoulli_mnist.binarise(grey)
    assert set(np.unique(bits)) == {0.0, 1.0}
    assert bits.mean() == pytest.approx(0.25, abs=0.005)
    np.testing.assert_array_equal(bits, bernoulli_mnist.binarise(grey))
    # The test images share no random numbers with the training images: two coins agree 5/8.
    others = bernoulli_mnist.binarise(grey, "test")
    assert (bits == others).mean() == pytest.approx(0.625, abs=0.01)
    np.testing.assert_array_equal(bernoulli_mnist.binarise(np.array([0.0, 1.0])), [0, 1])


@pytest.mark.parametrize(
    ("module", "options", "name"),
    [
        (bernoulli_mnist, {"digits": (3, 10)}, "digits"),
        (bernoulli_mnist, {"n_components": (0,)}, "n-components"),
        (bernoulli_mnist, {"scores": True}, "scores"),
        (gaussian_mixture, {"n_components": 99}, "n-components"),
    ],
)
def test_senseless_options_are_explained(module, options, name, quick_run):
    with pytest.raises(UserError, match=name):
        quick_run(module, **options)


def test_colours_mix_by_responsibility():
    from experiments.mixtures import _style as style

    colours = style.palette(12)
    assert len({tuple(colour) for colour in colours}) == 12
    np.testing.assert_allclose(style.mix(np.eye(12), colours), colours, atol=1e-6)
    half = style.mix(np.array([[0.5, 0.5]]), np.array([[1.0, 0, 0], [0, 0, 1.0]]))
    assert half[0, 0] == half[0, 2] > half[0, 1] == 0
