"""Runs experiments: one, or several side by side in processes."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import shlex
import time
import traceback
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from experiments import registry, report


class Outcome(NamedTuple):
    """What became of an experiment.

    Attributes:
        text: For the person who waits.
        failure: What went wrong, in a line; empty if nothing did.
    """

    text: str
    failure: str = ""


def one(experiment: registry.Experiment, config: Any, output: Path, options: list[str]) -> str:
    """Run one experiment and write its report; return how long it took and where that is."""
    start = time.perf_counter()
    command = shlex.join([*registry.PROG.split(), "run", experiment.name, *options])
    with report.Report(
        experiment.name, output, title=experiment.title, config=config, command=command
    ) as results:
        experiment.load().run(config, results)
    seconds = time.perf_counter() - start
    return f"{experiment.name}: {seconds:.1f} s, results in {results.folder}"


def several(
    experiments: list[registry.Experiment], *, quick: bool, seed: int, output: Path, jobs: int
) -> Iterator[tuple[registry.Experiment, Outcome]]:
    """Run experiments, `jobs` at a time, and yield each with its outcome as it ends.

    Several at a time run in processes of their own: of an experiment's time much is spent on one
    core, above all in the compiler.
    """
    settings = (quick, seed, output)
    if jobs == 1:
        keep_compiled_programs()
        yield from ((each, _attempt(each, *settings)) for each in experiments)
        return
    # No process may take all of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(jobs, spawn, keep_compiled_programs)
    try:
        running = {pool.submit(_attempt, each, *settings): each for each in experiments}
        for ended in concurrent.futures.as_completed(running):
            try:
                outcome = ended.result()
            except BrokenProcessPool:
                outcome = Outcome(f"{running[ended].name}: lost", "a process of the run has died")
            yield running[ended], outcome
    finally:
        pool.shutdown(cancel_futures=True)


def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that a second run starts at once."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # the user has chosen a place
        return
    folder = Path(__file__).parent.parent / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _attempt(experiment: registry.Experiment, quick: bool, seed: int, output: Path) -> Outcome:
    """Run one experiment of several, whatever comes of it."""
    options = ["--quick"] if quick else []
    options += ["--seed", str(seed)] if seed else []
    try:
        config = experiment.load().Config(quick=quick, seed=seed)
        return Outcome(one(experiment, config, output, options))
    except report.UserError as error:
        return Outcome(f"{experiment.name}: failed", str(error))
    except Exception as error:
        text = f"{experiment.name}: failed\n{traceback.format_exc()}"
        return Outcome(text, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        if multiprocessing.parent_process() is None:
            raise
        os._exit(130)  # or this process would take up the next experiment
    finally:
        _let_go()


def _let_go() -> None:
    """Free what an experiment, perhaps a failed one, has left in memory."""
    import jax
    from matplotlib import pyplot

    pyplot.close("all")
    jax.clear_caches()
