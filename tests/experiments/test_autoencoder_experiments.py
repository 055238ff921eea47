"""The autoencoder experiments run on the small digits, and their figures make sense."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.autoencoders import (
    _digits,
    dae_digits,
    linear_autoencoder,
    vae_digits,
    vae_scores,
)
from experiments.report import UserError


def test_dae_digits(quick_run):
    results = quick_run(dae_digits, rates=(0.0, 0.5))
    assert len(results["figures"]) == 3
    rows = {(r["corruption"], r["trained at rate"]): r for r in results["tables"][0]["rows"]}
    assert len(rows) == 6
    for kind in dae_digits.KINDS:
        plain, trained = rows[kind, 0.0], rows[kind, 0.5]
        assert plain["corrupted"] == trained["corrupted"]
        # It learns to undo the noise, better than the ordinary autoencoder.
        assert trained["reconstructed"] < plain["reconstructed"]
        assert trained["reconstructed"] < 0.5 * trained["corrupted"]


def test_vae_digits(quick_run):
    results = quick_run(vae_digits, betas=(0.25, 1.0))
    assert len(results["figures"]) == 5
    rows = results["tables"][0]["rows"]
    assert [row["latents"] for row in rows] == [2, 20, 20]
    for row in rows:
        assert row["ELBO"] == pytest.approx(row["reconstruction"] - row["KL"], abs=1e-2)
        assert -64 * math.log(2) < row["ELBO"] < 0  # a coin for every pixel is beaten
    assert rows[1]["KL"] > rows[2]["KL"] > 0  # cheap codes say more


def test_linear_autoencoder(quick_run):
    results = quick_run(linear_autoencoder, sizes=(1, 4), shown=4)
    assert len(results["figures"]) == 3
    metrics = results["metrics"]
    assert 0 < metrics["training_error_over_that_of_pca"] < 0.03
    assert 0 < metrics["largest_principal_angle_radians"] < 0.8
    small, large = results["tables"][0]["rows"]
    for row in (small, large):
        assert row["linear"] == pytest.approx(row["PCA"], rel=0.02)
    assert all(large[kind] < small[kind] for kind in ("PCA", "linear", "nonlinear"))


def test_angles_between_subspaces():
    a, b = np.eye(4)[:2], np.eye(4)[:2].copy()
    b[1] = [0, math.cos(0.3), math.sin(0.3), 0]
    assert linear_autoencoder.largest_angle(a, b) == pytest.approx(0.3)
    assert linear_autoencoder.largest_angle(a, [[2.0, 1, 0, 0], [1, -5, 0, 0]]) < 1e-7
    tiny = np.array([[1, 0, 1e-6, 0], [0, 1, 0, 0]])
    assert linear_autoencoder.largest_angle(a, tiny) == pytest.approx(1e-6, rel=1e-3)


def test_vae_scores_go_on_from_their_checkpoints(tmp_path, quick_run):
    options = {"binarisations": ("dynamic",), "bounds": (2,), "n_samples": 10}
    options["checkpoints"] = tmp_path / "saved"
    first = quick_run(vae_scores, **options)
    row = first["tables"][0]["rows"][0]
    assert row["test NLL"] == first["metrics"]["test_nll_dynamic_2"]
    assert 0 < row["test NLL"] < 64 * math.log(2)
    assert row["gap"] > 0  # the ELBO lies below the bound of all samples
    assert 1 < row["effective samples"] < 10
    # A second run finds all epochs done: the same parameters, so the same score to the bit.
    again = quick_run(vae_scores, **options)
    assert again["metrics"] == first["metrics"]


def test_static_pixels_are_one_draw_of_the_intensity():
    grey = jnp.full((200, 64), 0.25)
    bits = vae_scores._drawn("train", grey)
    assert set(np.unique(bits)) == {0.0, 1.0}
    assert float(bits.mean()) == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(bits, vae_scores._drawn("train", grey))
    # The test images share no random numbers with the training images: two coins agree 5/8.
    same = bits == vae_scores._drawn("test", grey)
    assert float(same.mean()) == pytest.approx(0.625, abs=0.02)


def test_parts_of_the_digits_share_no_image():
    split = _digits.load("digits")
    rows = np.concatenate([split.train, split.valid, split.test])
    assert rows.shape == (1797, 64)
    assert len(split.labels) == len(split.test) == 150
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_sheet_lays_images_out_in_rows():
    images = np.arange(6.0).reshape(2, 3, 1) * np.ones(4)
    picture = _digits.sheet(images, (2, 2), line=9)
    assert picture.shape == (5, 8)
    np.testing.assert_array_equal(picture[0], [0, 0, 9, 1, 1, 9, 2, 2])
    np.testing.assert_array_equal(picture[:, 0], [0, 0, 9, 3, 3])


@pytest.mark.parametrize(
    ("module", "options", "name"),
    [
        (dae_digits, {"rates": (0.1, 1.5)}, "rates"),
        (vae_digits, {"betas": (4.0,)}, "betas"),
        (linear_autoencoder, {"sizes": (2, 4), "shown": 3}, "shown"),
        (vae_scores, {"bounds": (0,)}, "bounds"),
    ],
)
def test_senseless_options_are_explained(module, options, name, quick_run):
    with pytest.raises(UserError, match=name):
        quick_run(module, **options)
