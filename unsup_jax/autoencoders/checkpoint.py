"""Save a `training.State` with orbax and go on from it.

A checkpoint is a folder `<folder>/<epoch>` that appears whole (written beside its place, then
renamed), so a run may be killed at any moment: it goes on from the last whole one, bit for bit.

    state = checkpoint.resume(folder, training.start(params, key))
    for state in training.epochs(state, x, loss=loss, n_epochs=100):
        checkpoint.save(folder, state)
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jax
import numpy as np

from unsup_jax.autoencoders.training import State

KEEP = 2  # checkpoints: the latest, and the one before


def save(folder: str | os.PathLike[str], state: State) -> Path:
    """Write `state` into `folder`, drop all but the two latest checkpoints, return its path."""
    import orbax.checkpoint as ocp

    path = Path(folder).absolute() / str(int(state.epoch))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, _arrays(state), force=True)
    for old in _found(path.parent)[:-KEEP]:
        shutil.rmtree(old)
    return path


def resume(folder: str | os.PathLike[str], state: State) -> State:
    """The state of the latest whole checkpoint of `folder`; `state` itself if there is none."""
    found = _found(Path(folder).absolute())
    return restore(found[-1], state) if found else state


def restore(path: str | os.PathLike[str], like: State) -> State:
    """The state saved at `path`.

    Args:
        path: What `save` returned.
        like: A state of the same model and optimizer; its arrays give the shapes, no values.

    Raises:
        ValueError: If there is no whole checkpoint at `path`, or it is damaged, or one of another
            model or optimizer.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if not (path / "_CHECKPOINT_METADATA").exists():
        raise ValueError(f"path must be a finished checkpoint, '{path}' is none or half-written")
    wanted = _arrays(like)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            saved = checkpointer.metadata(path).item_metadata.tree
        except Exception as error:  # every part of orbax has its own kinds
            raise ValueError(f"the checkpoint '{path}' can't be read: {error}") from error
        _check_same(path, saved, wanted)
        try:
            arrays = checkpointer.restore(path, wanted)
        except Exception as error:
            raise ValueError(f"the checkpoint '{path}' is damaged: {error}") from error
    # Names were made in the order of the leaves, and `wanted` has kept it.
    state = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])
    key = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(like.key))
    return state._replace(key=key)


def _found(root: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; an unfinished one has another kind of name."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def _arrays(state: State) -> dict[str, jax.Array]:
    """The arrays of a state by name; keys as the integers they are made of."""
    state = state._replace(key=jax.random.key_data(state.key))
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): array for path, array in leaves}


def _check_same(path: Path, saved: object, wanted: dict[str, jax.Array]) -> None:
    if not isinstance(saved, dict) or set(saved) != set(wanted):
        names = set(saved) if isinstance(saved, dict) else {"no arrays"}
        odd = ", ".join(sorted(names ^ set(wanted))[:4])
        raise ValueError(f"the checkpoint '{path}' is of another model or optimizer: {odd}")
    for name, array in wanted.items():
        have = tuple(getattr(saved[name], "shape", ())), np.dtype(saved[name].dtype)
        want = tuple(array.shape), np.dtype(array.dtype)
        if have != want:
            raise ValueError(
                f"the checkpoint '{path}' is of another model: its {name} is "
                f"{have[1]}{list(have[0])}, not {want[1]}{list(want[0])}"
            )
