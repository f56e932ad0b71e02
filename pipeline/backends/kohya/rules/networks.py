"""The adapter: what its module and its algorithm can't do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.network import LYCORIS
from pipeline.backends.kohya.rules.reading import algorithm_of, is_on, is_true, network_key, number_of
from pipeline.backends.kohya.rules.wording import problem_of, spelt, switched_off
from pipeline.errors import Problem

BLOCK_SIZES: Mapping[tuple[str, str], tuple[str, int]] = {
    (LYCORIS, "dylora"): ("block_size", 4),
    ("networks.dylora", ""): ("unit", 1),
}
"""Module and algorithm -> the argument that ranks are multiples of, and its default; both modules assert it."""


def timesteps_of_tlora(asked: Asked) -> Iterator[Problem]:
    """lycoris.modules.tlora waits for a mask by timestep (set_timestep_mask), which no script of sd-scripts sets."""
    if algorithm_of(asked) == (LYCORIS, "tlora"):
        reason = "sd-scripts never tells LyCORIS the timestep: it would train a plain adapter"
        yield Problem("network.algo", "tlora", reason, "backend=native, or network=lora")


def whole_blocks(asked: Asked) -> Iterator[Problem]:
    """DyLoRA trains its ranks in blocks."""
    module, algorithm = algorithm_of(asked)
    name, default = BLOCK_SIZES.get((module, algorithm if module == LYCORIS else ""), ("", 1))
    size = number_of(asked.network_args.get(name, default))
    ranks = {asked.key("network_dim"): asked.value("network_dim"), CONVOLUTIONS: asked.network_args.get("conv_dim")}
    for key, rank in ranks.items():
        dim = number_of(rank)
        if name and size and dim is not None and dim % size:
            more = (dim // size + 1) * size
            reason = f"it must be a multiple of {name}={size:g}, or the network is refused"
            yield Problem(key, rank, reason, f"{key}={more:g}")


CONVOLUTIONS = "network.conv_rank"


WITHOUT_NORM_LIMIT = ("networks.dylora", "networks.oft", "networks.oft_flux")


def weight_norms(asked: Asked) -> Iterator[Problem]:
    """Modules without apply_max_norm_regularization: train_network.py warns, and switches it off."""
    module = asked.value("network_module")
    if is_on(asked, "scale_weight_norms") and module in WITHOUT_NORM_LIMIT:
        yield problem_of(
            asked, "scale_weight_norms", f"{module} can't, and ignores it", switched_off(asked, "scale_weight_norms")
        )


def decomposition(asked: Asked) -> Iterator[Problem]:
    """sd-scripts' own modules take any argument, and have no DoRA."""
    module, value = str(asked.value("network_module")), asked.network_args.get("dora_wd")
    if module.startswith("networks.") and is_true(value):
        key = network_key(asked, "dora_wd")
        yield Problem(key, spelt(value), f"{module} knows no DoRA, and ignores it", "network=dora")
