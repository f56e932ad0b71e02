"""What was asked for: plain dataclasses, one a config group, filled from the composed YAML.

No field has a default here: defaults live in `conf/` only. Hydra and OmegaConf are imported inside the functions that
need them, so that the trainer process, which reads a rendered job, never loads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from pipeline.errors import InvalidSettings, Problem
from pipeline.families import Known
from pipeline.figures import BEHIND_AUTO, NOTHING, found, optimizer_behind_auto, rows_of
from pipeline.guidance import Guidance

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parent.parent
"""The checkout: where conf/, demo/ and the local tracking store are."""

# OmegaConf reads the annotations at run time and knows Optional[X], not X | None.
# ruff: noqa: UP045


class Until(Enum):
    """The stage after which to stop."""

    detect = "detect"
    validate = "validate"
    render = "render"
    log = "log"


class Resume(Enum):
    """Whether to go on from the checkpoint of an unfinished run of the same fingerprint."""

    auto = "auto"
    never = "never"


class Prediction(Enum):
    """What the denoiser predicts; auto reads it from the checkpoint."""

    auto = "auto"
    epsilon = "epsilon"
    v_prediction = "v_prediction"
    flow = "flow"


class Algorithm(Enum):
    """The algorithms of LyCORIS; lora is plain LoRA on linear layers."""

    lora = "lora"
    locon = "locon"
    loha = "loha"
    lokr = "lokr"
    dora = "dora"
    dylora = "dylora"
    glora = "glora"
    diag_oft = "diag_oft"
    boft = "boft"
    full = "full"
    ia3 = "ia3"
    tlora = "tlora"


class Scheduler(Enum):
    """How the learning rate moves after the warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    cosine_restarts = "cosine_restarts"


class TimestepSampling(Enum):
    """How often a flow sees each amount of noise. logit_normal: the sigmoid of a normal number, most often the middle;
    by_resolution: that, shifted towards noise by the size of the picture, as the model's trainer does it."""

    uniform = "uniform"
    logit_normal = "logit_normal"
    by_resolution = "by_resolution"


class RateMeaning(Enum):
    """rate: the size of a step; multiplier: of a rate that the optimizer finds itself, and about 1."""

    rate = "rate"
    multiplier = "multiplier"


class Fallback(Enum):
    """What to do where the optimizer does not work: next takes the one that it falls back to, error ends the run."""

    next = "next"
    error = "error"


class Precision(Enum):
    """The type of the forward and backward pass; weights that are trained stay float32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class SaveDtype(Enum):
    """The type of the saved weights."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class KohyaCache(Enum):
    """auto keeps what may be kept, in memory; disk keeps it beside the pictures, for later runs too."""

    auto = "auto"
    memory = "memory"
    disk = "disk"
    off = "off"


class Checkpointed(Enum):
    """Denoisers that a memory profile trains with gradient checkpointing. Without it a transformer keeps tens of GiB
    of a picture of 1024 px (docs/memory.md), so no profile trains one so."""

    transformers = "transformers"
    all = "all"


class CachePlace(Enum):
    """Where sd-scripts keeps what its encoders made: for this run only, or in files beside the pictures."""

    memory = "memory"
    disk = "disk"


class StaleCache(Enum):
    """error: the run does not start; clear: they are deleted when it does."""

    error = "error"
    clear = "clear"


class OnBad(Enum):
    """What becomes of a run with pictures that can't be trained on."""

    error = "error"
    skip = "skip"


class Layout(Enum):
    """How `data.dir` is laid out. folder: pictures anywhere below, each shown once; kohya: in folders named as
    10_cat is, the repeats first; auto: kohya where all pictures lie in such folders, else folder."""

    auto = "auto"
    folder = "folder"
    kohya = "kohya"


class PlatformName(Enum):
    """auto takes the first that is there: cuda, rocm, xpu, cpu."""

    auto = "auto"
    cuda = "cuda"
    rocm = "rocm"
    xpu = "xpu"
    cpu = "cpu"


