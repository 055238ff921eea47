"""What the lecture says of PCA, solvers against each other, and scikit-learn on the likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, IncrementalPCA

from unsup_jax.core import stats
from unsup_jax.linear import pca

SOLVERS = ["gram", "dual", "svd", "randomized"]
KEY = jax.random.key(0)


def data(n=200, d=8, key=0, offset=0.0):
    """Correlated samples whose variances fall by half from axis to axis."""
    a, b = jax.random.split(jax.random.key(key))
    basis = jnp.linalg.qr(jax.random.normal(a, (d, d)))[0]
    scale = 2.0 ** (-jnp.arange(d) / 2)
    return (
        (jax.random.normal(b, (n, d)) * scale[None]) @ basis + jnp.linspace(-1, 1, d)[None] + offset
    )


def fit(x, weights=None, *, solver="auto", n_components=3, **kwargs):
    key = KEY if solver == "randomized" else None
    return pca.fit(x, weights, n_components=n_components, solver=solver, key=key, **kwargs)


def covariance(x):
    return np.cov(np.asarray(x, np.float64).T, bias=True)


def assert_same(actual, expected, atol=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), actual, expected)


# The lecture


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(200, 8), (12, 40)])
def test_axes_are_the_eigenvectors_of_the_covariance(solver, shape):
    """S w_l = lambda_l w_l, W'W = I, and the noise is the mean of the other eigenvalues."""
    x = data(*shape)
    params = fit(x, solver=solver)
    s = covariance(x)
    values = np.linalg.eigvalsh(s)[::-1]
    np.testing.assert_allclose(params.explained_variance, values[:3], rtol=1e-4)
    np.testing.assert_allclose(params.noise_variance, values[3:].mean(), rtol=1e-3)
    w = np.asarray(params.components)
    np.testing.assert_allclose(w @ s, w * values[:3, None], atol=1e-4)
    np.testing.assert_allclose(w @ w.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(params.mean, np.asarray(x).mean(0), atol=1e-6)


def test_axes_are_the_right_singular_vectors_of_the_centred_data():
    x = np.asarray(data(), np.float64)
    _, s, vt = np.linalg.svd(x - x.mean(0))
    params = fit(data(), n_components=8)
    np.testing.assert_allclose(np.abs(vt @ params.components.T), np.eye(8), atol=1e-4)
    np.testing.assert_allclose(params.explained_variance, s**2 / len(x), rtol=1e-4)


def test_first_axis_maximises_the_projected_variance():
    """Analysis view: var(w'x) <= lambda_1, with equality at w_1."""
    x = data()
    params = fit(x, n_components=1)
    directions = jax.random.normal(jax.random.key(5), (500, 8))
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    variances = (x @ directions.T).var(0)
    assert (variances < params.explained_variance[0]).all()
    best = (x @ params.components[0]).var()
    np.testing.assert_allclose(best, params.explained_variance[0], rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_both_forms_of_the_objective_are_equal(k):
    """J = 1/N sum ||x - W z||^2 = sum_(l > L) lambda_l = total variance - projected variance."""
    x = data()
    params = fit(x, n_components=k)
    error = pca.reconstruction_error(params, x)
    z = pca.transform(params, x)
    by_hand = ((x - pca.inverse_transform(params, z)) ** 2).sum(1).mean()
    tail = np.linalg.eigvalsh(covariance(x))[::-1][k:].sum()
    np.testing.assert_allclose(error, by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(error, tail, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(error, (8 - k) * params.noise_variance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(error, x.var(0).sum() - z.var(0).sum(), rtol=1e-3, atol=1e-5)


def test_synthesis_view_finds_the_analysis_views_axes():
    """Minimising the reconstruction error over W and z leads to the same subspace and error."""
    x = data()
    centred = x - x.mean(0)[None]
    w = jax.random.normal(KEY, (2, 8))
    for _ in range(100):  # least squares in turn
        z = jnp.linalg.lstsq(w.T, centred.T)[0].T
        w = jnp.linalg.lstsq(z, centred)[0]
    params = fit(x, n_components=2)
    q = jnp.linalg.qr(w.T)[0]
    np.testing.assert_allclose(q @ q.T, params.components.T @ params.components, atol=1e-3)
    error = ((centred - z @ w) ** 2).sum(1).mean()
    np.testing.assert_allclose(error, pca.reconstruction_error(params, x), rtol=1e-4)


def test_whitened_projections_have_unit_covariance_and_come_back():
    x = data()
    params = fit(x, n_components=8)
    z = pca.transform(params, x, whiten=True)
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(8), atol=1e-3)
    np.testing.assert_allclose(pca.inverse_transform(params, z, whiten=True), x, atol=1e-4)


def test_ratios_and_the_number_of_axes_for_a_wanted_variance():
    x = data()
    params = fit(x, n_components=8)
    values = np.linalg.eigvalsh(covariance(x))[::-1]
    ratios = values / values.sum()
    np.testing.assert_allclose(pca.explained_variance_ratio(params), ratios, rtol=1e-3)
    np.testing.assert_allclose(
        pca.explained_variance_ratio(fit(x, n_components=2)), ratios[:2], rtol=1e-4
    )
    for fraction in (0.0, 0.5, 0.8, 0.99):
        wanted = np.argmax(ratios.cumsum() >= fraction) + 1
        assert pca.n_components_for(params, fraction) == wanted
    assert pca.n_components_for(params, 1.0) == 8
    assert pca.n_components_for(fit(x, n_components=2), 0.99) == 3  # more than were fitted


@pytest.mark.parametrize("k", [1, 3, 5])
def test_truncation_is_the_fit_with_fewer_axes(k):
    x = data()
    assert_same(pca.truncate(fit(x, n_components=5), n_components=k), fit(x, n_components=k), 1e-5)


# Solvers


@pytest.mark.parametrize("solver", ["dual", "svd", "randomized"])
@pytest.mark.parametrize("center", [True, False])
def test_solvers_agree(solver, center):
    x, weights = data(30, 12), jnp.linspace(0, 2, 30)
    expected = fit(x, weights, solver="gram", center=center)
    assert_same(fit(x, weights, solver=solver, center=center), expected)


def test_power_iterations_find_more_variance():
    x = jax.random.normal(jax.random.key(3), (200, 60))  # a flat spectrum, the hard case
    found = [
        float(fit(x, solver="randomized", n_iter=n).explained_variance.sum()) for n in (0, 1, 2, 4)
    ]
    exact = float(fit(x, solver="gram").explained_variance.sum())
    assert found[0] < found[1] < found[2] < exact
    np.testing.assert_allclose(found[3], exact, rtol=1e-5)  # five blocks of 13 span all 60


@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_count_samples(solver):
    x = data(40, 6)
    twice = fit(x, jnp.where(jnp.arange(40) < 10, 2.0, 1.0), solver=solver)
    assert_same(twice, fit(jnp.concatenate([x, x[:10]]), solver=solver))
    kept = fit(x.at[30:].set(99.0), (jnp.arange(40) < 30).astype(x.dtype), solver=solver)
    assert_same(kept, fit(x[:30], solver=solver))


@pytest.mark.parametrize("solver", SOLVERS)
def test_far_from_the_origin(solver):
    """An offset of 1e4, a million times the smallest variance, costs no digits of the spread."""
    x = np.asarray(data(2000, 8, offset=1e4))
    s = covariance(x)
    params = fit(jnp.asarray(x), solver=solver, tile_size=300)
    values, vectors = np.linalg.eigh(s)
    np.testing.assert_allclose(params.explained_variance, values[::-1][:3], rtol=1e-4)
    cosines = (np.asarray(params.components) * vectors.T[::-1][:3]).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)
    np.testing.assert_allclose(params.noise_variance, values[:5].mean(), rtol=1e-3)


def test_wide_tables_are_tiled_by_column_blocks():
    x = data(500, 300)
    params = fit(x, n_components=300)
    np.testing.assert_allclose(
        (params.components.T * params.explained_variance[None]) @ params.components,
        covariance(x),
        atol=1e-5,
    )


@pytest.mark.parametrize("solver", ["gram", "randomized"])
@pytest.mark.parametrize("tile_size", [7, 64, 200])
def test_tiles_change_nothing(solver, tile_size):
    x = data()
    assert_same(fit(x, solver=solver, tile_size=tile_size), fit(x, solver=solver), atol=1e-5)


@pytest.mark.parametrize("solver", ["auto", "gram", "randomized"])
def test_sharded_rows(solver):
    x, weights = data(), jnp.linspace(0.5, 1.5, 200)
    mesh = Mesh(np.array(jax.devices()[:4]), ("rows",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        lambda x, w: fit(x, w, solver=solver, axis_name="rows", tile_size=16),
        mesh=mesh,
        in_specs=(P("rows"), P("rows")),
        out_specs=P(),
        check_vma=False,
    )
    assert_same(jax.jit(sharded)(x, weights), fit(x, weights, solver=solver), atol=1e-5)


def test_a_stream_of_batches_gives_the_fit_of_the_whole():
    """Exact, where scikit-learn's IncrementalPCA approximates."""
    x = data(300, 20, offset=1e3)
    origin = x[:50].mean(0)
    sums = pca.moments(origin, x[:50])
    incremental = IncrementalPCA(3).partial_fit(x[:50])
    for i in range(50, 300, 50):
        sums = stats.add(sums, pca.moments(origin, x[i : i + 50]))
        incremental.partial_fit(x[i : i + 50])
    streamed, whole = pca.from_moments(origin, sums, n_components=3), fit(x, solver="svd")
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-6)
    assert_same(streamed._replace(mean=0), whole._replace(mean=0), atol=1e-4)
    off = np.abs(incremental.components_) - np.abs(whole.components)
    assert np.abs(off).max() > 1e-3


def test_vmap_over_weights_is_a_bootstrap():
    x = data(50, 5)
    counts = jax.random.poisson(KEY, 1.0, (4, 50)).astype(x.dtype)
    fits = jax.vmap(lambda w: fit(x, w))(counts)
    for i in range(4):
        assert_same(jax.tree.map(lambda a, i=i: a[i], fits), fit(x, counts[i]))


def test_float64_stays_float64(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(30, 6)))
    for solver in SOLVERS:
        params = fit(x, solver=solver)
        leaves = [*params, pca.log_prob(params, x), pca.sample(KEY, params, n_samples=2)]
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float64")}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "x",
    [
        jnp.zeros((10, 6)),
        jnp.full((10, 6), 1e4),
        jnp.tile(jnp.arange(6.0), (10, 1)) * jnp.arange(10.0)[:, None],
        data(10, 6).at[:, 2:].set(3.0),
        data(4, 6),
    ],
    ids=["zero", "constant", "rank 1", "constant columns", "few rows"],
)
def test_degenerate_data(solver, x):
    k = 4
    params = fit(x, solver=solver, n_components=k)
    results = [
        *params,
        pca.log_prob(params, x),
        *pca.posterior(params, x),
        pca.transform(params, x, whiten=True),
        pca.sample(KEY, params, n_samples=3),
    ]
    for value in results:
        assert jnp.isfinite(value).all()
    np.testing.assert_allclose(params.components @ params.components.T, np.eye(k), atol=1e-5)
    back = pca.inverse_transform(params, pca.transform(params, x))
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-4)


