"""Examines a machine: everything that a training will need, and what to type where something is missing.

Each probe has its own time limit, so that one that hangs (a broken driver, a network disk) does not stop the others.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.machine import findings
from pipeline.machine.cards import Found
from pipeline.machine.facts import MachineFacts, facts_here, facts_record, machine_from
from pipeline.machine.findings import GIB, Finding
from pipeline.machine.precision import choose_precision
from pipeline.machine.probe import NoAnswerError, look, question
from pipeline.machine.telling import KERNELS
from pipeline.records import Answer, Machine
from pipeline.settings import PlatformName, Precision

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "lycoris-lora", "bitsandbytes", "safetensors", "mlflow")
PROBE_SECONDS = 60.0
LEAST_DISK_BYTES = 10 * GIB
TRIAL_SECONDS = 30.0
"""For one optimizer: thirteen of them are tried."""
ATTENTION = (sys.executable, "-P", str(Path(findings.__file__).with_name("ask_attention.py")))
BITSANDBYTES = (sys.executable, "-P", str(Path(findings.__file__).with_name("ask_bitsandbytes.py")))
LIBRARIES = {"cuda": "_cuda", "rocm": "_rocm", "xpu": "_xpu", "cpu": "_cpu"}
"""What stands in the name of bitsandbytes' library for a platform."""
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
WIDEST = 120
"""Longer lines are harder to read."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What the probes look at: the machine's facts, and the machine that follows from them."""

    facts: MachineFacts
    machine: Machine
    seconds: float
    attention: Sequence[str] = ATTENTION
    """The command that tries the kernels."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    others: dict[str, Answer] = field(default_factory=dict)
    """What the probes learn of the interpreters of other backends."""


Probe = Callable[[Patient], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found."""

    facts: MachineFacts
    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        return any(finding.level == "failure" for finding in self.findings)


def examine(
    seconds: float = PROBE_SECONDS, *, probes: Mapping[str, Probe] | None = None, facts: MachineFacts | None = None
) -> Examination:
    """Of this machine. Never raises for what is wrong with it."""
    facts = facts or _facts(seconds)
    patient = Patient(facts, machine_from(facts, PlatformName.auto)[0], seconds)
    found = [finding for name, probe in (probes or PROBES).items() for finding in _within(name, probe, patient)]
    return Examination(replace(facts, others=dict(patient.others)), patient.machine, tuple(found))


def _facts(seconds: float) -> MachineFacts:
    """A driver can hang whoever touches its devices."""
    looked: list[MachineFacts] = []
    if _ends(lambda: looked.append(look(PlatformName.auto, seconds=seconds)), 2 * seconds):
        return looked[0]
    return facts_here(Found(), None, no_answer=f"looking for cards did not end within {2 * seconds:g} s")


def _within(name: str, probe: Probe, patient: Patient) -> list[Finding]:
    """What a probe finds in its time."""
    found: list[Finding] = []
    if not _ends(lambda: _gather(name, probe, patient, found), 2 * patient.seconds):
        return [*found, Finding("failure", name, f"looking at it did not end within {2 * patient.seconds:g} s")]
    return found


def _gather(name: str, probe: Probe, patient: Patient, found: list[Finding]) -> None:
    """Whatever goes wrong inside of a thread would be lost, and the next probe must run."""
    try:
        for finding in probe(patient):
            found.append(finding)
    except Exception as error:  # noqa: BLE001
        found.append(Finding("failure", name, f"can't be looked at: {type(error).__name__}: {error}"))


