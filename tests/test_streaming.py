"""Batches, from memory or from files, give the fit of the whole; odd files are named."""

import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyarrow import parquet, table

from unsup_jax import distributed, files, streaming
from unsup_jax.linear import pca
from unsup_jax.mixtures import gaussian, online
from unsup_jax.sparse import dictionary, nmf

KEY = jax.random.key(0)
N, D, K = 101, 5, 3
X = (np.random.default_rng(0).normal(size=(N, D)) + 3 * (np.arange(N) % K)[:, None]).astype(
    np.float32
)
START = gaussian.init(KEY, X, n_components=K)


def assert_close(a, b, tol=2e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), a, b)


def write(folder, *parts):
    paths = [folder / f"part-{i}.npy" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        np.save(path, part)
    return paths


def save_parquet(path, x, row_group_size=20):
    columns = {f"f{j}": x[:, j] for j in range(x.shape[1])}
    parquet.write_table(table(columns), path, row_group_size=row_group_size)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shards"), X[:40], X[40:43], X[43:])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return [*write(folder, X[:40]), save_parquet(folder / "rest.parquet", X[40:])]


@pytest.mark.parametrize("kind", ["shards", "mixed"])
@pytest.mark.parametrize("span", [(0, 101), (0, 40), (39, 44), (45, 101), (7, 7)])
def test_batches_of_files_are_the_rows(kind, span, request):
    data = files.read(request.getfixturevalue(kind), batch_size=32).rows(range(*span))
    batches = list(data)
    np.testing.assert_array_equal(np.concatenate([X[:0], *batches]), X[slice(*span)])
    np.testing.assert_array_equal(data.array(), X[slice(*span)])
    assert {len(batch) for batch in batches[:-1]} <= {32}
    assert len(data) == span[1] - span[0]


def test_parts_of_parts():
    part = files.Files((files.Shard("x.npy", 100, 2, np.dtype("f4")),), 9, range(100))
    assert part.rows(range(10, 90)).rows(range(5, 20)).span == range(15, 30)


def damaged(folder, kind):
    path, other = folder / "part-1.npy", folder / "part-1.parquet"
    if kind == "missing":
        return path, "does not exist"
    if kind == "dtype":
        np.save(path, X.astype(np.float64))
        return path, "holds float64, but .*part-0.npy' float32"
    if kind == "width":
        np.save(path, X[:, :3])
        return path, "has 3 columns, but .*part-0.npy' 5"
    if kind == "integers":
        np.save(path, X.astype(int))
        return path, "must hold a floating-point matrix, it holds int64"
    if kind == "rank":
        np.save(path, X[:, 0])
        return path, r"floating-point matrix, it holds float32 of shape \(101,\)"
    if kind == "cut":
        np.save(path, X)
        path.write_bytes(path.read_bytes()[:-100])
        return path, "can't be read"
    if kind == "empty":
        path.write_bytes(b"")
        return path, "can't be read"
    if kind == "suffix":
        return path.with_suffix(".csv"), "must be a .npy or .parquet file"
    if kind == "parquet":
        other.write_bytes(b"PAR1")
        return other, "can't be read"
    parquet.write_table(table({"a": X[:, 0], "b": X[:, 1].astype(np.float64)}), other)
    return other, "columns are of different types: double, float"


@pytest.mark.parametrize(
    "kind",
    ["missing", "dtype", "width", "integers", "rank", "cut", "empty", "suffix", "parquet", "types"],
)
def test_an_odd_file_is_named(tmp_path, kind):
    (good,) = write(tmp_path, X)
    path, message = damaged(tmp_path, kind)
    if kind == "suffix":
        path.touch()
    with pytest.raises(ValueError, match=f"'{path}' {message}|'{path}'.*{message}"):
        files.read([good, path])


def test_a_file_that_vanishes_later_is_named(tmp_path):
    paths = write(tmp_path, X[:40], X[40:])
    data = files.read(paths)
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"part-1.npy' can't be read"):
        list(data)


def test_senseless_arguments():
    with pytest.raises(ValueError, match="paths must name at least one file"):
        files.read([])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        files.read("x.npy", batch_size=0)


@pytest.mark.parametrize("n_devices", [None, 8])
def test_streamed_em_is_em(shards, n_devices):
    mesh = n_devices and distributed.make_mesh(jax.devices()[:n_devices])
    batches = files.read(shards, batch_size=32)
    fit = distributed.fit_stream(
        gaussian.e_step, gaussian.update, START, batches, -1.0, mesh, max_iter=4
    )
    assert_close(fit, gaussian.fit(START, X, tol=-1.0, max_iter=4))


