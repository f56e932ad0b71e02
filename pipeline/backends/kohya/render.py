"""Plan -> the files that sd-scripts reads, the command that runs it, and the watcher that follows it. Loads no torch:
it renders on machines that have neither a card nor a checkout."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from pipeline.backends.kohya.arguments import Parser
from pipeline.backends.kohya.cache_keeping import cache_part
from pipeline.backends.kohya.dataset_file import PICTURES, dataset_table, link_all, link_pictures, metadata_texts
from pipeline.backends.kohya.epochs import epochs_between_measures, measures_heldout, updates_per_epoch
from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.launch import accelerate_config, environment, launch_argv
from pipeline.backends.kohya.manifest import parser_for
from pipeline.backends.kohya.network import PRESET, lycoris_preset
from pipeline.backends.kohya.prompts import prompts_text
from pipeline.backends.kohya.resuming import Resumed, goes_on_from
from pipeline.backends.kohya.tokenizers import tokenizer_links
from pipeline.backends.kohya.train_file import Places, chosen_caches, train_values, value_problems
from pipeline.backends.kohya.translation import script_for
from pipeline.backends.kohya.written import state_is_whole
from pipeline.errors import InvalidSettings
from pipeline.files import write_text
from pipeline.records import Job, Plan
from pipeline.resume import checkpoints
from pipeline.settings import PROJECT, decided

WITHOUT_CHECKOUT = "sd-scripts"
"""Stands for the checkout's folder in a command that was rendered without one."""


