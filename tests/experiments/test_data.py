"""Shipped data are what they should be; damaged data are refused with advice."""

import gzip
import hashlib
import os
import struct

import imageio.v3 as iio
import numpy as np
import pytest

from experiments import data
from experiments.data import UserError


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder of four tiny files in MNIST's format, with checksums to match."""
    rng = np.random.default_rng(0)
    raws = {
        name: idx(rng.integers(0, 10, (6, 28, 28) if "images" in name else 6))
        for name in data.MNIST_SHA256
    }
    for name, raw in raws.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(raw))
        monkeypatch.setitem(data.MNIST_SHA256, name, hashlib.sha256(raw).hexdigest())
    monkeypatch.setenv("UNSUP_JAX_DATA", str(tmp_path))
    return tmp_path, raws


@pytest.mark.parametrize(
    ("loader", "n", "shape", "counts"),
    [
        (data.digits, 1797, (8, 8), None),
        (data.mnist5k, 5000, (28, 28), [500] * 10),
        (data.faces, 200, (25, 25), [100, 100]),
    ],
)
def test_shipped(loader, n, shape, counts):
    x, y, got = loader()
    assert x.shape == (n, shape[0] * shape[1])
    assert (x.dtype, y.dtype, got) == (np.float32, np.int32, shape)
    assert x.min() >= 0
    assert x.max() == 1
    assert y.shape == (n,)
    assert counts is None or np.bincount(y).tolist() == counts


def test_load():
    np.testing.assert_array_equal(data.load("digits").x, data.digits().x)
    with pytest.raises(UserError, match="Did you mean mnist"):
        data.load("mnits")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("astronaut", (512, 512, 3)),
        ("camera", (512, 512)),
        ("logo", (500, 500, 3)),
        ("china", (427, 640, 3)),
    ],
)
def test_photograph(name, shape):
    image = data.photograph(name)
    assert image.shape == shape
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert 0.5 < image.max() <= 1


def test_photograph_misspelt():
    with pytest.raises(UserError, match="Did you mean astronaut"):
        data.photograph("astronout")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([[1.0, np.nan]]), r"1 values that are NaN.*index \(0, 1\)"),
        (np.array([np.inf, 1.0, -np.inf]), r"2 values.*index \(0,\)"),
        (np.array([1e300]), "too large"),
        (np.zeros((0, 3)), "is empty"),
        (np.array(["a"]), "must hold real numbers"),
        (np.array([None, 1]), "must hold real numbers"),
        (np.array([1j]), "must hold real numbers"),
    ],
)
def test_check_refuses(bad, message):
    with pytest.raises(UserError, match=f"^my data .*{message}"):
        data.check(bad, "my data")


def test_check_converts():
    for good in ([[1, 2]], np.array([True]), np.float64([0.5])):
        checked = data.check(good, "x")
        assert checked.dtype == np.float32
        np.testing.assert_array_equal(checked, np.asarray(good))


