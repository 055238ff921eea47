"""Trace-time checks of arguments: each names the argument, what it was and what it must be.

Only shapes, dtypes and static values can be seen under `jit`; bad values (NaN, negative weights)
end as a `Status` there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def check_matrix(
    name: str,
    x: Array | np.ndarray,
    *,
    n_features: int | None = None,
    like: Array | np.ndarray | None = None,
) -> None:
    """Raise `ValueError` unless `x` is a floating-point matrix that is not empty.

    Args:
        name: Of the argument.
        x: The argument.
        n_features: The number of columns it must have.
        like: The data whose dtype it must have.
    """
    if not hasattr(x, "shape"):
        raise ValueError(f"{name} must be an array, got a {type(x).__name__}")
    if jnp.ndim(x) != 2:
        raise ValueError(f"{name} must have shape (n_samples, n_features), got {jnp.shape(x)}")
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"{name} must be floating point, got {jnp.result_type(x)}")
    if 0 in x.shape:
        raise ValueError(f"{name} must not be empty, got shape {x.shape}")
    if n_features is not None and x.shape[1] != n_features:
        raise ValueError(f"{name} must have {n_features} features, got {x.shape[1]}")
    if like is not None:
        check_dtype(name, x, like)


def check_weights(weights: Array | np.ndarray | None, x: Array | np.ndarray) -> None:
    """Raise `ValueError` unless `weights` is `None` or holds one number a row of `x`."""
    if weights is None:
        return
    if jnp.shape(weights) != x.shape[:1]:
        raise ValueError(f"weights must have shape {x.shape[:1]}, got {jnp.shape(weights)}")
    if jnp.issubdtype(jnp.result_type(weights), jnp.floating):  # counts and masks are promoted
        check_dtype("weights", weights, x)


def check_dtype(name: str, a: Array | np.ndarray, x: Array | np.ndarray) -> None:
    """Raise `ValueError` unless `a` has the dtype of the data `x`."""
    dtypes = jnp.result_type(a), jnp.result_type(x)
    if dtypes[0] != dtypes[1]:
        raise ValueError(f"{name} must be {dtypes[1]} like x, got {dtypes[0]}")


def check_count(name: str, value: int, at_most: int | None = None, *, at_least: int = 1) -> None:
    """Raise `ValueError` unless `at_least <= value <= at_most`."""
    if value < at_least or (at_most is not None and value > at_most):
        upper = "" if at_most is None else f" and at most {at_most}"
        raise ValueError(f"{name} must be at least {at_least}{upper}, got {value}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_unit_interval(name: str, x: Array) -> None:
    """Raise `ValueError` if values that can be seen (outside `jit` and `vmap`) leave [0, 1]."""
    try:
        inside = bool(((x >= 0) & (x <= 1)).all())
    except jax.errors.TracerBoolConversionError:
        return
    if not inside:
        raise ValueError(f"{name} must lie in [0, 1], got values from {x.min()} to {x.max()}")