def test_a_streamed_fit_stops_where_the_fit_does():
    batches = [X[:50], X[50:]]
    fit = distributed.fit_stream(gaussian.e_step, gaussian.update, START, batches, 1e-2)
    whole = gaussian.fit(START, X, tol=1e-2)
    assert fit.status == whole.status
    assert fit.n_iter == whole.n_iter < 100
    assert fit.history.shape == whole.history.shape


def test_streamed_pca_is_pca(shards):
    batches = files.read(shards, batch_size=32)
    origin = jnp.asarray(X[0])
    sums = distributed.stream(pca.moments, batches)(origin)
    fit = pca.from_moments(origin, sums, n_components=2)
    assert_close(fit, pca.fit(X, n_components=2))


def test_streamed_nmf_is_nmf():
    x = np.abs(X)
    start = nmf.init(KEY, x, n_components=K, method="random")
    codes = np.array(start.codes)
    fit = distributed.fit_stream(
        nmf.batch_step,
        nmf.pass_update,
        start.components,
        [x[:40], x[40:80], x[80:]],
        -1.0,
        rows=codes,
        max_iter=4,
    )
    whole = nmf.fit(start, x, tol=-1.0, max_iter=4)
    assert_close(fit.params, whole.params.components)


def test_online_em_reaches_the_likelihood_of_em():
    rng = np.random.default_rng(1)
    x = np.tile(X, (60, 1)) + rng.normal(size=(60 * N, D)).astype(np.float32) / 2
    x = x[rng.permutation(len(x))]
    batches = [x[i : i + 100] for i in range(0, len(x), 100)]
    start, whole = gaussian.init(KEY, x[:500], n_components=K), jnp.asarray(x)
    state = distributed.fold(online.step, online.start(start), batches)
    batch = gaussian.fit(start, x, tol=1e-6)
    reached = gaussian.log_prob(state.params, whole).mean()
    gained = batch.objective - gaussian.log_prob(start, whole).mean()
    assert state.n_steps == len(batches)
    assert gained > 1
    assert batch.objective - 0.015 < reached <= batch.objective + 1e-4


def test_steps_of_online_em_mix_the_moments_at_their_rates():
    """The mean of the mixture moves by g_t = (t + 2)^-decay towards that of each batch."""
    state, mean = online.start(START), gaussian.moments(START)[0]
    for t, batch in enumerate((X[:40], X[40:70])):
        score = gaussian.log_prob(state.params, jnp.asarray(batch)).mean()
        state = online.step(state, jnp.asarray(batch), None, 1e-6, 0.7)
        mean = mean + (t + 2) ** -0.7 * (batch.mean(0) - mean)
        assert_close(gaussian.moments(state.params)[0], mean, 1e-5)
        assert_close(state.objective, score, 1e-5)


def test_a_dictionary_learnt_in_one_pass_goes_most_of_the_way_of_many():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(8, D)).astype(np.float32)
    x = (rng.normal(size=(3000, 8)) * (rng.random((3000, 8)) < 0.2)).astype(np.float32) @ atoms
    start = dictionary.init(KEY, x, n_components=8)
    step = partial(dictionary.online_step, lam=0.1)
    state = distributed.fold(step, dictionary.online(start), list(x.reshape(30, 100, D)))
    loss = lambda components: dictionary.code(components, jnp.asarray(x), 0.1)[1].mean()  # noqa: E731
    many = dictionary.fit(start, x, 0.1, max_iter=30).objective
    assert loss(start) > 1.1 * many
    assert loss(state.components) - many < 0.1 * (loss(start) - many)


def test_the_next_batch_is_read_while_this_one_is_in_use():
    started = threading.Event()

    def batches():
        yield 0
        started.set()
        yield 1

    items = streaming.prefetch(batches())
    assert next(items) == 0
    assert started.wait(10)
    assert list(items) == [1]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches must not be empty"),
        ([X, X[:, :2]], "each batch must have 5 features, got 2"),
        ([X.astype(int)], "each batch must be floating point"),
    ],
)
def test_wrong_batches_are_named(batches, message, unchecked):
    with pytest.raises(ValueError, match=message):
        distributed.stream(gaussian.e_step, batches)(START)
