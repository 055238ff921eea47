"""Finds the experiments: every module of a topic folder that has a `Config` and a `run`."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from experiments.report import unknown

ROOT = Path(__file__).parent
PACKAGE = "experiments"
PROG = "python -m experiments"
TOPICS = {
    "mixtures": "Model-based clustering",
    "linear": "Latent linear models",
    "sparse": "Sparse linear models",
    "manifold": "Nonlinear dimensionality reduction",
    "autoencoders": "Autoencoders",
}


class Experiment(NamedTuple):
    """An experiment as the lister knows it, without having imported it.

    Attributes:
        name: Name of its module, which is what `run` takes.
        topic: A key of `TOPICS`.
        title: The first line of its docstring.
        module: Where to import it from.
    """

    name: str
    topic: str
    title: str
    module: str

    def load(self) -> ModuleType:
        """Import the module, with its `Config` and `run`."""
        return importlib.import_module(self.module)

    def source(self) -> str:
        """Read the text of the module."""
        return (ROOT / self.topic / f"{self.name}.py").read_text(encoding="utf-8")


def discover() -> dict[str, Experiment]:
    """Return all experiments by name, in the order of the lecture; reads, imports nothing."""
    found: dict[str, Experiment] = {}
    for topic in TOPICS:
        for path in sorted((ROOT / topic).glob("[!_]*.py")):
            title = _title(path)
            if title is None:
                continue
            if path.stem in found:
                raise ValueError(f"{path.stem} is in both {found[path.stem].topic} and {topic}")
            module = f"{PACKAGE}.{topic}.{path.stem}"
            found[path.stem] = Experiment(path.stem, topic, title, module)
    return found


def find(names: list[str]) -> list[Experiment]:
    """Return the experiments with these names, or all of them for `all`.

    Raises:
        UserError: There is no experiment of that name.
    """
    known = discover()
    if names == ["all"]:
        return list(known.values())
    for name in names:
        if name not in known:
            raise unknown("experiment", name, [*known, "all"])
    return [known[name] for name in dict.fromkeys(names)]


def _title(path: Path) -> str | None:
    """Return the docstring's first line, or None for a helper that is no experiment."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return f"(can't be read: {error.msg}, line {error.lineno})"
    names = {n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    if not {"Config", "run"} <= names:
        return None
    return (ast.get_docstring(tree) or "").partition("\n")[0]