@dataclass
class Model:
    name: str
    """The option of the group."""
    family: str
    """The family that the base model's files must show."""
    kin: str
    """The model whose profile figures are taken where a profile has no row for this one."""
    path: str
    """A diffusers folder or a safetensors file."""
    trust_header: bool
    """false: a header that contradicts the chosen model is only warned about."""
    parts: dict[str, Optional[str]]
    """Text encoders and VAE that lie outside of `path`: a file, a folder or a hub id; null: inside of it."""
    tokenizer: Optional[str]
    """A folder with the tokenizer, for a single file that stands alone; null: found beside the model."""
    prediction: Prediction
    """What the denoiser predicts; auto: as the model says."""
    clip_skip: int
    """How many of the text encoder's last layers are left out; 0 for none."""
    resolution_step_px: int
    """Sides of training pictures are multiples of this."""
    figures: dict[str, Any]
    """This model's own figures: they stand before those of its kin."""
    known: Known
    """Facts of the family; nothing in here is a setting."""
    signature: dict[str, Any]
    """How the family is recognised by a file's header (`pipeline.checkpoint.catalog`)."""


@dataclass
class Profile:
    name: str
    """The option of the group."""
    purpose: str
    """What it is for."""
    known: Guidance
    """What the profile tells of itself; nothing in here is a setting."""
    figures: dict[str, Any]
    """mode -> model -> figure -> value; the row `all` is for every model. A key of the config takes its value by
    `${figure:name}`."""


@dataclass
class Concept:
    """One of several folders, with what it has of its own. What is left out is as `data` has it: the elements of a list
    have no file of defaults."""

    dir: str
    """Below `data.dir`, or an absolute path."""
    repeats: Optional[int] = None
    """null: `data.repeats`."""
    caption: Optional[str] = None
    """null: `data.caption`."""


@dataclass
class Data:
    name: str
    """The option of the group."""
    dir: str
    """Folder of the training pictures, captions beside them."""
    layout: Layout
    """auto: in folders that say how often their pictures are shown, 10_cat, as Kohya's, where all pictures lie in such
    ones; kohya: they must; folder: anywhere below, whatever the folders are called."""
    concepts: list[Concept]
    """Only these folders of `dir`, or elsewhere: [{dir: cat, repeats: 4, caption: a photo of sks cat}, {dir: dog}]."""
    repeats: int
    """How often an epoch shows each picture, where its folder doesn't say: one that weighs more is shown more often."""
    caption: Optional[str]
    """Of pictures that have none of their own; null: there must be none."""
    metadata: str
    """Where captions stand beside the files of that name: auto: in metadata.jsonl, .csv or .parquet of their folder,
    where there is one; none: nowhere; or the path of such a file."""
    caption_column: Optional[str]
    """Of that file; null: text, caption or prompt."""
    reg_dir: Optional[str]
    """Folder of regularisation pictures, of the class without what is to be learned: as many as are trained on; null:
    none."""
    reg_caption: Optional[str]
    """Of those of them that have none of their own: a photo of a cat."""
    masks_dir: Optional[str]
    """Folder of masks, named as the pictures are: white is learned, black is not; null: none."""
    alpha_masks: bool
    """The transparency of pictures is their mask: what is transparent is not learned."""
    heldout_dir: Optional[str]
    """Folder of pictures that are never trained on; null: `heldout_fraction` of `dir`."""
    heldout_fraction: float
    """Share of `dir` that is held out when there is no `heldout_dir`, chosen by content; 0 for none."""
    caption_extension: str
    """Ending of the caption files, with its dot."""
    prompts: Optional[list[str]]
    """Sample prompts that suit this dataset; null: captions of held-out pictures."""
    on_bad: OnBad
    """Where pictures or their captions can't be read: error begins no run; skip leaves them out, which a warning tells,
    and lists them in the run's skipped.jsonl."""
    trigger: Optional[str]
    """Word at the front of every caption that does not hold it; it is never shuffled or left out, and counts among
    `train.keep_tags`. null: none."""
    caption_prefix: str
    """Text in front of every caption, a space between them; the trigger stands before it."""
    caption_suffix: str
    """Text behind every caption, a space between them."""
    strip_weights: bool
    """Take the web UI's weights out of captions: (tag:1.3), ((tag)) and [tag] become tag, and an escaped bracket a
    plain one."""
    wildcards: bool
    """Each line of a caption file is a caption, of which one is drawn each time, and so is one of {a|b|c}; {{ and }}
    are braces."""


