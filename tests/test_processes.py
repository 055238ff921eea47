"""Two real processes: the results of one; and when one dies, the other ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests import _process as job
from unsup_jax.autoencoders import checkpoint
from unsup_jax.manifold import neighbors
from unsup_jax.mixtures import gaussian

ROOT = Path(__file__).parents[1]


def run(command, n=2, timeout=240):
    """Start `n` processes of a job; return their exit codes and what they said."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(n),
    }
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(n)
    ]
    try:
        said = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "a.npy", job.data()[:37])
    np.save(tmp_path / "b.npy", job.data()[37:])
    return tmp_path


def test_two_processes_give_the_results_of_one(folder):
    x = jnp.asarray(job.data())
    # Two epochs on one process; two processes go on.
    checkpoint.save(folder / "checkpoints", job.train(folder / "checkpoints", 2, x))
    codes, said = run(["-m", "tests._process", "work", str(folder)])
    assert codes == [0, 0], "\n".join(said)
    ours = [np.load(folder / f"out-{i}.npz") for i in range(2)]
    whole = gaussian.fit(job.start(), x, tol=-1.0, max_iter=4)
    trained = job.train(folder / "elsewhere", 6, x)
    for part in ours:
        np.testing.assert_allclose(part["fit"], whole.params.means, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(part["history"], whole.history, rtol=1e-5)
        np.testing.assert_allclose(part["streamed"], whole.history, rtol=1e-5)
        np.testing.assert_allclose(part["trained"], trained.params["m"], rtol=1e-4)
    found = np.concatenate([part["neighbours"] for part in ours])
    np.testing.assert_array_equal(found, neighbors.knn(x, n_neighbors=4).indices)


def test_when_a_process_dies_the_others_end_with_an_error(folder):
    codes, said = run(["-m", "tests._process", "die", str(folder)], timeout=120)
    assert codes[1] == 9
    assert codes[0] not in (0, None)
    assert "rror" in said[0]


def test_a_wrong_option_is_one_line_and_not_a_traceback(tmp_path):
    missing = tmp_path / "missing.npy"
    command = ["-m", "experiments", "run", "image_patches", "--distributed", "--files", missing]
    codes, said = run([*command, "--output", tmp_path])
    # The first to end may take the other with it.
    first = codes.index(2)
    assert codes[1 - first] != 0
    assert said[first].strip().startswith("error: ")
    assert "missing.npy" in said[first]
    assert "Traceback" not in said[first]
