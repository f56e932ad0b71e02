"""The optimizer: its name, its arguments and the rates that it can do with."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import (
    first_on,
    is_on,
    is_schedule_free,
    is_true,
    learning_rates,
    network_key,
    number_of,
    optimizer_of,
    pairs_of,
    texts_of,
)
from pipeline.backends.kohya.rules.unread import is_unusable
from pipeline.backends.kohya.rules.wording import line_of, problem_of, spelt, switched_off
from pipeline.backends.kohya.scripts import CHECKPOINTS, SD_CHECKPOINTS, SDXL
from pipeline.errors import Problem, did_you_mean

FUSED = ("fused_backward_pass", "fused_optimizer_groups", "blockwise_fused_optimizers")
NAMED_OPTIMIZERS = (
    *("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion", "Lion8bit", "PagedLion8bit"),
    *("SGDNesterov", "SGDNesterov8bit", "Adafactor", "Prodigy", "DAdaptation", "DAdaptAdamPreprint", "DAdaptAdaGrad"),
    *("DAdaptAdam", "DAdaptAdan", "DAdaptAdanIP", "DAdaptLion", "DAdaptSGD"),
    *("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"),
)
"""train_util.get_optimizer, in any case; its help also names AdEMAMix8bit, which it does not know."""
TORCH_OPTIMIZERS = (
    *("Adadelta", "Adagrad", "Adam", "Adamax", "ASGD", "LBFGS", "Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    "SparseAdam",
)
LOWEST_ADAPTING_RATE = 0.1
NEVER_EVALUATES = SD_CHECKPOINTS | (SDXL & CHECKPOINTS)
"""They don't call get_optimizer_train_eval_fn."""


def fused_steps(asked: Asked) -> Iterator[Problem]:
    """Weights that are updated while the gradient is still on its way: no gradient is ever whole."""
    name = first_on(asked, [name for name in FUSED if not is_unusable(asked, name)])
    if name is None:
        return
    accumulation, optimizer = number_of(asked.value("gradient_accumulation_steps")), optimizer_of(asked)
    if accumulation is not None and accumulation > 1:
        reason = f"{line_of(asked, name)} updates the weights in every pass, and can't gather gradients"
        yield problem_of(
            asked, "gradient_accumulation_steps", reason, switched_off(asked, "gradient_accumulation_steps")
        )
    if is_on(asked, "max_grad_norm"):
        reason = f"beside {line_of(asked, name)} each weight matrix is clipped on its own, not the gradient as a whole"
        yield problem_of(asked, "max_grad_norm", reason, switched_off(asked, "max_grad_norm"))
    if name == "fused_backward_pass" and optimizer.lower() != "adafactor":
        yield problem_of(
            asked, name, f"sd-scripts refuses it with {optimizer}: Adafactor only", switched_off(asked, name)
        )
    if name == "blockwise_fused_optimizers" and is_schedule_free(asked):
        yield problem_of(
            asked, name, f"sd-scripts refuses it with {optimizer}, a schedule-free one", switched_off(asked, name)
        )


def optimizer_names(asked: Asked) -> Iterator[Problem]:
    """A name without a module is one of sd-scripts' own, or a class of torch.optim."""
    name = optimizer_of(asked)
    own = {each.lower() for each in NAMED_OPTIMIZERS}
    if "." not in name and name.lower() not in own and name not in TORCH_OPTIMIZERS:
        near = did_you_mean(name, [*NAMED_OPTIMIZERS, *TORCH_OPTIMIZERS])
        reason = f"sd-scripts knows no such optimizer.{near} Any other is written with its module: package.Class"
        yield problem_of(asked, "optimizer_type", reason, "optimizer=adamw8bit")


def written_arguments(asked: Asked) -> Iterator[Problem]:
    """train_util.py splits each at `=` and reads its value by ast.literal_eval, which raises."""
    for name in ("optimizer_args", "lr_scheduler_args"):
        for text in texts_of(asked.value(name)) if name in asked.parser.arguments else ():
            _, _, value = text.partition("=")
            if text.count("=") != 1 or not _is_literal(value):
                reason = f"{text}: sd-scripts reads name=value, the value as Python writes it (True, 0.9, 'word')"
                yield Problem(asked.key(name), text, reason, f'{asked.key(name)}=["weight_decay=0.01"]')


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return False
    return True


