"""Runs of the experiments, and a small set of others to try the command line on."""

import json
import sys

import pytest

from experiments import registry
from experiments.report import Report

GOOD = '''
"""Draws a line & <counts>.

More about it.
"""

import dataclasses

from matplotlib import pyplot


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    n_points: int = 5
    """Number of points."""
    seed: int = 0
    """Seed."""
    quick: bool = False
    """Fewer."""


def run(config, report):
    fig, ax = pyplot.subplots()
    ax.plot(range(config.n_points))
    report.figure(fig, "line", "A line.")
    report.metrics(n_points=config.n_points, seed=config.seed, quick=config.quick)
    report.table("scores", [{"k": 1, "bic": 2.5}, {"k": 2, "bic": float("nan")}], "Scores.")
'''

IMPORT = "\nfrom experiments.data import UserError\n"


@pytest.fixture
def quick_run(tmp_path):
    """Run an experiment on little data, check its figures, return what it reports."""

    def run(module, /, **options):
        config = module.Config(quick=True, **options)
        name = module.__name__.rpartition(".")[2]
        with Report(name, tmp_path, config=config) as report:
            module.run(config, report)
        results = json.loads((tmp_path / name / "metrics.json").read_text())
        for figure in results["figures"]:
            assert (tmp_path / name / figure["file"]).stat().st_size > 10_000
            assert len(figure["caption"]) > 40
        return results

    return run


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Replace the experiments by a working one, a failing one, a wrong one and a helper."""
    monkeypatch.setattr(registry, "ROOT", tmp_path / "lab")
    monkeypatch.setattr(registry, "PACKAGE", "lab")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    for topic in ("mixtures", "sparse", "linear"):
        (tmp_path / "lab" / topic).mkdir(parents=True)
    bad = GOOD.replace("    fig, ax =", "    raise RuntimeError('boom <b>')\n    fig, ax =")
    wrong = GOOD.replace("    fig, ax =", "    raise UserError('no such clip')\n    fig, ax =")
    (tmp_path / "lab/mixtures/helper.py").write_text("raise AssertionError('was imported')")
    (tmp_path / "lab/mixtures/bad.py").write_text(bad)
    (tmp_path / "lab/sparse/good.py").write_text(GOOD)
    (tmp_path / "lab/linear/wrong.py").write_text(
        f"{wrong}\nfrom experiments.data import UserError"
    )
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]
