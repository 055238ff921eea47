"""A run that saves every epoch, to be killed: `python -m tests.autoencoders._run FOLDER`."""

import sys
from functools import partial

import jax
import jax.numpy as jnp

from unsup_jax.autoencoders import checkpoint, networks, training, vae

N_EPOCHS = 12
MODEL = vae.VAE(networks.MLP((8, 4)), networks.MLP((8, 16)))
LOSS = partial(vae.loss, model=MODEL)


def data():
    return (jax.random.uniform(jax.random.key(0), (105, 16)) < 0.3).astype(jnp.float32)


def start():
    params = vae.init(jax.random.key(1), data(), model=MODEL)
    return training.start(params, jax.random.key(2))


def states(state):
    return training.epochs(state, data(), data()[:20], n_epochs=N_EPOCHS, loss=LOSS, batch_size=10)


if __name__ == "__main__":
    for state in states(checkpoint.resume(sys.argv[1], start())):
        checkpoint.save(sys.argv[1], state)
        print(int(state.epoch), flush=True)