@dataclass
class LoraMode:
    name: str
    """The option of the group."""
    text_encoder_lr: float
    """0: the text encoder is not trained."""


@dataclass
class FinetuneMode:
    name: str
    """The option of the group."""
    text_encoder_lr: float
    """0: the text encoder is not trained."""
    save_dtype: SaveDtype


@dataclass
class Network:
    algo: Algorithm
    """The algorithm."""
    rank: int
    """Rank of the linear layers, or the size of a block (diag_oft, boft)."""
    alpha: float
    """Scale of the adapter: what it adds is multiplied by alpha / rank."""
    conv_rank: int
    """Rank of the 3x3 convolutions; 0: they get no adapter."""
    conv_alpha: float
    """The same for the convolutions: conv_alpha / conv_rank."""
    dropout: float
    """Share of the adapter's inputs that is dropped while training."""
    save_dtype: SaveDtype
    """Type of the saved weights."""
    args: dict[str, Any]
    """The algorithm's own settings, as LyCORIS names them (factor, block_size, use_tucker, ...)."""


@dataclass
class KnownOptimizer:
    """What is known of an optimizer's class; nothing in here is a setting."""

    rate: RateMeaning
    """What its learning rate means."""
    times_adamws: Optional[float]
    """Its learning rate as a multiple of AdamW's, which profiles hold; null: a multiplier, or nothing is known."""
    one_rate: bool
    """Denoiser and text encoder must have the same rate."""
    schedulers: list[Scheduler]
    """Values of `train.scheduler` that it works with; empty: all."""
    state_bytes_per_parameter: float
    """Measured with a matrix of 1024 x 1024 in float32."""
    twin: Optional[str]
    """Import path of the class that keeps in 32 bits what this one keeps in 8, and must do the same to the weights;
    null: its state is not in 8 bits."""
    paged: bool
    """Its state moves to the computer's memory when the device's is full; not on a CPU."""
    package: Optional[str]
    """What pip calls its package; null: it comes with this program."""


@dataclass
class Optimizer:
    name: str
    """The option of the group."""
    target: str
    """Import path of the class."""
    lr: float
    """Peak learning rate of the denoiser; of some optimizers a multiplier of a rate that they find themselves."""
    args: dict[str, Any]
    """The class's own arguments, by its own names."""
    fallback: Fallback
    """What to do where it does not work on the device: next takes the one of `falls_back_to`, and says so; error ends
    the run."""
    falls_back_to: Optional[str]
    """Option of the group that takes its place; null: none. Arguments are kept, and so is the rate, or it is converted
    where the two differ by a known factor."""
    known: KnownOptimizer
    """Facts of the class; nothing in here is a setting."""


@dataclass
class MemoryProfile:
    """What a memory profile does; nothing in here is a setting."""

    order: int
    """memory=auto tries the profiles in this order, the one that costs the least time first."""
    batch_size: int
    """Pictures at once, at most; the pictures of an update stay the same."""
    larger_batches: bool
    """memory=auto tries all pictures of an update at once before that."""
    gradient_checkpointing: Checkpointed
    eight_bits: bool
    """optimizer=auto takes the one that keeps its state in 8 bits."""
    caches: CachePlace
    """Where backend=kohya keeps latents and text by itself."""
    blocks_to_swap: int
    """Of a transformer's equal blocks, those that wait in the computer's memory; memory=auto takes as few as fit."""
    more_blocks: bool
    """memory=auto swaps more than these where they are not enough."""


