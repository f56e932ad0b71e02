"""How a script is started: `accelerate launch` of the checkout's own interpreter, with our own answers to it."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.backends.kohya.translation import PRECISIONS
from pipeline.records import Plan

MULTI = {"xpu": "MULTI_XPU", "cuda": "MULTI_GPU", "rocm": "MULTI_GPU"}
"""On a CPU accelerate starts one process, whatever it is told (tried with 1.6)."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def accelerate_config(plan: Plan) -> str:
    """Every answer that accelerate would otherwise take from the user's own default config."""
    hardware = plan.settings.hardware
    answers = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": MULTI[plan.machine.platform] if plan.num_processes > 1 else "NO",
        "downcast_bf16": "no",
        "dynamo_config": {},
        "enable_cpu_affinity": False,
        "machine_rank": hardware.machine_rank,
        "main_training_function": "main",
        "mixed_precision": PRECISIONS[plan.precision],
        "num_machines": hardware.num_machines,
        "num_processes": plan.num_processes,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": plan.machine.platform == "cpu",
    }
    if hardware.num_machines > 1:
        answers |= {"main_process_ip": hardware.main_address, "main_process_port": hardware.main_port}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in answers.items())


def launch_argv(plan: Plan, python: str, config: Path, script: str, train_file: Path) -> list[str]:
    return [
        *(python, "-m", "accelerate.commands.launch", "--config_file", str(config)),
        *("--num_cpu_threads_per_process", str(_threads(plan))),
        *(script, "--config_file", str(train_file)),
    ]


def environment(plan: Plan) -> dict[str, str]:
    """Cores are shared between the processes; the rest is what the devices need."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(_threads(plan)))
    variables |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return variables | {variable.name: variable.value for variable in plan.machine.variables}


def _threads(plan: Plan) -> int:
    return max(1, plan.machine.cpu_cores // plan.settings.hardware.num_processes)
