"""What the forward pass keeps for the backward pass, counted in numbers that a layer's operations save.

Sources: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198, section
4) for a transformer layer; what diffusers' BasicTransformerBlock and ResnetBlock2D add to that, counted in the same
way; Dao et al., FlashAttention (arXiv 2205.14135) for scores that are not kept; Chen et al. (arXiv 1604.06174) for
checkpoints, of which one a layer is kept and one layer at a time is computed again.
"""

from __future__ import annotations

from pipeline.families import Level, Shape

JOINT_LAYER = 22
"""Numbers kept a token and a unit of width. arXiv 2205.05198 counts 34 bytes, 2 of them dropout masks, that is 16:
attention 5 (its input, q, k, v, its output), the MLP 9 (input, 4 before and 4 after its curve), the two norms 2; and
a diffusion transformer's modulation 6 more: both branches' scaled inputs, gates' inputs, and residual sums."""
CROSS_LAYER = {4: 28, 2: 33}
"""The same of a U-Net's layer, by the bytes of a number. In float32 what torch.autograd.graph.saved_tensors_hooks saw
of Stable Diffusion 1.5's shape, all three counts together within 2 %: 6 for attention (the norm's input and its output,
q, k, v, the output), 4 for the one that looks at the text (without k and v), 18 for the MLP (2, 8 before the gate, 8
after it and in it). In half autocast runs the three norms in float32, whose inputs are then two numbers each, and casts
the first norm's output three times, for q, k and v (by torch's list of ops for cuda; not measured)."""
ATTENTION_BLOCK = {4: 3, 2: 4}
"""Around a U-Net's layers of one place: the inputs of the norm and of the two projections."""
CONVOLUTIONS = {4: 9, 2: 16}
"""Of a residual block: 3 for each of its halves (inputs of norm, curve and convolution), the first of which is 1.8
times as wide on the mean, by the skips that are joined on the way up; and the samplers' share: 42 + 5 numbers in the 5
blocks of the first level. In half 5 for each (norm and curve in float32) and 1.4 for the skip's own convolution."""
HEAD_WIDTH = 64
"""Of SDXL, SD3 and most others; 128 of FLUX or 40 of SD1 change what plain attention keeps by a factor of 2."""
SCORES_BYTES = 6
"""A pair of tokens and a head: the softmax's result in float32, which autocast asks for, and its copy in half."""


def kept_bytes(shape: Shape, *, side_px: int, compute_bytes: int, checkpointed: bool, plain_attention: bool) -> float:
    """Of one picture. With checkpoints: the input of each layer, and the whole of the greatest layer."""
    layers = [
        (count, own)
        for level in shape.levels
        for count, own in _layers(shape, level, side_px, compute_bytes, plain_attention=plain_attention)
        if count
    ]
    if not checkpointed:
        return sum(count * own for count, own in layers)
    inputs = sum(
        (level.layers + level.convolutions) * tokens(shape, level, side_px) * level.width * compute_bytes
        for level in shape.levels
    )
    return inputs + max(own for _, own in layers)


def passing_bytes(shape: Shape, *, side_px: int, compute_bytes: int, plain_attention: bool) -> float:
    """Of one picture when nothing is kept: the greatest layer alone."""
    return max(
        own
        for level in shape.levels
        for count, own in _layers(shape, level, side_px, compute_bytes, plain_attention=plain_attention)
        if count
    )


def tokens(shape: Shape, level: Level, side_px: int) -> float:
    """The picture's, and the caption's where they run through the same layers."""
    return (side_px / level.px) ** 2 + shape.text_tokens


def _layers(
    shape: Shape, level: Level, side_px: int, compute_bytes: int, *, plain_attention: bool
) -> list[tuple[int, float]]:
    """How many of a kind, and what one of them keeps."""
    count = tokens(shape, level, side_px)
    unit = count * level.width * compute_bytes
    scores = count**2 * level.width / HEAD_WIDTH * SCORES_BYTES if plain_attention else 0
    if len(shape.levels) == 1:
        return [(level.layers, JOINT_LAYER * unit + scores)]
    return [
        (level.layers, CROSS_LAYER[compute_bytes] * unit + scores),
        (min(level.layers, level.convolutions), ATTENTION_BLOCK[compute_bytes] * unit),
        (level.convolutions, CONVOLUTIONS[compute_bytes] * unit),
    ]
