"""The manifold experiments run from the command line and say what they should."""

import numpy as np
import pytest
from PIL import Image
from sklearn.manifold import trustworthiness

from experiments import data
from experiments.__main__ import main
from experiments.manifold import _maps, lle_images, lle_manifolds, tsne_digits, tsne_mnist


def test_sheets_are_unrolled(quick_run):
    contents = quick_run(lle_manifolds)
    scores = {k: v for k, v in contents["metrics"].items() if "R2" in k}
    assert len(scores) == 12
    assert min(scores.values()) > 0.9
    assert all(row["groups"] == 1 for row in contents["tables"][0]["rows"])


def test_held_out_pictures_land_near_their_like(quick_run):
    contents = quick_run(lle_images, dataset="digits")
    assert contents["metrics"]["closeness of held-out pictures"] < 0.5


def test_settings_are_checked(tmp_path, capsys):
    for arguments in (["lle_manifolds", "--n-neighbors", "3"], ["lle_images", "--digit", "11"]):
        assert main(["run", *arguments, "--quick", "--output", str(tmp_path)]) != 0
        assert arguments[1] in capsys.readouterr().err


def test_digits_gather_in_maps_of_thumbnails(quick_run, tmp_path):
    contents = quick_run(tsne_digits)
    assert contents["metrics"]["nearest_neighbour_accuracy"] > 0.9
    assert contents["metrics"]["trustworthiness"] > 0.95
    # What the Embedding Projector reads: as many vectors, labels and cells as digits.
    folder, n = tmp_path / "tsne_digits", contents["metrics"]["n_digits"]
    assert np.loadtxt(folder / "tensors.tsv").shape == (n, 2)
    labels = np.loadtxt(folder / "metadata.tsv")
    assert np.bincount(labels.astype(int)).min() > 0
    sheet = np.asarray(Image.open(folder / "sprite.png"))
    assert sheet.shape == (160, 160)
    first = data.digits().x[np.random.default_rng(0).permutation(1797)[21]].reshape(8, 8)
    np.testing.assert_allclose(sheet[8:16, 8:16], 255 - np.round(first * 255))


def test_held_out_digits_are_placed(quick_run):
    contents = quick_run(tsne_mnist, dataset="digits")
    placed, together, _ = (row["1-NN accuracy"] for row in contents["tables"][0]["rows"])
    assert placed > together - 0.1
    assert contents["metrics"]["trustworthiness"] > 0.95


def test_trustworthiness_is_that_of_scikit_learn():
    x = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)  # without ties
    y = x[:, :2]
    expected = trustworthiness(x, y, n_neighbors=12)
    assert _maps.trustworthiness(x, y) == pytest.approx(expected, abs=1e-5)
