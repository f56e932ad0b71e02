"""Peak memory of one device, phase by phase.

The order of things inside of a step decides the peak (torch.autograd, torch.amp): autocast keeps a copy in half of
every float32 weight that is trained until the forward pass ends; gradients grow while what the forward pass kept is
let go, so the two do not add up, except from the second pass of an accumulation on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.memory.activations import kept_bytes, passing_bytes
from pipeline.memory.load import Load
from pipeline.records import Platform, PredictedMemory

VAE_TENSORS = 4
"""Alive at once in a residual block without gradients: its input, the normed one, the result, the convolution's own."""
FRAGMENTATION = 0.05
"""Share of the tensors that torch's allocator holds beyond them: 3 to 8 per cent as a rule. The low end of a range has
none of it, and the high end twice as much."""
PASSING = ("activations", "VAE at work")
"""Terms that are counted operation by operation, and less sure than weights."""
PASSING_LOW, PASSING_HIGH = 0.75, 1.5
"""How far they may be from the count: operations that work in place keep less, kernels' work space and casts take
more. These are bounds of judgement, and no fit to figures; docs/memory.md shows how they hold."""
LIBRARIES_LOW, LIBRARIES_HIGH = 0.9, 1.2
"""Other versions than the measured ones are larger or smaller: judged too."""
LOW: Mapping[str, float] = {**dict.fromkeys(PASSING, PASSING_LOW), "fragmentation": 0, "libraries": LIBRARIES_LOW}
AS_COUNTED: Mapping[str, float] = {}
HIGH: Mapping[str, float] = {**dict.fromkeys(PASSING, PASSING_HIGH), "fragmentation": 2, "libraries": LIBRARIES_HIGH}


TRAINING = "training"
"""The phase that published figures are of."""
JUDGING = "judging by held-out pictures"


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that takes memory."""

    name: str
    bytes: float
    why: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run, and what is on the device in it at its worst moment."""

    name: str
    moments: tuple[tuple[Term, ...], ...]
    """What is there at each moment that may be the worst."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """Of the worst moment."""
        return max(self.moments, key=_total)

    @property
    def bytes(self) -> float:
        return _total(self.terms)

    @property
    def largest(self) -> Term:
        return max(self.terms, key=lambda term: term.bytes)

    @property
    def low_bytes(self) -> float:
        return self.times(LOW)

    @property
    def high_bytes(self) -> float:
        return self.times(HIGH)

    def times(self, factors: Mapping[str, float]) -> float:
        """Of the worst moment, when terms are so many times what they were counted as."""
        return max(sum(term.bytes * factors.get(term.name, 1) for term in moment) for moment in self.moments)


def _total(terms: Iterable[Term]) -> float:
    return sum(term.bytes for term in terms)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Of one device."""

    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def training(self) -> Phase:
        return next(phase for phase in self.phases if phase.name == TRAINING)

    @property
    def largest(self) -> Term:
        return self.peak.largest

    @property
    def low_bytes(self) -> float:
        return max(phase.low_bytes for phase in self.phases)

    @property
    def high_bytes(self) -> float:
        return max(phase.high_bytes for phase in self.phases)

    def as_measured(self, platform: Platform) -> PredictedMemory:
        """Of what the trainers measure. torch's count on a card has neither the context nor the allocator's gaps; of a
        CPU's process nothing is left out."""
        beside = {} if platform == "cpu" else {"context": 0.0, "fragmentation": 0.0}
        low, middle, high = (
            max(phase.times({**factors, **beside}) for phase in self.phases) for factors in (LOW, AS_COUNTED, HIGH)
        )
        return PredictedMemory(int(low), int(middle), int(high), self.peak.name, self.largest.name)


def estimate(load: Load) -> MemoryEstimate:
    """Of a run in all its phases."""
    phases: dict[str, list[Iterable[Term]]] = {
        "caching text encodings": [_caching_text(load)],
        "caching latents": [_caching_latents(load)],
        TRAINING: [(*_training(load), *moment) for moment in _step(load)],
        JUDGING: [(*_standing(load), *_judging(load))],
        "sampling": [(*_standing(load), *moment) for moment in _sampling(load)],
        "saving": [_standing(load)],
    }
    if not load.heldout_batch:
        del phases[JUDGING]
    return MemoryEstimate(tuple(_phase(load, name, moments) for name, moments in phases.items()))


def _phase(load: Load, name: str, moments: Iterable[Iterable[Term]]) -> Phase:
    return Phase(name, tuple(_moment(load, terms) for terms in moments))


def _moment(load: Load, terms: Iterable[Term]) -> tuple[Term, ...]:
    real = tuple(_real(terms))
    gaps = _total(real) * FRAGMENTATION
    spare = Term("fragmentation", gaps, "that the allocator keeps between tensors")
    what = ("libraries", "torch and all that it works with") if load.on_cpu else ("context", "driver and kernels")
    return (*real, spare, Term(what[0], load.context_bytes, what[1]))