@dataclass
class Memory:
    name: str
    """The option of the group."""
    blocks_to_swap: Optional[int]
    """Blocks of the denoiser that wait in the computer's memory; null: by the profile. Of backend=kohya and models
    that are transformers."""
    known: Optional[MemoryProfile]
    """What the profile does; null: the first that fits."""


@dataclass
class Train:
    max_steps: Optional[int]
    """Optimizer updates; null: from `epochs`, or else from `samples_per_image`."""
    epochs: Optional[float]
    """Passes over the pictures, in place of `max_steps`; null: from `samples_per_image`."""
    samples_per_image: int
    """How often each picture is seen, before floor and cap."""
    samples_floor: int
    """At least so many samples are trained on in all."""
    samples_cap: int
    """At most so many, or ten times the number of pictures where that is more."""
    min_steps: int
    """At least so many updates."""
    effective_batch_size: int
    """Pictures of an update, over all its passes and processes."""
    batch_size: Optional[int]
    """Pictures in a forward pass of one process; null: as many as the memory profile allows."""
    accumulation_steps: Optional[int]
    """Forward passes whose gradients make one update; null: as many as `effective_batch_size` needs."""
    max_grad_norm: float
    """0: no clipping."""
    prior_loss_weight: float
    """Of regularisation pictures, beside 1 of the others."""
    resolution_px: int
    """Side of the square whose area the training pictures have; the held-out loss is measured and samples are drawn at
    it."""
    more_resolutions_px: list[int]
    """Further sides, at each of which every picture that is large enough is trained as well: one of fewer pixels, or
    with a side shorter than half of it, is left out there. An epoch has a picture once for each."""
    flip: bool
    """Mirror each picture, left to right, in half of the draws; not for faces, text, and captions that tell sides."""
    scheduler: Scheduler
    """Curve of the learning rate after the warm-up."""
    scheduler_cycles: int
    """Restarts of cosine_restarts."""
    warmup_steps: Optional[int]
    """Updates in which the rate rises to its peak, and never more than `warmup_fraction` of them all; null: as many as
    that."""
    warmup_fraction: float
    """Share of the updates in which the rate rises to its peak, or may at most."""
    min_snr_gamma: Optional[float]
    """Limits the weight of nearly noiseless samples (arXiv 2303.09556); null: every timestep weighs the same."""
    timestep_sampling: Optional[TimestepSampling]
    """How a flow's timesteps are drawn; null: as the trainer does it by itself, and for models that are no flow."""
    timestep_shift: Optional[float]
    """Moves the drawn timesteps t of a flow towards noise: s t / (1 + (s - 1) t), in SD 3's paper (arXiv 2403.03206);
    null: not at all."""
    noise_offset: float
    """Adds so much noise that is equal over a whole channel, for darker and lighter pictures."""
    caption_dropout: float
    """Share of the samples that are trained without their caption."""
    shuffle_tags: bool
    """Shuffle the comma-separated parts of a caption."""
    tag_dropout: float
    """Share of the comma-separated parts that are left out of a caption, anew each time."""
    keep_tags: int
    """How many parts at the front stay, and stay in place, when the rest is shuffled or left out."""
    caption_tokens: int
    """Tokens of a caption that CLIP reads: 75, or 150 or 225 in chunks of 75; what is longer is cut off."""
    gradient_checkpointing: Optional[bool]
    """Less memory for about a third more time a step; null: by the memory profile."""
    checkpoint_every_steps: int
    """Updates between checkpoints."""
    keep_checkpoints: int
    """The newest so many stay."""
    heldout_every_steps: int
    """0: only before and after."""

    def warmup_of(self, steps: int) -> int:
        """Updates of the warm-up of a run of so many."""
        most = round(self.warmup_fraction * steps)
        return most if self.warmup_steps is None else min(self.warmup_steps, most)


