"""Training a variational autoencoder beside PyTorch; eight seeds in one program beside eight runs.

784-200-200-50 and back, tanh, batches of 100, Adam, pixels drawn once: the same start, images and
number of steps on either side.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments import data
from experiments.benchmarks.timing import alternate, on_devices, row
from unsup_jax import sweep
from unsup_jax.autoencoders import corruption, networks, training, vae

N_LATENT, N_HIDDEN, BATCH, LANES, RATE = 50, 200, 100, 8, 1e-3
N_CHUNKS = 2  # of a batch: as many as there are cores
NO_TORCH = "skipped: PyTorch is missing, pip install 'unsup-jax[torch]'"


def rows(quick: bool = False) -> Iterator[dict[str, object]]:
    """Every row of the table; `quick` uses 5,000 images and fewer repeats."""
    images = jnp.asarray(data.load("mnist5k" if quick else "mnist").x)
    x = corruption.binarize(jax.random.key(0), images)
    d = x.shape[1]
    encoder = networks.MLP((N_HIDDEN, N_HIDDEN, 2 * N_LATENT))
    model = vae.VAE(encoder, networks.MLP((N_HIDDEN, N_HIDDEN, d)))
    repeats = 3 if quick else 5
    yield from _beside_torch(model, x, repeats)
    few = np.asarray(x[:6000])
    yield from on_devices(_seeds, model, few, repeats)
    yield _beside_products(model, few, repeats)


def _beside_torch(model, x, repeats):
    params = vae.init(jax.random.key(1), x, model=model)
    state = training.start(params, jax.random.key(2))
    loss = partial(vae.loss, model=model)

    def ours():
        options = {"loss": loss, "batch_size": BATCH, "n_chunks": N_CHUNKS}
        return training.epoch(state, x, learning_rate=RATE, **options).train_loss

    what = f"VAE 784-200-200-50, batch {BATCH}, {len(x)} images, an epoch"
    for name, compiled, bar in (("PyTorch eager", False, 2.0), ("torch.compile", True, 1.2)):
        skipped = {"what": what, "ours_s": None, "peer": name, "bar": bar}
        if importlib.util.find_spec("torch") is None:
            yield skipped | {"quality": NO_TORCH}
            continue
        try:
            peer = _torch_epoch(params, np.asarray(x), compiled=compiled)
            theirs = peer()
        except RuntimeError as error:  # no compiler on this machine, say
            yield skipped | {"quality": f"skipped: {str(error).splitlines()[0]}"}
            continue
        timing = alternate(ours, peer, repeats)
        quality = f"mean loss of the epoch {float(ours()):.1f}, theirs {theirs:.1f} nats"
        found = row(what, name, timing, bar, quality)
        yield found | {"compile_s": None} if compiled else found  # it is the same program


def _torch_epoch(params: Any, x: np.ndarray, *, compiled: bool) -> Callable[[], float]:
    """A function that trains the same network from `params` for an epoch; its mean loss."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)

    def mlp(layers):
        parts: list[Any] = []
        for layer in layers.values():
            linear = torch.nn.Linear(*layer["kernel"].shape)
            linear.weight.data = torch.tensor(np.asarray(layer["kernel"]).T.copy())
            linear.bias.data = torch.tensor(np.asarray(layer["bias"]))
            parts += [linear, torch.nn.Tanh()]
        return torch.nn.Sequential(*parts[:-1])

    module = torch.nn.ModuleDict({name: mlp(params[name]) for name in ("encoder", "decoder")})
    start = {name: value.clone() for name, value in module.state_dict().items()}
    images = torch.tensor(x)

    def negative_elbo(batch):
        mean, log_sigma = module["encoder"](batch).chunk(2, dim=1)
        logits = module["decoder"](mean + torch.exp(log_sigma) * torch.randn_like(mean))
        error = functional.binary_cross_entropy_with_logits(logits, batch, reduction="sum")
        kl = 0.5 * (mean**2 + torch.exp(2 * log_sigma) - 1) - log_sigma
        return (error + kl.sum()) / len(batch)

    loss = torch.compile(negative_elbo) if compiled else negative_elbo

    def epoch():
        module.load_state_dict(start)
        optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)
        total = 0.0
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            value = loss(images[rows])
            value.backward()
            optimizer.step()
            total += value.detach()
        return float(total) * BATCH / len(images)

    return epoch


def _run(x, key, *, model):
    params = vae.init(key, x, model=model)
    loss = partial(vae.loss, model=model)
    return training.fit(params, key, x, loss=loss, n_epochs=1, batch_size=BATCH)


def _seeds(devices, model, x, repeats):
    """Eight seeds in one program beside eight runs: in one `vmap`, or one at a time on a device."""
    points = sweep.grid(key=jax.random.split(jax.random.key(0), LANES))
    batch_size = None if len(devices) == 1 else 1
    x, run = jnp.asarray(x), partial(_run, model=model)
    single = jax.jit(run)

    def ours():
        return sweep.run(run, points, x, devices=devices, batch_size=batch_size).fits

    def theirs():
        return [single(x, key) for key in points["key"]]

    timing = alternate(ours, theirs, repeats)
    losses = np.array([fitted.objective for fitted in theirs()])
    gap = np.abs(np.asarray(ours().objective) - losses).max()
    what = f"{LANES} seeds of this VAE, {len(x)} images, an epoch, devices: {len(devices)}"
    quality = f"losses {losses.min():.2f} to {losses.max():.2f} nats, the same within {gap:.0e}"
    return row(what, f"{LANES} runs", timing, 1.5, quality)


def _beside_products(model, x, repeats):
    """The seeds in one `vmap` beside nothing but the matrix products of their steps."""
    keys = jax.random.split(jax.random.key(0), LANES)
    together = jax.jit(jax.vmap(partial(_run, x, model=model)))
    params = jax.vmap(lambda key: vae.init(key, x, model=model))(keys)
    kernels = [p["kernel"] for part in params.values() for p in part.values()]
    n_steps = -(-len(x) // BATCH)
    timing = alternate(lambda: together(keys), lambda: _products(kernels, n_steps=n_steps), repeats)
    what = f"{LANES} seeds in one vmap, beside their own matrix products (floor / ours)"
    return row(what, "matrix products", timing, 1 / 1.5, "") | {"compile_s": None}


@partial(jax.jit, static_argnames="n_steps")
def _products(kernels, *, n_steps):
    """The products of `n_steps` training steps and nothing else: forward, and both gradients."""

    def step(kernels, _):
        new = []
        for number, kernel in enumerate(kernels):
            rows = jnp.ones((BATCH, len(kernel))) * kernel[0, 0]
            out = rows @ kernel
            # The first layer's input needs no gradient. Tiny, but not to be optimised away.
            back = (out @ kernel.T).sum() if number else 0.0
            new.append(kernel + 1e-9 * (rows.T @ out + back))
        return new, None

    return jax.vmap(lambda lane: lax.scan(step, lane, length=n_steps)[0])(kernels)


if __name__ == "__main__":
    from experiments.benchmarks.__main__ import markdown

    print(markdown(list(rows())))
