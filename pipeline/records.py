"""The frozen records that flow between the stages: Facts -> Plan -> Job -> Events -> Outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import Problem, RunError
from pipeline.families import Level
from pipeline.settings import Settings

Platform = Literal["cuda", "rocm", "xpu", "cpu"]
Predicted = Literal["epsilon", "v_prediction", "flow"]
"""What a denoiser predicts: the noise, the velocity, or a flow."""


@dataclass(frozen=True, slots=True)
class Device:
    """A card as torch sees it."""

    name: str
    free_bytes: int
    bf16: bool
    """It multiplies bfloat16 in hardware."""
    arch: str = ""
    """sm_89 or gfx1100; empty where the answer does not tell."""
    total_bytes: int = 0
    """0 where the answer does not tell."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a torch said of itself; no devices for a CPU."""

    torch: str
    """With its build: 2.13.0+cu130; empty where there is none."""
    platform: Platform
    devices: tuple[Device, ...]
    builds: Mapping[str, str] = field(default_factory=dict)
    """What it was built for, with the version: cuda, hip, xpu."""
    arch_list: tuple[str, ...] = ()
    """Architectures that it has kernels for; empty where nothing tells."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the trainer's environment, and why it is set."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What this interpreter's torch can drive, asked in a child process."""

    platform: Platform
    device_names: tuple[str, ...]
    """One name a device; for a CPU its model name."""
    memory_bytes: int
    """Free memory of the smallest device; on a CPU the available memory of the machine."""
    cpu_cores: int
    """Cores that this process may use."""
    bf16: bool
    """The device multiplies bfloat16 in hardware."""
    torch_version: str
    """Empty when torch can't be imported."""
    architectures: tuple[str, ...] = ()
    """Of the devices, as far as they are known: sm_89, gfx1100, alchemist."""
    attention: tuple[str, ...] = ()
    """Kernels that torch's attention has for all devices, the best first; empty where that is not known."""
    variables: tuple[Variable, ...] = ()
    """What the trainer's environment needs for these devices, beside what the user has set."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing of these devices."""
    total_memory_bytes: int = 0
    """Of the smallest device, free or not; 0 for a CPU, and where a device does not tell."""
    host_memory_bytes: int = 0
    """Available, of the computer itself; 0 where that is not known."""
    memory_is_share: bool = False
    """`memory_bytes` are this trial's part of what is free: others of its sweep run beside it."""

    @property
    def free_words(self) -> str:
        """`7.5 GiB free`."""
        own = " for this one of several trials at once" if self.memory_is_share else ""
        return f"{self.memory_bytes / 2**30:.1f} GiB free{own}"

    @property
    def torch_device(self) -> str:
        """ROCm's torch calls its devices cuda."""
        return "cuda" if self.platform == "rocm" else self.platform


@dataclass(frozen=True, slots=True)
class Checkout:
    """The user's own sources of a backend's trainer, and what their interpreter can drive."""

    root: Path
    python: Path
    """Absolute, but no link followed: a virtual environment is told by the path of its interpreter."""
    commit: str
    """Empty where there is no git folder."""
    version: str
    """Empty where nothing tells."""
    platform: Platform
    device_names: tuple[str, ...]
    """One name a device; for a CPU its model name."""
    memory_bytes: int
    """Free memory of the smallest device; on a CPU the available memory of the machine."""
    bf16: bool
    """Every device multiplies bfloat16 in hardware."""
    packages: Mapping[str, str]
    """Versions by name: what is installed of the requirements and of what this project makes use of; torchvision and
    bitsandbytes only where they can really be imported."""
    broken: Mapping[str, str]
    """Why an installed package (torchvision, bitsandbytes) can't be imported."""
    torch_version: str
    """With its build: 2.8.0+cu128."""
    python_version: str
    answer: Answer | None = None
    """What its torch said of itself; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Layers of a model that an adapter can train, all of one shape."""

    inputs: int
    outputs: int
    kernel: int
    """Side of a convolution's kernel; 1 for a linear layer."""
    biased: bool
    residual: bool
    """In a U-Net's residual blocks, which are adapted with the convolutions only."""
    count: int


