"""A killed run goes on to the same bits; what is no whole checkpoint of this run is refused."""

import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.autoencoders import _run as job
from unsup_jax.autoencoders import checkpoint, networks, training, vae


def same(a, b):
    a, b = (s._replace(key=jax.random.key_data(s.key)) for s in (a, b))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def finished():
    *_, state = job.states(job.start())
    return state


@pytest.fixture
def saved(tmp_path):
    state = next(job.states(job.start()))
    return state, checkpoint.save(tmp_path / "run", state)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, finished):
    command = [sys.executable, "-m", "tests.autoencoders._run", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if int(line) >= 3:
            os.kill(process.pid, signal.SIGKILL)  # it is training the next epoch, or saving it
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    loaded = checkpoint.resume(tmp_path, job.start())
    assert 3 <= int(loaded.epoch) < job.N_EPOCHS
    *_, state = job.states(loaded)
    same(state, finished)


def test_saved_is_restored(saved, tmp_path):
    state, path = saved
    same(checkpoint.restore(path, job.start()), state)
    same(checkpoint.resume(tmp_path / "run", job.start()), state)
    same(checkpoint.resume(tmp_path / "elsewhere", job.start()), job.start())


def test_only_the_latest_two_are_kept(tmp_path):
    for state, _ in zip(job.states(job.start()), range(4), strict=False):
        checkpoint.save(tmp_path, state)
    assert sorted(os.listdir(tmp_path)) == ["3", "4"]


def test_a_half_written_checkpoint_is_never_taken(saved, tmp_path):
    state, path = saved
    unfinished = path.with_name("7.orbax-checkpoint-tmp")
    shutil.copytree(path, unfinished)
    (unfinished / "_CHECKPOINT_METADATA").unlink()
    same(checkpoint.resume(tmp_path / "run", job.start()), state)
    with pytest.raises(ValueError, match="half-written"):
        checkpoint.restore(unfinished, job.start())
    with pytest.raises(ValueError, match="half-written"):
        checkpoint.restore(tmp_path / "nothing", job.start())


def test_a_damaged_checkpoint_is_refused(saved):
    _, path = saved
    for file in path.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"damaged|can't be read"):
        checkpoint.restore(path, job.start())


def test_a_foreign_checkpoint_is_refused(saved):
    _, path = saved
    for widths, message in (((9, 4), r"float32\[9\]|float32\[8"), ((8, 8, 4), "layer_2")):
        model = vae.VAE(networks.MLP(widths), networks.MLP((8, 16)))
        other = training.start(
            vae.init(jax.random.key(0), job.data(), model=model), job.start().key
        )
        with pytest.raises(ValueError, match=f"of another model.*({message})"):
            checkpoint.restore(path, other)