def _real(terms: Iterable[Term]) -> Iterator[Term]:
    return (term for term in terms if term.bytes > 0)


def _caching_text(load: Load) -> Iterator[Term]:
    yield Term("text encoders", load.encoder_parameters * load.encoder_bytes, "all of them, before the denoiser comes")


def _caching_latents(load: Load) -> Iterator[Term]:
    yield _vae(load)
    yield _vae_at_work(load, load.side_px, load.vae_width)


def _training(load: Load) -> Iterator[Term]:
    yield from _standing(load)
    if not load.encodes:
        yield _vae(load)


def _standing(load: Load) -> Iterator[Term]:
    """What stays between two steps."""
    swapped = 1 - min(1.0, load.blocks_to_swap / load.shape.blocks) if load.shape.blocks else 1.0
    yield Term("weights", load.parameters * load.weight_bytes * swapped, f"{load.weight_bytes:g} bytes a parameter")
    adapter = load.adapter_parameters + (load.trained_encoder_parameters if load.adapter_parameters else 0)
    yield Term("adapter", adapter * load.trained_bytes, f"{load.trained_bytes} bytes a trained parameter")
    state = load.trained_parameters * load.state_bytes
    yield Term("optimizer state", state, f"{load.state_bytes:g} bytes a trained parameter")
    if load.encoders_stay:
        yield Term("text encoders", load.encoder_parameters * load.encoder_bytes, "needed at every step")


def _step(load: Load) -> Iterator[tuple[Term, ...]]:
    """What a step adds at the end of a forward pass, and at the end of a backward pass."""
    gradients, copies, kept = _gradients(load), _copies(load), _activations(load)
    if load.accumulation > 1 and not load.fused_backward:
        yield gradients, copies, kept
        return
    yield copies, kept
    at_work = _reordered(load)
    yield (gradients, kept, at_work) if load.gradient_checkpointing else (gradients, at_work)


def _gradients(load: Load) -> Term:
    """With updates fused into the backward pass those of one layer: the share of the widest is less than 2 %."""
    share = 0.02 if load.fused_backward else 1.0
    size = load.trained_parameters * load.trained_bytes * share
    return Term("gradients", size, "of one layer" if load.fused_backward else "of all trained parameters")


def _copies(load: Load) -> Term:
    """Autocast's, of trained float32 weights in the type of the forward pass."""
    has_copies = load.compute_bytes < load.trained_bytes
    size = load.trained_parameters * load.compute_bytes if has_copies else 0
    return Term("autocast copies", size, "trained weights in the type of the forward pass")


def _reordered(load: Load) -> Term:
    """Of the widest 3x3 convolution, the first on the way up, which has a skip joined to its input. At the end of a
    forward pass it has long passed, and there is none."""
    widest = max((level.width for level in load.shape.levels if level.convolutions), default=0)
    size = 9 * 2 * widest**2 * load.compute_bytes if load.on_cpu else 0
    return Term("convolution at work", size, "its weights in the order that oneDNN wants")


def _activations(load: Load) -> Term:
    one = kept_bytes(
        load.shape,
        side_px=load.side_px,
        compute_bytes=load.compute_bytes,
        checkpointed=load.gradient_checkpointing,
        plain_attention=load.plain_attention,
    )
    words = "with" if load.gradient_checkpointing else "without"
    why = f"{load.batch} x {load.side_px} px, {words} gradient checkpointing"
    return Term("activations", load.batch * one, why + (", plain attention" if load.plain_attention else ""))


def _judging(load: Load) -> Iterator[Term]:
    yield Term("activations", _passing(load) * load.heldout_batch, f"of one layer, {load.heldout_batch} at once")
    yield _reordered(load)


def _sampling(load: Load) -> Iterator[tuple[Term, ...]]:
    """One picture: the denoiser's last step, and then the VAE that draws it."""
    one = _passing(load) * (2 if load.guided else 1)
    yield _vae(load), Term("activations", one, "of one layer, nothing is kept"), _reordered(load)
    yield _vae(load), _vae_at_work(load, load.drawn_px, 2 * load.vae_width)


def _passing(load: Load) -> float:
    return passing_bytes(
        load.shape,
        side_px=load.drawn_px,
        compute_bytes=load.compute_bytes,
        plain_attention=load.plain_attention,
    )


def _vae(load: Load) -> Term:
    return Term("VAE", load.vae_parameters * load.vae_bytes, f"{load.vae_bytes} bytes a parameter")


def _vae_at_work(load: Load, side_px: int, width: int) -> Term:
    size = side_px**2 * width * VAE_TENSORS * load.vae_bytes
    return Term("VAE at work", size, f"one picture of {side_px} px at full resolution")