@pytest.mark.parametrize("subfolder", ["", "mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_from_a_folder(small_mnist, monkeypatch, subfolder, packed):
    folder, raws = small_mnist
    if subfolder:
        (folder / subfolder).mkdir()
    for name, raw in raws.items():
        (folder / f"{name}.gz").rename(folder / subfolder / f"{name}.gz")
        if not packed:
            (folder / subfolder / f"{name}.gz").unlink()
            (folder / subfolder / name).write_bytes(raw)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        x, y, shape = data.mnist(split)
        pixels = np.frombuffer(raws[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16)
        np.testing.assert_array_equal(x, pixels.reshape(6, 784).astype(np.float32) / 255)
        assert y.tolist() == list(raws[f"{prefix}-labels-idx1-ubyte"][8:])
        assert (x.dtype, y.dtype, shape) == (np.float32, np.int32, (28, 28))


def test_mnist_split_misspelt():
    with pytest.raises(UserError, match="Did you mean test"):
        data.mnist("tset")


IMAGES = "t10k-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-30], "truncated or corrupted"),
        (lambda packed: packed[:12], "truncated or corrupted"),
        (lambda packed: packed[:-6] + b"\1" + packed[-5:], "truncated or corrupted"),
        (lambda packed: packed[:60] + b"\xff" * 40 + packed[100:], "truncated or corrupted"),
        (lambda packed: gzip.compress(gzip.decompress(packed)[:-1]), "wrong SHA-256"),
        (lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\xff"), "wrong SHA-256"),
        (lambda packed: packed[:0], "wrong SHA-256"),
        (lambda packed: b"<html>404</html>" + packed, "wrong SHA-256"),
    ],
)
def test_damaged_mnist(small_mnist, damage, message):
    folder, _ = small_mnist
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        data.mnist("test")
    assert str(path) in str(error.value)
    assert "get it again" in str(error.value)


def test_missing_mnist(small_mnist):
    folder, _ = small_mnist
    (folder / f"{IMAGES}.gz").unlink()
    with pytest.raises(UserError, match="unset the variable") as error:
        data.mnist("test")
    assert IMAGES in str(error.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (idx(np.zeros((2, 3)))[:-1], "5 values where its header says 6"),
        (b"\0\0", "no idx file"),
        (b"\0\0\x08\x03\0\0", "no idx file"),
        (b"\0\0\x0d\x01" + struct.pack(">If", 1, 1.0), "no idx file of bytes"),
    ],
)
def test_malformed_idx(tmp_path, raw, message):
    with pytest.raises(UserError, match=message):
        data._parse_idx(raw, tmp_path / "file")


def test_download(small_mnist, tmp_path, monkeypatch):
    """A download is kept only if its contents are right, and is not repeated."""
    _, raws = small_mnist
    monkeypatch.delenv("UNSUP_JAX_DATA")
    monkeypatch.setattr(data, "_mnist_cache", lambda: tmp_path / "cache")
    served, urls = {"raw": b"<html>404</html>"}, []

    def fetch(self, url, output_file, pooch):
        urls.append(url)
        with open(output_file, "wb") as file:
            file.write(served["raw"] or gzip.compress(raws[url.rpartition("/")[2][:-3]]))

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", fetch)
    with pytest.raises(UserError, match="wrong SHA-256"):
        data.mnist("test")
    assert not list((tmp_path / "cache").iterdir())
    served["raw"] = None
    assert data.mnist("test").x.shape == (6, 784)
    assert data.mnist("test").x.shape == (6, 784)
    assert len(urls) == 1 + 2


def test_no_network(tmp_path, monkeypatch):
    def fetch(self, url, output_file, pooch):
        raise OSError("no route to host")

    monkeypatch.delenv("UNSUP_JAX_DATA", raising=False)
    monkeypatch.setattr(data, "_mnist_cache", lambda: tmp_path)
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", fetch)
    with pytest.raises(UserError, match=r"no route to host.*UNSUP_JAX_DATA"):
        data.mnist()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    "UNSUP_JAX_DATA" not in os.environ, reason="UNSUP_JAX_DATA names no folder with MNIST"
)
def test_real_mnist():
    x, y, shape = data.mnist("test")
    assert x.shape == (10000, 784)
    assert (x.min(), x.max(), shape) == (0, 1, (28, 28))
    assert np.bincount(y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


FRAMES = np.random.default_rng(1).integers(0, 256, (12, 16, 20, 3), dtype=np.uint8)


def test_frames_of_a_folder_in_natural_order(tmp_path):
    for number, frame in enumerate(FRAMES):
        iio.imwrite(tmp_path / f"frame{number}.png", frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    np.testing.assert_array_equal(data.read_frames(tmp_path), FRAMES.astype(np.float32) / 255)


def test_grey_and_16_bit_frames_become_rgb(tmp_path):
    grey = np.linspace(0, 65535, 16 * 20).reshape(16, 20).astype(np.uint16)
    iio.imwrite(tmp_path / "a.png", grey)
    frames = data.read_frames(tmp_path)
    np.testing.assert_allclose(frames, np.stack([grey / 65535] * 3, -1)[None], atol=1e-6)


def test_frames_of_a_gif(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    clip = np.broadcast_to(colours[:, None, None], (3, 8, 8, 3))
    iio.imwrite(tmp_path / "clip.gif", clip)
    np.testing.assert_array_equal(data.read_frames(tmp_path / "clip.gif"), clip / np.float32(255))


def test_frames_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="Check the path"):
        data.read_frames(tmp_path / "missing.gif")
    with pytest.raises(UserError, match="holds no images"):
        data.read_frames(tmp_path)
    for name in ("a.gif", "b.mp4", "c.png"):
        (tmp_path / name).write_bytes(b"this is not it")
    with pytest.raises(UserError, match=r"Can't read .*a\.gif"):
        data.read_frames(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"Can't read .*c\.png.* as an image"):
        data.read_frames(tmp_path)
    find = data.importlib.util.find_spec
    monkeypatch.setattr(
        data.importlib.util, "find_spec", lambda name: None if name == "av" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'imageio\[pyav\]'"):
        data.read_frames(tmp_path / "b.mp4")


def test_frames_of_different_sizes(tmp_path):
    iio.imwrite(tmp_path / "a.png", FRAMES[0])
    iio.imwrite(tmp_path / "b.png", FRAMES[1, :8])
    with pytest.raises(UserError, match=r"b\.png' is 20 x 8, but the first frame is 20 x 16"):
        data.read_frames(tmp_path)
