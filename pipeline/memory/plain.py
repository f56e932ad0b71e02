"""What every trainer puts on a device; a backend changes what its own does otherwise."""

from __future__ import annotations

from dataclasses import replace

from pipeline.dataset.resolutions import largest_px
from pipeline.families import Shape
from pipeline.machine.precision import choose_precision
from pipeline.memory.load import Load
from pipeline.memory.parameters import (
    encoder_parameters,
    trained_encoder_parameters,
    trained_parameters,
    vae_parameters,
)
from pipeline.records import Checkpoint, Facts, Machine, Platform
from pipeline.settings import Settings, decided

CONTEXT_BYTES: dict[Platform, int] = {"cuda": 450 * 2**20, "rocm": 750 * 2**20, "xpu": 750 * 2**20, "cpu": 520 * 2**20}
"""In the middle of what tools show beyond torch's own count: 0.3 to 0.6 GiB on cuda, 0.5 to 1 GiB on rocm and xpu. On a
CPU the process itself, measured by VmRSS of the native trainer with torch 2.13: 477 MiB when all is imported, 512 when
captions and pictures are encoded and their encoders gone, 9 more of the library's pages once it trains."""


def plain_load(settings: Settings, facts: Facts, checkpoint: Checkpoint) -> Load:
    """Frozen weights in the type of the forward pass, trained ones in float32."""
    precision, _ = choose_precision(settings.hardware.precision, facts.machine)
    compute_bytes, train = (4 if precision == "fp32" else 2), settings.train
    adapted = settings.network is not None
    sizes, on_cpu = checkpoint.sizes, facts.machine.platform == "cpu"
    load = Load(
        shape=_shape(settings.model.known.shape, checkpoint),
        parameters=checkpoint.parameters,
        weight_bytes=compute_bytes if adapted else 4,
        adapter_parameters=trained_parameters(settings, checkpoint) if adapted else 0,
        trained_bytes=4,
        compute_bytes=compute_bytes,
        state_bytes_per_parameter=settings.optimizer.known.state_bytes_per_parameter,
        eight_bits=settings.optimizer.known.twin is not None,
        side_px=largest_px(train),
        base_px=train.resolution_px,
        batch=decided(train.batch_size),
        accumulation=decided(train.accumulation_steps),
        gradient_checkpointing=decided(train.gradient_checkpointing),
        plain_attention=plain_attention(facts.machine),
        encoder_parameters=encoder_parameters(settings, checkpoint),
        encoder_bytes=compute_bytes,
        trained_encoder_parameters=trained_encoder_parameters(settings, checkpoint),
        vae_parameters=vae_parameters(settings, checkpoint),
        vae_bytes=compute_bytes,
        guided=settings.sample.guidance_scale > 1,
        on_cpu=on_cpu,
        context_bytes=CONTEXT_BYTES[facts.machine.platform],
    )
    return replace(load, vae_width=sizes.vae_width or load.vae_width)


def _shape(known: Shape, checkpoint: Checkpoint) -> Shape:
    """By its own header where that tells: a family has members of other widths."""
    return replace(known, levels=list(checkpoint.sizes.levels)) if checkpoint.sizes.levels else known


def plain_attention(machine: Machine) -> bool:
    """Where nothing is known of the kernels, a better one than plain products is taken for granted."""
    return machine.attention == ("math",)
