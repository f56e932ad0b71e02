"""Plan -> the native trainer's files and command. Loads no torch: it runs on machines that can't train."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import tomli_w

from pipeline import __version__
from pipeline.backends.native.job import (
    ModelPart,
    NativeJob,
    NetworkPart,
    OptimizerPart,
    SamplePart,
    TrainPart,
)
from pipeline.dataset.captions import kept_tags
from pipeline.dataset.epoch import samples_per_epoch, shown
from pipeline.files import write_text
from pipeline.records import Dataset, Job, Picture, Plan
from pipeline.settings import PROJECT, Algorithm, LoraMode, Network, decided, plain

SWEEP_FILE = "multirun.yaml"
"""Hydra writes it into the folder of a sweep."""
STARTS_AS_NOTHING = (Algorithm.lora, Algorithm.locon, Algorithm.loha, Algorithm.lokr)
"""Adapters that add exactly 0 before their first update; others come from a rotation or a norm, with its rounding."""
FOLDERS = (
    *(("model", "path"), ("model", "tokenizer")),
    *(("data", name) for name in ("dir", "heldout_dir", "reg_dir", "masks_dir", "metadata")),
)
"""Settings that are paths of this machine."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def render(plan: Plan, run_dir: Path) -> Job:
    """Writes `job/train.toml`, `job/dataset.jsonl`, `job/command.json` (and `job/accelerate.yaml` where there are
    several processes) into the run directory."""
    folder = run_dir / "job"
    job_file, dataset_file = folder / "train.toml", folder / "dataset.jsonl"
    job = native_job(plan, run_dir, dataset_file)
    write_text(dataset_file, _dataset_lines(plan.dataset))
    write_text(job_file, tomli_w.dumps(job.to_toml()))
    files = [job_file, dataset_file]
    launcher: tuple[str, ...] = (sys.executable, "-m", "pipeline.backends.native")
    if plan.num_processes > 1:
        config = folder / "accelerate.yaml"
        write_text(config, _accelerate_config(plan))
        files.append(config)
        launcher = _accelerate_launch(plan, config)
    argv, env = (*launcher, str(job_file)), _environment(plan)
    command = folder / "command.json"
    write_text(command, json.dumps({"argv": list(argv), "cwd": str(PROJECT), "env": env}, indent=2) + "\n")
    return Job(
        run_dir=run_dir,
        argv=argv,
        cwd=PROJECT,
        env=env,
        files=(*files, command),
        resume_step=_last_step(run_dir),
        saves_weights=plan.settings.hardware.machine_rank == 0,
    )


def native_job(plan: Plan, run_dir: Path, dataset_file: Path) -> NativeJob:
    """What the trainer is told."""
    settings = plan.settings
    return NativeJob(
        run_dir=str(run_dir),
        dataset=str(dataset_file),
        mode=settings.mode.name,
        seed=settings.seed,
        device=plan.machine.torch_device,
        precision=plan.precision,
        num_processes=plan.num_processes,
        num_machines=settings.hardware.num_machines,
        machine_rank=settings.hardware.machine_rank,
        cpu_threads=_threads(plan),
        before_dir=_before_dir(plan, run_dir),
        cache_dir=str(Path(settings.cache.dir).expanduser().absolute()),
        cache_max_bytes=settings.cache.max_gib * 2**30,
        fingerprint=plan.fingerprint,
        weights_name=settings.backend.weights_name,
        save_dtype=_save_dtype(plan),
        model=ModelPart(
            path=str(plan.checkpoint.path),
            layout=plan.checkpoint.layout,
            prediction=_prediction(plan),
            clip_skip=settings.model.clip_skip,
            caption_tokens=settings.train.caption_tokens,
            tokenizer=str(Path(settings.model.tokenizer).resolve()) if settings.model.tokenizer else "",
        ),
        network=_network(settings.network),
        optimizer=OptimizerPart(
            target=settings.optimizer.target,
            lr=settings.optimizer.lr,
            text_encoder_lr=settings.mode.text_encoder_lr,
            args=settings.optimizer.args,
        ),
        train=_train(plan),
        sample=SamplePart(
            prompts=list(plan.sample_prompts),
            negative_prompt=settings.sample.negative_prompt,
            every_steps=settings.sample.every_steps,
            num_inference_steps=settings.sample.num_inference_steps,
            guidance_scale=settings.sample.guidance_scale,
            seed=settings.sample.seed,
        ),
        metadata=_metadata(plan),
    )


def _prediction(plan: Plan) -> str:
    """The plan's, which is the one that was asked for where one was."""
    predicted = plan.checkpoint.prediction
    assert predicted is not None, "validate asks for it"
    return predicted


def _save_dtype(plan: Plan) -> Any:
    mode, network = plan.settings.mode, plan.settings.network
    return network.save_dtype.value if network is not None else mode.save_dtype.value


