"""What the loss is made of: its threshold, and the masks that weigh it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_changed, is_on
from pipeline.backends.kohya.rules.unread import SNR_WEIGHTS
from pipeline.backends.kohya.rules.wording import problem_of
from pipeline.backends.kohya.scripts import ANIMA, FLOW
from pipeline.errors import Problem

HUBER_LOSSES = ("huber", "smooth_l1")
HUBER_ARGUMENTS = ("huber_c", "huber_scale", "huber_schedule")
UNSCHEDULED: Mapping[str, frozenset[str]] = {
    "snr": FLOW,  # get_huber_threshold_if_needed of train_util.py raises for want of alphas_cumprod
    "exponential": ANIMA,  # no scheduler there, or timesteps of 0 to 1 where 0 to 1000 are meant
}


def huber_threshold(asked: Asked) -> Iterator[Problem]:
    """Its schedule is one for noise unless it is said otherwise."""
    loss, schedule = str(asked.value("loss_type")), str(asked.value("huber_schedule"))
    if loss not in HUBER_LOSSES:
        for name in HUBER_ARGUMENTS:
            if is_changed(asked, name):
                yield problem_of(asked, name, f"loss_type={loss} does not read it", "backend.args.loss_type=huber")
    elif asked.parser.script in UNSCHEDULED.get(schedule, ()):
        reason = f"{asked.parser.script} has no {schedule} schedule for the threshold of {loss}"
        yield problem_of(asked, "huber_schedule", reason, "backend.args.huber_schedule=constant")
    elif schedule == "snr" and is_changed(asked, "huber_scale"):
        reason = "the schedule snr does not read it"
        yield problem_of(asked, "huber_scale", reason, "backend.args.huber_schedule=constant")


def masks(asked: Asked) -> Iterator[Problem]:
    """apply_masked_loss of custom_train_functions.py returns the loss as it is where there is no mask."""
    if is_on(asked, "masked_loss") and not (is_on(asked, "alpha_mask") or is_on(asked, "conditioning_data_dir")):
        reason = "there are no masks: it needs alpha_mask, or conditioning_data_dir with a picture for each picture"
        yield problem_of(asked, "masked_loss", reason, "data.alpha_masks=true, or data.masks_dir=FOLDER")
    weighed = is_on(asked, "masked_loss") or any(is_on(asked, name) for name in SNR_WEIGHTS)
    if asked.parser.script == "sdxl_train.py" and is_on(asked, "alpha_mask") and not weighed:
        reason = "sdxl_train.py looks at masks only beside masked_loss"
        yield problem_of(asked, "alpha_mask", reason, "backend.args.masked_loss=true")