def _ends(work: Callable[[], object], seconds: float) -> bool:
    """Whether it came to an end. One that hangs is left behind, and does not keep the program from ending."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


# -------------------------------------------------------------------------------------------------------------- probes


def _machine(patient: Patient) -> Iterator[Finding]:
    facts = patient.facts
    text = f"{facts.cpu_name}, {facts.cpu_cores} cores, {facts.memory_bytes / GIB:.1f} GiB of memory free"
    yield Finding("ok", "machine", text)
    yield from findings.limits(environment=patient.environment)
    yield from findings.shared_memory()


def _cards(patient: Patient) -> Iterator[Finding]:
    yield from findings.cards(patient.facts.found)
    yield from findings.driver(patient.facts.found, environment=patient.environment)


def _torch(patient: Patient) -> Iterator[Finding]:
    machine, problems = machine_from(patient.facts, PlatformName.auto)
    answer = patient.facts.answer
    if answer is not None:
        built = ", ".join(f"{name} {version}" for name, version in answer.builds.items()) or "the CPU"
        drives = ", ".join(machine.device_names) if machine.platform != "cpu" else "the CPU only"
        text = f"{answer.torch}, built for {built}; platform {machine.platform}: it drives {drives}"
        yield Finding("ok", "torch", text)
    yield from (Finding("failure", "torch", problem.reason, problem.fix) for problem in problems)
    yield from (Finding("warning", "card", text) for text in machine.warnings)


def _precision(patient: Patient) -> Iterator[Finding]:
    if patient.facts.answer is not None:
        chosen, choice = choose_precision(Precision.auto, patient.machine)
        yield Finding("ok", "precision", f"{chosen}: {choice.reason}" if choice else chosen)
    for variable in patient.machine.variables:
        yield Finding("ok", "variable", f"{variable.name}={variable.value}: {variable.reason}")


def _attention(patient: Patient) -> Iterator[Finding]:
    """Tried, in a process with the variables that a training would have."""
    if patient.facts.answer is None:
        return
    dtype = DTYPES[choose_precision(Precision.auto, patient.machine)[0]]
    variables = {variable.name: variable.value for variable in patient.machine.variables}
    command = [*patient.attention, patient.machine.torch_device, dtype]
    again = f"python -m pipeline.machine.ask_attention {patient.machine.torch_device} {dtype}"
    try:
        said = _last_json(question(command, patient.seconds, environment=variables))
        kernels, right = [KERNELS[name] for name in said["kernels"]], bool(said["right"])
    except (NoAnswerError, ValueError, KeyError, TypeError) as error:
        yield Finding("failure", "attention", f"could not be tried in {dtype}: {error}", again)
        return
    yield Finding("ok" if kernels else "failure", "attention", f"runs in {dtype}: {', '.join(kernels) or 'no kernel'}")
    if not right:
        reason = f"a product in {dtype} differs from the CPU's: its kernels are wrong for this card"
        yield Finding("failure", "numbers", reason, again)


def _bitsandbytes(patient: Patient) -> Iterator[Finding]:
    """Which of its libraries it loads: without one for the card, its optimizers run on the CPU or not at all."""
    version = _version("bitsandbytes")
    if version is None or patient.facts.answer is None:
        return
    try:
        library = str(_last_json(question(BITSANDBYTES, patient.seconds))["library"])
    except (NoAnswerError, ValueError, KeyError, TypeError) as error:
        yield Finding("warning", "bitsandbytes", f"{version} can't be loaded: {error}", "pip install -U bitsandbytes")
        return
    kind = LIBRARIES[patient.machine.platform]
    if kind in library:
        yield Finding("ok", "bitsandbytes", f"{version} loads {library}")
    else:
        reason = f"{version} loads {library or 'no library'}, which is not one for {patient.machine.platform}"
        yield Finding("warning", "bitsandbytes", reason, "python -m bitsandbytes; or optimizer=adamw")


def _optimizers(patient: Patient) -> Iterator[Finding]:
    from pipeline.optimizer.choose import trial_on
    from pipeline.optimizer.findings import examine_optimizers
    from pipeline.optimizer.trial import Bench

    if patient.facts.answer is not None:
        yield from examine_optimizers(trial_on(Bench(patient.machine, None, min(patient.seconds, TRIAL_SECONDS))))


def _tracking(patient: Patient) -> Iterator[Finding]:
    from pipeline.tracking.findings import examine_store

    yield from examine_store(patient.environment.get("MLFLOW_TRACKING_URI"))


def _last_json(output: bytes) -> Any:
    return json.loads(output.decode(errors="replace").strip().rpartition("\n")[2])


def _disk(_: Patient) -> Iterator[Finding]:
    here = Path.cwd()
    wrong, free = findings.why_not_writable(here), findings.free_bytes(here)
    fix = "hydra.run.dir=FOLDER, on a larger disk that you may write to"
    if wrong:
        yield Finding("failure", "disk", f"{here} {wrong}", fix)
    elif free < LEAST_DISK_BYTES:
        yield Finding("warning", "disk", f"{free / GIB:.1f} GiB free in {here}: few checkpoints fit", fix)
    else:
        yield Finding("ok", "disk", f"{free / GIB:.1f} GiB free in {here}")


def _caches(patient: Patient) -> Iterator[Finding]:
    home = Path(patient.environment.get("HOME", "/"))
    yield from findings.caches(patient.facts.found, patient.environment, home)


def _packages(_: Patient) -> Iterator[Finding]:
    versions = {name: _version(name) for name in PACKAGES}
    here = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("ok", "packages", f"Python {sys.version.split()[0]}, {here}")
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding("warning", "packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")


def _sd_scripts(patient: Patient) -> Iterator[Finding]:
    """Only where one is named."""
    from pipeline.backends.kohya.checkout import interpreter_in, look_at_checkout, pin_differences

    named = patient.environment.get("SD_SCRIPTS_ROOT")
    if not named:
        return
    root = Path(named)
    python = patient.environment.get("SD_SCRIPTS_PYTHON") or interpreter_in(root)
    if python is None:
        fix = "export SD_SCRIPTS_PYTHON=FILE, the interpreter that it is installed for"
        yield Finding("failure", "sd-scripts", f"{root} has no interpreter inside, and none is named", fix)
        return
    checkout, problems = look_at_checkout(root, Path(python), seconds=patient.seconds)
    if checkout is not None:
        version = f"{checkout.version or '(version unknown)'} {checkout.commit[:8]}".strip()
        text = f"{version} in {checkout.root}, Python {checkout.python_version}, torch {checkout.torch_version}"
        yield Finding("ok", "sd-scripts", text)
        yield from _torch_of(patient, checkout.answer, str(checkout.python))
        yield from (Finding("warning", "sd-scripts", text) for text in pin_differences(checkout))
    yield from (Finding("failure", "sd-scripts", f"{each.value}: {each.reason}", each.fix) for each in problems)


def _torch_of(patient: Patient, answer: Answer | None, python: str) -> Iterator[Finding]:
    if answer is not None and answer.torch:
        patient.others["kohya"] = answer
        _, problems = machine_from(replace(patient.facts, answer=answer), PlatformName.auto, python=python)
        yield from (Finding("failure", "sd-scripts", problem.reason, problem.fix) for problem in problems)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


PROBES: Mapping[str, Probe] = {
    "machine": _machine,
    "card": _cards,
    "torch": _torch,
    "precision": _precision,
    "attention": _attention,
    "bitsandbytes": _bitsandbytes,
    "optimizer": _optimizers,
    "disk": _disk,
    "cache": _caches,
    "packages": _packages,
    "sd-scripts": _sd_scripts,
    "tracking": _tracking,
}


# -------------------------------------------------------------------------------------------------------------- telling


def as_json(examination: Examination) -> str:
    """What `hardware.facts` reads is under `facts`."""
    told = {
        "facts": facts_record(examination.facts),
        "machine": asdict(examination.machine),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "findings": [asdict(finding) for finding in examination.findings],
    }
    return json.dumps(told, indent=1)


def lines(examination: Examination, width: int | None = None) -> list[str]:
    """For a terminal: what is found, and under it each way to mend it."""
    width = min(width or shutil.get_terminal_size().columns, WIDEST)
    told = [line for finding in examination.findings for line in _finding_lines(finding, width)]
    return [*told, "", _summary(examination)]


def _finding_lines(finding: Finding, width: int) -> list[str]:
    """What to type is never broken into lines, so that it can be pasted."""
    label = f"{finding.level:<9}{finding.subject:<14}"
    rows = textwrap.wrap(
        label + finding.text, width, subsequent_indent=" " * 23, break_long_words=False, break_on_hyphens=False
    )
    return rows + [f"  > {way}" for way in finding.fix.split("; or ") if way]


def _summary(examination: Examination) -> str:
    counts = {level: sum(each.level == level for each in examination.findings) for level in ("failure", "warning")}
    told = [f"{number} {level}{'s' if number > 1 else ''}" for level, number in counts.items() if number]
    return ", ".join(told) or "nothing is wrong"
