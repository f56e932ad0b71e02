"""What the kohya backend can't do with these settings, what it chose by itself, and what is worth a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.backends.kohya.arguments import Parser, check_value, unknown_reason
from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.checkout import has_module, pin_differences
from pipeline.backends.kohya.epochs import epochs_between_measures, measures_heldout, updates_per_epoch
from pipeline.backends.kohya.lycoris_arguments import lycoris_folder, read_lycoris
from pipeline.backends.kohya.manifest import differences, load, network_arguments_for, parser_for
from pipeline.backends.kohya.network import LYCORIS, network_part, network_problems
from pipeline.backends.kohya.pictures import folders_only, stale_of_pictures, turned_pictures
from pipeline.backends.kohya.rules import rule_problems, rule_warnings
from pipeline.backends.kohya.scripts import LUMINA, NOISE
from pipeline.backends.kohya.tokenizers import is_slow_tokenizer
from pipeline.backends.kohya.train_file import (
    CACHES_TEXT,
    Places,
    asked_values,
    cache_values,
    changing_pictures,
    changing_text,
    chosen_caches,
    dataset_values,
    keeps_one_size,
    own_values,
    value_problems,
)
from pipeline.backends.kohya.translation import (
    FREE_WHERE_NULL,
    MAY_BE_MISSING,
    PATHS,
    TEXT_ENCODER_RATES,
    Context,
    part_argument,
    script_for,
    settings_of,
    withheld_of,
)
from pipeline.checks.captions import cut_captions
from pipeline.checks.claims import predicts
from pipeline.errors import Problem, UnreadableFile
from pipeline.length import asked_warmup
from pipeline.machine.precision import choose_precision
from pipeline.optimizer.catalog import asked_for
from pipeline.optimizer.choose import steps_down
from pipeline.records import Checkout, Checkpoint, Choice, Facts, Plan
from pipeline.settings import KohyaCache, Prediction, Resume, Settings

SCHEDULE_STEPS = 1000
"""Stands for the number of steps where that is not known yet: no rule looks at more than whether there is a warm-up."""
PLACES = Places(Path("dataset.toml"), Path("weights"), Path("logs"), Path("prompts.json"), tokenizers=None)
"""Stand for the files that will be written."""
IN_WHOLE_CHECKPOINTS = ("train_network.py", "fine_tune.py", "sdxl_train_network.py", "sdxl_train.py")
"""Scripts that read a checkpoint with all its parts, a file or a diffusers folder; the others want single files."""
DIES_OF_TRAINED_TEXT = ("lumina_train_network.py",)
"""It hands one text encoder to its samples where they look for a list (library/strategy_lumina.py)."""
TAKES_PARTS_INSIDE = ("sd3_train_network.py", "sd3_train.py")
"""Scripts that look for text encoders and VAE inside of the one file too (library/sd3_utils.py)."""
BUCKET_STEPS = {
    **{"train_network.py": 64, "fine_tune.py": 64, "sdxl_train_network.py": 32, "sdxl_train.py": 32},
    **{"sd3_train_network.py": 32, "sd3_train.py": 8, "flux_train_network.py": 32, "flux_train.py": 16},
    **{"lumina_train_network.py": 16, "lumina_train.py": 16, "hunyuan_image_train_network.py": 32},
    **{"anima_train_network.py": 16, "anima_train.py": 16},
}
"""What `verify_bucket_reso_steps` of each script asks for."""


@dataclass(frozen=True)
class Script:
    """The script that would train, and what this checkout's one takes."""

    settings: Settings
    facts: Facts
    name: str

    @property
    def root(self) -> Path | None:
        """The checkout that was named and is one; else the audited version speaks."""
        root = self.settings.backend.root
        wrong = any(problem.key == "backend.root" for problem in self.facts.problems)
        return None if root is None or wrong else Path(root).expanduser()

    @cached_property
    def parser(self) -> Parser:
        """Raises UnreadableFile for a checkout whose sources can't be read."""
        return parser_for(self.root, self.name)

    def context(self) -> Context:
        settings, facts = self.settings, self.facts
        found = predicts(settings, facts.checkpoint) if facts.checkpoint else None
        said = settings.model.prediction
        predicted = found if said is Prediction.auto else said.value
        steps = settings.train.max_steps or SCHEDULE_STEPS
        return Context(
            settings=settings,
            script=self.name,
            model=Path(settings.model.path),
            predicts=predicted or settings.model.signature.get("predicts"),
            precision=choose_precision(settings.hardware.precision, facts.machine)[0],
            num_processes=settings.hardware.all_processes,
            steps=steps,
            warmup_steps=asked_warmup(settings.train, steps),
            draws_samples=True,
            folder=Path(),
        )

    def asked(self) -> Asked:
        context, settings = self.context(), self.settings
        values = asked_values(context, self.parser) | dataset_values(settings) | {"enable_bucket": True}
        if settings.data.masks_dir is not None:
            values["conditioning_data_dir"] = settings.data.masks_dir
        values = {name: value for name, value in values.items() if name not in refused_arguments(self)}
        values |= cache_values(settings, self.parser) | own_values(settings, PLACES)
        part = network_part(settings)
        return Asked(
            settings=settings,
            parser=self.parser,
            is_lora=settings.network is not None,
            values=values,
            network_args={} if part is None else part.args,
            predicts=context.predicts or "epsilon",
            keys=settings_of(self.name),
        )