def adafactor_steps(asked: Asked) -> Iterator[Problem]:
    """Adafactor makes its own learning rates unless it is told not to, which is not its default."""
    module, _, class_name = optimizer_of(asked).rpartition(".")
    if class_name.lower() != "adafactor" or module.partition(".")[0] not in {"", "transformers"}:
        return
    written = pairs_of(asked.value("optimizer_args"))
    relative, warm = is_true(written.get("relative_step", "True")), is_true(written.get("warmup_init"))
    if not (relative or warm):
        return
    name = "relative_step" if relative else "warmup_init"
    reason = "sd-scripts drops every learning rate and the scheduler for Adafactor's own steps"
    if module:
        reason = "Adafactor raises: it takes no learning rate beside steps of its own"
    told = f"{name}=True" + ("" if name in written else ", the default")
    yield Problem(asked.key("optimizer_args"), told, reason, _optimizer_fix(asked, name))


def _optimizer_fix(asked: Asked, name: str) -> str:
    """A key that stands in no file is added with a plus."""
    if asked.key("optimizer_args").startswith("backend.args."):
        return f'{asked.key("optimizer_args")}=["{name}=False"]'
    return f"{'' if name in asked.settings.optimizer.args else '+'}optimizer.args.{name}=false"


def adapting_rates(asked: Asked) -> Iterator[Problem]:
    """Optimizers that find their rate multiply what they find by the one that is given."""
    optimizer = optimizer_of(asked)
    class_name = optimizer.rpartition(".")[2].lower()
    if not class_name.startswith(("prodigy", "dadapt")):
        return
    for name, rates in learning_rates(asked).items():
        if any(0 < rate < LOWEST_ADAPTING_RATE for rate in rates):
            reason = f"{optimizer} finds its own rate and multiplies it by this one, which must be about 1"
            yield problem_of(asked, name, reason, f"{asked.key(name)}=1.0")


def one_adapting_rate(asked: Asked) -> Iterator[Problem]:
    """Prodigy and D-Adaptation raise for groups with different rates, but for 0; ProdigyPlus takes them. A rate that is
    no multiplier at all is told of first."""
    if any(True for _ in adapting_rates(asked)):
        return
    optimizer, by_name = optimizer_of(asked), learning_rates(asked)
    class_name = optimizer.rpartition(".")[2].lower()
    different = {rate for rates in by_name.values() for rate in rates if rate}
    if (class_name == "prodigy" or class_name.startswith("dadapt")) and len(different) > 1:
        first, *others = by_name
        name = others[0] if others else first
        told = ", ".join(f"{rate:g}" for rate in sorted(different))
        fix = f"{asked.key(name)}={max(by_name[first], default=1.0):g}"
        yield problem_of(asked, name, f"{optimizer} takes one learning rate for all, or 0; these are {told}", fix)


LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")


def uneven_adapting_rates(asked: Asked) -> Iterator[Problem]:
    """LoRA+ gives half of the matrices a rate of their own (networks/lora.py, arXiv 2402.12354)."""
    class_name = optimizer_of(asked).rpartition(".")[2].lower()
    if not (class_name == "prodigy" or class_name.startswith("dadapt")):
        return
    for name in LORA_PLUS:
        ratio = number_of(asked.network_args.get(name))
        if ratio and ratio != 1:
            key = network_key(asked, name)
            reason = f"{optimizer_of(asked)} takes one learning rate for all, and LoRA+ trains half of the matrices at"
            yield Problem(key, spelt(asked.network_args[name]), f"{reason} {ratio:g} times of it", f"leave {key} out")


def schedule_free_weights(asked: Asked) -> Iterator[Problem]:
    """A schedule-free optimizer trains other weights than those that it means to be used."""
    if is_schedule_free(asked) and asked.parser.script in NEVER_EVALUATES:
        reason = f"{asked.parser.script} never switches it to evaluation, and saves weights that are not its average"
        yield problem_of(asked, "optimizer_type", reason, "optimizer=adamw8bit")
