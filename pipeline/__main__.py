"""The verbs that train nothing.   python -m pipeline detect PATH... | doctor | audit | profiles | runs ..."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RunError
from pipeline.settings import PROJECT


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with a message on stderr."""
    arguments = _parser().parse_args(argv)
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


def repair(arguments: argparse.Namespace) -> int:
    from pipeline.tracking.repair import repair_runs

    folders = [Path(folder) for folder in arguments.folders] or _run_folders()
    repaired = repair_runs(folders, say=lambda line: _tell([line]))
    _tell([f"{repaired} run{'' if repaired == 1 else 's'} repaired"])
    return 0


def report(arguments: argparse.Namespace) -> int:
    from pipeline.sweep.summary import find_sweep, print_summary, summarize

    print_summary(summarize(find_sweep(arguments.sweep), tracking=arguments.tracking))
    return 0


def ui(arguments: argparse.Namespace) -> int:
    from pipeline.tracking.store import ui_argv

    argv, variables = ui_argv(Path(arguments.store), arguments.port)
    _tell([f"http://127.0.0.1:{arguments.port}   (Ctrl-C ends it)"])
    os.execvpe(argv[0], argv, {**os.environ, **variables})  # noqa: S606


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
    runs = verbs.add_parser("runs", help="the tracked runs").add_subparsers(required=True, metavar="VERB")
    repairing = runs.add_parser("repair", help="end the MLflow runs of killed runs, and send what they lack")
    repairing.add_argument("folders", nargs="*", help="default: outputs and multirun, here and in the checkout")
    repairing.set_defaults(verb=repair)
    reporting = runs.add_parser("report", help="say which trial of a sweep was best, in files, in MLflow and here")
    reporting.add_argument("sweep", metavar="SWEEP", help="its folder, or its name under multirun")
    reporting.add_argument("--no-tracking", dest="tracking", action="store_false", help="leave MLflow alone")
    reporting.set_defaults(verb=report)
    showing = runs.add_parser("ui", help="open the MLflow server on this machine")
    showing.add_argument("--port", type=int, default=5000)
    showing.add_argument("--store", default=str(PROJECT / "mlflow"), help="folder of the SQLite store")
    showing.set_defaults(verb=ui)
    return parser


def _run_folders() -> list[Path]:
    named = [root / name for root in (PROJECT, Path.cwd()) for name in ("outputs", "multirun")]
    return [folder for folder in dict.fromkeys(named) if folder.is_dir()]


def _tell(lines: Sequence[str], *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
