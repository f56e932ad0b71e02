"""The generated table of docs/memory.md: what each model needs under each memory profile."""

from __future__ import annotations

from docs.memory_page import Table, known_of, lora, shape_of
from pipeline.backends.kohya.rules.memory import blocks_limit
from pipeline.memory.adapters import adapter_parameters
from pipeline.memory.estimate import MemoryEstimate, estimate
from pipeline.memory.load import Load
from pipeline.memory.plain import CONTEXT_BYTES
from pipeline.memory.profiles import computes_twice, profiles
from pipeline.optimizer.catalog import options
from pipeline.settings import MemoryProfile
from tests.model_headers import HEADERS, adapted

RANK, UPDATE_PICTURES = 16, 4
OPTIMIZERS = {False: "adamw", True: "adamw8bit"}
"""What optimizer=auto is, in 8 bits or not."""


def profiles_table(table: Table) -> str:
    """The high end of training's range for each model that a header was recorded of, in GiB."""
    titles = ("model", "px", *(f"`{name}`" for name in profiles()))
    return table(titles, map(_row, sorted(HEADERS)))


def _row(model: str) -> tuple[str, ...]:
    side = int(known_of(model, "resolution")["native_px"])
    blocks = blocks_limit(model, known_of(model, "kohya")["lora_script"] or "")
    needs = (_needs(model, profile, side, blocks).training.high_bytes / 2**30 for profile in profiles().values())
    return (f"`{model}`", str(side), *(f"{need:.0f}" for need in needs))


def _needs(model: str, profile: MemoryProfile, side_px: int, most_blocks: int) -> MemoryEstimate:
    shape, optimizer = shape_of(model), options()[OPTIMIZERS[profile.eight_bits]].known
    assert optimizer is not None, "every file has it"
    batch = min(profile.batch_size, UPDATE_PICTURES)
    load = Load(
        shape=shape,
        parameters=shape.parameters,
        weight_bytes=2,
        adapter_parameters=adapter_parameters(adapted(model), lora(RANK)),
        trained_bytes=4,
        compute_bytes=2,
        state_bytes_per_parameter=optimizer.state_bytes_per_parameter,
        eight_bits=profile.eight_bits,
        side_px=side_px,
        batch=batch,
        accumulation=UPDATE_PICTURES // batch,
        gradient_checkpointing=computes_twice(profile, shape),
        blocks_to_swap=min(profile.blocks_to_swap, most_blocks),
        context_bytes=CONTEXT_BYTES["cuda"],
    )
    return estimate(load)