def _network(network: Network | None) -> NetworkPart | None:
    if network is None:
        return None
    return NetworkPart(
        algo=network.algo.value,
        rank=network.rank,
        alpha=network.alpha,
        conv_rank=network.conv_rank,
        conv_alpha=network.conv_alpha,
        dropout=network.dropout,
        args=network.args,
    )


def _before_dir(plan: Plan, run_dir: Path) -> str:
    """For a trial of a sweep, which is trained by one process: named for all that judging and drawing depend on."""
    sweep_dir = run_dir.absolute().parent
    if not (sweep_dir / SWEEP_FILE).exists() or plan.num_processes > 1:
        return ""
    settings, machine = plan.settings, plan.machine
    exact = settings.network is None or settings.network.algo in STARTS_AS_NOTHING
    whole = [
        [machine.torch_device, machine.device_names, machine.torch_version, _threads(plan), plan.precision],
        [plan.checkpoint.digest, _prediction(plan), settings.model.clip_skip, settings.model.tokenizer],
        settings.train.caption_tokens,
        [[picture.digest, picture.caption, picture.mask_digest] for picture in plan.dataset.heldout],
        [list(plan.sample_prompts), plain(settings)["sample"], settings.train.resolution_px, settings.mode.name],
        [] if exact else [plain(settings)["network"], settings.seed],
    ]
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()
    return str(sweep_dir / "before" / digest[:16])


def _train(plan: Plan) -> TrainPart:
    train = plan.settings.train
    return TrainPart(
        steps=plan.steps,
        warmup_steps=plan.warmup_steps,
        batch_size=decided(train.batch_size),
        accumulation_steps=decided(train.accumulation_steps),
        max_grad_norm=train.max_grad_norm,
        prior_loss_weight=train.prior_loss_weight,
        resolution_px=train.resolution_px,
        more_resolutions_px=train.more_resolutions_px,
        resolution_step_px=plan.settings.model.resolution_step_px,
        flip=train.flip,
        scheduler=train.scheduler.value,
        scheduler_cycles=train.scheduler_cycles,
        min_snr_gamma=train.min_snr_gamma or 0.0,
        noise_offset=train.noise_offset,
        caption_dropout=train.caption_dropout,
        shuffle_tags=train.shuffle_tags,
        tag_dropout=train.tag_dropout,
        keep_tags=kept_tags(plan.settings),
        wildcards=plan.settings.data.wildcards,
        gradient_checkpointing=decided(train.gradient_checkpointing),
        checkpoint_every_steps=train.checkpoint_every_steps,
        keep_checkpoints=train.keep_checkpoints,
        heldout_every_steps=train.heldout_every_steps,
    )


def _dataset_lines(dataset: Dataset) -> str:
    def line(split: str, picture: Picture) -> str:
        row: dict[str, Any] = {
            "split": split,
            "path": str(picture.path),
            "digest": picture.digest,
            "caption": picture.caption,
            "width_px": picture.width_px,
            "height_px": picture.height_px,
        }
        if picture.repeats != 1:
            row["repeats"] = picture.repeats
        if picture.mask_path is not None:
            row |= {"mask_path": str(picture.mask_path), "mask_digest": picture.mask_digest}
        return json.dumps(row, ensure_ascii=False) + "\n"

    splits = (("train", dataset.train), ("heldout", dataset.heldout), ("reg", dataset.regularisation))
    return "".join(line(split, picture) for split, pictures in splits for picture in pictures)


# ------------------------------------------------------------------------------------------------------- metadata


def _metadata(plan: Plan) -> dict[str, str]:
    """What other tools read (kohya's `ss_*`, Stability's modelspec 1.0.0) and our own resolved config.

    Nothing here depends on the time or the place of the run, so that equal runs write equal files.
    """
    config = json.dumps(_portable(plan), sort_keys=True)
    metadata = {
        "lora_easy_pipeline.version": __version__,
        "lora_easy_pipeline.config": config,
        "lora_easy_pipeline.config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "lora_easy_pipeline.dataset_sha256": plan.dataset.digest,
        "lora_easy_pipeline.base_model_sha256": plan.checkpoint.digest,
    }
    return metadata | _modelspec(plan) | _kohya_metadata(plan)


def _portable(plan: Plan) -> dict[str, Any]:
    """The resolved config without the folders of this machine."""
    config = plain(plan.settings)
    for group, key in FOLDERS:
        config[group][key] = Path(config[group][key]).name if config[group][key] else None
    for concept in config["data"]["concepts"]:
        concept["dir"] = Path(concept["dir"]).name
    for group in ("cache", "preflight", "tracking", "until", "explain", "resume", "hardware"):
        del config[group]
    return config


def _modelspec(plan: Plan) -> dict[str, str]:
    side = plan.settings.train.resolution_px
    kind = "/lora" if isinstance(plan.settings.mode, LoraMode) else ""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"stable-diffusion-v1{kind}",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": plan.settings.backend.weights_name,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if _prediction(plan) == "v_prediction" else "epsilon",
    }


