"""How everything here is timed: in turn, several times, medians; compilation apart."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax

SETTLE = 0.2  # seconds: threads of a BLAS spin on, after their work, beside whatever comes next


class Timing(NamedTuple):
    """Seconds: medians of ours and the peer's, and our first call, compilation included."""

    ours: float
    peer: float
    first: float


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, its results awaited, on a machine that has come to rest."""
    time.sleep(SETTLE)
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def alternate(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int = 5) -> Timing:
    """Time the two in turn, each once before it counts: a drifting machine slows both."""
    first = seconds(ours)
    seconds(peer)
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    mine, theirs = zip(*pairs, strict=True)
    return Timing(statistics.median(mine), statistics.median(theirs), first)


def row(
    what: str, peer: str, timing: Timing, bar: float, quality: str, per: float = 1.0
) -> dict[str, object]:
    """One line of the table; times are divided by `per`, the number of iterations, say."""
    return {
        "what": what,
        "ours_s": timing.ours / per,
        "peer": peer,
        "peer_s": timing.peer / per,
        "ratio": timing.peer / timing.ours,
        "bar": bar,
        "quality": quality,
        "compile_s": timing.first - timing.ours,
    }


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process, where nothing is compiled and no device is chosen."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def on_devices(function: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """`function(devices, *args)` in fresh processes: with one device, then on a CPU with two.

    Two devices on two cores run their lanes beside each other and wait for nothing.
    """
    for n in (1, 2) if jax.default_backend() == "cpu" else (1,):
        yield alone(_with_devices, n, function, *args)


def _with_devices(n, function, *args):
    jax.config.update("jax_num_cpu_devices", n)
    return function(jax.local_devices()[:n], *args)


def peak_memory(function: Callable[[Callable[[], None]], None]) -> float:
    """Largest growth of resident memory, in MB, while `function(mark)` runs in a fresh process.

    `function` must be importable; growth counts from its call of `mark()`. Linux only.
    """
    return alone(_measure, function)


def _measure(function):
    from pathlib import Path

    def resident(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

    base = []

    def mark():
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        base.append(resident("VmRSS"))

    function(mark)
    return resident("VmHWM") - base[-1]
