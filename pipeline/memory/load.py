"""What of a run decides its memory, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.families import Shape


@dataclass(frozen=True, slots=True)
class Load:
    """What stands on one device while training; a backend says it of its own trainer."""

    shape: Shape
    parameters: float
    """Of the denoiser."""
    weight_bytes: float
    """For each of the denoiser's parameters as it stands on the device: 4, 2, 1, or less where it is quantised."""
    adapter_parameters: float
    """Trained beside the denoiser; 0: the denoiser itself is trained."""
    trained_bytes: int
    """For each trained parameter: 4, or 2 where sd-scripts trains in half."""
    compute_bytes: int
    """Of a number in the forward pass: 4, or 2 in bf16 and fp16."""
    state_bytes_per_parameter: float
    """Of the optimizer, as measured with float32 weights."""
    eight_bits: bool
    """The optimizer's state does not follow the type of the weights."""
    side_px: int
    """Of the largest pictures that are trained."""
    batch: int
    accumulation: int
    gradient_checkpointing: bool
    plain_attention: bool = False
    """Only plain products: the scores of all pairs of tokens are kept."""
    encoder_parameters: float = 0.0
    """Of all text encoders."""
    encoder_bytes: float = 2.0
    encoders_stay: bool = False
    trained_encoder_parameters: float = 0.0
    """Of text encoders that are trained whole or by an adapter."""
    vae_parameters: float = 84e6
    """Of Stable Diffusion's and FLUX's."""
    vae_width: int = 128
    """Numbers a pixel at full resolution: the first of `block_out_channels`, 128 in those VAEs. The decoder's last
    upsampling has twice as many."""
    vae_bytes: int = 2
    """For each of its parameters; 4 where it must not run in half."""
    encodes: bool = True
    """Pictures are encoded before training, and the VAE leaves the device."""
    fused_backward: bool = False
    """Each weight is updated as soon as its gradient is there."""
    blocks_to_swap: int = 0
    base_px: int | None = None
    """Of those that are drawn, and that the held-out loss is measured with; None: the same."""
    guided: bool = True
    """Samples are drawn with and without the prompt in one batch."""
    heldout_batch: int = 0
    """Held-out pictures that go through the denoiser at once; 0: there is no such phase."""
    on_cpu: bool = False
    """The libraries take of the same memory, and convolutions work on weights in oneDNN's order."""
    context_bytes: int = 0
    """Of driver and kernels; on a CPU of the libraries."""

    @property
    def drawn_px(self) -> int:
        return self.side_px if self.base_px is None else self.base_px

    @property
    def trained_parameters(self) -> float:
        return (self.adapter_parameters or self.parameters) + self.trained_encoder_parameters

    @property
    def state_bytes(self) -> float:
        """For each trained parameter: half of what was measured where weights and so moments have 16 bits (measured
        with both: AdamW 8 and 4, Prodigy 8.73 and 4.36, Lion 4 and 2), the same for a state in 8 bits."""
        half = self.trained_bytes == 2 and not self.eight_bits
        return self.state_bytes_per_parameter / (2 if half else 1)