def kohya_problems(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """Everything that keeps a line from having the effect that it says, or the script from starting."""
    name = script_for(settings)
    if name is None:
        yield _no_script(settings)
        return
    script = Script(settings, facts, name)
    try:
        for check in CHECKS:
            yield from check(script)
    except UnreadableFile as error:
        fix = "backend.root=FOLDER of a whole checkout of kohya-ss/sd-scripts"
        yield Problem("backend.root", settings.backend.root, f"its parsers can't be read: {error}", fix)


def kohya_choices(plan: Plan, facts: Facts) -> Iterator[Choice]:
    """What was chosen for the user."""
    settings, checkout = plan.settings, facts.checkout
    script = _script(settings, facts)
    if checkout is not None:
        version = f"sd-scripts {checkout.version or '(version unknown)'} {checkout.commit[:8]}".strip()
        reason = f"{version}, Python {checkout.python_version}, torch {checkout.torch_version}"
        yield Choice("backend.root", str(checkout.root), reason)
        if settings.backend.python is None:
            yield Choice("backend.python", str(checkout.python), "the environment inside of the checkout")
    if plan.dataset.heldout and measures_heldout(script.parser):
        epochs, updates = epochs_between_measures(plan), updates_per_epoch(plan)
        reason = f"sd-scripts measures at the ends of epochs, here of {updates} steps: every {epochs * updates} steps"
        yield Choice("train.heldout_every_steps", settings.train.heldout_every_steps, reason)
    if not settings.model.known.kohya.drops_captions and settings.train.caption_dropout == 0:
        reason = "captions are encoded once, and the encoders are put away; a share to drop keeps them in memory"
        yield Choice("train.caption_dropout", 0, reason)
    latents, text = chosen_caches(settings, script.parser)
    if settings.backend.cache_latents is KohyaCache.auto:
        reason = "a picture's pixels change each time" if latents == "off" else "a picture is encoded once"
        if latents == "memory" and keeps_one_size(settings, script.parser):
            reason += ", and a file would hold one of its sizes only"
        yield Choice("backend.cache_latents", latents, reason)
    if settings.backend.cache_text is KohyaCache.auto and CACHES_TEXT in script.parser.arguments:
        changing = changing_text(settings, script.parser)
        reason = f"{', '.join(changing)} needs the encoders at every step" if changing else "a caption is encoded once"
        yield Choice("backend.cache_text", text, reason)


def kohya_warnings(settings: Settings, facts: Facts) -> Iterator[str]:
    """What may be meant, and is more often a mistake."""
    script = _script(settings, facts)
    yield from _checkout_warnings(script, facts.checkout)
    yield from rule_warnings(script.asked())
    if script.name in NOISE:
        yield from cut_captions(settings, facts)
    if settings.network is None and facts.dataset is not None and facts.dataset.heldout:
        yield f"{script.name} measures no held-out loss: the pictures that are held out are only not trained on"
    every, steps = settings.sample.every_steps, settings.train.max_steps
    if every and steps and steps % every:
        yield f"the last samples are of step {steps // every * every}: sd-scripts draws every {every} steps only"
    if script.name not in _resumable():
        yield (
            f"{script.name} counts from 0 when it goes on from a state: the steps that are left are trained, and the"
            " count here is right, but the interrupted epoch begins anew"
        )


def _script(settings: Settings, facts: Facts) -> Script:
    name = script_for(settings)
    assert name is not None, "a model without a script is a problem"
    return Script(settings, facts, name)


def _resumable() -> set[str]:
    return {name for name, parser in load().parsers.items() if "skip_until_initial_step" in parser.arguments}


def _no_script(settings: Settings) -> Problem:
    known = settings.model.known
    if settings.network is None and known.kohya.lora_script is not None:
        reason = f"sd-scripts has no script that finetunes {known.title}"
        return Problem("mode", "finetune", reason, "mode=lora, or backend=native")
    reason = f"sd-scripts does not train {known.title}"
    return Problem("model", settings.model.name, reason, "backend=native, or another model: docs/models.md lists them")


# ------------------------------------------------------------------------------------------------------------- checks


def _network(script: Script) -> Iterator[Problem]:
    settings, root = script.settings, script.root
    module = settings.model.known.kohya.lora_module
    known = {} if module is None else {module: network_arguments_for(root, module)}
    lycoris = load().lycoris
    checkout, part = script.facts.checkout, network_part(settings)
    if checkout is not None and part is not None and part.module == LYCORIS:
        if not has_module(checkout, "lycoris"):
            reason = f"needs LyCORIS, which {checkout.python} can't find"
            fix = f"{checkout.python} -m pip install lycoris-lora; or network=lora"
            yield Problem("network", settings.network.algo.value if settings.network else "", reason, fix)
            return
        folder = lycoris_folder(str(checkout.python))
        lycoris = lycoris if folder is None else read_lycoris(folder)
    yield from network_problems(settings, known, lycoris)


def _passed_on(script: Script) -> Iterator[Problem]:
    """`backend.args`: by the script's own parser, and by no name that a setting writes."""
    for name, value in script.settings.backend.args.items():
        problem = _refusal(script, name, value)
        if problem is not None:
            yield problem


def _refusal(script: Script, name: str, value: object) -> Problem | None:
    writes, withheld = settings_of(script.name), withheld_of(script.name)
    key, argument = f"backend.args.{name}", script.parser.arguments.get(name)
    if argument is None:
        reason = unknown_reason(script.parser, name)
        return Problem(key, value, reason, f"leave {key} out; python -m pipeline audit lists what there is")
    if name in writes and not _is_left_open(script, writes[name]):
        return Problem(key, value, f"is what {writes[name]} sets", f"{writes[name]}=...")
    if name in withheld:
        return Problem(key, value, f"is not offered: {withheld[name]}", f"leave {key} out")
    wrong = check_value(argument, value) or _missing_file(name, value)
    return None if wrong is None else Problem(key, value, wrong, f"{key}=...")


def _is_left_open(script: Script, setting: str) -> bool:
    return setting in FREE_WHERE_NULL and script.settings.flat()[setting] is None


def _missing_file(name: str, value: object) -> str | None:
    """The scripts look for it when the model is loaded already."""
    if name not in PATHS or name in MAY_BE_MISSING:
        return None
    named = value if isinstance(value, list) else [value]
    missing = [str(each) for each in named if not Path(str(each)).exists()]
    return f"there is no {', no '.join(missing)}" if missing else None


def refused_arguments(script: Script) -> set[str]:
    """Those of `backend.args` that are told of already, and need no rule."""
    passed = script.settings.backend.args
    return {name for name, value in passed.items() if _refusal(script, name, value) is not None}


def _values(script: Script) -> Iterator[Problem]:
    """What our settings would write. `backend.args` was told before."""
    passed = script.settings.backend.args
    values = asked_values(script.context(), script.parser) | cache_values(script.settings, script.parser)
    yield from value_problems({k: v for k, v in values.items() if k not in passed}, script.parser)


def _rules(script: Script) -> Iterator[Problem]:
    yield from rule_problems(script.asked())


def _text_encoders(script: Script) -> Iterator[Problem]:
    settings = script.settings
    rate, known = settings.mode.text_encoder_lr, settings.model.known
    if rate <= 0:
        return
    if settings.network is None and script.name not in TEXT_ENCODER_RATES:
        reason = f"{script.name} trains no text encoder"
        yield Problem("mode.text_encoder_lr", rate, reason, "mode.text_encoder_lr=0, or mode=lora")
    elif script.name in DIES_OF_TRAINED_TEXT:
        reason = f"{script.name} dies drawing samples when it trains its text encoder"
        yield Problem("mode.text_encoder_lr", rate, reason, "mode.text_encoder_lr=0")
    elif known.text.trainable == ["t5xxl"] and not settings.backend.network_args.get("train_t5xxl"):
        reason = f"{script.name} trains T5, the only text encoder of {known.title}, when it is told so only"
        fix = "mode.text_encoder_lr=0, or backend.network_args.train_t5xxl=true"
        yield Problem("mode.text_encoder_lr", rate, reason, fix)


def _caches(script: Script) -> Iterator[Problem]:
    asked = script.settings.backend.cache_text
    if asked in (KohyaCache.memory, KohyaCache.disk) and CACHES_TEXT not in script.parser.arguments:
        yield Problem("backend.cache_text", asked.value, f"{script.name} keeps no text", "backend.cache_text=off")
    latents, _ = chosen_caches(script.settings, script.parser)
    if latents == "disk" and keeps_one_size(script.settings, script.parser):
        reason = f"a file of {script.name} holds a picture at one size, and train.more_resolutions_px asks for several"
        yield Problem("backend.cache_latents", latents, reason, "backend.cache_latents=memory")
    if script.settings.network is None and latents == "off":
        because = changing_pictures(script.settings)
        reason = f"{script.name} dies without a cache of latents: it asks it for the sizes of the pictures"
        fix = " ".join([*(f"~{key}" for key in because), "backend.cache_latents=memory"])
        yield Problem("backend.cache_latents", latents, reason, fix)


def _heldout(script: Script) -> Iterator[Problem]:
    every = script.settings.train.heldout_every_steps
    if every > 0 and "validate_every_n_epochs" not in script.parser.arguments:
        reason = f"{script.name} measures no held-out loss"
        yield Problem("train.heldout_every_steps", every, reason, "train.heldout_every_steps=0, or backend=native")


def _parts(script: Script) -> Iterator[Problem]:
    settings, checkpoint = script.settings, script.facts.checkpoint
    for name, part in settings.model.known.parts.items():
        given, argument = settings.model.parts.get(name), part_argument(name, script.parser.arguments)
        key = f"model.parts.{name}"
        if given is not None and argument is None:
            reason = f"{script.name} takes it from the checkpoint, so this would have no effect"
            yield Problem(key, given, reason, f"leave {key} out, or a checkpoint that has it inside")
        elif given is not None and script.name not in IN_WHOLE_CHECKPOINTS and not Path(given).is_file():
            yield from _not_a_file(key, given, part.family)
        elif given is None and argument is not None and _must_be_given(script, checkpoint):
            reason = f"{script.name} wants it as a file of its own ({argument})"
            yield Problem(key, "null", reason, f"{key}=FILE" + (f" ({part.hub})" if part.hub else ""))


def _must_be_given(script: Script, checkpoint: Checkpoint | None) -> bool:
    if script.name in IN_WHOLE_CHECKPOINTS or checkpoint is None:
        return False
    return script.name not in TAKES_PARTS_INSIDE


def _not_a_file(key: str, given: str, family: str) -> Iterator[Problem]:
    """Qwen3 may be a folder (library/anima_utils.py)."""
    if family == "qwen3_06b" and Path(given).is_dir():
        return
    if Path(given).is_dir():
        yield Problem(key, given, "is a folder, and sd-scripts reads single files", f"{key}=FILE.safetensors")
    else:
        yield Problem(
            key, given, "sd-scripts fetches nothing here: it reads files", f"{key}=FILE, once it is downloaded"
        )


def _single_file(script: Script) -> Iterator[Problem]:
    checkpoint = script.facts.checkpoint
    if checkpoint is not None and checkpoint.layout == "diffusers" and script.name not in IN_WHOLE_CHECKPOINTS:
        reason = f"is a diffusers folder, and {script.name} reads a single file"
        yield Problem("model.path", script.settings.model.path, reason, "model.path=FILE.safetensors")


def _tokenizer(script: Script) -> Iterator[Problem]:
    named = script.settings.model.tokenizer
    if named is None:
        return
    if "tokenizer_cache_dir" in script.settings.backend.args:
        reason = "backend.args.tokenizer_cache_dir would take its place"
        yield Problem("model.tokenizer", named, reason, "model.tokenizer=null")
    elif script.name in IN_WHOLE_CHECKPOINTS:
        if Path(named).is_dir() and not is_slow_tokenizer(Path(named)):
            reason = "has no vocab.json and merges.txt, which are what sd-scripts reads"
            yield Problem("model.tokenizer", named, reason, "model.tokenizer=FOLDER with both")
    else:
        reason = f"{script.name} has tokenizers of its own, which it takes from the hub or its cache"
        yield Problem("model.tokenizer", named, reason, "model.tokenizer=null")


def _negative_prompt(script: Script) -> Iterator[Problem]:
    """A distilled model is guided by a number: there is no second pass that a negative prompt could steer."""
    settings, negative = script.settings, script.settings.sample.negative_prompt
    if negative and settings.model.known.kohya.arguments.get("guidance_scale"):
        reason = f"{settings.model.known.title} is drawn in one pass, so this would have no effect"
        yield Problem("sample.negative_prompt", negative, reason, "sample.negative_prompt=''")


def _sample_seed(script: Script) -> Iterator[Problem]:
    if script.name in LUMINA and script.settings.sample.seed == 0:
        yield Problem("sample.seed", 0, f"{script.name} takes no seed of 0", "sample.seed=1")


def _buckets(script: Script) -> Iterator[Problem]:
    step, needed = script.settings.model.resolution_step_px, BUCKET_STEPS.get(script.name)
    if needed is not None and step % needed:
        reason = f"{script.name} wants a multiple of {needed}"
        yield Problem(
            "model.resolution_step_px", step, reason, f"model.resolution_step_px={max(needed, step // needed * needed)}"
        )


def _optimizer(script: Script) -> Iterator[Problem]:
    """Looked for in the environment that trains; not where none is named, and not where another one may take its place:
    there the trial says that it is missing."""
    checkout, target = script.facts.checkout, script.settings.optimizer.target
    option = asked_for(script.settings.optimizer)
    package = option.package
    if checkout is None or steps_down(script.settings):
        return
    if has_module(checkout, package) and package not in checkout.broken:
        return
    why = f"can't be imported: {checkout.broken[package]}" if package in checkout.broken else "is not installed"
    fix = f"{checkout.python} -m pip install {option.distribution}, or optimizer=adamw"
    yield Problem("optimizer.target", target, f"package {package} {why} in the environment of backend.python", fix)


ALONE = {
    "cpu": "accelerate starts one process on a CPU, whatever number it is told",
    "xpu": "sd-scripts joins its processes by NVIDIA's library, which Intel's cards don't have",
}
"""Platforms on which the scripts train in one process only."""


def _processes(script: Script) -> Iterator[Problem]:
    """Another number of processes than was asked for is never started in silence."""
    hardware, reason = script.settings.hardware, ALONE.get(script.facts.machine.platform)
    if reason and hardware.num_processes > 1:
        fix = "hardware.num_processes=1, or backend=native"
        yield Problem("hardware.num_processes", hardware.num_processes, reason, fix)
    if reason and hardware.num_machines > 1:
        yield Problem("hardware.num_machines", hardware.num_machines, reason, "backend=native")


def _machines(script: Script) -> Iterator[Problem]:
    """accelerate reads a state in every process, and sd-scripts writes it on machine 0."""
    settings = script.settings
    if settings.hardware.num_machines > 1 and settings.resume is not Resume.never:
        reason = "the other machines have none of the states that machine 0 writes: sd-scripts can't go on there"
        yield Problem("resume", settings.resume.value, reason, "resume=never, or backend=native")


CHECKS: tuple[Callable[[Script], Iterator[Problem]], ...] = (
    _network,
    _passed_on,
    _values,
    _rules,
    _text_encoders,
    _caches,
    _heldout,
    _single_file,
    _parts,
    _tokenizer,
    _negative_prompt,
    _sample_seed,
    _buckets,
    turned_pictures,
    folders_only,
    stale_of_pictures,
    _optimizer,
    _processes,
    _machines,
)


# ----------------------------------------------------------------------------------------------------------- warnings


def _checkout_warnings(script: Script, checkout: Checkout | None) -> Iterator[str]:
    """How the checkout differs from what was audited, and its environment from what the checkout pins."""
    if checkout is not None:
        yield from (f"sd-scripts' environment: {words}" for words in pin_differences(checkout))
    if script.root is None:
        audited = load()
        yield f"no checkout is named: this is rendered for sd-scripts {audited.version} ({audited.commit[:8]})"
        return
    counts: Mapping[str, int] = _changes(script)
    if counts:
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        yield f"{script.name} differs from the audited version: {told} arguments; python -m pipeline audit shows them"


def _changes(script: Script) -> dict[str, int]:
    found = differences(load().parsers[script.name], script.parser)
    kinds = [each.kind for each in found]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
