"""The manifold experiments run from the command line and say what they should."""

import json

import pytest

from experiments.__main__ import main


@pytest.fixture
def metrics(tmp_path):
    def run(*arguments):
        assert main(["run", *arguments, "--quick", "--output", str(tmp_path)]) == 0
        contents = json.loads((tmp_path / arguments[0] / "metrics.json").read_text())
        for figure in contents["figures"]:
            assert (tmp_path / arguments[0] / figure["file"]).stat().st_size > 0
        return contents

    return run


def test_sheets_are_unrolled(metrics):
    contents = metrics("lle_manifolds")
    scores = {k: v for k, v in contents["metrics"].items() if "R2" in k}
    assert len(scores) == 12
    assert min(scores.values()) > 0.9
    assert all(row["groups"] == 1 for row in contents["tables"][0]["rows"])


def test_held_out_pictures_land_near_their_like(metrics):
    contents = metrics("lle_images", "--dataset", "digits")
    assert contents["metrics"]["closeness of held-out pictures"] < 0.5


def test_settings_are_checked(tmp_path, capsys):
    for arguments in (["lle_manifolds", "--n-neighbors", "3"], ["lle_images", "--digit", "11"]):
        assert main(["run", *arguments, "--quick", "--output", str(tmp_path)]) != 0
        assert arguments[1] in capsys.readouterr().err
