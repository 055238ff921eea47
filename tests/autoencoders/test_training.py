"""Training: weighted batches, what is traced, early stopping, failure, several devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from unsup_jax.autoencoders import networks, training, vae
from unsup_jax.core.fit import Status

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(25, 3)), jnp.float32)
START = {"m": jnp.zeros(3)}
SGD = optax.identity()


def distance(params, key, x, scale=1.0):
    """A loss whose gradient is known: its minimum is the weighted mean."""
    del key
    return 0.5 * jnp.asarray(scale, x.dtype) * ((x - params["m"][None]) ** 2).sum(1)


def noisy(params, key, x, rate=0.0):
    return distance(params, key, x + rate * jax.random.normal(key, x.shape, x.dtype))


def fit(*args, loss=distance, optimizer=SGD, **options):
    return training.fit(START, KEY, X, *args, loss=loss, optimizer=optimizer, **options)


def test_every_sample_counts_the_same_in_an_epoch():
    # At a negligible rate the gradients of an epoch add up: to the full one, times the 3 batches.
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=25), jnp.float32)
    for w in (None, weights):
        state = training.start(START, KEY, optimizer=SGD)
        end = training.epoch(state, X, None, w, 1e-3, loss=distance, optimizer=SGD, batch_size=10)
        ones = np.ones(25) if w is None else np.asarray(w)
        mean = ones @ np.asarray(X) / ones.sum()
        np.testing.assert_allclose(end.params["m"], 3e-3 * mean, rtol=5e-3, atol=2e-6)
        np.testing.assert_allclose(
            end.train_loss, ones @ np.asarray(distance(START, KEY, X)) / ones.sum(), rtol=2e-3
        )


def test_chunks_add_up_to_their_batch():
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=25), jnp.float32)
    options = {"n_epochs": 3, "batch_size": 10}
    whole = fit(None, weights, 0.1, **options)
    for n_chunks in (2, 5):
        parts = fit(None, weights, 0.1, n_chunks=n_chunks, **options)
        np.testing.assert_allclose(parts.params["m"], whole.params["m"], rtol=1e-5)
        np.testing.assert_allclose(parts.history, whole.history, rtol=1e-5)
    # Each has noise of its own: two chunks of the same row don't get the same gradient.
    same = jnp.zeros((2, 3))
    drawn = [
        training.fit(
            START, KEY, same, None, None, 1.0, {"rate": 1.0}, loss=noisy, optimizer=SGD,
            n_epochs=1, batch_size=2, n_chunks=n,
        ).params["m"]
        for n in (1, 2)
    ]  # fmt: skip
    assert not np.allclose(drawn[0], drawn[1])


def test_whole_batches_are_gradient_descent_with_clipping_and_schedule():
    found = fit(
        None, None, 0.3, None, 0.2, schedule=lambda step: 1 / (1 + step), n_epochs=4, batch_size=25
    )
    m = np.zeros(3)
    for step in range(4):
        gradient = m - np.asarray(X).mean(0)
        gradient *= min(1, 0.2 / np.linalg.norm(gradient))
        m -= 0.3 / (1 + step) * gradient
    np.testing.assert_allclose(found.params["m"], m, rtol=1e-5)


def test_adam_is_optax_adam():
    found = fit(None, None, 0.05, optimizer=training.ADAM, n_epochs=5, batch_size=25)
    adam, m = optax.adam(0.05), START
    state = adam.init(m)
    for _ in range(5):
        gradient = jax.grad(lambda m: distance(m, KEY, X).mean())(m)
        with jax.numpy_dtype_promotion("standard"):
            update, state = adam.update(gradient, state, m)
        m = optax.apply_updates(m, update)
    np.testing.assert_allclose(found.params["m"], m["m"], rtol=1e-5)


def test_one_vmap_trains_what_a_loop_trains_and_compiles_once():
    keys = jax.random.split(KEY, 3)
    rates, scales = jnp.asarray([0.01, 0.1, 0.3]), jnp.asarray([0.0, 0.5, 1.0])

    def one(key, rate, scale):
        hyper = {"rate": scale}
        return training.fit(
            START, key, X, None, None, rate, hyper, loss=noisy, optimizer=SGD, n_epochs=3,
            batch_size=10,
        )  # fmt: skip

    together = jax.vmap(one)(keys, rates, scales)
    before = training.fit._cache_size()
    alone = [one(*lane) for lane in zip(keys, rates, scales, strict=True)]
    assert training.fit._cache_size() == before + 1
    for lane, single in enumerate(alone):
        np.testing.assert_allclose(together.params["m"][lane], single.params["m"], rtol=1e-5)
        np.testing.assert_allclose(together.history[lane], single.history, rtol=1e-5)


def test_the_host_loop_is_the_program():
    state = training.start(START, KEY, optimizer=SGD)
    options = {"loss": noisy, "optimizer": SGD, "batch_size": 10}
    hyper = {"rate": 0.3}
    states = list(training.epochs(state, X, X[:5], None, 0.1, hyper, n_epochs=4, **options))
    whole = training.fit(START, KEY, X, X[:5], None, 0.1, hyper, n_epochs=4, **options)
    np.testing.assert_allclose(whole.history, [s.valid_loss for s in states], rtol=1e-6)
    np.testing.assert_allclose(whole.params["m"], states[-1].best["m"], rtol=1e-6)
    assert int(whole.n_iter) == int(states[-1].best_epoch)
    # From any state on, the rest is the same to the bit.
    rest = list(training.epochs(states[1], X, X[:5], None, 0.1, hyper, n_epochs=4, **options))
    np.testing.assert_array_equal(rest[-1].params["m"], states[-1].params["m"])
    assert [int(s.epoch) for s in rest] == [3, 4]


def test_early_stopping_keeps_the_best_and_freezes_only_its_lane():
    # Descent passes the validation data's mean on its way to the training mean.
    mean = X.mean(0)
    valid = jnp.tile(0.5 * mean[None], (4, 1))
    found = jax.vmap(lambda p: fit(valid, None, 0.1, None, None, p, n_epochs=30, batch_size=25))(
        jnp.asarray([2.0, jnp.inf])
    )
    # 1 - 0.9^t = 0.5 at t = 6.6: the 7th epoch is nearest.
    np.testing.assert_array_equal(found.n_iter, 7)
    np.testing.assert_array_equal(found.status, [Status.CONVERGED, Status.ITERATION_LIMIT])
    np.testing.assert_allclose(found.params["m"][0], (1 - 0.9**7) * mean, rtol=1e-4)
    np.testing.assert_array_equal(found.objective, found.history.min(1))
    np.testing.assert_array_equal(found.history[0, 8:], found.history[0, 8])
    assert found.history[1, -1] > found.history[1, 8]


@pytest.mark.parametrize("validated", [True, False])
def test_a_diverging_run_keeps_its_last_good_parameters(validated):
    valid = X if validated else None
    found = jax.vmap(lambda rate: fit(valid, None, rate, n_epochs=40, batch_size=25))(
        jnp.asarray([0.1, 1e8])
    )
    np.testing.assert_array_equal(found.status, [Status.ITERATION_LIMIT, Status.NON_FINITE])
    assert jnp.isfinite(found.params["m"]).all()
    assert jnp.isfinite(found.objective).all()
    assert jnp.isfinite(distance({"m": found.params["m"][1]}, KEY, X)).all()
    assert 0 <= int(found.n_iter[1]) < 6
    state = training.start({"m": jnp.full(3, jnp.nan)}, KEY, optimizer=SGD)
    states = list(training.epochs(state, X, n_epochs=5, loss=distance, optimizer=SGD))
    assert [int(s.status) for s in states] == [Status.NON_FINITE]


def test_shards_train_like_one_device():
    devices = np.asarray(jax.devices()[:4])
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=24), jnp.float32)
    options = {"loss": distance, "n_epochs": 5, "batch_size": 24}
    lone = training.fit(START, KEY, X[:24], None, weights, 0.05, **options)
    sharded = jax.jit(
        jax.shard_map(
            lambda x, w: training.fit(START, KEY, x, None, w, 0.05, axis_name="data", **options),
            mesh=mesh,
            in_specs=(PartitionSpec("data"), PartitionSpec("data")),
            out_specs=PartitionSpec(),
        )
    )(X[:24], weights)
    np.testing.assert_allclose(sharded.params["m"], lone.params["m"], rtol=1e-5)
    np.testing.assert_allclose(sharded.history, lone.history, rtol=1e-5)


def test_float64_stays_float64(x64):
    model = vae.VAE(networks.MLP((4,)), networks.MLP((3,)), "gaussian_learned")
    x = jnp.asarray(X, jnp.float64)
    params = vae.init(KEY, x, model=model)
    found = training.fit(params, KEY, x, loss=partial(vae.loss, model=model), n_epochs=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {jnp.dtype("float64")}
    assert found.objective.dtype == jnp.float64


def test_wrong_arguments_are_named(unchecked):
    with pytest.raises(ValueError, match="n_epochs must be at least 1"):
        fit(n_epochs=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        fit(n_epochs=1, batch_size=0)
    with pytest.raises(ValueError, match="n_chunks must divide batch_size = 10, got 3"):
        fit(n_epochs=1, batch_size=10, n_chunks=3)
    with pytest.raises(ValueError, match="valid must have 3 features, got 2"):
        fit(X[:, :2], n_epochs=1)
    with pytest.raises(ValueError, match=r"weights must have shape \(25,\)"):
        fit(None, jnp.ones(24), n_epochs=1)
