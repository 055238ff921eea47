"""Streams beside a plain read of the file; two processes beside one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.timing import alternate, peak_memory, row
from unsup_jax import distributed, files
from unsup_jax.mixtures import gaussian

D, K, BATCH = 32, 8, 100_000


def rows(quick: bool = False) -> list[dict[str, object]]:
    """Every row of the table; `quick` uses a hundredth of the rows."""
    n = 100_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        _write(path, n)
        table = _stream(path, n, 1 if quick else 2)
    return [*table, _two_processes(10_000 if quick else 1_000_000)]


def _write(path, n):
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, D))
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(K, D)) * 2
    for i in range(0, n, BATCH):
        noise = rng.standard_normal((min(BATCH, n - i), D), np.float32)
        out[i : i + BATCH] = noise + middle[np.arange(len(noise)) % K]
    out.flush()


def _stream(path, n, repeats):
    data = files.read(path, batch_size=BATCH)
    first = next(iter(data))
    start = gaussian.init(jax.random.key(0), first, n_components=K)
    one_pass = distributed.stream(gaussian.e_step, data)
    buffer = bytearray(BATCH * D * 4)

    def plain():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    timing = alternate(lambda: one_pass(start), plain, repeats)
    rate = n * D * 4 / timing.ours / 1e6
    megabytes = peak_memory(partial(_pass, str(path)))
    what = f"one pass of streamed EM, full, {n:,} x {D}, K={K}"
    memory = f"{rate:.0f} MB/s, peak {megabytes:.0f} MB beyond an idle process"
    return [row(what, "a plain read of the file", timing, 0.0, memory)]


def _pass(path, mark):
    mark()
    data = files.read(path, batch_size=BATCH)
    start = gaussian.init(jax.random.key(0), next(iter(data)), n_components=K)
    jax.block_until_ready(distributed.stream(gaussian.e_step, data)(start))


def _two_processes(n):
    one, two = _processes(1, n), _processes(2, n)
    return {
        "what": f"Gaussian EM, full, {n:,} x 32, K=32, 2 processes on 2 cores, an iteration",
        "ours_s": two[0],
        "peer": "1 process on 1 core",
        "peer_s": one[0],
        "ratio": one[0] / two[0],
        "bar": 1.6,
        "quality": f"log-likelihoods {two[1]:.4f}, {one[1]:.4f}",
    }


def _processes(count, n):
    """Seconds of an iteration and log-likelihood of `count` processes, each with a core."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0))
    module = "experiments.benchmarks._em_process"
    started = []
    for i in range(count):
        ids = {"JAX_COORDINATOR_ADDRESS": address, "JAX_PROCESS_ID": str(i)}
        several = ids | {"JAX_NUM_PROCESSES": str(count)} if count > 1 else {}
        environment = os.environ | several | {"JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", module, str(cores[i]), str(n)]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    # gloo says hello on the same stream before.
    said = [process.communicate()[0].splitlines()[-1].split() for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a process of the benchmark failed")
    return max(float(words[0]) for words in said), float(said[0][1])