@dataclass(frozen=True, slots=True)
class Content:
    """A part that lies inside of the model's files."""

    name: str
    """denoiser, vae, or the family of a text encoder."""
    parameters: int
    dtype: str
    """That most of its numbers have: fp16, fp8_e4m3_scaled."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a model's parts are, as far as its headers tell; 0 or empty where they don't, or the part is not in."""

    levels: tuple[Level, ...] = ()
    """Of a U-Net."""
    vae_width: int = 0
    """Channels of the VAE's full resolution."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the base model's files say of themselves."""

    path: Path
    layout: Literal["diffusers", "single_file"]
    family: str
    prediction: Predicted | None
    """None: nothing in the files tells."""
    parameters: int
    """Of the denoiser."""
    bytes: int
    """On disk, all parts."""
    digest: str
    """SHA-256 of the safetensors headers and of a sample of the weights: cheap, and changes with any retraining."""
    text_layers: int = 12
    """Layers of the text encoder: 12 in Stable Diffusion 1, fewer in the demo model; 0 where that can't be told."""
    title: str = ""
    """The family in words."""
    variant: str | None = None
    """The member of the family: dev, 768-v."""
    dtype: str = ""
    """Of the stored weights: fp16, fp8_e4m3_scaled."""
    models: tuple[str, ...] = ()
    """Options of the group `model` that the header does not speak against, the best first."""
    parts: tuple[str, ...] = ("denoiser",)
    """What is inside: denoiser, vae, the text encoders by name."""
    prediction_sure: bool = False
    """The files say what is predicted; else it is what the family does."""
    evidence: tuple[str, ...] = ()
    """What all this rests on."""
    lacking: tuple[str, ...] = ()
    """Parts that the folder should have, and why they can't be read."""
    refused: str | None = None
    """Why it is no model to train on; such a one is here only because the user insists."""
    contents: tuple[Content, ...] = ()
    """What is inside, with its size; empty where that was not read."""
    matrices: tuple[Matrix, ...] = ()
    """Of the denoiser, those that an adapter can train; empty where shapes can't be told."""
    encoder_matrices: tuple[Matrix, ...] = ()
    """The same of the text encoders inside."""
    sizes: Sizes = Sizes()
    """What the memory estimate takes instead of the family's figures."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with its caption."""

    path: Path
    caption: str
    width_px: int
    height_px: int
    digest: str
    """SHA-256 of the file's bytes."""
    orientation: int = 1
    """Of EXIF: how a viewer turns what is stored; 1: not at all. Width and height are those of the turned picture."""
    repeats: int = 1
    """How often an epoch shows it."""
    mask_path: Path | None = None
    """What of it is learned: white of a picture of grey, or, where it is the picture itself, what is not transparent.
    None: all of it."""
    mask_digest: str = ""
    """SHA-256 of that file's bytes; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The pictures to train on and those held out."""

    name: str
    dir: Path
    train: tuple[Picture, ...]
    heldout: tuple[Picture, ...]
    digest: str
    """SHA-256 over all pictures and captions."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing of them."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of what was left out because data.on_bad=skip."""
    regularisation: tuple[Picture, ...] = ()
    """Pictures of the class without what is to be learned."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is here. A part that could not be made out is None and has a problem that says why."""

    machine: Machine
    checkpoint: Checkpoint | None
    dataset: Dataset | None
    disk_free_bytes: int
    """Where the run directory is."""
    problems: tuple[Problem, ...] = ()
    checkout: Checkout | None = None
    """Of a backend that trains with one; `machine` is then what its interpreter can drive."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice that was made for the user."""

    key: str
    value: object
    reason: str


Layer = Literal["command line", "experiment", "profile", "model", "group", "default", "environment", "decided"]
"""Who gave a setting its value: of the files by their place in conf/; decided: this program, by what is here."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a setting is, and where that comes from."""

    key: str
    value: object
    layer: Layer
    source: str
    """The file and the row, or what was typed."""
    reason: str
    """The comment beside it, or why it was decided so; empty where nothing tells."""


@dataclass(frozen=True, slots=True)
class PredictedMemory:
    """The estimate, of what the trainer will measure: on a card its tensors, without the driver's context and the
    allocator's gaps; on a CPU the whole process."""

    low_bytes: int
    bytes: int
    high_bytes: int
    phase: str
    """Of the peak."""
    largest: str
    """What takes most in it."""


@dataclass(frozen=True, slots=True)
class ComparableRate:
    """The learning rate as recipes can be compared by it: of an adapter lr x alpha / rank, of a finetune lr."""

    value: float
    """In AdamW's terms."""
    factor: float
    """By which optimizer.lr is multiplied to get there."""
    low: float
    """Most recipes for the model lie between this and `high`."""
    high: float
    made_of: str
    """In words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings and facts, proven runnable: every automatic choice made, its reason kept."""

    settings: Settings
    machine: Machine
    checkpoint: Checkpoint
    dataset: Dataset
    precision: Literal["fp32", "bf16", "fp16"]
    num_processes: int
    """Of all machines; `settings.hardware.num_processes` are those of this one."""
    steps: int
    """Optimizer updates."""
    warmup_steps: int
    sample_prompts: tuple[str, ...]
    fingerprint: str
    """SHA-256 of all that decides the weights: equal fingerprints may continue each other's checkpoints."""
    choices: tuple[Choice, ...] = ()
    warnings: tuple[str, ...] = ()
    checkout: Checkout | None = None
    memory: PredictedMemory | None = None
    """None where there is no estimate."""
    rate: ComparableRate | None = None
    """None where the optimizer finds its own, or nothing can be said of it."""
    origins: tuple[Origin, ...] = ()
    """Of every setting and every choice; empty where nobody told."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command to run, and the files that it reads; rendered into the run directory."""

    run_dir: Path
    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    """Variables to add to the runner's own."""
    files: tuple[Path, ...]
    resume_step: int = 0
    """The checkpoint's step that this run goes on from; 0 at the start."""
    command: str = ""
    """The trainer's command as a line to paste; empty: that of `argv`."""
    saves_weights: bool = True
    """False on all machines but the first of several that train together."""


Kind = Literal[
    "run",
    "stage",
    "choice",
    "step",
    "metric",
    "sample",
    "checkpoint",
    "weights",
    "warning",
    "phase",
    "failure",
    "prune",
    "end",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal. What `data` holds for each kind is said in `pipeline.journal`."""

    kind: Kind
    time: float
    """Seconds since the epoch."""
    data: Mapping[str, object] = field(default_factory=dict)


Status = Literal["finished", "failed", "killed", "pruned"]
"""pruned: a sweep ended it early, since it was clearly behind the others."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run ended; `outcome.json` in the run directory. None where a figure does not apply."""

    status: Status
    cause: str | None
    weights: str | None
    steps: int
    seconds: float
    loss_first: float | None
    loss_last: float | None
    heldout_before: float | None
    heldout_after: float | None
    heldout_best: float | None
    """The lowest that was measured since the first step, and when: one that lies long before the last says too many."""
    heldout_best_step: int | None
    peak_memory_bytes: int | None
    mlflow_run_id: str | None


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome, and what the user is told when it is not the finished weights."""

    outcome: Outcome
    error: RunError | None
