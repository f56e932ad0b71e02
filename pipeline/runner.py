"""The stages in order: detect, validate, render, then execute inside of log.

A stage's module is loaded when its turn comes, so that nothing heavy is imported before the settings are proven
runnable. The journal begins when they are: a run that can't start leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline import explanation, wording
from pipeline.display import Counted, Display, open_display
from pipeline.errors import Cause, InvalidSettings, RunError
from pipeline.files import write_text
from pipeline.journal import Journal, read_journal
from pipeline.outcome import has_outcome, recorded, status_of, write_outcome
from pipeline.records import Ending, Event, Facts, Job, Kind, Origin, Outcome, Plan
from pipeline.resume import Claim, claimed, done_before, locked
from pipeline.settings import Resume, Settings, Until, plain
from pipeline.versions import made_with

PLAN_NAME = "plan.json"
SKIPPED_NAME = "skipped.jsonl"
"""Pictures that were left out, one a line."""

T = TypeVar("T")


class Notes:
    """What the runner tells: on the display at once, and in the journal as soon as there is one."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._journal: Journal | None = None
        self._waiting: list[tuple[Kind, dict[str, Any]]] = []

    def tell(self, kind: Kind, **data: Any) -> None:
        self.display.show(Event(kind, time.time(), data))
        if self._journal is None:
            self._waiting.append((kind, data))
        else:
            self._journal.write(kind, **data)

    def say(self, text: str) -> None:
        """On the display only."""
        self.display.say([text])

    def keep_in(self, journal: Journal) -> None:
        self._journal = journal
        for kind, data in self._waiting:
            journal.write(kind, **data)
        self._waiting = []

    def stage(self, name: str, work: Callable[[], T], summary: Callable[[T], str]) -> T:
        began = time.monotonic()
        result = work()
        seconds = round(time.monotonic() - began, 3)
        succeeded = not (isinstance(result, Ending) and result.error)
        self.tell("stage", name=name, seconds=seconds, summary=summary(result), succeeded=succeeded)
        return result


def run(
    settings: Settings, run_dir: Path, *, command: str, origins: Sequence[Origin] = (), once: bool = False
) -> Ending | None:
    """Runs the stages up to `settings.until`; None unless that is the last. `origins` tell where the settings come
    from. `once`: the same run that ended in this directory is not trained again. Raises RunError for what keeps a run
    from starting; how a training ended is in the Ending, its error too."""
    began = time.time()
    until = _until(settings, origins)
    with open_display() as display:
        notes = Notes(display)
        facts = _detect(settings, run_dir, notes)
        if until is Until.detect:
            display.say(wording.facts_lines(facts))
            return None
        validated = partial(_validate, facts=facts, notes=notes, origins=origins)
        plan = _explained(settings, origins, validated, notes) if settings.explain else validated(settings)
        if until is Until.validate:
            display.say([*wording.plan_lines(plan), *_preflight(plan)])
            if settings.preflight.measure:
                from pipeline.measure import measured_lines

                display.say(measured_lines(plan, run_dir, display.show))
            return None
        if until is Until.render:
            with locked(run_dir, say=notes.say):
                display.say(wording.job_lines(_render(plan, run_dir, notes)))
            return None
        done = done_before(run_dir, plan.fingerprint) if once else None
        if done is not None:
            notes.say(f"{wording.short_path(run_dir)} is there already: {done.status}")
            _complete(run_dir, done, notes)
            return Ending(done, None)
        with claimed(plan.fingerprint, run_dir, _resume(settings), say=notes.say) as claim:
            plan = _as_it_began(plan, claim, settings, validated, notes)
            return _train(plan, claim, notes, command=command, began=began)


def _preflight(plan: Plan) -> list[str]:
    from pipeline.preflight import dataset_page_file, preflight_lines

    try:
        page = wording.short_path(dataset_page_file(plan))
    except OSError as error:
        page = f"not written: cache.dir={plan.settings.cache.dir}: {error.strerror}"
    return [*preflight_lines(plan), f"  {'dataset page':<14}{page}"]


def _complete(run_dir: Path, done: Outcome, notes: Notes) -> None:
    """What a process left open that was killed after its training: the journal, the outcome, the run in MLflow."""
    from pipeline.tracking.repair import repair_runs

    with locked(run_dir, say=notes.say):
        if status_of(read_journal(run_dir)) is None:
            journal = Journal(run_dir)
            journal.write("end", **asdict(done))
            journal.close()
        if not has_outcome(run_dir):
            write_outcome(run_dir, done)
    repair_runs([run_dir], say=notes.say, store_dirs=())


def _until(settings: Settings, origins: Sequence[Origin]) -> Until:
    """`explain=true` is a question: it costs no training, unless a stage was typed too."""
    asked_only = settings.explain and "until" not in explanation.typed_keys(origins)
    return Until.validate if asked_only else settings.until


def _explained(
    settings: Settings, origins: Sequence[Origin], validated: Callable[[Settings], Plan], notes: Notes
) -> Plan:
    """The plan, and its table. Of settings that can't run where they come from, which may show what is wrong."""
    try:
        plan = validated(settings)
    except InvalidSettings:
        notes.display.say(explanation.table(explanation.explained(origins, settings, ()), _width()))
        raise
    notes.display.say([*explanation.table(plan.origins, _width()), ""])
    return plan


def _width() -> int:
    return shutil.get_terminal_size((explanation.WIDTH, 24)).columns


def _resume(settings: Settings) -> Resume:
    """Only the first of several machines has checkpoints; a folder of runs that they share must not be fought for."""
    return settings.resume if settings.hardware.machine_rank == 0 else Resume.never


