"""Orthogonal matching pursuit against scikit-learn, and the theorem on exact recovery."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from sklearn.linear_model import orthogonal_mp

from unsup_jax.sparse import omp


def problem(seed=0, k=40, d=16, n=60):
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(k, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms.astype(np.float32), rng.normal(size=(n, d)).astype(np.float32)


def test_equals_scikit_learn():
    atoms, x = problem()
    ours = omp.encode(jnp.asarray(atoms), jnp.asarray(x), n_nonzero=6, tile_size=25)
    theirs = orthogonal_mp(atoms.T.astype(float), x.T.astype(float), n_nonzero_coefs=6).T
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ((ours != 0).sum(1) == 6).all()


def test_every_signal_stops_at_its_own_tolerance():
    atoms, x = problem()
    share = np.linspace(0.05, 1.1, len(x)).astype(np.float32)
    tol = share * (x**2).sum(1)
    ours = np.asarray(omp.encode(jnp.asarray(atoms), jnp.asarray(x), tol, n_nonzero=12))
    left = ((x - ours @ atoms) ** 2).sum(1)
    assert (left <= tol).all()
    assert (ours[share > 1] == 0).all()
    for z, signal, t, s in zip(ours, x, tol, share, strict=True):
        if s < 1:
            theirs = orthogonal_mp(atoms.T.astype(float), signal.astype(float), tol=float(t))
            np.testing.assert_allclose(z, theirs, atol=1e-4)


def test_atoms_of_any_length():
    atoms, x = problem()
    lengths = np.geomspace(1e-3, 1e3, len(atoms)).astype(np.float32)[:, None]
    unit = omp.encode(jnp.asarray(atoms), jnp.asarray(x), n_nonzero=6, tile_size=25)
    ours = omp.encode(jnp.asarray(atoms * lengths), jnp.asarray(x), n_nonzero=6, tile_size=25)
    np.testing.assert_allclose(ours * lengths.T, unit, atol=1e-4)


def test_codes_are_least_squares_even_among_coherent_atoms():
    rng = np.random.default_rng(0)
    atoms = (rng.normal(size=(1, 16)) + 0.1 * rng.normal(size=(30, 16))).astype(np.float32)
    x = rng.normal(size=(20, 16)).astype(np.float32)
    for z, signal in zip(
        omp.encode(jnp.asarray(atoms), jnp.asarray(x), n_nonzero=5), x, strict=True
    ):
        support = np.flatnonzero(z)
        best, (rest,), *_ = np.linalg.lstsq(atoms[support].T.astype(float), signal, rcond=None)
        assert ((signal - np.asarray(z) @ atoms) ** 2).sum() <= rest * (1 + 1e-4)
        np.testing.assert_allclose(z[support], best, atol=1e-2 * np.abs(best).max())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_exact_recovery_under_low_coherence(seed):
    """`s < (1 + 1/mu) / 2`; identity and Hadamard bases together have `mu = 1 / sqrt(d)`."""
    rng = np.random.default_rng(seed)
    d, s = 64, 4  # (1 + 8) / 2 = 4.5
    hadamard = np.ones((1, 1))
    while len(hadamard) < d:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    atoms = np.vstack([np.eye(d), hadamard / 8])
    codes = np.zeros((20, 2 * d))
    for row in codes:
        support = rng.choice(2 * d, s, replace=False)
        row[support] = rng.choice([-1, 1], s) * rng.uniform(0.5, 2, s)
    x = jnp.asarray(codes @ atoms, jnp.float32)
    found = omp.encode(jnp.asarray(atoms, jnp.float32), x, 1e-8, n_nonzero=8)
    np.testing.assert_allclose(found, codes, atol=1e-4)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_codes_have_derivatives(mode, x64):
    """Finite differences in the dictionary and the signals; the tolerance only stops."""
    atoms, x = (jnp.asarray(array, jnp.float64) for array in problem(k=9, d=6, n=3))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=(3, 9)))
    total = lambda *args: (omp.encode(*args, 0.1, n_nonzero=4) * direction).sum()  # noqa: E731
    check_grads(total, (1.5 * atoms, x), order=1, modes=[mode], eps=1e-6)


def test_degenerate_atoms_and_signals():
    atoms, x = problem(n=5)
    atoms[1:] = atoms[0]
    atoms[3] = 0
    x[0] = 0
    codes = np.asarray(omp.encode(jnp.asarray(atoms), jnp.asarray(x), n_nonzero=4))
    assert (codes[0] == 0).all()
    np.testing.assert_allclose(codes[:, 0], x @ atoms[0], atol=1e-5)
    assert (codes[:, 1:] == 0).all()


def test_wrong_arguments_are_named(unchecked):
    atoms, x = map(jnp.asarray, problem())
    with pytest.raises(ValueError, match="n_nonzero must be at least 1 and at most 16, got 17"):
        omp.encode(atoms, x, n_nonzero=17)
    with pytest.raises(ValueError, match=r"tol must have shape \(\) or \(60,\), got \(3,\)"):
        omp.encode(atoms, x, jnp.ones(3), n_nonzero=2)
    with pytest.raises(ValueError, match="components must have 16 features, got 15"):
        omp.encode(atoms[:, 1:], x, n_nonzero=2)
