"""A report appears whole or not at all, and is strict JSON."""

import dataclasses
import enum
import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot

from experiments import report


class Colour(enum.IntEnum):
    RED = 1


class Pair(NamedTuple):
    a: float
    b: Colour


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    rates: tuple[float, ...] = (0.5, float("inf"))
    folder: Path = Path("clips")


def read(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((path / "metrics.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (np.float32("-inf"), None),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.int64(3), 3),
        (jnp.float32(0.5), 0.5),
        (jnp.arange(2), [0, 1]),
        (np.bool_(True), True),
        ({1: (2.0, "x")}, {"1": [2.0, "x"]}),
        (Pair(1.0, Colour.RED), {"a": 1.0, "b": "RED"}),
        (Path("a/b"), "a/b"),
        (None, None),
    ],
)
def test_plain(value, expected):
    result = report.plain(value)
    assert result == expected
    assert type(result) is type(expected)
    json.dumps(result, allow_nan=False)


def test_everything_is_recorded(tmp_path):
    fig, ax = pyplot.subplots()
    ax.plot([0, 1])
    with report.Report("demo", tmp_path, title="A demo.", config=Config(), command="do it") as r:
        r.figure(fig, "curve", "A curve.")
        r.metric("loss", jnp.float32(np.nan))
        r.metrics(k=np.int32(3), accuracy=0.5)
        r.table("scores", [{"k": 1, "bic": np.inf}], "Scores.")
        with r.file("clip.gif", "A clip.") as path:
            path.write_bytes(b"GIF89a")
        assert not (tmp_path / "demo" / "metrics.json").exists()
    got = read(tmp_path / "demo")
    assert (got["name"], got["title"], got["command"]) == ("demo", "A demo.", "do it")
    assert got["config"] == {"seed": 0, "rates": [0.5, None], "folder": "clips"}
    assert got["metrics"] == {"loss": None, "k": 3, "accuracy": 0.5}
    assert got["tables"] == [
        {"name": "scores", "caption": "Scores.", "rows": [{"k": 1, "bic": None}]}
    ]
    assert got["figures"] == [{"file": "curve.png", "caption": "A curve."}]
    assert got["embeddings"] == []
    assert got["files"] == [{"file": "clip.gif", "caption": "A clip."}]
    assert got["jax"]
    assert "cpu" in got["device"]
    assert got["seconds"] >= 0
    assert (tmp_path / "demo" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [
        "clip.gif",
        "curve.png",
        "metrics.json",
    ]
    assert not pyplot.fignum_exists(fig.number)


def test_a_failed_run_leaves_no_metrics(tmp_path):
    report.Report("demo", tmp_path).close()
    assert (tmp_path / "demo" / "metrics.json").exists()
    with pytest.raises(RuntimeError), report.Report("demo", tmp_path):
        raise RuntimeError
    assert not list((tmp_path / "demo").iterdir())


def test_replacing_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a" / "file.txt"
    with report.replacing(path) as temporary:
        assert temporary.suffix == ".txt"  # writers choose the format by it
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(TypeError), report.replacing(path) as temporary, temporary.open("w") as file:
        file.writelines(["half of the n", None])
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_replaced_files_have_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("")
    with report.replacing(tmp_path / "replaced") as temporary:
        temporary.write_text("")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (usual, tmp_path / "replaced")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_names_stay_in_the_folder(tmp_path, name):
    with (
        pytest.raises(ValueError, match="plain file name"),
        report.Report("demo", tmp_path).file(name),
    ):
        pass


def test_an_output_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(report.UserError, match="--output"):
        report.Report("demo", tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_without_permission(tmp_path):
    (tmp_path / "demo").mkdir(mode=0o500)
    with pytest.raises(report.UserError, match=r"Can't write to .* Permission denied"):
        report.Report("demo", tmp_path)


def test_progress_is_the_iterable_itself_when_nobody_watches(tmp_path, monkeypatch):
    items = [1, 2, 3]
    r = report.Report("demo", tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert r.progress(items, "steps") is items


def test_progress_yields_everything_when_somebody_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(report.Report("demo", tmp_path).progress(range(3), "steps")) == [0, 1, 2]
    assert "steps" in capsys.readouterr().err


def test_unknown_suggests():
    assert "Did you mean mnist" in str(report.unknown("data set", "mnits", ["mnist", "digits"]))
    assert "Known: digits, mnist." in str(report.unknown("data set", "zz", ["mnist", "digits"]))
