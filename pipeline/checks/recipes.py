"""What published recipes keep to: outside of it something may be meant, and is more often a mistake.

A setting that has one right value for a model is no rule here: it is in `known.fixed` of conf/model, and an error. What
only sd-scripts has an argument for is in `pipeline.backends.kohya.rules.recipes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.checks.rates import LIKE_LORA
from pipeline.dataset.captions import kept_tags
from pipeline.optimizer.catalog import asked_for
from pipeline.records import Dataset
from pipeline.settings import Algorithm, Network, RateMeaning, Settings

Found = tuple[str, str]
"""A setting as it would be typed, with its value, or what was seen; and what to type instead."""
Find = Callable[[Settings, Dataset], Iterator[Found]]

LOW_RANK = LIKE_LORA | {Algorithm.loha, Algorithm.glora}
"""Algorithms whose rank is one; LoKr's may be large on purpose, and the others have blocks or none."""
WIDEST, WIDEST_OF_TRANSFORMERS = 128, 64
WIDEST_BY_ALGORITHM = {Algorithm.locon: 64, Algorithm.dora: 64, Algorithm.loha: 32}
"""LyCORIS' own guidelines: above these, runs end in NaN."""
COUNTED_OTHERWISE = ("train.max_steps", "train.epochs")
"""Settings beside which floor and cap are not looked at."""
MOST_CAPTIONS = 0.8
"""Share of the captions that have something, when they are said to have it."""
FEWEST_CAPTIONS = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """A warning."""

    about: str
    """The setting, or what is looked at."""
    usual: str
    reason: str
    find: Find

    def warnings(self, settings: Settings, dataset: Dataset) -> Iterator[str]:
        for seen, fix in self.find(settings, dataset):
            yield f"{seen}: usual is {self.usual} ({self.reason}); try {fix}"


