"""The sparse experiments run on their shipped data, and their figures make sense."""

import json

import numpy as np

from experiments.report import Report
from experiments.sparse import nmf_parts


def test_nmf_parts(tmp_path):
    config = nmf_parts.Config(quick=True)
    with Report("nmf_parts", tmp_path, config=config) as report:
        nmf_parts.run(config, report)
    results = json.loads((tmp_path / "nmf_parts/metrics.json").read_text())
    assert len(results["figures"]) == 4
    metrics = results["metrics"]
    for name in ("faces", "digits"):
        # No rank-25 matrix about the mean is nearer than PCA's; parts are smaller than axes.
        assert metrics[f"{name}_pca_relative_error"] < metrics[f"{name}_nmf_relative_error"] < 0.7
        assert metrics[f"{name}_nmf_spread"] < metrics[f"{name}_pca_spread"]


def test_spread_is_the_share_of_pixels_covered():
    part = np.zeros((2, 100))
    part[0, :25] = 3.0
    part[1] = -1.0
    np.testing.assert_allclose(nmf_parts.spread(part), (0.25 + 1) / 2)
