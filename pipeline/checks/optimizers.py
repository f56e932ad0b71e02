"""What an optimizer can't do with the settings around it."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import Problem
from pipeline.optimizer.catalog import Option, asked_for
from pipeline.settings import RateMeaning, Settings

REMOVED = {
    "bitsandbytes": {
        "block_wise": "bitsandbytes has not had it since 0.50: 8-bit states are kept in blocks, always",
        "percentile_clipping": "bitsandbytes has not had it since 0.50; train.max_grad_norm limits the gradients",
    }
}
"""Arguments that old configurations have."""
LOWEST_MULTIPLIER = 0.1


def removed_arguments(settings: Settings) -> Iterator[Problem]:
    """They would end the run when the optimizer is built."""
    optimizer = settings.optimizer
    for name, reason in REMOVED.get(optimizer.target.partition(".")[0], {}).items():
        if name in optimizer.args:
            key = f"optimizer.args.{name}"
            yield Problem(key, optimizer.args[name], reason, f"leave {key} out")


def rate_problems(settings: Settings) -> Iterator[Problem]:
    """Rates and schedulers that its kind does not go with."""
    option = asked_for(settings.optimizer)
    if option.known is None:
        return
    allowed, scheduler = option.known.schedulers, settings.train.scheduler
    if allowed and scheduler not in allowed:
        reason = f"{option.class_name} averages its weights in place of lowering its rate, which must stay"
        yield Problem("train.scheduler", scheduler.value, reason, f"train.scheduler={allowed[0].value}")
    yield from _multiplier_problems(settings, option)
    yield from _one_rate_problems(settings, option)


def _multiplier_problems(settings: Settings, option: Option) -> Iterator[Problem]:
    assert option.known is not None
    lr = settings.optimizer.lr
    if option.known.rate is RateMeaning.multiplier and 0 < lr < LOWEST_MULTIPLIER:
        reason = f"{option.class_name} finds its own rate and multiplies it by this one, which must be about 1"
        yield Problem("optimizer.lr", lr, reason, "optimizer.lr=1.0")


def _one_rate_problems(settings: Settings, option: Option) -> Iterator[Problem]:
    assert option.known is not None
    lr, text_lr = settings.optimizer.lr, settings.mode.text_encoder_lr
    if option.known.one_rate and text_lr not in (0, lr):
        reason = f"{option.class_name} takes one learning rate for all, or 0, and optimizer.lr is {lr:g}"
        yield Problem("mode.text_encoder_lr", text_lr, reason, f"mode.text_encoder_lr={lr:g}")