def test_one_compilation_for_all_values():
    x = data(33, 7)
    before = pca.fit._cache_size()
    for i in range(3):
        fit(x + i, jnp.full(33, 1.0 + i))
    assert pca.fit._cache_size() == before + 1


# Probabilistic PCA


def model_covariance(params):
    w = np.asarray(params.components, np.float64)
    s = float(params.noise_variance)
    return (w.T * (np.asarray(params.explained_variance) - s)) @ w + s * np.eye(w.shape[1])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_log_prob_is_the_gaussians(k):
    x = data()
    params = fit(x, n_components=k)
    expected = multivariate_normal(params.mean, model_covariance(params)).logpdf(x)
    np.testing.assert_allclose(pca.log_prob(params, x), expected, rtol=1e-4)


def test_scikit_learns_score():
    """Its parameters score the same here; ours are the maximum, which N - 1 misses by a little."""
    x = data()
    theirs = PCA(3, svd_solver="full").fit(np.asarray(x, np.float64))
    params = fit(x)
    unbiased = len(x) / (len(x) - 1)
    np.testing.assert_allclose(
        params.explained_variance * unbiased, theirs.explained_variance_, rtol=1e-4
    )
    np.testing.assert_allclose(params.noise_variance * unbiased, theirs.noise_variance_, rtol=1e-3)
    np.testing.assert_allclose(
        pca.explained_variance_ratio(params), theirs.explained_variance_ratio_, rtol=1e-4
    )
    copied = pca.Params(
        *(
            jnp.asarray(a, jnp.float32)
            for a in (
                theirs.mean_,
                theirs.components_,
                theirs.explained_variance_,
                theirs.noise_variance_,
            )
        )
    )
    scores = theirs.score_samples(np.asarray(x, np.float64))
    np.testing.assert_allclose(pca.log_prob(copied, x), scores, rtol=1e-4)
    assert pca.log_prob(params, x).mean() > scores.mean() - 1e-5
    np.testing.assert_allclose(pca.log_prob(params, x).mean(), theirs.score(x), rtol=1e-4)


