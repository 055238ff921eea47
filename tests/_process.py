"""One of several processes: `python -m tests._process TASK FOLDER`, JAX_* variables say which."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unsup_jax import distributed, files
from unsup_jax.autoencoders import checkpoint, training
from unsup_jax.mixtures import gaussian

N, D, K = 101, 5, 3


def data():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, D)) + 3 * (np.arange(N) % K)[:, None]).astype(np.float32)


def start():
    return gaussian.init(jax.random.key(0), jnp.asarray(data()), n_components=K)


def distance(params, key, x):
    return ((x - params["m"][None]) ** 2).sum(1)


def train(folder, n_epochs, x, epoch=training.epoch):
    """Go on from the checkpoint in `folder`, all rows in a batch; the first process saves."""
    state = training.start({"m": jnp.zeros(D)}, jax.random.key(1))
    state = checkpoint.resume(folder, state)
    for _ in range(int(state.epoch), n_epochs):
        state = epoch(state, x, None, None, 0.05, loss=distance, batch_size=N)
    return state


def main(task, folder):
    mesh = distributed.make_mesh()
    rows = files.read([folder / "a.npy", folder / "b.npy"], batch_size=16)
    mine = rows.rows(distributed.process_rows(len(rows)))
    assert len(mine) < N
    if task == "die" and jax.process_index() == 1:
        os._exit(9)
    first = start()
    fit = distributed.data_parallel(gaussian.fit, mesh)(first, mine.array(), tol=-1.0, max_iter=4)
    streamed = distributed.fit_stream(
        gaussian.e_step, gaussian.update, first, mine, -1.0, mesh, max_iter=4
    )
    found = distributed.knn(mine.array(), mesh, n_neighbors=4)
    epoch = distributed.data_parallel(training.epoch, mesh)
    state = train(folder / "checkpoints", 6, mine.array(), epoch)
    np.savez(
        folder / f"out-{jax.process_index()}.npz",
        fit=fit.params.means,
        history=fit.history,
        streamed=streamed.history,
        neighbours=np.asarray(found.indices),
        trained=state.params["m"],
    )


if __name__ == "__main__":
    with distributed.processes(timeout=60):
        main(sys.argv[1], Path(sys.argv[2]))