@dataclass
class Sample:
    prompts: Optional[list[str]]
    """null: the dataset's own."""
    negative_prompt: str
    """What the samples are guided away from."""
    every_steps: int
    """0: only before and after."""
    num_inference_steps: int
    """Denoising steps of a sample."""
    guidance_scale: float
    """Strength of the guidance by the prompt; 1 for none."""
    seed: int


@dataclass
class Hardware:
    name: PlatformName
    """The option of the group."""
    precision: Precision
    """Type of the forward and backward pass; auto: bf16 where the device has it, else fp16 where that is fast, else
    fp32."""
    num_processes: int
    """On each machine, one a device."""
    num_machines: int
    """That train together: the same command on each, with another `machine_rank`."""
    machine_rank: int
    """Which of them this one is; 0 keeps the record, draws and saves."""
    main_address: Optional[str]
    """Where the others reach machine 0: a host name or an address; null for one machine."""
    main_port: int
    """The port of machine 0 at which they meet; one machine takes a free one."""
    probe_seconds: float
    """Time limit for asking torch what it can drive, and for each trial of an optimizer."""
    facts: Optional[str]
    """What `python -m pipeline doctor --json` printed on another machine, to render for it; null: this machine."""

    @property
    def all_processes(self) -> int:
        """Of all machines."""
        return self.num_machines * self.num_processes


@dataclass
class NativeBackend:
    name: str
    """The option of the group."""
    weights_name: str
    """File name of what is saved; a checkpoint of backend=native is a folder of that name."""
    measures_heldout: list[str]
    """Modes in which it measures the held-out loss: what it can, and nothing to set."""
    encodes_once: bool
    """It keeps what the encoders of a large model made of a caption, and puts them away: as it works, not to set."""


@dataclass
class KohyaBackend:
    name: str
    """The option of the group."""
    weights_name: str
    """File name of what is saved; a checkpoint of backend=native is a folder of that name."""
    measures_heldout: list[str]
    """Modes in which it measures the held-out loss: what it can, and nothing to set."""
    encodes_once: bool
    """It keeps what the encoders of a large model made of a caption, and puts them away: as it works, not to set."""
    root: Optional[str]
    """The checkout of kohya-ss/sd-scripts; null: none, and nothing can be trained."""
    python: Optional[str]
    """The interpreter that sd-scripts is installed for; null: the one of `venv` or `.venv` in the checkout."""
    cache_latents: KohyaCache
    """Where the pictures' latents are kept between the steps."""
    cache_text: KohyaCache
    """Where the text encoders' outputs are kept, so that the encoders need not stay."""
    stale_cache: StaleCache
    """What to do with caches on the disk that do not fit the pictures, captions and models of this run."""
    args: dict[str, Any]
    """Arguments of the script that no setting reaches, by its own names: `backend.args.vae_batch_size=4`."""
    network_args: dict[str, Any]
    """Arguments of the network module that no setting reaches, by its own names: `backend.network_args.preset=full`."""


@dataclass
class Tracking:
    name: str
    """The option of the group."""
    enabled: bool
    """false: the run directory is all there is."""
    uri: Optional[str]
    """null: an SQLite store in `store_dir`."""
    store_dir: str
    """Folder of the local store."""
    experiment: str
    """Name of the MLflow experiment."""
    system_metrics: bool


@dataclass
class Cache:
    dir: str
    """Folder of what is known of pictures, and of what encoders made of them: for all runs of this machine."""
    max_gib: float
    """What the encoders made takes at most so much of the disk; what was not used for longest goes first."""


