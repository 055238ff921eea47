"""The selections that the search for neighbours rests on, and when it must not trust them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_jax.manifold import search


def test_smallest_keeps_the_order_of_ties():
    values = jax.random.randint(jax.random.key(0), (30, 4000), 0, 40).astype(jnp.float32)
    smallest, columns = search._smallest(values, 60)
    expected = np.argsort(values, axis=1, kind="stable")[:, :60]
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(smallest, np.take_along_axis(np.asarray(values), expected, 1))


@pytest.mark.parametrize("m", [512, 4096, 36864])  # one to three levels
def test_all_columns_below_a_threshold(m):
    values = np.asarray(jax.random.normal(jax.random.key(0), (20, m)))
    limits, columns, crowded = map(np.asarray, search._below(jnp.asarray(values), 8))
    assert not crowded.all()
    for row, limit, found, many in zip(values, limits, columns, crowded, strict=True):
        (expected,) = (row <= limit).nonzero()
        found = np.sort(found[found < m])
        assert len(expected) >= 8
        if many:
            assert set(found) < set(expected)
        else:
            np.testing.assert_array_equal(found, expected)


def test_first():
    mask = np.asarray(jax.random.bernoulli(jax.random.key(0), 0.1, (50, 8, 20)))
    places, more = search._first(jnp.asarray(mask), 16)
    for row, found, many in zip(mask, np.asarray(places), more, strict=True):
        assert many == (row.sum() > 16)
        by_block = [part * 20 + block for block, part in np.argwhere(row.T)]
        np.testing.assert_array_equal(found, (by_block + [160] * 16)[:16])


@pytest.mark.parametrize(("crowd", "doubt"), [(5, False), (500, True)])
def test_equal_distances_beyond_the_candidates_leave_doubt(crowd, doubt):
    y = (jax.random.normal(jax.random.key(0), (2000, 3)) + 10).at[:crowd].set(0)
    x = jnp.full((4, 3), 3.0)
    _, doubtful = searched(x, y, 5, search._by_threshold(search._products(y, 3), 21))
    assert (doubtful == doubt).all()
    for squares in (search._products(y, 2), search._differences(y)):
        (_, indices), doubtful = searched(x, y, 5, search._by_order(len(y), squares, 21))
        np.testing.assert_array_equal(indices, np.tile(np.arange(5), (4, 1)))
        assert not doubtful.any()


def searched(x, y, k, selection):
    state = (jnp.zeros((len(x), k)), jnp.zeros((len(x), k), jnp.int32)), jnp.ones(len(x), bool)
    nobody = jnp.full(len(x), -1, jnp.int32)
    return search._search(x, y, nobody, len(x), [selection], 0, state)


def test_projections_that_hide_a_neighbour_leave_doubt():
    # The axis sees x between the first two rows; the third coordinate makes the others nearer.
    y = jnp.zeros((2000, 2)).at[:, 0].set(jnp.arange(2000.0)).at[:100, 1].set(1000.0)
    axes = jnp.array([[1.0], [0.0]])
    x = jnp.array([[0.25, 0.0], [1500.25, 0.0]])
    (_, indices), doubtful = searched(
        x, y, 1, search._by_threshold(search._products(y, 3, axes), 20)
    )
    assert doubtful.tolist() == [True, False]
    assert indices[1, 0] == 1500
