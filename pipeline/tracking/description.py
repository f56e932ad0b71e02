"""What a run tells MLflow of itself, once, at its start: name, params, tags, dataset and the note on its page.

Kept in tracking.json, so that a run whose runner died before MLflow heard of it can still be made later, with
everything that tells it from its siblings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.records import Job, Outcome, Plan, PredictedMemory
from pipeline.settings import PROJECT
from pipeline.sweep.names import MAX_NAME_LENGTH, short_name
from pipeline.sweep.results import SWEEP_FILE, sweep_name, varied_in
from pipeline.tracking.masking import MASK, Masker, looks_secret
from pipeline.versions import commit_of
from pipeline.wording import memory_words

ENDED_TAG = "ended"
"""How a run ended that has no weights, and why."""
SWEEP_TAG = "sweep"
KIND_TAG = "kind"
"""trial, or sweep for the summary of one; other runs have none."""
NOT_PARAMS = ("profile.purpose", "backend.weights_name")
"""Settings that say another one in other words: MLflow's compare page makes an axis of every param that differs."""
MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
_MAX_DIGEST_LENGTH = 36
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_\-. :/]")


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A dataset as MLflow shows it."""

    name: str
    digest: str
    dir: str
    context: str
    """train or heldout."""
    pictures: int


@dataclass(frozen=True, slots=True)
class Description:
    """Everything that is known of a run when it starts; secrets are masked already."""

    name: str
    began: float
    """Seconds since the epoch."""
    params: dict[str, str]
    tags: dict[str, str]
    note: str
    """Markdown; the outcome is put under it at the end."""
    datasets: list[DatasetInput]
    plan: dict[str, object]
    """What the plan decided and how the trainer is called, for the artifact plan.json."""


def describe(plan: Plan, job: Job, *, command: str, began: float, mask: Masker) -> Description:
    """The description of a run that is about to start."""
    return Description(
        name=mask(_name(plan, job.run_dir)),
        began=began,
        params=_params(plan, mask),
        tags={key_of(key): mask(value)[:MAX_TAG_LENGTH] for key, value in _tags(plan, job).items()},
        note=mask(_note(plan, command)),
        datasets=_datasets(plan),
        plan=_decided(plan, job, mask),
    )


def description_from(fields: Mapping[str, Any]) -> Description:
    """From what `asdict` made of one. Raises TypeError or KeyError when it is something else."""
    return Description(**{**fields, "datasets": [DatasetInput(**item) for item in fields["datasets"]]})


def key_of(name: str) -> str:
    """The name with the characters that MLflow allows in keys."""
    return _NOT_IN_KEYS.sub("_", name)[:MAX_KEY_LENGTH]


def predicted_memory(description: Description) -> PredictedMemory | None:
    """What the plan predicted; None for runs of before it was kept."""
    told = description.plan.get("memory")
    return PredictedMemory(**told) if isinstance(told, dict) else None


def note_with_outcome(description: Description, outcome: Outcome, why: str = "") -> str:
    """The note of a run that has ended; `why` it has no weights."""
    cause = f" ({outcome.cause})" if outcome.cause else ""
    lines = [f"**{outcome.status}**{cause}" + (f": {' '.join(why.split())}" if why else "")]
    lines.append(f"{outcome.steps} steps in {outcome.seconds:.0f} s")
    lines += _change("held-out loss", outcome.heldout_before, outcome.heldout_after)
    lines += _change("training loss", outcome.loss_first, outcome.loss_last)
    memory = memory_words(outcome.peak_memory_bytes, predicted_memory(description))
    if memory is not None:
        lines.append(f"peak memory {memory}")
    return description.note + "\n### Outcome\n" + "".join(f"- {line}\n" for line in lines)


def _change(what: str, before: float | None, after: float | None) -> list[str]:
    if before is None and after is None:
        return []
    return [f"{what} {'?' if before is None else f'{before:.4f}'} → {'?' if after is None else f'{after:.4f}'}"]


def _name(plan: Plan, run_dir: Path) -> str:
    """A trial is told from its siblings by what varied, another run by what it is."""
    varied = {key: value for key, value in varied_in(run_dir).items() if not looks_secret(key)}
    return short_name(varied, run_dir.name) if varied else _short_name(plan)


def _short_name(plan: Plan) -> str:
    settings = plan.settings
    name = f"{settings.profile.name} {settings.model.name}"
    if settings.mode.name == "lora":
        return name
    with_mode = f"{name} {settings.mode.name}"
    return with_mode if len(with_mode) <= MAX_NAME_LENGTH else f"{name} ft"


def _params(plan: Plan, mask: Masker) -> dict[str, str]:
    decided: dict[str, object] = {
        "plan.steps": plan.steps,
        "plan.warmup_steps": plan.warmup_steps,
        "plan.precision": plan.precision,
        "plan.num_processes": plan.num_processes,
    }
    asked = {name: value for name, value in plan.settings.flat().items() if name not in NOT_PARAMS}
    values = {name: MASK if looks_secret(name) else mask(_text(value)) for name, value in {**asked, **decided}.items()}
    return {key_of(name): value[:MAX_PARAM_LENGTH] for name, value in values.items()}


def _text(value: object) -> str:
    """As it would be typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _tags(plan: Plan, job: Job) -> dict[str, str]:
    settings = plan.settings
    tags = {
        "profile": settings.profile.name,
        "model": settings.model.name,
        "model.family": plan.checkpoint.family,
        "model.digest": plan.checkpoint.digest,
        "hardware": plan.machine.platform,
        "device": ", ".join(plan.machine.device_names),
        "mode": settings.mode.name,
        "network": settings.network.algo.value if settings.network else "none",
        "optimizer": settings.optimizer.name,
        "backend": settings.backend.name,
        "dataset": plan.dataset.name,
        "dataset.digest": plan.dataset.digest,
        "fingerprint": plan.fingerprint,
        "run_dir": str(job.run_dir.absolute()),
        "mlflow.source.name": "run.py",
        "mlflow.source.type": "LOCAL",
    }
    tags |= {f"choice.{choice.key}": f"{_text(choice.value)}: {choice.reason}" for choice in plan.choices}
    if plan.rate is not None:  # no param, since it follows from others
        tags["plan.lr_times_scale"] = f"{plan.rate.value:.6g}"
    return tags | _resume_tag(job) | _sweep_tags(job.run_dir) | _git_tags(PROJECT)


