"""Strict JAX for every test: no silent rank or dtype promotion, shapes checked at run time."""

import os
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Most of a run is compilation: workers share theirs, and the next run starts with it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache/tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import jaxtyping
import pytest

# Checks the jaxtyping annotations of the library against what it is really given.
jaxtyping.install_import_hook("unsup_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop what a module compiled: a process may map only so much memory, and crashes beyond."""
    yield
    jax.clear_caches()


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
