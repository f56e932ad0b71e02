"""A file's tensors, part by part: in a whole checkpoint each part has a prefix of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.signature import Tensors

Role = Literal["denoiser", "vae", "text_encoder", "ema", "any"]

WRAPPER = re.compile(
    r"(?:(?P<ema>model_ema)|(?P<denoiser>model\.diffusion_model|diffusion_model)|(?P<vae>first_stage_model|vae)"
    r"|(?P<text_encoder>cond_stage_model|conditioner\.embedders\.\d+|text_encoders\.\w+|text_encoder(?:_\d)?))\."
)
INNER = (
    *("net.", "unet.", "module.", "dit."),
    *("transformer.model.language_model.", "transformer.model.", "transformer.", "text_model."),
    *("model.model.", "model.language_model.", "language_model.model.", "language_model.", "model."),
)
"""What may stand before the names that a signature knows, the longer before the shorter."""
EMA_AT_LEAST = 50
"""The official "emaonly" files hold the two counters of the average, and none of its weights."""
NAMES = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8_e4m3",
    "F8_E5M2": "fp8_e5m2",
    "I8": "int8",
}
SCALES = (".scale_weight", ".weight_scale", ".comfy_quant", "scaled_fp8")
HELPERS = (*SCALES, ".quant_", ".absmax", ".nested_")
PACKED = (
    ("nf4", "quant_state.bitsandbytes__nf4"),
    ("fp4", "quant_state.bitsandbytes__fp4"),
    ("nvfp4", ".weight_scale_2"),
)


@dataclass(frozen=True)
class Group:
    """The tensors of one part, by the prefix or folder that they were under."""

    role: Role
    """What the prefix says it is; any: there was none."""
    where: str
    """The prefix or folder."""
    tensors: Mapping[str, Tensor]

    @cached_property
    def parameters(self) -> int:
        """Numbers, as many as were packed."""
        return sum(tensor.elements * (2 if tensor.dtype in ("U8", "F4") else 1) for tensor in self._weights())

    @cached_property
    def dtype(self) -> str:
        """The type that most numbers have, as people call it: fp16, fp8_e4m3_scaled, nf4."""
        sizes: dict[str, int] = {}
        for tensor in self._weights():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.elements
        dtype = max(sizes, key=lambda found: sizes[found], default="")
        if dtype in ("U8", "F4", "I8"):
            return next((name for name, mark in PACKED if self._has(mark)), NAMES.get(dtype, dtype.lower()))
        scaled = dtype.startswith("F8") and any(self._has(mark) for mark in SCALES)
        return NAMES.get(dtype, dtype.lower()) + ("_scaled" if scaled else "")

    def _weights(self) -> Iterable[Tensor]:
        """Without scales and other helpers of quantisation."""
        if not any(self._has(mark) for mark in HELPERS):
            return self.tensors.values()
        return [tensor for name, tensor in self.tensors.items() if not any(mark in name for mark in HELPERS)]

    def _has(self, mark: str) -> bool:
        return mark in self._names

    @cached_property
    def _names(self) -> str:
        """In one text, which is searched many times as fast as names one by one."""
        return "\n" + "\n".join(self.tensors)

    def views(self) -> Iterator[tuple[str, Tensors]]:
        """The tensors as they are, and with each of the inner prefixes that some of them have taken off."""
        yield "", Tensors(self.tensors)
        for prefix in INNER:
            if f"\n{prefix}" not in self._names:
                continue
            inside = {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
            yield prefix, Tensors(inside)


def split(tensors: Mapping[str, Tensor]) -> list[Group]:
    """The groups of a single file, in the order in which they come. What has no known prefix is one group."""
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = WRAPPER.match(name)
        role, where = (match.lastgroup or "any", match[0]) if match else ("any", "")
        groups.setdefault((role, where), {})[name[len(where) :]] = tensor
    return [Group(role, where, found) for (role, where), found in groups.items() if role != "ema" or _is_real(found)]  # type: ignore[arg-type]


def _is_real(average: Mapping[str, Tensor]) -> bool:
    return len(average) >= EMA_AT_LEAST
