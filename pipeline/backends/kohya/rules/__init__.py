"""What sd-scripts ignores in silence, refuses at its start or dies of later, where one argument meets another.

Every fact was read from kohya-ss/sd-scripts 0.10.1; the file that it stands in is named beside it. A rule is silent
about arguments that the script does not have: those are told of elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.advice import (
    full_lokr,
    narrow_weights,
    noise_on_noise,
    restless_encoders,
    unusual_terminal_snr,
)
from pipeline.backends.kohya.rules.attention import attention_without_gradient, chroma_padding
from pipeline.backends.kohya.rules.caches import (
    captions_behind_a_cache,
    pictures_behind_a_cache,
    t5_behind_a_cache,
    text_encoders_behind_a_cache,
)
from pipeline.backends.kohya.rules.losses import huber_threshold, masks
from pipeline.backends.kohya.rules.memory import halved_weights, precision, swapped_blocks
from pipeline.backends.kohya.rules.networks import decomposition, timesteps_of_tlora, weight_norms, whole_blocks
from pipeline.backends.kohya.rules.optimizers import (
    adafactor_steps,
    adapting_rates,
    fused_steps,
    one_adapting_rate,
    optimizer_names,
    schedule_free_weights,
    uneven_adapting_rates,
    written_arguments,
)
from pipeline.backends.kohya.rules.predictions import kind_of_prediction, terminal_snr, v_parameterization
from pipeline.backends.kohya.rules.recipes import unlike_the_family, unusual_figures, weighed_twice
from pipeline.backends.kohya.rules.schedules import (
    epochs,
    scheduler_arguments,
    scheduler_names,
    unused_schedules,
    warm_up,
)
from pipeline.backends.kohya.rules.timesteps import flow_timesteps, flow_weighting, timestep_range
from pipeline.backends.kohya.rules.unread import ignored_beside, missing_companion, never_read, refused_together
from pipeline.checks.families import fixed_problems
from pipeline.checks.networks import network_problems
from pipeline.errors import Problem
from pipeline.settings import Prediction

Rule = Callable[[Asked], Iterator[Problem]]
Advice = Callable[[Asked], Iterator[str]]


def rule_problems(asked: Asked) -> Iterator[Problem]:
    """Lines without the effect that they promise, but for those of settings that are wrong with any backend."""
    told = {problem.key for problem in (*fixed_problems(asked.settings), *_wrong_predictions(asked))}
    if asked.settings.network is not None:
        told |= {problem.key for problem in network_problems(asked.settings.network)}
    for rule in RULES:
        yield from (problem for problem in rule(asked) if problem.key not in told)


def _wrong_predictions(asked: Asked) -> Iterator[Problem]:
    """A prediction that was said, and that no model of this family has (`pipeline.checks.claims`)."""
    said, told = asked.settings.model.prediction, asked.settings.model.signature.get("predicts")
    if said is not Prediction.auto and told is not None and (said is Prediction.flow) != (told == "flow"):
        yield Problem("model.prediction", said.value, "", "")


def rule_warnings(asked: Asked) -> Iterator[str]:
    """What is done as it is written, and seldom meant."""
    for advice in ADVICE:
        yield from advice(asked)


RULES: tuple[Rule, ...] = (
    *(captions_behind_a_cache, text_encoders_behind_a_cache, t5_behind_a_cache, pictures_behind_a_cache),
    *(optimizer_names, written_arguments, fused_steps, adafactor_steps, adapting_rates, one_adapting_rate),
    *(uneven_adapting_rates, schedule_free_weights, scheduler_names, scheduler_arguments, warm_up, unused_schedules),
    *(kind_of_prediction, v_parameterization, terminal_snr, huber_threshold),
    *(flow_timesteps, flow_weighting, timestep_range),
    *(swapped_blocks, precision, halved_weights, epochs, attention_without_gradient, masks, chroma_padding),
    *(timesteps_of_tlora, whole_blocks, weight_norms, decomposition),
    *(never_read, missing_companion, ignored_beside, refused_together),
)
ADVICE: tuple[Advice, ...] = (
    *(full_lokr, noise_on_noise, unusual_terminal_snr, narrow_weights, restless_encoders),
    *(unusual_figures, unlike_the_family, weighed_twice),
)