def _kohya_metadata(plan: Plan) -> dict[str, str]:
    settings, network = plan.settings, plan.settings.network
    pictures, reg = shown(plan.dataset.train), bool(plan.dataset.regularisation)
    batches = max(1, -(-samples_per_epoch(plan.dataset, settings.train) // decided(settings.train.batch_size)))
    metadata: dict[str, object] = {
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": plan.checkpoint.path.name,
        "ss_output_name": settings.backend.weights_name,
        "ss_num_train_images": pictures,
        "ss_num_reg_images": pictures if reg else 0,
        "ss_num_batches_per_epoch": batches,
        "ss_num_epochs": -(-plan.steps * decided(settings.train.accumulation_steps) // batches),
        "ss_max_train_steps": plan.steps,
        "ss_steps": plan.steps,
        "ss_batch_size_per_device": decided(settings.train.batch_size),
        "ss_gradient_accumulation_steps": decided(settings.train.accumulation_steps),
        "ss_gradient_checkpointing": decided(settings.train.gradient_checkpointing),
        "ss_learning_rate": settings.optimizer.lr,
        "ss_unet_lr": settings.optimizer.lr,
        "ss_text_encoder_lr": settings.mode.text_encoder_lr,
        "ss_lr_scheduler": settings.train.scheduler.value,
        "ss_lr_warmup_steps": plan.warmup_steps,
        "ss_optimizer": settings.optimizer.target,
        "ss_mixed_precision": {"fp32": "no"}.get(plan.precision, plan.precision),
        "ss_seed": settings.seed,
        "ss_resolution": f"({settings.train.resolution_px}, {settings.train.resolution_px})",
        "ss_flip_aug": settings.train.flip,
        "ss_clip_skip": settings.model.clip_skip or None,
        "ss_max_grad_norm": settings.train.max_grad_norm,
        "ss_noise_offset": settings.train.noise_offset,
        "ss_min_snr_gamma": settings.train.min_snr_gamma,
        "ss_caption_dropout_rate": settings.train.caption_dropout,
        "ss_shuffle_caption": settings.train.shuffle_tags,
        "ss_tag_dropout_rate": settings.train.tag_dropout,
        "ss_keep_tokens": kept_tags(settings),
        "ss_max_token_length": settings.train.caption_tokens if settings.train.caption_tokens > 75 else None,
        "ss_v2": False,
    }
    if network is not None:
        plain_lora = network.algo.value in ("lora", "locon")
        arguments = {"conv_dim": network.conv_rank, "conv_alpha": network.conv_alpha, **network.args}
        metadata |= {
            "ss_network_module": "networks.lora" if plain_lora else "lycoris.kohya",
            "ss_network_dim": network.rank,
            "ss_network_alpha": network.alpha,
            "ss_network_dropout": network.dropout,
            "ss_network_args": json.dumps(arguments if plain_lora else {"algo": network.algo.value, **arguments}),
        }
    return {key: str(value) for key, value in metadata.items()}


# -------------------------------------------------------------------------------------------------------- command


def _environment(plan: Plan) -> dict[str, str]:
    """Cores are shared between the processes; nothing is fetched from the network while training."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(_threads(plan))) | {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return variables | {variable.name: variable.value for variable in plan.machine.variables}


def _threads(plan: Plan) -> int:
    return max(1, plan.machine.cpu_cores // plan.settings.hardware.num_processes)


def _accelerate_config(plan: Plan) -> str:
    """Every answer that accelerate would otherwise take from the user's own default config."""
    answers = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": _distributed_type(plan),
        "mixed_precision": {"fp32": "no"}.get(plan.precision, plan.precision),
        "num_machines": plan.settings.hardware.num_machines,
        "num_processes": plan.num_processes,
        "machine_rank": plan.settings.hardware.machine_rank,
        "main_training_function": "main",
        "use_cpu": False,
        "debug": False,
        "downcast_bf16": "no",
        "rdzv_backend": "static",
        "same_network": True,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in answers.items())


def _distributed_type(plan: Plan) -> str:
    return "MULTI_XPU" if plan.machine.platform == "xpu" else "MULTI_GPU"


def _accelerate_launch(plan: Plan, config: Path) -> tuple[str, ...]:
    # --multi_gpu is what makes the launcher start several processes, on a CPU too: with --cpu it starts one.
    hardware = plan.settings.hardware
    address, port = (hardware.main_address, hardware.main_port) if hardware.num_machines > 1 else ("127.0.0.1", 0)
    return (
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--multi_gpu"),
        *("--num_processes", str(plan.num_processes), "--num_machines", str(hardware.num_machines)),
        *("--machine_rank", str(hardware.machine_rank), "--main_process_ip", str(address)),
        *("--main_process_port", str(port), "--rdzv_backend", "static", "--same_network"),
        *("--mixed_precision", {"fp32": "no"}.get(plan.precision, plan.precision), "-m", "pipeline.backends.native"),
    )


def _last_step(run_dir: Path) -> int:
    steps = [int(folder.name.removeprefix("step-")) for folder in (run_dir / "checkpoints").glob("step-" + "[0-9]" * 6)]
    return max(steps, default=0)
