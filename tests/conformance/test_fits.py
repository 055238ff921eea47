"""What is true of every iterative fit, whatever the model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conformance.registry import ALGORITHMS, blobs, start
from unsup_jax import distributed
from unsup_jax.core.fit import Fit, Status

every = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
every_sum = pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a.is_sum], ids=str)
monotone = pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a.sign], ids=str)


def assert_close(a, b, rtol=2e-4, atol=2e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def assert_sound(fit):
    """Finite parameters, or a status that says otherwise; never NaN parameters."""
    for leaf in jax.tree.leaves(fit.params):
        assert not np.isnan(leaf).any()
    assert int(fit.status) in set(Status) - {Status.RUNNING}
    if fit.status != Status.NON_FINITE:
        assert np.isfinite(fit.objective)


@every
def test_signature_grammar(algorithm):
    import inspect

    parameters = list(inspect.signature(algorithm.fit).parameters.values())
    assert parameters[1].name == "x"
    static = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert "max_iter" in static
    if algorithm.is_sum:
        assert parameters[2].name == "weights"
        assert set(static) >= {"tile_size", "axis_name"}
    assert set(algorithm.traced) == set(algorithm.sweep)
    assert all(p.default is not p.empty for p in parameters[2:])


@every
def test_result(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    fit = algorithm.fit(params, x, max_iter=7)
    assert isinstance(fit, Fit)
    assert fit.history.shape == (7,)
    assert jax.tree.structure(fit.params) == jax.tree.structure(params)
    np.testing.assert_array_equal(fit.history[-1], fit.objective)
    assert_sound(fit)


@every
def test_jit_changes_nothing(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    jitted = algorithm.fit(params, x, max_iter=4)
    with jax.disable_jit():
        plain = algorithm.fit(params, x, max_iter=4)
    assert_close(jitted, plain)


@every
def test_vmap_over_hyperparameters_equals_a_loop(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    for name, values in algorithm.sweep.items():
        fit = lambda value, name=name: algorithm.fit(params, x, **{name: value}, max_iter=15)  # noqa: E731
        batched = jax.vmap(fit)(jnp.asarray(values))
        for i, value in enumerate(values):
            assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], batched), fit(value))


@every
def test_vmap_over_starts_equals_a_loop(algorithm):
    x = algorithm.data()
    keys = jax.random.split(jax.random.key(3), 3)
    fit = lambda key: algorithm.fit(algorithm.start(key, x), x, max_iter=10)  # noqa: E731
    batched = jax.vmap(fit)(keys)
    for i, key in enumerate(keys):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], batched), fit(key), 1e-3, 1e-3)


@every
def test_new_values_do_not_recompile(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    traces = []

    @jax.jit
    def run(values):
        traces.append(None)
        return algorithm.fit(params, x, **values, max_iter=2)

    for i in range(3):
        run({name: algorithm.sweep[name][i] for name in algorithm.traced})
    assert len(traces) == 1


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_in_is_dtype_out(algorithm, dtype, x64):
    x = algorithm.data(dtype)
    params = start(algorithm, x)
    fit = algorithm.fit(params, x, max_iter=3)
    for leaf in jax.tree.leaves((params, fit.params, fit.objective, fit.history)):
        if not jnp.issubdtype(leaf.dtype, jnp.integer):  # t-SNE counts its steps
            assert leaf.dtype == dtype


@every_sum
def test_weight_two_is_a_duplicated_row_and_zero_a_removed_one(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    n = x.shape[0]
    weights = jnp.asarray(np.arange(n) % 3, x.dtype)
    rows = np.repeat(np.arange(n), np.arange(n) % 3)
    weighted = algorithm.fit(params, x, weights, max_iter=5)
    repeated = algorithm.fit(params, x[rows], max_iter=5)
    assert_close(weighted, repeated)


@every_sum
def test_removed_rows_may_hold_anything_finite(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    weights = jnp.ones(x.shape[0]).at[:5].set(0.0)
    far = 1 - x[:5] if algorithm.name == "bernoulli" else 1e10
    changed = x.at[:5].set(far)
    assert_close(
        algorithm.fit(params, x, weights, max_iter=5),
        algorithm.fit(params, changed, weights, max_iter=5),
    )


@every_sum
def test_tiles_change_nothing(algorithm):
    x = algorithm.data()
    params = start(algorithm, x)
    whole = algorithm.fit(params, x, max_iter=5, tile_size=None)
    assert_close(algorithm.fit(params, x, max_iter=5, tile_size=64), whole)
    weights = jnp.asarray(np.random.default_rng(1).random(x.shape[0]), x.dtype)
    whole = algorithm.fit(params, x, weights, max_iter=5, tile_size=None)
    assert_close(algorithm.fit(params, x, weights, max_iter=5, tile_size=64), whole)


@every_sum
def test_shards_change_nothing(algorithm):
    """301 rows on 8 devices: filled up with rows of weight 0."""
    x = algorithm.data()
    params = start(algorithm, x)
    single = algorithm.fit(params, x, max_iter=5)
    fit = distributed.data_parallel(algorithm.fit, distributed.make_mesh())
    assert_close(fit(params, x, max_iter=5, tile_size=16), single)


@monotone
def test_objective_is_monotone(algorithm, x64):
    x = algorithm.data(jnp.float64)
    for seed in range(3):
        params = start(algorithm, x, seed=seed)
        fit = algorithm.fit(params, x, tol=-1.0, max_iter=30, **algorithm.exact)
        steps = algorithm.sign * np.diff(fit.history[: int(fit.n_iter)])
        assert len(steps) > 1
        assert steps.min() >= -1e-10


def degenerate(name):
    x = blobs(n=40)
    return {
        "one point": x[:1],
        "all the same": jnp.tile(x[:1], (40, 1)),
        "duplicates": jnp.tile(x[:4], (10, 1)),
        "constant column": x.at[:, 1].set(7.0),
        "zero": jnp.zeros_like(x),
        "far away": blobs(n=40, offset=1e4),
        "tiny": 1e-15 * x,
        "huge": 1e15 * x,
        "a NaN": x.at[3, 1].set(jnp.nan),
        "an infinity": x.at[3, 1].set(jnp.inf),
    }[name]


DEGENERATE = ["one point", "all the same", "duplicates", "constant column", "zero", "far away"]


@every
@pytest.mark.parametrize("kind", [*DEGENERATE, "tiny", "huge", "a NaN", "an infinity"])
def test_degenerate_data_end_with_a_status(algorithm, kind):
    x = degenerate(kind)
    if algorithm.name == "bernoulli":
        lo, hi = jnp.nanmin(x), jnp.nanmax(jnp.where(jnp.isinf(x), 0, x))
        x = jnp.where(jnp.isfinite(x), (x - lo) / jnp.where(hi > lo, hi - lo, 1), jnp.nan)
        x = jnp.clip(x, 0, 1)
    if algorithm.name == "nmf":
        x = jnp.abs(x)
    n = x.shape[0]
    if n == 1 and not algorithm.is_sum:  # made of pairs
        with pytest.raises(ValueError, match="must be at least 1 and at most 0"):
            algorithm.fit(algorithm.start(jax.random.key(0), x), x)
        return
    x3 = jnp.tile(x, (3, 1)) if n < 3 else x  # the start draws three samples
    params = algorithm.start(jax.random.key(0), jnp.where(jnp.isfinite(x3), x3, 0))
    fit = jax.jit(partial(algorithm.fit, max_iter=20))(params, x)
    assert_sound(fit)
    if kind in ("a NaN", "an infinity"):
        assert fit.status == Status.NON_FINITE


@every
def test_wrong_input_is_named(algorithm, unchecked):
    x = algorithm.data()
    params = start(algorithm, x)
    with pytest.raises(
        ValueError, match=r"x must have shape \(n_samples, n_features\), got \(3,\)"
    ):
        algorithm.fit(params, x[0, :3])
    with pytest.raises(ValueError, match="x must be floating point, got int32"):
        algorithm.fit(params, x.astype(jnp.int32))
    with pytest.raises(ValueError, match=r"x must not be empty, got shape \(0, \d\)"):
        algorithm.fit(params, x[:0])
    with pytest.raises(ValueError, match="max_iter must be at least 0"):
        algorithm.fit(params, x, max_iter=-1)


@every_sum
def test_dtypes_that_differ_are_named(algorithm, unchecked, x64):
    x = algorithm.data(jnp.float32)
    params = start(algorithm, x)
    with pytest.raises(ValueError, match="weights must be float32 like x, got float64"):
        algorithm.fit(params, x, np.ones(len(x)))
    with pytest.raises(ValueError, match="must be float64 like x, got float32"):
        algorithm.fit(params, x.astype(jnp.float64))


@every_sum
def test_wrong_sizes_are_named(algorithm, unchecked):
    x = algorithm.data()
    params = start(algorithm, x)
    with pytest.raises(ValueError, match=r"must have 2 features, got"):
        algorithm.fit(params, x[:, :2])
    with pytest.raises(ValueError, match=r"weights must have shape \(301,\), got \(3,\)"):
        algorithm.fit(params, x, jnp.ones(3))
    with pytest.raises(ValueError, match="n_components must be at least 1 and at most 2, got 3"):
        start(algorithm, x[:2])
