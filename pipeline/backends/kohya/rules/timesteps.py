"""How timesteps are drawn, and weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_changed, number_of
from pipeline.backends.kohya.rules.unread import is_unusable
from pipeline.backends.kohya.rules.wording import problem_of
from pipeline.errors import Problem

READ_BY_SAMPLING: Mapping[str, tuple[str, ...]] = {
    "sigmoid_scale": ("sigmoid", "shift", "flux_shift"),
    "discrete_flow_shift": ("shift", "sigma"),
}
"""get_noisy_model_input_and_timesteps of flux_train_utils.py and lumina_train_util.py."""
SHIFTED, LEFT_OPEN = "train.timestep_sampling=logit_normal", "train.timestep_sampling=null"
"""What to type for a sampling that reads them, and to say by backend.args what no setting says."""
READ_BY_WEIGHTING: Mapping[str, str] = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}


def flow_timesteps(asked: Asked) -> Iterator[Problem]:
    """How a flow's timesteps are drawn: much of it is only read with one way of drawing."""
    sampling, weighting = asked.value("timestep_sampling"), asked.value("weighting_scheme")
    for name, samplings in READ_BY_SAMPLING.items():
        if sampling is not None and is_changed(asked, name) and sampling not in samplings:
            reason = f"timestep_sampling={sampling} does not read it (only {' and '.join(samplings)} do)"
            yield problem_of(asked, name, reason, SHIFTED)
    for name, scheme in READ_BY_WEIGHTING.items():
        if is_changed(asked, name) and weighting != scheme:
            reason = f"weighting_scheme={weighting} does not read it"
            yield problem_of(asked, name, reason, f"{LEFT_OPEN} backend.args.weighting_scheme={scheme}")


def flow_weighting(asked: Asked) -> Iterator[Problem]:
    """Half of the schemes draw timesteps, half weigh the loss, and either may be done otherwise already."""
    weighting, sampling = asked.value("weighting_scheme"), asked.value("timestep_sampling")
    if weighting in READ_BY_WEIGHTING.values() and sampling not in (None, "sigma"):
        reason = f"it draws timesteps, and timestep_sampling={sampling} draws them otherwise"
        yield problem_of(asked, "weighting_scheme", reason, f"{LEFT_OPEN} backend.args.timestep_sampling=sigma")
    predicted = asked.value("model_prediction_type")
    if weighting in ("sigma_sqrt", "cosmap") and predicted not in (None, "sigma_scaled"):
        reason = f"it weighs the loss, which model_prediction_type={predicted} leaves as it is"
        yield problem_of(asked, "weighting_scheme", reason, "backend.args.weighting_scheme=uniform")


def timestep_range(asked: Asked) -> Iterator[Problem]:
    """train_util.get_timesteps draws nothing from an empty range, and takes its upper end for all."""
    low, high = number_of(asked.value("min_timestep")), number_of(asked.value("max_timestep"))
    if low is not None and high is not None and low >= high and not is_unusable(asked, "min_timestep"):
        reason = f"it must be below max_timestep={high:g}: every step would be at the same noise"
        yield problem_of(asked, "min_timestep", reason, f"{asked.key('min_timestep')}=0")
