"""Files that TensorFlow's Embedding Projector opens: vectors, labels, and a sheet of thumbnails.

`tensorboard --logdir FOLDER` shows them with their pictures; projector.tensorflow.org loads
`tensors.tsv` and `metadata.tsv` by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import Report

LARGEST = 8192  # pixels along a side of the sheet, the most the projector reads
CONFIG = """embeddings {{
  tensor_name: "{name}"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {width}
    single_image_dim: {height}
  }}
}}
"""


def export(
    report: Report, vectors: np.ndarray, labels: Sequence[Any] | np.ndarray, images: np.ndarray
) -> None:
    """Write `tensors.tsv`, `metadata.tsv`, `sprite.png` and `projector_config.pbtxt`.

    Args:
        report: Where the files go.
        vectors: What is shown, shape (n, d), in two dimensions or more.
        labels: One a vector.
        images: One a vector, in [0, 1], shape (n, height, width); shown dark on light.

    Raises:
        ValueError: If numbers of rows differ, or the sheet would be larger than the projector's.
    """
    vectors, images = np.asarray(vectors), np.asarray(images)
    if not len(vectors) == len(labels) == len(images):
        counts = f"{len(vectors)}, {len(labels)} and {len(images)}"
        raise ValueError(f"vectors, labels and images must have as many rows, got {counts}")
    sheet = sprite(images)
    height, width = images.shape[1:]
    with report.file("tensors.tsv", "The vectors, for the Embedding Projector.") as path:
        np.savetxt(path, vectors, fmt="%.6g", delimiter="\t")
    with report.file("metadata.tsv", "Their labels.") as path:
        path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    with report.file("sprite.png", "Their thumbnails, row by row.") as path:
        _save(sheet, path)
    with report.file("projector_config.pbtxt", "Ties them together for TensorBoard.") as path:
        text = CONFIG.format(name=report.name, width=width, height=height)
        path.write_text(text, encoding="utf-8")


def sprite(images: np.ndarray) -> np.ndarray:
    """Return a square sheet of thumbnails, row by row, dark on light, as bytes."""
    n, height, width = images.shape
    side = math.ceil(math.sqrt(n))
    if side * max(height, width) > LARGEST:
        raise ValueError(
            f"images must fit a sheet of {LARGEST} pixels a side, got {n} of {height} x {width}"
        )
    cells = np.zeros((side * side, height, width), np.uint8)
    cells[:n] = np.round(np.clip(images, 0, 1) * 255)
    rows = cells.reshape(side, side, height, width).swapaxes(1, 2)
    return 255 - rows.reshape(side * height, side * width)


def _save(pixels, path):
    from PIL import Image

    Image.fromarray(pixels).save(path)