def render(plan: Plan, run_dir: Path) -> Job:
    """Writes `job/train.toml`, `dataset.toml`, `pictures.jsonl` (and one for each further resolution), `prompts.json`,
    `accelerate.yaml`, `command.json`, all that sd-scripts is told, and `watch.toml`, what its watcher is told. Raises
    InvalidSettings for a line that the script would not take."""
    script = script_for(plan.settings)
    assert script is not None, "validate asks for it"
    parser = parser_for(_root(plan), script)
    folder = run_dir / "job"
    resumed = _resumed(plan, parser, run_dir)
    output = run_dir / "weights" if resumed is None else run_dir / "weights" / f"from-{resumed.step:08d}"
    heldout = folder / "heldout" if plan.dataset.heldout and measures_heldout(parser) else None
    places = Places(
        dataset=folder / "dataset.toml",
        output=output,
        logging=run_dir / "logs",
        prompts=folder / "prompts.json" if plan.sample_prompts else None,
        tokenizers=tokenizer_links(plan, script, folder / "tokenizers"),
    )
    every = None if heldout is None else epochs_between_measures(plan, resumed)
    values = train_values(plan, parser, places, resumed, every)
    problems = tuple(value_problems(values, parser))
    if problems:
        raise InvalidSettings(problems)
    if heldout is not None:
        link_pictures(heldout, plan.dataset.heldout)
    link_all(plan, folder)
    command = _command(plan, folder, script)
    texts = {
        "train.toml": _toml(values),
        "dataset.toml": _toml(dataset_table(plan, folder, heldout)),
        **metadata_texts(plan, folder),
        **({"prompts.json": prompts_text(plan)} if places.prompts else {}),
        **({PRESET: _toml(preset)} if (preset := lycoris_preset(plan.settings)) else {}),
        "accelerate.yaml": accelerate_config(plan),
        "command.json": json.dumps(command, indent=2) + "\n",
        "watch.toml": tomli_w.dumps(_watch(plan, parser, run_dir, places, values, command, resumed).to_toml()),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return Job(
        run_dir=run_dir,
        argv=(sys.executable, "-m", "pipeline.backends.kohya", str(folder / "watch.toml")),
        cwd=PROJECT,
        env={},
        files=tuple(folder / name for name in texts),
        resume_step=0 if resumed is None else resumed.step,
        command=_to_paste(command),
        saves_weights=plan.settings.hardware.machine_rank == 0,
    )


def _root(plan: Plan) -> Path | None:
    named = plan.settings.backend.root
    return None if named is None else Path(named).expanduser().absolute()


def _toml(table: dict[str, Any]) -> str:
    """Read back before it is believed: sd-scripts takes whatever it finds."""
    text = tomli_w.dumps(table)
    assert tomllib.loads(text) == table, "what is read back is what was meant"
    return text


# ------------------------------------------------------------------------------------------------------------ command


def _command(plan: Plan, folder: Path, script: str) -> dict[str, Any]:
    """What will be run, and nothing else."""
    python = str(plan.checkout.python) if plan.checkout else plan.settings.backend.python or "python"
    argv = launch_argv(plan, python, folder / "accelerate.yaml", script, folder / "train.toml")
    return {"argv": argv, "cwd": str(_root(plan) or WITHOUT_CHECKOUT), "env": environment(plan)}


def _to_paste(command: dict[str, Any]) -> str:
    words = [f"{name}={shlex.quote(value)}" for name, value in command["env"].items()]
    return " ".join([f"cd {shlex.quote(command['cwd'])} &&", *words, shlex.join(command["argv"])])


# ----------------------------------------------------------------------------------------------------------- going on


def _resumed(plan: Plan, parser: Parser, run_dir: Path) -> Resumed | None:
    """From the newest whole state that leaves something to train."""
    for step, state in checkpoints(run_dir):
        if step < plan.steps and state_is_whole(state):
            return goes_on_from(
                state,
                step,
                steps=plan.steps,
                updates_per_epoch=updates_per_epoch(plan),
                accumulation_steps=decided(plan.settings.train.accumulation_steps),
                skips="skip_until_initial_step" in parser.arguments,
                num_processes=plan.num_processes,
            )
    return None


# ------------------------------------------------------------------------------------------------------------ watcher


def _watch(
    plan: Plan,
    parser: Parser,
    run_dir: Path,
    places: Places,
    values: dict[str, Any],
    command: dict[str, Any],
    resumed: Resumed | None,
) -> KohyaJob:
    settings = plan.settings
    latents, text = chosen_caches(settings, parser)
    caches = cache_part(settings, plan.checkpoint, parser.script, plan.precision, latents=latents, text=text)
    return KohyaJob(
        run_dir=str(run_dir),
        **command,
        num_processes=settings.hardware.num_processes,
        num_machines=settings.hardware.num_machines,
        machine_rank=settings.hardware.machine_rank,
        steps=plan.steps,
        first_step=0 if resumed is None else resumed.step,
        counted_from=0 if resumed is None else resumed.counted_from,
        output_dir=str(places.output),
        logging_dir=str(places.logging),
        output_name=settings.backend.weights_name,
        finished=str(places.output / f"{settings.backend.weights_name}.safetensors"),
        prompts=list(plan.sample_prompts),
        sample_seed=settings.sample.seed,
        pictures=str(places.dataset.with_name(PICTURES)),
        caches=caches,
        cache_dir=str(Path(settings.cache.dir).expanduser().absolute()),
        cache_max_bytes=settings.cache.max_gib * 2**30,
        expected=_expected(plan, values),
    )


METADATA = {
    **{"ss_network_module": "network_module", "ss_network_dim": "network_dim", "ss_network_alpha": "network_alpha"},
    **{"ss_unet_lr": "unet_lr", "ss_text_encoder_lr": "text_encoder_lr", "ss_seed": "seed"},
    **{"ss_max_train_steps": "max_train_steps", "ss_steps": "max_train_steps"},
    **{"ss_gradient_accumulation_steps": "gradient_accumulation_steps", "ss_max_grad_norm": "max_grad_norm"},
    **{"ss_min_snr_gamma": "min_snr_gamma", "ss_mixed_precision": "mixed_precision"},
}
"""Metadata of the finished adapter -> the argument that it must tell of."""


def _expected(plan: Plan, values: dict[str, Any]) -> dict[str, str]:
    """Nothing of a whole checkpoint: that has no such metadata."""
    if plan.settings.network is None:
        return {}
    expected = {name: str(values[argument]) for name, argument in METADATA.items() if argument in values}
    lines = values.get("network_args")
    if lines:
        expected["ss_network_args"] = json.dumps(dict(line.split("=", 1) for line in lines))
    return expected
