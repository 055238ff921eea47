"""Corruptions, networks and denoising autoencoders."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from unsup_jax.autoencoders import corruption, dae, networks, training
from unsup_jax.linear import pca

KEY = jax.random.key(0)


def test_corruptions_do_what_they_say():
    x = jnp.full((400, 100), 0.25)
    masked = corruption.masking(KEY, x, 0.3)
    assert set(np.unique(masked)) == {0.0, 0.25}
    assert float((masked == 0).mean()) == pytest.approx(0.3, abs=0.01)
    assert float(corruption.dropout(KEY, x, 0.3).mean()) == pytest.approx(0.25, abs=0.003)
    noisy = corruption.salt_and_pepper(KEY, x, 0.4)
    for value, share in ((0.0, 0.2), (1.0, 0.2), (0.25, 0.6)):
        assert float((noisy == value).mean()) == pytest.approx(share, abs=0.01)
    assert float((corruption.gaussian(KEY, x, 0.5) - x).std()) == pytest.approx(0.5, abs=0.01)
    bits = corruption.binarize(KEY, x)
    assert set(np.unique(bits)) == {0.0, 1.0}
    assert float(bits.mean()) == pytest.approx(0.25, abs=0.01)
    ends = jnp.asarray([[0.0, 1.0]] * 1000)
    np.testing.assert_array_equal(corruption.binarize(KEY, ends), ends)
    np.testing.assert_array_equal(corruption.masking(KEY, x, 0.0), x)


def test_rates_are_traced():
    x = jnp.ones((50, 40))
    rates = jnp.asarray([0.0, 0.5, 1.0])
    shares = jax.vmap(lambda rate: corruption.masking(KEY, x, rate).mean())(rates)
    np.testing.assert_allclose(shares, 1 - rates, atol=0.05)


def test_losses_by_hand():
    model = networks.Autoencoder(networks.MLP((3,)), networks.MLP((4,)))
    x = jax.random.uniform(KEY, (5, 4))
    params = dae.init(KEY, x, model=model)
    y = np.asarray(dae.reconstruct(params, x, model=model), np.float64)
    entropy = -(x * np.log(y) + (1 - x) * np.log1p(-y)).sum(1)
    np.testing.assert_allclose(dae.loss(params, KEY, x, model=model), entropy, rtol=1e-5)
    a = dae.reconstruct(params, x, model=model, error="squared")
    squared = dae.loss(params, KEY, x, model=model, error="squared")
    np.testing.assert_allclose(squared, ((x - a) ** 2).sum(1), rtol=1e-5)
    # The target is the clean input, also when all of the given one is gone.
    nothing = model.apply({"params": params}, jnp.zeros_like(x))
    blind = dae.loss(params, KEY, x, 1.0, model=model, error="squared")
    np.testing.assert_allclose(blind, ((x - nothing) ** 2).sum(1), rtol=1e-5)
    z = dae.encode(params, x, model=model)
    np.testing.assert_allclose(model.apply({"params": params}, z, method="decode"), a, rtol=1e-6)


def test_cross_entropy_and_its_derivatives_hold_for_any_logit():
    logits = jnp.asarray([-200.0, -30.0, -2.0, 0.0, 1e-3, 5.0, 40.0, 200.0])[:, None]
    exact = np.logaddexp(0, np.asarray(logits, np.float64))[:, 0]
    for x in (0.0, 0.3, 1.0):
        loss = partial(dae.cross_entropy, jnp.full_like(logits, x))
        wanted = exact - x * np.asarray(logits, np.float64)[:, 0]
        np.testing.assert_allclose(loss(logits), wanted, rtol=1e-6, atol=2e-7)
        slope = jax.grad(lambda a, loss=loss: loss(a).sum())
        s = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
        np.testing.assert_allclose(slope(logits), s - x, rtol=2e-5, atol=1e-7)
        curvature = jax.grad(lambda a, slope=slope: slope(a).sum())
        np.testing.assert_allclose(curvature(logits), s * (1 - s), rtol=2e-5, atol=1e-7)


def test_tied_decoder_is_the_encoder_transposed():
    model = networks.TiedAutoencoder(6, (5, 2), activation="identity")
    x = jax.random.normal(KEY, (3, 6))
    params = dae.init(KEY, x, model=model)
    w = params["kernel_0"] @ params["kernel_1"]
    np.testing.assert_allclose(model.apply({"params": params}, x), x @ w @ w.T, atol=1e-5)
    assert len([p for p in jax.tree.leaves(params) if p.ndim == 2]) == 2


def test_convolutions_keep_the_shape_and_bfloat16_the_type():
    encoder = networks.ConvEncoder((7, 6), (4, 8), n_outputs=3, dtype=jnp.bfloat16)
    decoder = networks.ConvDecoder((7, 6), (8, 4), dtype=jnp.bfloat16)
    exact = networks.Autoencoder(
        networks.ConvEncoder((7, 6), (4, 8), n_outputs=3), networks.ConvDecoder((7, 6), (8, 4))
    )
    model = networks.Autoencoder(encoder, decoder)
    x = jax.random.uniform(KEY, (5, 42))
    params = dae.init(KEY, x, model=model)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    rough, fine = (m.apply({"params": params}, x) for m in (model, exact))
    assert rough.shape == fine.shape == x.shape
    assert rough.dtype == jnp.float32
    difference = float(jnp.abs(rough - fine).max())
    assert 0 < difference < 0.05


def test_linear_autoencoder_spans_the_principal_subspace():
    rng = np.random.default_rng(0)
    scales = np.array([3.0, 2.0, 1.5, 0.5, 0.3, 0.2])
    x = rng.normal(size=(256, 6)) * scales @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = jnp.asarray(x - x.mean(0), jnp.float32)
    model = networks.Autoencoder(networks.MLP((3,)), networks.MLP((6,)))
    loss = partial(dae.loss, model=model, error="squared")
    fit = training.fit(
        dae.init(KEY, x, model=model),
        KEY,
        x,
        None,
        None,
        0.01,
        loss=loss,
        schedule=lambda step: jnp.exp(-step / 1000),
        n_epochs=5000,
        batch_size=256,
    )
    params = pca.fit(x, n_components=3)
    ours, _ = np.linalg.qr(np.asarray(fit.params["decoder"]["layer_0"]["kernel"]).T)
    cosines = np.linalg.svd(np.asarray(params.components) @ ours)[1]
    sines = np.sqrt(np.maximum(1 - cosines**2, 0))
    assert np.arcsin(sines).max() < 1e-2
    least = float(pca.reconstruction_error(params, x))
    assert float(fit.objective) == pytest.approx(least, rel=1e-3)


def test_denoising_beats_the_noisy_input_and_the_mean_image():
    images = jnp.asarray(load_digits().data / 16, jnp.float32)
    train, test = images[:1500], images[1500:]
    model = networks.Autoencoder(
        networks.MLP((64,), "relu", "relu"), networks.MLP((64, 64), "relu")
    )
    loss = partial(dae.loss, model=model, corrupt=corruption.salt_and_pepper)
    fit = training.fit(
        dae.init(KEY, train, model=model), KEY, train, None, None, 3e-3, {"rate": 0.3},
        loss=loss, n_epochs=15, batch_size=50,
    )  # fmt: skip
    options = {"model": model, "corrupt": corruption.salt_and_pepper}
    corrupted, repaired = dae.denoise(fit.params, jax.random.key(1), test, 0.3, **options)
    noisy = dae.squared_error(test, corrupted).mean()
    left = dae.squared_error(test, repaired).mean()
    assert left < 0.35 * noisy
    assert left < 0.7 * dae.squared_error(test, jnp.tile(train.mean(0)[None], (297, 1))).mean()


def test_wrong_arguments_are_named(unchecked):
    model = networks.TiedAutoencoder(4, (2,))
    x = jnp.ones((3, 4))
    params = dae.init(KEY, x, model=model)
    with pytest.raises(ValueError, match="error must be one of"):
        dae.loss(params, KEY, x, model=model, error="l1")
    with pytest.raises(ValueError, match="x must have 4 features, got 5"):
        dae.encode(params, jnp.ones((3, 5)), model=model)
    with pytest.raises(ValueError, match="x must be floating point"):
        dae.reconstruct(params, jnp.ones((3, 4), int), model=model)