@dataclass
class Preflight:
    measure: bool
    """With until=validate: train a few steps, in a folder that is gone afterwards, and tell how long the run will
    take."""


@dataclass
class Settings:
    seed: int
    """Of noise, order, dropout and fresh weights."""
    until: Until
    """The stage after which to stop."""
    explain: bool
    """Show what every setting is and where it comes from; nothing is trained then, unless `until` is typed too."""
    resume: Resume
    """Whether to go on from an unfinished run of the same settings, model and data."""
    model: Model
    profile: Profile
    data: Data
    mode: Any
    network: Optional[Network]
    optimizer: Optimizer
    memory: Memory
    train: Train
    sample: Sample
    hardware: Hardware
    backend: Any
    cache: Cache
    preflight: Preflight
    tracking: Tracking

    def flat(self) -> dict[str, object]:
        """Every setting under its dotted name; the figures that values are taken from are left out."""
        return dict(flatten("", plain(self)))


def decided(value: T | None) -> T:
    """A setting that null leaves to the memory profile, once that is chosen (`pipeline.memory.profiles`)."""
    assert value is not None, "validate chooses the memory profile before anything else is asked"
    return value


LEFT_OUT = {
    "profile": {"figures", "known"},
    "model": {"figures", "known", "signature"},
    "backend": {"measures_heldout", "encodes_once"},
    **{"optimizer": {"known"}, "memory": {"known"}},
}
"""Tables of figures and facts, which are no settings: most of what a configuration holds."""


def plain(settings: Settings) -> dict[str, Any]:
    """Nested dicts of numbers, strings, lists and None; the tables of figures and facts are left out."""
    return {
        field.name: _values(getattr(settings, field.name), LEFT_OUT.get(field.name, ())) for field in fields(settings)
    }


def _values(value: Any, left_out: Collection[str] = ()) -> Any:
    """As `asdict` has it, and without its copy of every leaf, which is most of its time."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        names = (field.name for field in fields(value) if field.name not in left_out)
        return {name: _values(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: _values(item) for key, item in value.items()}
    return [_values(item) for item in value] if isinstance(value, list) else value


def flatten(prefix: str, value: object) -> list[tuple[str, object]]:
    """Leaves under their dotted names; an empty set of names and values is a leaf."""
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in flatten(f"{prefix}{key}.", item)]
    return [(prefix[:-1], value)]


# ------------------------------------------------------------------------------------------- the border with Hydra


def register() -> None:
    """Gives Hydra the schema and the resolvers that `conf/` uses; to be called before `@hydra.main` composes."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store(name="settings", node=Settings)
    store.store(group="schema", name="lora", node=LoraMode)
    store.store(group="schema", name="finetune", node=FinetuneMode)
    store.store(group="schema", name="native", node=NativeBackend)
    store.store(group="schema", name="kohya", node=KohyaBackend)
    store.store(name=NOTHING, node={})
    OmegaConf.register_new_resolver("figure", _figure, replace=True)
    OmegaConf.register_new_resolver(BEHIND_AUTO, _optimizer_behind_auto, replace=True)
    OmegaConf.register_new_resolver("where_measured", _where_measured, replace=True)
    OmegaConf.register_new_resolver("where_dropped", _where_dropped, replace=True)
    OmegaConf.register_new_resolver("with_convolutions", _with_convolutions, replace=True)
    OmegaConf.register_new_resolver("with_rank", _with_rank, replace=True)
    OmegaConf.register_new_resolver("for_optimizer", _for_optimizer, replace=True)
    OmegaConf.register_new_resolver("times", lambda factor, value: float(factor) * float(value), replace=True)
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


def default_of(key: str) -> Any:
    """What `conf/config.yaml` says of a key that belongs to no group, for the verbs that compose nothing."""
    from omegaconf import OmegaConf

    register()
    return OmegaConf.select(OmegaConf.load(PROJECT / "conf" / "config.yaml"), key)


