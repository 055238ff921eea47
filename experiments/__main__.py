"""`python -m experiments`: list the experiments, run some, or make the gallery of all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from experiments import registry, report

PROG = registry.PROG
USAGE = f"""\
usage: {PROG}                                  list the experiments
       {PROG} run NAME [--options]             run one; NAME --help shows its options
       {PROG} run NAME --distributed           one of several processes, see DISTRIBUTED.md
       {PROG} run NAME NAME... [--options]     run several, or `all`; --help shows the options
       {PROG} gallery [--options]              run all and write one page, index.html"""


OUTPUT_HELP = "Folder for the results; each experiment gets a subfolder."


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every experiment."""

    quick: bool = False
    """Run smaller problems, to see in seconds that everything works."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path = Path("results")
    """Folder for the results, a subfolder for each experiment."""
    jobs: int = min(2, os.cpu_count() or 1)
    """Experiments at a time, each in a process; 1 where a device serves one process, as a TPU."""


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit status: 2 if it makes no sense."""
    command, *args = (sys.argv[1:] if argv is None else argv) or ["list"]
    try:
        if command in ("-h", "--help"):
            print(USAGE)
            return 0
        if command == "list":
            _list()
            return 0
        if command == "run":
            return _run(args)
        if command == "gallery":
            return _gallery(args)
        raise report.unknown("command", command, ["list", "run", "gallery"])
    except report.UserError as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _complain(error: report.UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _list() -> None:
    found = registry.discover().values()
    width = max((len(experiment.name) for experiment in found), default=0)
    for topic, heading in registry.TOPICS.items():
        members = [experiment for experiment in found if experiment.topic == topic]
        if members:
            print(f"{heading}:")
        for experiment in members:
            print(f"  {experiment.name:{width}}  {experiment.title}")
    print(f"\n{USAGE}")


def _run(args: list[str]) -> int:
    """Run the experiments named before the first option."""
    n_names = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    names, options = args[:n_names], args[n_names:]
    distributed = "--distributed" in options
    options = [option for option in options if option != "--distributed"]
    if not names and options and options[0] in ("-h", "--help"):
        print(f"{USAGE}\n\nexperiments: {', '.join(registry.discover())}")
        return 0
    if not names:
        raise report.UserError(f"Name an experiment to run, or `all`.\n{USAGE}")
    experiments = registry.find(names)
    if len(names) == 1 and names != ["all"]:
        return _run_one(experiments[0], options, distributed)
    if distributed:
        raise report.UserError("--distributed runs one experiment at a time.")
    common = _parse(Common, f"run {shlex.join(names)}", options, "Run several experiments.")
    report.clear(common.output)
    return 1 if _run_each(experiments, common) else 0


def _run_one(experiment: registry.Experiment, options: list[str], distributed: bool) -> int:
    """Run one experiment with options of its own; what goes wrong in it is shown as it is."""
    import tyro

    from experiments import runs

    runs.keep_compiled_programs()
    module = experiment.load()
    if distributed and not getattr(module, "DISTRIBUTED", False):
        able = [e.name for e in registry.discover().values() if "DISTRIBUTED = True" in e.source()]
        raise report.UserError(
            f"{experiment.name} runs in one process. These can run in several: {', '.join(able)}."
        )
    fields = [
        ("config", Annotated[module.Config, tyro.conf.OmitArgPrefixes], module.Config()),
        ("output", Annotated[Path, tyro.conf.arg(help=OUTPUT_HELP)], Common.output),
    ]
    kind = dataclasses.make_dataclass("Options", fields, frozen=True)
    chosen = _parse(kind, f"run {experiment.name}", options, experiment.title)
    with _processes() if distributed else contextlib.nullcontext(chosen.output) as elsewhere:
        flags = [*options, "--distributed"] if distributed else options
        done = runs.one(experiment, chosen.config, elsewhere or chosen.output, flags)
    print(done, file=sys.stderr)
    return 0


@contextlib.contextmanager
def _processes() -> Iterator[Path | None]:
    """Join the processes of the job; yield a folder for the results that only the first keeps."""
    import jax

    from unsup_jax import distributed

    with distributed.processes(), tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder) if jax.process_index() else None
        except report.UserError as error:
            raise SystemExit(_complain(error)) from error


def _gallery(args: list[str]) -> int:
    from experiments import gallery

    common = _parse(Common, "gallery", args, "Run all experiments and write one page of them.")
    experiments = registry.find(["all"])
    report.clear(common.output)
    failures = _run_each(experiments, common)
    path = gallery.write(common.output, experiments, failures)
    print(f"\nOpen {path}", file=sys.stderr)
    return 1 if failures else 0


def _run_each(experiments: list[registry.Experiment], common: Common) -> dict[str, str]:
    """Run experiments; return what went wrong, by name of those that failed."""
    from experiments import runs

    if common.jobs < 1:
        raise report.UserError(f"--jobs must be at least 1, it was {common.jobs}.")
    failures = {}
    outcomes = runs.several(experiments, **vars(common))
    watched = report.watched(outcomes, "Experiments", len(experiments))
    for number, (experiment, outcome) in enumerate(watched, 1):
        print(f"[{number}/{len(experiments)}] {outcome.text}", file=sys.stderr)
        if outcome.failure:
            failures[experiment.name] = outcome.failure
    for name, message in failures.items():
        print(f"error: {name} failed: {message}", file=sys.stderr)
    return failures


def _parse(kind: Any, command: str, options: list[str], title: str) -> Any:
    """Return the settings these options choose; tyro explains wrong ones and exits with 2."""
    import tyro

    return tyro.cli(kind, prog=f"{PROG} {command}", description=title, args=options)


if __name__ == "__main__":
    sys.exit(main())