def recipe_warnings(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """What no recipe does: each with the setting, its value, what is usual and why, and what to type."""
    for rule in RULES:
        yield from rule.warnings(settings, dataset)


def _outside(key: str, low: float, high: float) -> Find:
    """Of a number that is set; what is null is not judged."""

    def find(settings: Settings, _: Dataset) -> Iterator[Found]:
        value = settings.flat().get(key)
        if isinstance(value, int | float) and not low <= value <= high:
            yield f"{key}={value:g}", f"{key}={low if value < low else high:g}"

    return find


# ----------------------------------------------------------------------------------------------------------- network


def _wide_ranks(settings: Settings, _: Dataset) -> Iterator[Found]:
    network = settings.network
    if network is None or network.algo not in LOW_RANK:
        return
    widest = _widest(settings, network)
    if network.rank > widest:
        yield f"network.rank={network.rank}", f"network.rank={widest}"


def _widest(settings: Settings, network: Network) -> int:
    of_the_model = WIDEST if settings.model.known.convolutions else WIDEST_OF_TRANSFORMERS
    return min(of_the_model, WIDEST_BY_ALGORITHM.get(network.algo, of_the_model))


def _wide_convolutions(settings: Settings, _: Dataset) -> Iterator[Found]:
    network = settings.network
    if network is not None and network.algo in LOW_RANK and network.conv_rank > network.rank:
        yield f"network.conv_rank={network.conv_rank}", f"network.conv_rank={network.rank}"


def _strong_loha(settings: Settings, _: Dataset) -> Iterator[Found]:
    network = settings.network
    if network is not None and network.algo is Algorithm.loha and network.alpha > network.rank / 2:
        yield f"network.alpha={network.alpha:g}", f"network.alpha={network.rank / 2:g}"


# ------------------------------------------------------------------------------------------------------------- rates


def _quick_text_encoders(settings: Settings, _: Dataset) -> Iterator[Found]:
    """Not of optimizers that find their rate: most of them take one for all."""
    known = asked_for(settings.optimizer).known
    if known is not None and (known.one_rate or known.rate is RateMeaning.multiplier):
        return
    text_lr = settings.mode.text_encoder_lr
    highest = settings.optimizer.lr / (1 if settings.network is None else 2)
    if text_lr > highest * (1 + 1e-9):
        yield f"mode.text_encoder_lr={text_lr:g}", f"mode.text_encoder_lr={highest:g}"


def _few_samples(settings: Settings, dataset: Dataset) -> Iterator[Found]:
    values = settings.flat()
    if all(values.get(key) is None for key in COUNTED_OTHERWISE):
        yield from _outside("train.samples_floor", 500, float("inf"))(settings, dataset)


# ---------------------------------------------------------------------------------------------------------- captions


def _moving_trigger(settings: Settings, dataset: Dataset) -> Iterator[Found]:
    """A trigger is the first tag of nearly all captions, before others."""
    asked = _of_tags(settings)
    if not asked or kept_tags(settings) > 0:
        return
    tagged = [picture.caption for picture in dataset.train if "," in picture.caption]
    first = Counter(caption.partition(",")[0].strip() for caption in tagged)
    trigger, times = first.most_common(1)[0] if first else ("", 0)
    if times >= FEWEST_CAPTIONS and times > MOST_CAPTIONS * len(dataset.train):
        seen = (
            f"train.keep_tags=0 beside {next(iter(asked.values()))}, and {times} captions begin with {trigger[:60]!r}"
        )
        yield seen, "train.keep_tags=1"


def _torn_sentences(settings: Settings, dataset: Dataset) -> Iterator[Found]:
    """A sentence ends in a full stop."""
    captions = [picture.caption.strip() for picture in dataset.train]
    sentences = sum(caption.endswith((".", "!", "?", "。")) and "," in caption for caption in captions)
    if sentences < FEWEST_CAPTIONS or sentences <= MOST_CAPTIONS * len(captions):
        return
    for without, asked in _of_tags(settings).items():
        yield f"{asked}, and {sentences} of {len(captions)} captions are sentences", without


SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def _mirrored_sides(settings: Settings, dataset: Dataset) -> Iterator[Found]:
    told = sum(bool(SIDES.search(picture.caption)) for picture in dataset.train)
    if settings.train.flip and told:
        captions = "1 caption speaks" if told == 1 else f"{told} captions speak"
        yield f"train.flip=true, and {captions} of left or right", "train.flip=false"


def _no_tags(settings: Settings, dataset: Dataset) -> Iterator[Found]:
    """Shuffling needs two parts behind those that are kept, and leaving out one."""
    kept, trigger = kept_tags(settings), settings.data.trigger
    captions = [line for picture in dataset.train for line in picture.caption.split("\n")]
    most = max((caption.count(",") + 1 for caption in captions), default=kept + 2)
    beside = f"train.keep_tags={settings.train.keep_tags}" + (f" data.trigger={trigger}" if trigger else "")
    for without, asked in _of_tags(settings).items():
        if most - kept < (2 if asked.startswith("train.shuffle_tags") else 1):
            yield f"{asked} {beside}, and the longest caption has {most} of them", without


def _of_tags(settings: Settings) -> dict[str, str]:
    """What would switch it off -> what is asked for."""
    train, asked = settings.train, {}
    if train.shuffle_tags:
        asked["train.shuffle_tags=false"] = "train.shuffle_tags=true"
    if train.tag_dropout:
        asked["train.tag_dropout=0"] = f"train.tag_dropout={train.tag_dropout:g}"
    return asked


RULES: tuple[Rule, ...] = (
    Rule(
        "network.rank",
        "1 to 128, and at most 64 for transformers, locon and dora and 32 for loha",
        "a wider one learns the pictures by heart, or ends in NaN",
        _wide_ranks,
    ),
    Rule("network.conv_rank", "at most network.rank", "convolutions need less than attention", _wide_convolutions),
    Rule(
        "network.alpha",
        "at most half of network.rank for loha",
        "a product of two products is large as it is, and comes apart",
        _strong_loha,
    ),
    Rule(
        "mode.text_encoder_lr",
        "at most half of optimizer.lr for an adapter, and optimizer.lr for a finetune",
        "a text encoder forgets other words sooner than a denoiser forgets other pictures",
        _quick_text_encoders,
    ),
    Rule(
        "train.min_snr_gamma",
        "1 to 20, or null",
        "a smaller one all but leaves out the steps with little noise, and a larger one changes next to nothing",
        _outside("train.min_snr_gamma", 1, 20),
    ),
    Rule(
        "train.noise_offset",
        "0 to 0.15",
        "0.1 changes the contrast of all pictures for the eye already",
        _outside("train.noise_offset", 0, 0.15),
    ),
    Rule(
        "train.caption_dropout",
        "0 to 0.2",
        "what is learned without its words comes without being asked for",
        _outside("train.caption_dropout", 0, 0.2),
    ),
    Rule(
        "train.samples_floor",
        "500 and more",
        "fewer samples leave hardly a trace in the weights",
        _few_samples,
    ),
    Rule(
        "train.keep_tags",
        "1 or more where tags are shuffled or left out and captions begin with a trigger",
        "a trigger that moves is learned as one tag among others",
        _moving_trigger,
    ),
    Rule(
        "train.shuffle_tags, train.tag_dropout",
        "off for sentences",
        "at its commas a sentence breaks into pieces",
        _torn_sentences,
    ),
    Rule(
        "train.flip",
        "off where captions tell sides",
        "a mirrored picture shows the other side than the one that its caption tells",
        _mirrored_sides,
    ),
    Rule(
        "train.keep_tags of short captions",
        "off where captions have no other tags",
        "there is nothing to shuffle or to leave out, so it has no effect",
        _no_tags,
    ),
)