def from_config(config: DictConfig) -> Settings:
    """The typed settings. Raises InvalidSettings for values that are missing or out of the figures' reach."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InvalidSettings(
            tuple(Problem(k, "???", "has no value, and the run needs one", f"{k}=...") for k in missing)
        )
    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise InvalidSettings((Problem(key, "?", str(error).splitlines()[0], f"{key}=..."),)) from error
    assert isinstance(settings, Settings)
    unknown = tuple(_unknown("", settings))
    if unknown:
        raise InvalidSettings(unknown)
    return settings


def _unknown(prefix: str, group: Any) -> Iterator[Problem]:
    """What `++key=value` put where nobody looks: Hydra takes it in silence."""
    known = {field.name for field in fields(group)}
    for name, value in vars(group).items():
        if name not in known:
            reason = f"is no setting of {prefix[:-1] or 'a run'}" + (f"={group.name}" if "name" in known else "")
            for key, each in flatten(f"{prefix}{name}.", value):
                yield Problem(key, each, reason, f"leave {key} out")
        elif is_dataclass(value):
            yield from _unknown(f"{prefix}{name}.", value)


def _figure(name: str, *, _root_: DictConfig) -> Any:
    """The value of a figure, from the first of: the profile's row for this model, the model's own figures, the
    profile's row for its kin, the profile's row `all`."""
    from omegaconf.errors import InterpolationResolutionError

    model, profile, mode = _root_.model, _root_.profile, _root_.mode.name
    figure = found(name, rows_of(model, profile, mode))
    if figure is None:
        raise InterpolationResolutionError(
            f"profile {profile.name!r} has no figure {name!r} for model {model.name!r} in mode {mode!r}"
        )
    return figure.value


def _optimizer_behind_auto(optimizer: str, model: str, profile: str, mode: str) -> str:
    """The file whose optimizer optimizer=auto is, asked for while Hydra collects the files: nothing is composed yet, so
    the options are read as they stand in the folders that Hydra looks in."""
    from hydra.core.global_hydra import GlobalHydra

    if optimizer != "auto":
        return NOTHING
    searched = [each.path for each in GlobalHydra.instance().config_loader().get_search_path().get_path()]
    folders = [Path(path.removeprefix("file://")) for path in searched if "://" not in path.removeprefix("file://")]
    return f"optimizer/{optimizer_behind_auto(folders, model, profile, mode)}"


def _with_rank(alpha: float, *, _root_: DictConfig) -> float:
    """A figure of alpha, in proportion where the rank is not the one that it belongs to: lr x alpha / rank stays, and
    ranks can be compared."""
    rank, meant = _root_.network.rank, _figure("rank", _root_=_root_)
    return alpha if rank == meant or rank < 1 else float(f"{alpha * rank / meant:.6g}")


def _with_convolutions(value: Any, *, _root_: DictConfig) -> Any:
    """A figure of the 3x3 convolutions; 0 for a model that has none."""
    return value if _root_.model.known.convolutions else 0


def _where_measured(value: Any, *, _root_: DictConfig) -> Any:
    """A figure of the held-out loss; 0 where the backend measures none in this mode."""
    return value if _root_.mode.name in _root_.backend.measures_heldout else 0


def _where_dropped(value: Any, *, _root_: DictConfig) -> Any:
    """A figure of dropped captions; 0 where that would keep large text encoders in memory at every step."""
    kept = _root_.backend.encodes_once and not _root_.model.known.kohya.drops_captions
    return 0.0 if kept else value


def _for_optimizer(value: float, *, _root_: DictConfig) -> float:
    """A learning rate of AdamW as the chosen optimizer means it; 0 stays 0, and trains nothing."""
    known = _root_.optimizer.known
    if known.rate is RateMeaning.multiplier:
        return 1.0 if value else 0.0
    return value if known.times_adamws is None else float(f"{value * known.times_adamws:.6g}")
