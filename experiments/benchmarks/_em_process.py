"""One process of a sharded fit, on one core: `python -m experiments.benchmarks._em_process CORE N`.

Prints the seconds of an iteration and the mean log-likelihood. JAX_* variables name the processes.
"""

import contextlib
import os
import sys
from functools import partial

os.sched_setaffinity(0, {int(sys.argv[1])})  # before JAX counts the cores

import jax
import numpy as np

from experiments.benchmarks.timing import seconds
from unsup_jax import distributed
from unsup_jax.mixtures import gaussian

D, K, FEW, MANY = 32, 32, 1, 5


def main() -> None:
    """Time `MANY` iterations less `FEW`, so that set-up cancels."""
    part = distributed.process_rows(int(sys.argv[2]))
    middle = np.random.default_rng(0).normal(size=(K, D)).astype(np.float32) * 2
    rng = np.random.default_rng([1, part.start])
    x = rng.normal(size=(len(part), D)).astype(np.float32)
    x += middle[np.arange(part.start, part.stop) % K]
    few = distributed.gather_rows(x[:1000], mesh := distributed.make_mesh())[:1000]
    start = gaussian.from_means(jax.numpy.asarray(middle + 0.5), jax.numpy.asarray(few))
    fit = distributed.data_parallel(gaussian.fit, mesh)
    x, weights = distributed.shard_rows(x, mesh)
    times = {}
    for n in (FEW, MANY, FEW, MANY):
        times[n] = seconds(partial(fit, start, x, weights, tol=-1.0, max_iter=n))
    objective = fit(start, x, weights, tol=-1.0, max_iter=MANY).objective
    print((times[MANY] - times[FEW]) / (MANY - FEW), float(objective))


if __name__ == "__main__":
    many = "JAX_NUM_PROCESSES" in os.environ
    with distributed.processes() if many else contextlib.nullcontext():
        main()