def test_the_fit_maximises_the_likelihood(x64):
    """The gradient of the likelihood in noise, variances and (on the sphere) axes vanishes."""
    x = jnp.asarray(np.asarray(data(100, 6), np.float64))
    params = fit(x)
    score = jax.jit(lambda params: pca.log_prob(params, x).mean())
    gradient = jax.jit(jax.grad(score))(params)
    np.testing.assert_allclose(gradient.mean, 0, atol=1e-9)
    np.testing.assert_allclose(gradient.explained_variance, 0, atol=1e-9)
    np.testing.assert_allclose(gradient.noise_variance, 0, atol=1e-9)
    for key in range(4):
        turn = jax.random.normal(jax.random.key(key), (3, 6), x.dtype) * 0.01
        turned = jnp.linalg.qr((params.components + turn).T)[0].T
        assert score(params._replace(components=turned)) < score(params)


def test_samples_have_the_models_moments():
    params = fit(data())
    x = pca.sample(jax.random.key(1), params, n_samples=40_000)
    np.testing.assert_allclose(x.mean(0), params.mean, atol=0.02)
    np.testing.assert_allclose(covariance(x), model_covariance(params), atol=0.03)


def test_posterior_is_bayes_rule():
    """For (z, x) jointly Gaussian: mean B'C^-1 (x - mean), covariance I - B'C^-1 B."""
    x = data(20)
    params = fit(x)
    scale = np.sqrt(np.asarray(params.explained_variance - params.noise_variance))
    b = np.asarray(params.components).T * scale
    gain = b.T @ np.linalg.inv(model_covariance(params))
    mean, cov = pca.posterior(params, x)
    np.testing.assert_allclose(mean, (x - params.mean[None]) @ gain.T, atol=1e-4)
    np.testing.assert_allclose(cov, np.eye(3) - gain @ b, atol=1e-4)


