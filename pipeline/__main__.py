"""The verbs that train nothing.   python -m pipeline detect PATH... | doctor | audit | profiles | cache | runs ..."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RunError
from pipeline.settings import PROJECT

STATES = ("running", "finished", "failed", "killed", "pruned", "rendered")
FOLDERS = "where to look; default: outputs and multirun, here and in the checkout"
NAMES = (
    "RUN is a run's directory, the end of its path (12-00-01_style-ab12; of a trial with its sweep, "
    "12-00-01_style-ab12/0), or its MLflow run id, of which six characters are enough."
)
REPEAT = (
    "Trains RUN again in a new directory, with the settings that its config.yaml has, whatever the defaults are now. "
    f"What else differs from then is told first. {NAMES}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with a message on stderr."""
    arguments = _parsed(argv)
    try:
        return int(arguments.verb(arguments))
    except RunError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def detect(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.telling import detail_lines, json_line, look, print_table

    looks = []
    for seen in look([Path(path) for path in arguments.paths]):
        looks.append(seen)
        if arguments.json:
            _tell([json_line(seen)])
    if not arguments.json and len(looks) == 1:
        _tell(detail_lines(looks[0]), error=looks[0].identity is None)
    elif not arguments.json:
        print_table(looks)
    return 1 if any(seen.error for seen in looks) else 0


def doctor(arguments: argparse.Namespace) -> int:
    from pipeline.doctor import as_json, examine, lines

    examination = examine()
    _tell([as_json(examination)] if arguments.json else lines(examination))
    return 1 if examination.failed else 0


def audit(arguments: argparse.Namespace) -> int:
    from pipeline.backends.kohya.audit import as_json, print_audit
    from pipeline.backends.kohya.audit import audit as audited

    root = arguments.root or os.environ.get("SD_SCRIPTS_ROOT")
    found = audited(Path(root) if root else None, os.environ.get("SD_SCRIPTS_PYTHON"))
    if arguments.json:
        _tell([as_json(found)])
    else:
        print_audit(found)
    return 1 if found.failed else 0


def profiles(arguments: argparse.Namespace) -> int:
    from pipeline.profiles import catalog, telling

    folders = (*map(Path, arguments.config_dir), catalog.CONF)
    made, models = catalog.profiles(folders), catalog.models(folders)
    chosen = [catalog.named("profile", arguments.name, made)] if arguments.name else list(made.values())
    if arguments.model:
        models = {arguments.model: catalog.named("model", arguments.model, models)}
    if arguments.json:
        _tell([telling.as_json(chosen, models, whole=bool(arguments.name or arguments.model))])
    elif arguments.name:
        telling.print_profile(chosen[0], models, arguments.model)
    else:
        telling.print_profiles(made, models)
    return 0


def list_runs(arguments: argparse.Namespace) -> int:
    from pipeline.runs import listing, telling

    wanted = listing.Wanted(arguments.sweep, arguments.state, arguments.best, arguments.limit)
    found = listing.listed(_folders(arguments), wanted)
    if arguments.json:
        _tell([telling.listing_json(found)])
    else:
        telling.print_listing(found)
    return 0


def show(arguments: argparse.Namespace) -> int:
    from pipeline.runs import naming, reading, telling

    run = reading.read_run(naming.run_named(arguments.run, _run_folders()))
    if arguments.json:
        _tell([telling.run_json(run)])
    else:
        telling.print_run(run)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    from pipeline.runs import comparing, telling

    comparison = comparing.compared_names(arguments.runs, _run_folders())
    if arguments.json:
        _tell([telling.comparison_json(comparison)])
    else:
        telling.print_comparison(comparison)
    return 0


def repeat(arguments: argparse.Namespace) -> int:
    from pipeline import repeat as repeating

    return repeating.repeat(
        arguments.run, arguments.overrides, _run_folders(), dry_run=arguments.dry_run, as_json=arguments.json
    )


def repair(arguments: argparse.Namespace) -> int:
    from pipeline.tracking.repair import repair_runs

    told: list[str] = []
    say = told.append if arguments.json else lambda line: _tell([line])
    repaired = repair_runs(_folders(arguments), say=say)
    if arguments.json:
        _tell([json.dumps({"repaired": repaired, "told": told}, indent=1)])
    else:
        _tell([f"{repaired} run{'' if repaired == 1 else 's'} repaired"])
    return 0


def report(arguments: argparse.Namespace) -> int:
    from pipeline.sweep.summary import find_sweep, print_summary, summarize

    print_summary(summarize(find_sweep(arguments.sweep), tracking=arguments.tracking))
    return 0


def show_cache(arguments: argparse.Namespace) -> int:
    from pipeline.features import room, telling

    folder = _cache_dir(arguments)
    rows = room.kept(folder)
    _tell([telling.as_json(folder, rows)] if arguments.json else telling.lines(folder, rows))
    return 0


def prune_cache(arguments: argparse.Namespace) -> int:
    from pipeline.features import room, telling

    folder = _cache_dir(arguments)
    most = telling.limit_gib() if arguments.max_gib is None else arguments.max_gib
    removed = room.make_room(folder, most * 2**30)
    _tell([telling.removed_line(removed, room.taken_bytes(folder))])
    return 0


def verify_cache(arguments: argparse.Namespace) -> int:
    from pipeline.features import room, telling

    folder = _cache_dir(arguments)
    verified = room.verify(folder)
    _tell(telling.verified_lines(verified))
    return 1 if verified.damaged else 0


def _cache_dir(arguments: argparse.Namespace) -> Path:
    from pipeline.settings import default_of

    return arguments.dir or Path(default_of("cache.dir")).expanduser()


def ui(arguments: argparse.Namespace) -> int:
    from pipeline.tracking.store import ui_argv

    argv, variables = ui_argv(Path(arguments.store), arguments.port)
    _tell([f"http://127.0.0.1:{arguments.port}   (Ctrl-C ends it)"])
    os.execvpe(argv[0], argv, {**os.environ, **variables})  # noqa: S606


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand behind flags too, which argparse alone would not take."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and ("overrides" not in arguments or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    detecting = verbs.add_parser("detect", help="say what model files are, by their headers")
    detecting.add_argument("paths", nargs="+", metavar="PATH", help="a file, a model's folder, a folder of them")
    detecting.add_argument("--json", action="store_true", help="print an object a file, each on a line")
    detecting.set_defaults(verb=detect)
    doctoring = verbs.add_parser("doctor", help="examine this machine: what it can train on, and what is missing")
    doctoring.add_argument("--json", action="store_true", help="print what hardware.facts=FILE takes")
    doctoring.set_defaults(verb=doctor)
    auditing = verbs.add_parser("audit", help="say which arguments of sd-scripts can be set from here")
    auditing.add_argument("--root", metavar="DIR", help="its checkout; default: SD_SCRIPTS_ROOT, else what was audited")
    auditing.add_argument("--json", action="store_true", help="print one object")
    auditing.set_defaults(verb=audit)
    choosing = verbs.add_parser("profiles", help="tell the training profiles: what they are for, and their figures")
    choosing.add_argument("name", nargs="?", metavar="NAME", help="one of them, with all that it says")
    choosing.add_argument("--model", metavar="MODEL", help="for this model; default: a row for each")
    choosing.add_argument("--json", action="store_true", help="print one object")
    choosing.add_argument("-cd", "--config-dir", action="append", default=[], metavar="DIR", help="as of run.py")
    choosing.set_defaults(verb=profiles)
    _add_cache(verbs.add_parser("cache", help="what encoders made of pictures and captions, kept for all runs"))
    _add_runs(verbs.add_parser("runs", help="the runs that were made: find, compare, repeat, repair them"))
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--dir", type=Path, metavar="DIR", help="default: cache.dir, as the configuration has it")
    showing = verbs.add_parser("show", parents=[where], help="a line an encoder: how much, and when it was used last")
    showing.add_argument("--json", action="store_true", help="print one object")
    showing.set_defaults(verb=show_cache)
    pruning = verbs.add_parser("prune", parents=[where], help="remove what was not used for longest")
    pruning.add_argument("--max-gib", type=_gib, metavar="GIB", help="leave at most so much; default: cache.max_gib")
    pruning.set_defaults(verb=prune_cache)
    verifying = verbs.add_parser("verify", parents=[where], help="read everything, and remove what is damaged")
    verifying.set_defaults(verb=verify_cache)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.description = NAMES
    runs = parser.add_subparsers(required=True, metavar="VERB")
    listing = runs.add_parser("list", help="a row a run, the newest first")
    listing.add_argument("folders", nargs="*", metavar="FOLDER", help=FOLDERS)
    listing.add_argument("--sweep", metavar="NAME", help="the trials of this sweep only")
    listing.add_argument("--state", choices=STATES, help="only those")
    listing.add_argument("--best", action="store_true", help="by the held-out loss, the lowest first")
    listing.add_argument("--limit", type=_count, default=20, metavar="N", help="at most so many; default: 20")
    listing.add_argument("--json", action="store_true", help="print one object")
    listing.set_defaults(verb=list_runs)
    telling = runs.add_parser("show", help="all of one run: what it was, why so, how it ended", description=NAMES)
    telling.add_argument("run", metavar="RUN")
    telling.add_argument("--json", action="store_true", help="print one object, with every setting and its source")
    telling.set_defaults(verb=show)
    comparing = runs.add_parser(
        "compare", help="the settings that differ, and the figures, side by side", description=NAMES
    )
    comparing.add_argument("runs", nargs="+", metavar="RUN", help="two or more; or one sweep, for its trials")
    comparing.add_argument("--json", action="store_true", help="print one object")
    comparing.set_defaults(verb=compare)
    _add_repeat(runs.add_parser("repeat", help="train a run again, with the settings it had", description=REPEAT))
    repairing = runs.add_parser("repair", help="end the MLflow runs of killed runs, and send what they lack")
    repairing.add_argument("folders", nargs="*", metavar="FOLDER", help=FOLDERS)
    repairing.add_argument("--json", action="store_true", help="print one object")
    repairing.set_defaults(verb=repair)
    reporting = runs.add_parser("report", help="say which trial of a sweep was best, in files, in MLflow and here")
    reporting.add_argument("sweep", metavar="SWEEP", help="its folder, or its name under multirun")
    reporting.add_argument("--no-tracking", dest="tracking", action="store_false", help="leave MLflow alone")
    reporting.set_defaults(verb=report)
    showing = runs.add_parser("ui", help="open the MLflow server on this machine")
    showing.add_argument("--port", type=int, default=5000)
    showing.add_argument("--store", default=str(PROJECT / "mlflow"), help="folder of the SQLite store")
    showing.set_defaults(verb=ui)


def _add_repeat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="what is to be other than then: seed=1")
    parser.add_argument("--dry-run", action="store_true", help="print the command and what differs; start nothing")
    parser.add_argument("--json", action="store_true", help="print that as one object; with --dry-run only")
    parser.set_defaults(verb=repeat)


def _count(text: str) -> int:
    if not text.isdecimal() or text == "0":
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GiB, 0 or more")
    return value


def _folders(arguments: argparse.Namespace) -> list[Path]:
    return [Path(folder) for folder in arguments.folders] or _run_folders()


def _run_folders() -> list[Path]:
    named = [root / name for root in (PROJECT, Path.cwd()) for name in ("outputs", "multirun")]
    return [folder for folder in dict.fromkeys(named) if folder.is_dir()]


def _tell(lines: Sequence[str], *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
