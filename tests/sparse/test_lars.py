"""The homotopy against scikit-learn's, knot by knot."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import lars_path

from unsup_jax.sparse import lars, lasso


def design(kind):
    rng = np.random.default_rng(0)
    atoms, x = rng.normal(size=(12, 8)), rng.normal(size=(30, 8))
    if kind == "correlated":
        atoms += 3 * rng.normal(size=(1, 8))
        atoms[5] = 0.95 * atoms[4] + 0.05 * atoms[3]
    if kind == "duplicates":
        atoms[7] = atoms[2]
    if kind == "rank 4":
        atoms[:, 4:] = 0
    return atoms, x


@pytest.mark.parametrize("kind", ["random", "correlated", "rank 4"])
@pytest.mark.parametrize("positive", [False, True])
def test_knots_are_those_of_scikit_learn(kind, positive, x64):
    atoms, x = design(kind)
    path = lars.path(jnp.asarray(atoms), jnp.asarray(x), n_steps=24, positive=positive)
    most_leaving = 0
    for lam, codes, signal in zip(*map(np.asarray, path), x, strict=True):
        knots, _, theirs = lars_path(atoms.T, signal, method="lasso", positive=positive)
        knots, theirs = knots * 8, theirs.T
        steps = (np.diff((theirs != 0).astype(int), axis=0) < 0).any(1).sum()
        most_leaving = max(most_leaving, steps)
        above = knots > 1e-9
        n = min(above.sum(), len(lam))
        np.testing.assert_allclose(lam[:n], knots[:n], atol=1e-7)
        np.testing.assert_allclose(codes[:n], theirs[:n], atol=1e-6)
    assert most_leaving > 0 or positive or kind == "rank 4"


def test_path_with_duplicate_atoms_is_optimal(x64):
    """Halfway between any two knots; which of the duplicates enters is a matter of taste."""
    atoms, x = map(jnp.asarray, design("duplicates"))
    path = lars.path(atoms, x, n_steps=24)
    for i in range(12):
        lam = (path.lam[:, i] + path.lam[:, i + 1]) / 2
        codes = lars.interpolate(path, lam)
        violation = lasso.kkt_violation(atoms, x, codes, lam)
        assert jnp.where(lam > 1e-6, violation, 0).max() < 1e-7


def test_interpolated_codes_are_optimal():
    atoms, x = (jnp.asarray(a, jnp.float32) for a in design("random"))
    path = lars.path(atoms, x, n_steps=16, tile_size=7)
    for share in (1.2, 0.7, 0.3):
        lam = share * path.lam[:, 0]
        codes = lars.interpolate(path, lam)
        assert lasso.kkt_violation(atoms, x, codes, lam).max() < 1e-4
    assert (lars.interpolate(path, 2 * path.lam[:, 0]) == 0).all()


def test_a_full_support_ends_the_path():
    atoms, x = (jnp.asarray(a, jnp.float32) for a in design("random"))
    path = lars.path(atoms, x, n_steps=16, n_nonzero=3)
    assert ((path.codes != 0).sum(2).max(1) == 3).all()
    full = lars.path(atoms, x, n_steps=16)
    np.testing.assert_allclose(path.lam[:, :3], full.lam[:, :3], rtol=1e-5)
    assert (path.lam[:, -1] == path.lam[:, -2]).all()


def test_wrong_sizes_are_named():
    atoms, x = (jnp.asarray(a, jnp.float32) for a in design("random"))
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        lars.path(atoms, x, n_steps=0)
    with pytest.raises(ValueError, match="n_nonzero must be at least 1, got 0"):
        lars.path(atoms, x, n_steps=2, n_nonzero=0)