# Derivatives


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradient_through_the_fit(solver, x64):
    """Against central differences; the dual's derivative is the decomposition's."""
    shape = (5, 7) if solver == "dual" else (9, 5)
    rng = np.random.default_rng(0)
    x, direction = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
    probe = jnp.asarray(rng.normal(size=(3, shape[1])))

    @jax.jit
    def loss(x, weights):
        params = fit(x, weights, solver=solver)
        return (params.components * probe).sum() + params.noise_variance + params.mean[0]

    weights = jnp.linspace(0.5, 1.5, shape[0])
    step = 1e-5
    by_x, by_weights = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, weights)
    expected = loss(x + step * direction, weights) - loss(x - step * direction, weights)
    np.testing.assert_allclose((by_x * direction).sum(), expected / (2 * step), rtol=1e-5)
    change = jnp.asarray(rng.normal(size=shape[0]))
    expected = loss(x, weights + step * change) - loss(x, weights - step * change)
    np.testing.assert_allclose((by_weights * change).sum(), expected / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("solver", ["dual", "svd", "randomized"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_gradient_at_removed_rows(solver, shape, x64):
    """The root of a weight of 0 has no derivative, but the covariance has."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=shape))
    weights = jnp.ones(shape[0]).at[1].set(0.0)

    def loss(x, weights, solver):
        mean, components, values, noise = fit(x, weights, solver=solver)
        return (
            (components**2 * jnp.arange(1.0, shape[1] + 1)[None]).sum()
            + values.sum()
            + noise
            + mean[0]
        )

    actual = jax.grad(loss, argnums=(0, 1))(x, weights, solver)
    assert_same(actual, jax.grad(loss, argnums=(0, 1))(x, weights, "gram"), atol=1e-7)


@pytest.mark.parametrize("solver", ["gram", "dual", "svd"])
def test_gradient_with_repeated_eigenvalues(solver, x64):
    """Finite always; exact for what depends on the repeated group as a whole."""
    rng = np.random.default_rng(1)
    shape = (12, 5) if solver != "dual" else (6, 12)
    centring = np.eye(shape[0]) - 1 / shape[0]
    left = np.linalg.qr(centring @ rng.normal(size=(shape[0], 5)))[0]
    right = np.linalg.qr(rng.normal(size=(shape[1], 5)))[0]
    x = jnp.asarray((left * [3.0, 3.0, 1.0, 1.0, 1.0]) @ right.T)
    probe = jnp.asarray(rng.normal(size=(shape[1], shape[1])))

    def anything(x):
        params = fit(x, solver=solver, n_components=3)  # cuts a group in two
        return sum(
            (leaf**2 * jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape)).sum() for leaf in params
        )

    assert jnp.isfinite(jax.jit(jax.grad(anything))(x)).all()

    @jax.jit
    def group(x):
        params = fit(x, solver=solver, n_components=2)
        projection = params.components.T @ params.components
        return (projection * probe).sum() + params.explained_variance.sum()

    direction, step = jnp.asarray(rng.normal(size=shape)), 1e-5
    expected = (group(x + step * direction) - group(x - step * direction)) / (2 * step)
    actual = (jax.jit(jax.grad(group))(x) * direction).sum()
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_errors_name_the_argument(unchecked):
    x = data(10, 4)
    cases = {
        r"n_components must be at least 1 and at most 4, got 5": {"n_components": 5},
        r"n_components must be at least 1 and at most 4, got 0": {"n_components": 0},
        r"solver must be one of 'auto', .*, got 'qr'": {"solver": "qr"},
        r"key must be a random key for solver='randomized'": {"solver": "randomized"},
        r"key must be None for solver='gram'": {"solver": "gram", "key": KEY},
        r"solver must be 'gram' or .* sharded rows, got 'svd'": {"solver": "svd", "axis_name": "i"},
        r"weights must have shape \(10,\), got \(9,\)": {"weights": jnp.ones(9)},
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            pca.fit(x, **{"n_components": 2, **arguments})
    with pytest.raises(ValueError, match=r"x must have 4 features, got 3"):
        pca.transform(fit(x), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"z must have 3 features, got 4"):
        pca.inverse_transform(fit(x), x)


@pytest.mark.parametrize("solver", SOLVERS)
def test_removed_rows_may_lie_anywhere(solver):
    x = data()
    weights = jnp.ones(200).at[:5].set(0.0)
    far = fit(x.at[:5].set(1e10), weights, solver=solver)
    assert_same(far, fit(x, weights, solver=solver), atol=1e-5)