def _detect(settings: Settings, run_dir: Path, notes: Notes) -> Facts:
    from pipeline.detect import detect

    looking = partial(detect, settings, run_dir, progress=Counted(notes.display, "looking at pictures"))
    return notes.stage("detect", looking, wording.facts_summary)


def _validate(
    settings: Settings, facts: Facts, notes: Notes, *, origins: Sequence[Origin], told: Plan | None = None
) -> Plan:
    """What was `told` of an earlier plan is not told again."""
    from pipeline.optimizer.choose import trial_on
    from pipeline.validate import validate

    typed = explanation.typed_keys(origins)
    plan = notes.stage("validate", lambda: validate(settings, facts, trial_on, typed=typed), wording.plan_summary)
    plan = replace(plan, origins=explanation.explained(origins, plan.settings, plan.choices))
    for choice in plan.choices:
        if told is None or choice not in told.choices:
            notes.tell("choice", key=choice.key, value=_simple(choice.value), reason=choice.reason)
    for text in plan.warnings:
        if told is None or text not in told.warnings:
            notes.tell("warning", text=text)
    return plan


def _as_it_began(plan: Plan, claim: Claim, settings: Settings, validated: Callable[..., Plan], notes: Notes) -> Plan:
    """A run that goes on keeps the memory profile that it began with, however much memory is free now: another one
    has other batches, and maybe another optimizer, than its checkpoint."""
    from pipeline.memory.profiles import AUTO, as_it_began

    if claim.step is None or settings.memory.name != AUTO:
        return plan
    path = claim.run_dir / PLAN_NAME
    try:
        before = as_it_began(settings, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} does not tell which memory profile the run began with: {error!r}\n"
            "    try: memory=standard, or the one that it was; or resume=never"
        ) from error
    if (before.memory, before.train) == (plan.settings.memory, plan.settings.train):
        return plan
    notes.say(f"going on with memory={before.memory.name}, which this run began with")
    return replace(validated(before, told=plan), fingerprint=plan.fingerprint)


def _render(plan: Plan, run_dir: Path, notes: Notes) -> Job:
    from pipeline.preflight import write_page
    from pipeline.render import render

    settings = yaml.safe_dump(plain(plan.settings), sort_keys=False, allow_unicode=True)
    write_text(run_dir / "config.yaml", settings)
    write_text(run_dir / PLAN_NAME, json.dumps(_simple(_plan_record(plan)), indent=1, ensure_ascii=False) + "\n")
    write_text(run_dir / explanation.FILE_NAME, explanation.as_json(plan.origins))
    _write_skipped(run_dir / SKIPPED_NAME, plan.dataset.skipped)
    if trouble := write_page(plan, run_dir):
        notes.tell("warning", text=trouble)
    return notes.stage("render", lambda: render(plan, run_dir), wording.job_summary)


def _write_skipped(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    if skipped:
        rows = ({"path": picture, "reason": reason} for picture, reason in skipped)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        path.unlink(missing_ok=True)


def _train(plan: Plan, claim: Claim, notes: Notes, *, command: str, began: float) -> Ending:
    journal = Journal(claim.run_dir)
    try:
        journal.write("run", name=claim.run_dir.name, command=command, fingerprint=plan.fingerprint, **_this_process())
        notes.keep_in(journal)
        return _execute_logged(plan, claim, notes, command=command, began=began)
    finally:
        if not has_outcome(claim.run_dir):  # an error, or a signal, on the way to the trainer or out of it
            write_outcome(claim.run_dir, _cut_short(claim.run_dir, sys.exc_info()[1]))
        journal.close()


def _execute_logged(plan: Plan, claim: Claim, notes: Notes, *, command: str, began: float) -> Ending:
    from pipeline.execute import execute
    from pipeline.log import log

    job = _render(plan, claim.run_dir, notes)
    if job.resume_step:
        notes.say(f"going on with {wording.short_path(claim.run_dir)} from step {job.resume_step}")
    elif claim.step is not None:
        notes.say(f"beginning {wording.short_path(claim.run_dir)} anew: none of its checkpoints can be gone on from")
    with log(plan, job, command=command, began=began) as record:
        ending = notes.stage(
            "execute",
            lambda: execute(job, show=notes.display.show, lock=claim.lock),
            lambda ending: _execute_summary(ending.outcome),
        )
        notes.tell("end", **asdict(ending.outcome))
        try:
            notes.stage(
                "log", lambda: record.close_with(ending.outcome), lambda _: record.page or "the run directory only"
            )
        finally:  # also when the user does not wait for MLflow: the training ended as it ended
            outcome = replace(ending.outcome, mlflow_run_id=record.mlflow_run_id)
            write_outcome(claim.run_dir, outcome)
    for text in record.warnings:
        notes.tell("warning", text=text)
    if ending.error is None:
        lines = wording.outcome_lines(
            outcome, claim.run_dir, page=record.page, ui_command=record.ui_command, predicted=plan.memory
        )
        notes.display.say(["", *lines])
    return replace(ending, outcome=outcome)


def _execute_summary(outcome: Outcome) -> str:
    return f"{outcome.status} after {outcome.steps} steps"


def _cut_short(run_dir: Path, error: BaseException | None) -> Outcome:
    """Also for what nobody thought of: a run that began always says how it ended."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return recorded(run_dir, "killed", Cause.STOPPED_BY_USER)
    return recorded(run_dir, "failed", Cause.UNKNOWN)


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _plan_record(plan: Plan) -> dict[str, Any]:
    made = asdict(made_with(plan.settings.optimizer.known.package))
    return asdict(replace(plan, origins=())) | {"settings": plain(plan.settings), "made_with": made}


def _simple(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _simple(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_simple(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
