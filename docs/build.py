"""`python docs/build.py [folder]`: the API reference from the docstrings, by pdoc; no warnings."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import typing
import warnings
from pathlib import Path

import pdoc

import unsup_jax


def main(folder: Path) -> None:
    """Write one page a module."""
    names = [m.name for m in pkgutil.walk_packages(unsup_jax.__path__, "unsup_jax.")]
    for name in names:
        _resolve_named_tuples(importlib.import_module(name))
    pdoc.render.configure(docformat="google", footer_text="unsup_jax")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("unsup_jax", output_directory=folder)
    print(f"Open {folder / 'index.html'}", file=sys.stderr)


def _resolve_named_tuples(module: object) -> None:
    """Put types where a NamedTuple's constructor has their names, which mean nothing elsewhere."""
    for cls in vars(module).values():
        if isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields"):
            cls.__new__.__annotations__ = typing.get_type_hints(cls)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/_build"))
