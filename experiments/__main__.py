"""`python -m experiments`: list the experiments, run some, or make the gallery of all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from experiments import registry, report

PROG = "python -m experiments"
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

    _keep_compiled_programs()
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
        _execute(experiment, module, chosen.config, elsewhere or chosen.output, flags)
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
    """Run experiments one after the other; return what went wrong, by name of those that failed."""
    _keep_compiled_programs()
    flags = ["--quick"] if common.quick else []
    flags += ["--seed", str(common.seed)] if common.seed else []
    failures = {}
    for number, experiment in enumerate(report.watched(experiments, "Experiments"), 1):
        print(f"[{number}/{len(experiments)}] {experiment.name}", file=sys.stderr)
        try:
            module = experiment.load()
            config = module.Config(quick=common.quick, seed=common.seed)
            _execute(experiment, module, config, common.output, flags)
        except report.UserError as error:
            failures[experiment.name] = str(error)
        except Exception as error:
            traceback.print_exc()
            failures[experiment.name] = f"{type(error).__name__}: {error}"
        _let_go()
    for name, message in failures.items():
        print(f"error: {name} failed: {message}", file=sys.stderr)
    return failures


def _execute(
    experiment: registry.Experiment, module: Any, config: Any, output: Path, options: list[str]
) -> None:
    """Run one experiment and write its report."""
    start = time.perf_counter()
    command = shlex.join([*PROG.split(), "run", experiment.name, *options])
    with report.Report(
        experiment.name, output, title=experiment.title, config=config, command=command
    ) as results:
        module.run(config, results)
    seconds = time.perf_counter() - start
    print(f"{experiment.name}: {seconds:.1f} s, results in {results.folder}", file=sys.stderr)


def _parse(kind: Any, command: str, options: list[str], title: str) -> Any:
    """Return the settings these options choose; tyro explains wrong ones and exits with 2."""
    import tyro

    return tyro.cli(kind, prog=f"{PROG} {command}", description=title, args=options)


def _keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that a second run starts at once."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # the user has chosen a place
        return
    folder = Path(__file__).parent.parent / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _let_go() -> None:
    """Free what an experiment, perhaps a failed one, has left in memory."""
    import jax
    from matplotlib import pyplot

    pyplot.close("all")
    jax.clear_caches()


if __name__ == "__main__":
    sys.exit(main())
