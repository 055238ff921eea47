"""`python -m experiments.benchmarks [topic ...] [--quick]`: time the library beside its peers."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path

import jax

from experiments.report import UserError, plain, replacing, unknown

COLUMNS = ("what", "ours_s", "peer", "peer_s", "ratio", "bar", "quality", "compile_s")
NOT_TOPICS = {"__init__", "__main__", "timing"}


def topics() -> list[str]:
    """Every benchmark module of this folder."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(name for name in found - NOT_TOPICS if not name.startswith("_"))


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    device = jax.devices()[0].device_kind
    versions = f"jax {jax.__version__} on {device}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model}, {versions}"


def markdown(rows: list[dict[str, object]]) -> str:
    """The table as README.md shows it."""

    def cell(value: object) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell(row.get(column)) for column in COLUMNS) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> int:
    """Run the topics asked for; print the table and save it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("topics", nargs="*", help=f"of {', '.join(topics())}; all by default")
    parser.add_argument("--quick", action="store_true", help="small data, few repeats")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    try:
        table: list[dict[str, object]] = []
        for topic in options.topics or topics():
            if topic not in topics():
                raise unknown("benchmark", topic, topics())
            module = importlib.import_module(f"experiments.benchmarks.{topic}")
            for row in module.rows(options.quick):
                table.append({"topic": topic, **row})
                print(markdown([row]).splitlines()[-1], flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{machine()}\n\n{markdown(table)}")
    with replacing(options.output / "benchmarks.json") as path:
        path.write_text(json.dumps(plain({"machine": machine(), "rows": table}), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
