"""How long an epoch of sd-scripts is, and after how many of them the held-out loss is measured."""

from __future__ import annotations

from pipeline.backends.kohya.arguments import Parser
from pipeline.backends.kohya.buckets import batches_per_epoch
from pipeline.backends.kohya.resuming import Resumed, nearest_divisor
from pipeline.dataset.epoch import datasets_at, regularising
from pipeline.records import Plan
from pipeline.settings import decided


def updates_per_epoch(plan: Plan) -> int:
    """Each resolution is a dataset with buckets of its own, and an epoch has the batches of all (DatasetGroup,
    library/train_util.py)."""
    train = plan.settings.train
    batches = sum(
        batches_per_epoch(
            [*each.train, *regularising(each)],
            resolution_px=side_px,
            step_px=plan.settings.model.resolution_step_px,
            batch_size=decided(train.batch_size),
            no_upscale=bool(plan.settings.backend.args.get("bucket_no_upscale")),
        )
        for side_px, each in datasets_at(plan.dataset, train).items()
    )
    return max(1, -(-batches // (plan.num_processes * decided(train.accumulation_steps))))


def measures_heldout(parser: Parser) -> bool:
    return "validate_every_n_epochs" in parser.arguments


def epochs_between_measures(plan: Plan, resumed: Resumed | None = None) -> int:
    """The divisor of the number of epochs that is nearest to `train.heldout_every_steps`, so that the last epoch is
    measured; 0 there means at the end only. A start that goes on counts its own epochs."""
    updates, every = updates_per_epoch(plan), plan.settings.train.heldout_every_steps
    epochs = -(-(plan.steps if resumed is None else resumed.last_counted) // updates)
    return nearest_divisor(epochs, every / updates) if every else epochs
