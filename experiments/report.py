"""What an experiment leaves behind: figures, files, tables and metrics under `results/<name>/`.

Every file appears whole or not at all (written beside its place, then renamed), and `metrics.json`
is written last: where it exists, the run it describes has finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import enum
import functools
import json
import math
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something the person at the keyboard can put right; shown as one message, no traceback."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a misspelt name, with the nearest known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
    return UserError(f"There is no {kind} named '{name}'. {hint}")


def clear(folder: Path, *names: str) -> None:
    """Make a folder that can be written to, without files of these names, before work begins.

    Raises:
        UserError: If that can't be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in names:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"Can't write to '{folder}': {error.strerror}. Choose another with --output."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to `path` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return `value` as what strict JSON can hold: arrays as lists, NaN and infinities as None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # a NumPy or JAX array or scalar
        return plain(value.tolist())
    return str(value)


def watched(iterable: Iterable[T], description: str, total: float | None = None) -> Iterable[T]:
    """Return `iterable`, with a progress bar when a person is watching; bars may be nested.

    Of several processes at work only the first draws.
    """
    if not sys.stderr.isatty() or multiprocessing.parent_process():
        return iterable
    from rich.progress import track

    return track(iterable, description, total=total, console=_console(), transient=True)


@functools.cache
def _console() -> Any:
    """The one console of all bars, so that an inner one is drawn below the outer."""
    from rich.console import Console

    return Console(stderr=True)


class Report:
    """Collects the results of one run of one experiment; a context manager.

    Args:
        name: Name of the experiment, and of its folder.
        folder: Where all results go; this report's own files go to `folder / name`.
        title: One line that says what the experiment shows.
        config: The experiment's settings, a dataclass.
        command: The command that makes this report again.
    """

    def __init__(
        self,
        name: str,
        folder: str | os.PathLike[str] = "results",
        *,
        title: str = "",
        config: Any = None,
        command: str = "",
    ) -> None:
        self.name = name
        self.folder = Path(folder) / name
        self._about = {"title": title, "config": plain(config), "command": command}
        self._metrics: dict[str, Any] = {}
        self._tables: list[dict[str, Any]] = []
        self._figures: list[dict[str, str]] = []
        self._embeddings: list[dict[str, str]] = []
        self._files: list[dict[str, str]] = []
        self._start = time.perf_counter()
        clear(self.folder, "metrics.json")  # of an earlier run

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def figure(self, fig: Any, name: str, caption: str) -> None:
        """Save a Matplotlib figure as `<name>.png` and close it."""
        from matplotlib import pyplot

        with replacing(self._path(f"{name}.png")) as path:
            fig.savefig(path, dpi=144, bbox_inches="tight")
        pyplot.close(fig)
        self._figures.append({"file": f"{name}.png", "caption": caption})

    def embedding(
        self,
        name: str,
        points: Any,
        *,
        labels: Any = None,
        images: Any = None,
        caption: str,
        **options: Any,
    ) -> None:
        """Save a map of points to zoom into and point at: `<name>.html`, shown in the gallery too.

        Args:
            name: Plain name of the files.
            points: Positions, shape (n, 2).
            labels: One a point, shown by its colour.
            images: Shown beside the pointer: in [0, 1], shape (n, height, width[, 3]).
            caption: What is seen.
            **options: Of `experiments.embedding.draw`.
        """
        from experiments import embedding

        drawn = embedding.draw(points, labels, images, **options)
        with replacing(self._path(f"{name}.html")) as path:
            path.write_text(embedding.page(drawn, f"{self.name}: {name}"), encoding="utf-8")
        with replacing(self._path(f"{name}.json")) as path:
            path.write_text(embedding.item(drawn), encoding="utf-8")
        self._embeddings.append({"name": name, "caption": caption})

    def metric(self, name: str, value: Any) -> None:
        """Record one number (or a short list of them); NaN and infinities become null."""
        self._metrics[name] = plain(value)

    def metrics(self, **values: Any) -> None:
        """Record several metrics at once."""
        for name, value in values.items():
            self.metric(name, value)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], caption: str) -> None:
        """Record a table: one mapping of column name to value for each row."""
        self._tables.append({"name": name, "caption": caption, "rows": plain(list(rows))})

    @contextlib.contextmanager
    def file(self, name: str, caption: str = "") -> Iterator[Path]:
        """Give a path to write any other file to (a video, say); it becomes `<name>` at the end."""
        with replacing(self._path(name)) as path:
            yield path
        self._files.append({"file": name, "caption": caption})

    def progress(
        self, iterable: Iterable[T], description: str, total: float | None = None
    ) -> Iterable[T]:
        """Return `iterable`, with a progress bar around it when a person is watching."""
        return watched(iterable, description, total)

    def close(self) -> None:
        """Write `metrics.json`."""
        import jax

        device = jax.devices()[0]
        contents = {
            "name": self.name,
            **self._about,
            "jax": jax.__version__,
            "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            "seconds": round(time.perf_counter() - self._start, 3),
            "metrics": self._metrics,
            "tables": self._tables,
            "figures": self._figures,
            "embeddings": self._embeddings,
            "files": self._files,
        }
        with replacing(self.folder / "metrics.json") as path:
            path.write_text(json.dumps(contents, indent=2, allow_nan=False) + "\n")

    def _path(self, name: str) -> Path:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"name must be a plain file name, it was {name!r}")
        return self.folder / name
