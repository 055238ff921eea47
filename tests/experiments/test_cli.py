"""The command line: what it prints, what it writes, and its exit status."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import gallery, registry
from experiments.__main__ import main

ROOT = Path(__file__).parents[2]


def metrics(folder, name="good"):
    return json.loads((folder / name / "metrics.json").read_text())


class Page(HTMLParser):
    """Collects what a page refers to and checks that its tags close."""

    VOID = ("meta", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.images = [], set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids.add(attrs.get("id"))
        self.references |= {attrs[a] for a in ("href", "src") if a in attrs}
        if tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_list(lab, capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert re.search(r"Model-based clustering:\n  bad +Draws a line & <counts>\.\n", out)
    assert re.search(r"Sparse linear models:\n  good ", out)
    assert "helper" not in out
    assert "usage:" in out


def test_listing_imports_no_experiment_and_no_jax():
    code = (
        "import sys, experiments.__main__ as m; m.main([]);"
        "print([n for n in ('jax', 'tyro', 'matplotlib', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")


def test_every_real_experiment_keeps_the_contract():
    for experiment in registry.discover().values():
        assert experiment.title.endswith("."), f"{experiment.name} needs a one-line docstring"
        module = experiment.load()
        config = module.Config(seed=1, quick=True)
        assert (config.seed, config.quick) == (1, True)


def test_a_file_that_does_not_parse_is_listed_as_such(lab):
    (lab / "lab/mixtures/typo.py").write_text("def run(:")
    assert "can't be read" in registry.discover()["typo"].title


def test_one_name_for_two_experiments_is_refused(lab):
    (lab / "lab/mixtures/good.py").write_text((lab / "lab/sparse/good.py").read_text())
    with pytest.raises(ValueError, match="both mixtures and sparse"):
        registry.discover()


def test_run_one_with_its_own_options(lab):
    out = lab / "out"
    args = ["run", "good", "--n-points", "7", "--quick", "--output", str(out)]
    assert main(args) == 0
    got = metrics(out)
    assert got["metrics"] == {"n_points": 7, "seed": 0, "quick": True}
    assert got["title"] == "Draws a line & <counts>."
    assert got["command"] == f"python -m experiments run good --n-points 7 --quick --output {out}"


def test_run_several(lab, capsys):
    out = lab / "out"
    args = ["run", "good", "good", "wrong", "--seed", "3", "--jobs", "1", "--output", str(out)]
    assert main(args) == 1
    err = capsys.readouterr().err
    assert "error: wrong failed: no such clip" in err
    assert "Traceback" not in err
    assert err.count("good") == 2  # done once, and in the path of its results
    assert metrics(out)["metrics"]["seed"] == 3
    assert metrics(out)["command"] == "python -m experiments run good --seed 3"


def test_experiments_side_by_side(lab, capsys):
    out = lab / "out"
    assert main(["gallery", "--quick", "--jobs", "2", "--output", str(out)]) == 1
    err = capsys.readouterr().err
    assert sorted(re.findall(r"^\[\d/3\] (\w+)", err, re.M)) == ["bad", "good", "wrong"]
    assert "in run\n    raise RuntimeError('boom <b>')" in err
    assert "error: wrong failed: no such clip" in err
    assert metrics(out)["command"] == "python -m experiments run good --quick"


def test_a_process_that_dies_is_reported(lab, capsys):
    source = lab / "lab/mixtures/bad.py"
    source.write_text(
        source.read_text().replace("raise Runtime", "import os; os._exit(1); Runtime")
    )
    assert main(["run", "all", "--jobs", "2", "--output", str(lab / "out")]) == 1
    assert "error: bad failed: a process of the run has died" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["gallery"], ["run", "all"], ["run", "good"]])
def test_an_output_that_can_not_be_written_is_named_before_any_work(lab, capsys, command):
    (lab / "file").touch()
    assert main([*command, "--output", str(lab / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: Can't write to '{lab / 'file'}")


def test_a_user_error_is_one_line_and_status_2(lab, capsys):
    assert main(["run", "wrong", "--output", str(lab / "out")]) == 2
    assert capsys.readouterr().err == "error: no such clip\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "god"], "Did you mean good?"),
        (["run", "xyzzy"], "Known: all, bad, good, wrong."),
        (["run", "good", "all"], "no experiment named 'all'"),
        (["run"], "Name an experiment"),
        (["run", "--quick"], "Name an experiment"),
        (["galery"], "Did you mean gallery?"),
        (["run", "good", "--distributed"], "good runs in one process."),
        (["run", "all", "--jobs", "0"], "--jobs must be at least 1, it was 0."),
        (["run", "all", "--distributed"], "--distributed runs one experiment at a time."),
    ],
)
def test_wrong_names(lab, capsys, args, message):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert not out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "good", "--n-pointz", "3"], "--n-points"),
        (["run", "good", "--n-points", "many"], "INT"),
        (["gallery", "--fast"], "--fast"),
        (["run", "all", "--quik"], "--quick"),
    ],
)
def test_wrong_options(lab, capsys, args, message):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["run", "good", "--help"], ["--n-points INT", "Number of points.", "--output"]),
        (["run", "all", "--help"], ["--quick", "--seed", "--output"]),
        (["gallery", "--help"], ["--quick", "--seed", "--output"]),
    ],
)
def test_help(lab, capsys, args, expected):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(text in out for text in expected)


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"]])
def test_help_without_a_name(lab, capsys, args):
    assert main(args) == 0
    assert "usage:" in capsys.readouterr().out


def test_gallery_outlives_a_failing_experiment(lab, capsys):
    out = lab / "out"
    assert main(["gallery", "--quick", "--output", str(out), "--jobs", "1"]) == 1
    err = capsys.readouterr().err
    assert "error: bad failed: RuntimeError: boom <b>" in err
    text = (out / "index.html").read_text()
    page = Page(text)
    assert not page.open
    assert {"mixtures", "linear", "sparse", "good", "bad", "wrong"} <= page.ids
    assert "Failed: RuntimeError: boom &lt;b&gt;" in text
    assert "Failed: no such clip" in text
    assert "Draws a line &amp; &lt;counts&gt;." in text
    assert "python -m experiments run good --quick" in text
    assert [image["alt"] for image in page.images] == ["A line."]
    assert metrics(out)["metrics"]["quick"] is True


def test_gallery_is_self_contained(lab):
    out = lab / "out"
    (lab / "lab/mixtures/bad.py").unlink()
    (lab / "lab/linear/wrong.py").unlink()
    assert main(["gallery", "--output", str(out), "--jobs", "1"]) == 0
    page = Page((out / "index.html").read_text())
    for reference in page.references:
        assert reference.startswith("data:") or reference[1:] in page.ids


def test_gallery_does_not_show_the_results_of_an_earlier_run(lab):
    out = lab / "out"
    assert main(["run", "good", "--output", str(out)]) == 0
    source = lab / "lab/sparse/good.py"
    source.write_text(source.read_text().replace("pyplot.subplots()", "pyplot.sub"))
    sys.modules.pop("lab.sparse.good")
    assert main(["gallery", "--output", str(out), "--jobs", "1"]) == 1
    text = (out / "index.html").read_text()
    assert "AttributeError" in text
    assert "<img" not in text


def test_gallery_shows_the_last_benchmarks(lab):
    out = lab / "out"
    (out / "benchmarks").mkdir(parents=True)
    row = {"topic": "sparse", "what": "coding <b>", "ours_s": 0.5, "peer": "SPAMS", "ratio": None}
    saved = json.dumps({"machine": "2 x CPU", "rows": [row]})
    (out / "benchmarks/benchmarks.json").write_text(saved)
    assert main(["gallery", "--output", str(out), "--jobs", "1"]) == 1
    text = (out / "index.html").read_text()
    page = Page(text)
    assert not page.open
    assert "#benchmarks" in page.references
    assert "benchmarks" in page.ids
    assert "coding &lt;b&gt;" in text
    assert "Seconds, on 2 x CPU." in text


def test_a_rerun_gives_the_same_metrics_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        options = ["pca_views", "--quick", "--seed", "3", "--output", str(out)]
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            assert main(["run", *options]) == 0
    got = metrics(first, "pca_views")
    assert got["metrics"] == metrics(second, "pca_views")["metrics"]
    assert got["config"]["seed"] == 3


def test_large_files_are_linked_and_videos_embedded(lab, monkeypatch):
    monkeypatch.setattr(gallery, "EMBED_AT_MOST", 10)
    (lab / "good").mkdir()
    for name, size in (("small.mp4", 10), ("large.mp4", 11), ("notes.txt", 1)):
        (lab / "good" / name).write_bytes(b"x" * size)
    shown = {n: gallery._medium(lab, "good", n, "C") for n in ("small.mp4", "large.mp4")}
    assert 'src="data:video/mp4;base64,' in shown["small.mp4"]
    assert 'href="good/large.mp4"' in shown["large.mp4"]
    assert 'href="good/notes.txt"' in gallery._medium(lab, "good", "notes.txt", "C")


def test_pictures_are_embedded_smaller_and_sheets_of_data_linked(tmp_path):
    (tmp_path / "good").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good/noise.png")
    embedded = gallery._medium(tmp_path, "good", "noise.png", "C")
    assert 'src="data:image/webp;base64,' in embedded
    assert len(embedded) < (tmp_path / "good/noise.png").stat().st_size
    linked = gallery._medium(tmp_path, "good", "noise.png", "C", moving=True)
    assert 'href="good/noise.png"' in linked


def test_the_real_command_line():
    env = {**os.environ, "COLUMNS": "80"}
    run = [sys.executable, "-m", "experiments", "run", "no_such_experiment"]
    done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no experiment named 'no_such_experiment'.")
