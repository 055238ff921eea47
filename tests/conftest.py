"""Strict JAX for every test: no silent rank or dtype promotion, shapes checked at run time."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jaxtyping
import pytest

# Checks the jaxtyping annotations of the library against what it is really given.
jaxtyping.install_import_hook("unsup_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def unchecked():
    """Turn the run-time annotation checks off, to reach the library's own error messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield
