"""A sweep is a loop, only faster; what fails in one lane stays there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conformance.registry import blobs
from unsup_jax import sweep
from unsup_jax.core.fit import Status
from unsup_jax.mixtures import gaussian

fit = partial(gaussian.fit, max_iter=15)


def lane(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def assert_close(a, b, tol=2e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), a, b)


@pytest.fixture(scope="module")
def x():
    return blobs(n=90, d=2)


@pytest.fixture(scope="module")
def start(x):
    return gaussian.init(jax.random.key(0), x, n_components=4, covariance="diagonal")


@pytest.fixture(scope="module")
def points():
    return sweep.grid(tol=[1e-1, 1e-4, 0.0], reg_covar=[1e-6, 1e-2])


@pytest.fixture(scope="module")
def swept(points, start, x):
    return sweep.run(fit, points, start, x)


def test_grids():
    crossed = sweep.product(sweep.zipped(a=[1, 2], b=[3.0, 4.0]), sweep.grid(c=[5, 6, 7]))
    assert sweep.size(crossed) == 6
    np.testing.assert_array_equal(crossed["a"], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(crossed["b"], [3, 3, 3, 4, 4, 4])
    np.testing.assert_array_equal(crossed["c"], [5, 6, 7, 5, 6, 7])
    key = jax.random.key(0)
    drawn = sweep.random(
        key,
        n_lanes=200,
        lam=sweep.log_uniform(1e-4, 1e2),
        z=jax.random.normal,
        key=jax.random.split,
    )
    assert drawn["key"].shape == (200,)
    logs = np.log10(drawn["lam"])
    assert logs.min() >= -4.01
    assert logs.max() <= 2.01
    np.testing.assert_allclose(np.sort(logs), np.linspace(-4, 2, 200), atol=0.6)
    assert abs(np.corrcoef(logs, drawn["z"])[0, 1]) < 0.3


def test_wrong_grids_are_named(x):
    with pytest.raises(ValueError, match=r"axes must be arrays of one length, got .*'b'"):
        sweep.zipped(a=[1, 2], b=[1, 2, 3])
    with pytest.raises(ValueError, match="axes must be arrays of one length"):
        sweep.grid(a=1.0)
    with pytest.raises(ValueError, match="names of their own, got \\['a', 'a'\\]"):
        sweep.product(sweep.grid(a=[1]), sweep.grid(a=[2]))
    with pytest.raises(ValueError, match="number of lanes must be at least 1"):
        sweep.run(fit, {"tol": jnp.zeros(0)}, x)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sweep.run(fit, sweep.grid(tol=[1.0]), x, batch_size=0)


def test_a_sweep_is_a_loop(swept, points, start, x):
    for i in range(6):
        assert_close(lane(swept.fits, i), fit(start, x, **lane(points, i)))


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_batches_change_nothing(swept, points, start, x, batch_size):
    assert_close(sweep.run(fit, points, start, x, batch_size=batch_size), swept)


def test_lanes_one_by_one_need_no_vmap():
    @jax.custom_batching.custom_vmap
    def double(value):
        return 2 * value

    @double.def_vmap
    def refuse(*_):
        raise NotImplementedError

    got = sweep.run(lambda value: double(value), sweep.grid(value=jnp.arange(3.0)), batch_size=1)
    assert got.fits.tolist() == [0, 2, 4]


def test_devices_change_nothing(x):
    """Six lanes on four devices: two of padding."""
    keys = sweep.grid(key=jax.random.split(jax.random.key(1), 6))
    shuffle = lambda x, key: {"rows": jax.random.permutation(key, x)[:5]}  # noqa: E731
    one = sweep.run(shuffle, keys, x)
    four = sweep.run(shuffle, keys, x, devices=jax.devices()[:4], batch_size=1)
    assert len(four.fits["rows"].sharding.device_set) == 4
    np.testing.assert_array_equal(four.fits["rows"], one.fits["rows"])


def test_new_values_do_not_recompile(points, start, x):
    traces = []

    def counted(params, x, **lane):
        traces.append(None)
        return fit(params, x, **lane)

    for factor in (1.0, 2.0):
        sweep.run(counted, jax.tree.map(lambda a: a * factor, points), start, x)  # noqa: B023
    assert len(traces) == 1


def test_a_failed_lane_harms_no_other_and_never_wins(start, x):
    points = sweep.grid(reg_covar=[1e-2, np.nan, 1e-6])
    swept = sweep.run(fit, points, start, x)
    for i in (0, 2):
        assert_close(lane(swept.fits, i), fit(start, x, **lane(points, i)))
    assert swept.fits.status[1] == Status.NON_FINITE
    np.testing.assert_array_equal(sweep.succeeded(swept.fits), [True, False, True])
    assert sweep.best(swept).grid["reg_covar"] == 1e-6
    assert sweep.best(lane(swept, np.array([1, 1]))).fits.status == Status.NON_FINITE
    status = jnp.asarray([Status.CONVERGED, Status.COLLAPSED, Status.NON_FINITE])
    fits = swept.fits._replace(status=status, objective=jnp.asarray([1.0, 2.0, 3.0]))
    assert sweep.best(fits).objective == 1


def test_best_by_another_score_and_by_group(swept):
    score = jnp.asarray([3.0, jnp.inf, 1.0, 2.0, jnp.nan, 5.0])
    assert sweep.best(swept, score).fits.objective == swept.fits.objective[5]
    assert sweep.best(swept, score, maximize=False).fits.objective == swept.fits.objective[2]
    best = jax.vmap(sweep.best)(sweep.group(swept, 3))
    np.testing.assert_allclose(best.grid["tol"], [1e-1, 1e-4, 0.0])
    np.testing.assert_array_equal(best.fits.objective, swept.fits.objective.reshape(3, 2).max(1))


def test_table(swept):
    rows = sweep.table(swept)
    assert len(rows) == 6
    assert set(rows[0]) == {"tol", "reg_covar", "objective", "n_iter", "status"}
    assert rows[0]["status"] == "CONVERGED"
    assert rows[3]["n_iter"] == int(swept.fits.n_iter[3])
    keys = sweep.run(
        lambda key: jax.random.uniform(key), sweep.grid(key=jax.random.split(jax.random.key(0), 2))
    )
    assert [row["key"] for row in sweep.table(keys)] == [0, 1]
    assert sweep.table(keys)[1]["result"] == float(keys.fits[1])


def test_inactive_components_are_a_smaller_mixture(start, x):
    k = 2
    small = gaussian.Params(
        jnp.full(k, -np.log(k), x.dtype), start.means[:k], lane(start.covariance, np.arange(k))
    )
    alone = fit(small, x)
    inside = jax.jit(lambda k: fit(sweep.activate(start, k), x))(k)
    assert_close(inside.objective, alone.objective)
    assert_close(inside.params.means[:k], alone.params.means)
    assert not np.isfinite(inside.params.log_weights[k:]).any()
    assert inside.status == alone.status
    assert gaussian.n_parameters(inside.params) == gaussian.n_parameters(alone.params)