def _resume_tag(job: Job) -> dict[str, str]:
    return {"resumed_from_step": str(job.resume_step)} if job.resume_step else {}


def _sweep_tags(run_dir: Path) -> dict[str, str]:
    """Hydra writes multirun.yaml beside the run directories of a sweep: `<date>/<time>_<name>/<number>`."""
    sweep_dir = run_dir.absolute().parent
    if not (sweep_dir / SWEEP_FILE).exists():
        return {}
    return {SWEEP_TAG: sweep_name(sweep_dir), KIND_TAG: "trial"}


def _git_tags(checkout: Path) -> dict[str, str]:
    commit, dirty = commit_of(checkout)
    if commit is None:
        return {}
    return {"git.commit": commit, "git.dirty": str(dirty).lower(), "mlflow.source.git.commit": commit}


def _note(plan: Plan, command: str) -> str:
    settings, dataset = plan.settings, plan.dataset
    lines = [
        f"`{command}`",
        "",
        f"- profile **{settings.profile.name}**: {settings.profile.purpose}",
        f"- base model **{settings.model.name}** ({plan.checkpoint.family}): `{plan.checkpoint.path}`",
        f"- dataset **{dataset.name}**: {len(dataset.train)} pictures to train on, {len(dataset.heldout)} held out",
        f"- {plan.steps} steps, {plan.precision}, on {plan.machine.platform}",
    ]
    lines += [f"- ⚠ {warning}" for warning in plan.warnings]
    return "### Run it again\n" + "\n".join(lines) + "\n"


def _datasets(plan: Plan) -> list[DatasetInput]:
    """Two names: MLflow takes two datasets of one name and digest for one, and drops the second context."""
    dataset, digest = plan.dataset, plan.dataset.digest[:_MAX_DIGEST_LENGTH]
    folder = str(dataset.dir)
    found = [DatasetInput(dataset.name, digest, folder, "train", len(dataset.train))]
    if dataset.heldout:
        heldout_dir = plan.settings.data.heldout_dir or folder
        found.append(DatasetInput(f"{dataset.name} heldout", digest, heldout_dir, "heldout", len(dataset.heldout)))
    return found


def _decided(plan: Plan, job: Job, mask: Masker) -> dict[str, object]:
    return {
        "steps": plan.steps,
        "warmup_steps": plan.warmup_steps,
        "precision": plan.precision,
        "num_processes": plan.num_processes,
        "fingerprint": plan.fingerprint,
        "sample_prompts": list(plan.sample_prompts),
        "choices": [{"key": c.key, "value": _plain(c.value), "reason": mask(c.reason)} for c in plan.choices],
        "warnings": [mask(warning) for warning in plan.warnings],
        "memory": None if plan.memory is None else asdict(plan.memory),
        "argv": [mask(word) for word in job.argv],
        "env": masked_env(job.env, mask),
    }


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def masked_env(env: Mapping[str, str], mask: Masker) -> dict[str, str]:
    """The variables without those whose names say that they hold a secret."""
    return {name: mask(value) for name, value in env.items() if not looks_secret(name)}
