"""The training: encode everything once, then step, evaluate, sample and save; every part is a function of the step."""

from __future__ import annotations

import fcntl
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from pipeline.backends.native.batches import BatchOrder
from pipeline.backends.native.before import keep_before, told_before
from pipeline.backends.native.captions import caption_at
from pipeline.backends.native.checkpoints import FILES, Checkpoints, Saved, saved_from
from pipeline.backends.native.encoding import (
    SPLITS,
    Embeddings,
    EncodedPicture,
    Pictures,
    Telling,
    cuts_of,
    encode_captions,
    encode_masks,
    encode_pictures,
)
from pipeline.backends.native.heap import give_back, keep_nothing
from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.memory import HELDOUT_BATCH
from pipeline.backends.native.network import clear_timesteps, set_timesteps
from pipeline.backends.native.objective import heldout_timesteps, sample_losses
from pipeline.backends.native.peak import peak_memory_bytes
from pipeline.backends.native.processes import Processes, join_processes
from pipeline.backends.native.randomness import draw_batch, generator, is_mirrored, seed_globals
from pipeline.backends.native.sampling import decode_picture, sample_latents
from pipeline.backends.native.schedule import as_meant, build_optimizer, set_learning_rate, settle
from pipeline.backends.native.stable_diffusion_1 import (
    TextParts,
    load_autoencoder,
    load_denoiser,
    noise_schedule,
)
from pipeline.backends.native.stopping import StopRequested, StopSignal
from pipeline.backends.native.trained import DTYPES, Trained, make_trainable, save_weights
from pipeline.errors import Cause, RunError
from pipeline.features.room import make_room
from pipeline.features.shelf import Shelf
from pipeline.journal import Journal
from pipeline.sample_grid import write_grid
from pipeline.wording import counted

HELDOUT_TIMESTEPS = 10
"""Timesteps at which each held-out picture is judged."""
RATE_WINDOW_STEPS = 20


class NotFinite(RunError):
    """The loss or its gradient is not a finite number."""

    cause = Cause.NOT_FINITE


@dataclass(slots=True)
class Training:
    """Everything that the loop works with."""

    job: NativeJob
    processes: Processes
    stop: StopSignal
    journal: Journal | None
    """None in all processes but the first."""
    denoiser: Any
    text: TextParts | None
    schedule: Any
    trained: Trained
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    checkpoints: Checkpoints
    pictures: Pictures
    """As an epoch shows them."""
    heldout: Pictures
    embeddings: Embeddings
    order: BatchOrder
    shelves: tuple[Shelf, ...]

    def close(self) -> None:
        """Lets go of what the cache keeps for this run."""
        for shelf in self.shelves:
            shelf.close()

    def tell(self, kind: Any, **data: object) -> None:
        if self.journal is not None:
            self.journal.write(kind, **data)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.processes.device.type, DTYPES[self.job.precision], enabled=self.job.precision != "fp32"
        )

    def context(self, captions: list[str]) -> Tensor:
        return self.embeddings.of(captions).to(self.processes.device)


def train(job: NativeJob) -> Path:
    """Trains to the last step, from the run directory's last checkpoint where there is one; returns the weights' path.

    Raises StopRequested after saving a checkpoint, NotFinite, UnreadableFile, RunError.
    """
    disable_progress_bar()
    keep_nothing()
    stop = StopSignal()
    processes = join_processes(job)
    with _only_trainer(Path(job.run_dir)) if processes.first else nullcontext():
        journal = Journal(Path(job.run_dir)) if processes.first else None
        try:
            training = prepare(job, processes, stop, journal)
            run_steps(training)
            weights = _finish(training)
            training.close()
            if processes.first:
                make_room(Path(job.cache_dir), job.cache_max_bytes)
            return weights
        finally:
            if journal is not None:
                journal.close()


# --------------------------------------------------------------------------------------------------------- prepare


def prepare(job: NativeJob, processes: Processes, stop: StopSignal, journal: Journal | None) -> Training:
    """Loads the model, encodes pictures and captions, attaches what is trained."""

    def phase(text: str) -> None:
        stop.check()
        if journal is not None:
            journal.write("phase", text=text)

    def warn(text: str) -> None:
        if journal is not None:
            journal.write("warning", text=text)

    rows, device, telling = job.pictures(), processes.device, Telling(phase, stop.check, warn)
    embeddings = encode_captions(job, [str(row["caption"]) for row in rows], device, telling)
    give_back()
    latents = encode_pictures(job, rows, device, telling)
    masks = encode_masks(job, rows, telling)
    pictures, heldout = (Pictures(cuts_of(rows, job.train, split), job.train, latents, masks) for split in SPLITS)
    give_back()
    phase("loading the model")
    denoiser = load_denoiser(job.model)
    trained = make_trainable(job, denoiser, embeddings.text)
    _place(job, denoiser, trained, device)
    optimizer = build_optimizer(job.optimizer, trained.groups)
    return Training(
        job=job,
        processes=processes,
        stop=stop,
        journal=journal,
        denoiser=denoiser,
        text=embeddings.text if job.optimizer.text_encoder_lr else None,
        schedule=noise_schedule(job.model),
        trained=trained,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(processes.device.type, enabled=job.precision == "fp16"),
        checkpoints=Checkpoints(Path(job.run_dir) / "checkpoints", job.fingerprint, job.train.keep_checkpoints),
        pictures=pictures,
        heldout=heldout,
        embeddings=embeddings,
        order=BatchOrder(pictures.buckets, job.train.batch_size, job.seed),
        shelves=tuple(shelf for shelf in (latents, masks, embeddings.shelf) if shelf is not None),
    )


def _place(job: NativeJob, denoiser: Any, trained: Trained, device: torch.device) -> None:
    """Frozen weights in the type of the forward pass, trained ones in float32."""
    if job.network is not None and job.precision != "fp32":
        denoiser.to(device, DTYPES[job.precision])
    denoiser.to(device)
    trained.modules.to(device, torch.float32)
    if job.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    give_back()


# ------------------------------------------------------------------------------------------------------------ loop


def run_steps(training: Training) -> None:
    """From the last checkpoint to the last step; before the first, what the base model can do is written down."""
    job, train_part = training.job, training.job.train
    start = _resume(training)
    if start == 0:
        _show_before(training)
    training.tell("phase", text="training")
    times: deque[float] = deque([time.monotonic()], maxlen=RATE_WINDOW_STEPS + 1)
    for step in range(start, train_part.steps):
        rate = set_learning_rate(training.optimizer, train_part, step)
        loss = train_step(training, step)
        times.append(time.monotonic())
        training.tell(
            "step",
            step=step + 1,
            steps=train_part.steps,
            loss=loss,
            lr=rate,
            steps_per_second=(len(times) - 1) / max(1e-9, times[-1] - times[0]),
            memory_bytes=peak_memory_bytes(training.processes.device),
        )
        _now_and_then(training, step + 1)
        times[-1] = _without_pause(times)
        if job.train.steps > step + 1 and training.processes.any(training.stop.asked):
            _save_checkpoint(training, step + 1)
            raise StopRequested


def train_step(training: Training, step: int) -> float:
    """One optimizer update; returns its mean loss. Raises NotFinite before anything is updated."""
    job, accumulation = training.job, training.job.train.accumulation_steps
    seed_globals(job.seed, "dropout", step, training.processes.index)
    training.trained.modules.train()
    total = torch.zeros((), device=training.processes.device)
    for micro in range(accumulation):
        position = (step * accumulation + micro) * training.processes.count + training.processes.index
        losses, batch = batch_losses(training, position)
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise NotFinite(_not_finite_message("the loss", step, losses, batch))
        training.scaler.scale(loss / accumulation).backward()
        total += loss.detach() / accumulation
    _update(training, step, batch)
    return float(training.processes.mean(total))


def batch_losses(training: Training, position: int) -> tuple[Tensor, list[EncodedPicture]]:
    """(batch,) losses of the micro-batch at `position` of the whole run, and its pictures."""
    job, device = training.job, training.processes.device
    batch = [
        training.pictures.read(index, mirrored=job.train.flip and is_mirrored(job.seed, position, place))
        for place, index in enumerate(training.order.batch(position))
    ]
    shape = (len(batch), *batch[0].mean.shape)
    schedule = training.schedule
    draw = draw_batch(job.seed, position, shape, num_timesteps=schedule.config.num_train_timesteps, train=job.train)
    latents = torch.stack([p.latents(noise) for p, noise in zip(batch, draw.latent_noise, strict=True)])
    captions = [
        caption_at(picture.caption, job.train, seed=job.seed, position=position, place=place)
        for place, picture in enumerate(batch)
    ]
    timesteps = draw.timesteps.to(device)
    set_timesteps(job.network, timesteps, schedule.config.num_train_timesteps)
    with training.autocast():
        losses = sample_losses(
            training.denoiser,
            schedule,
            latents.to(device),
            draw.noise.to(device),
            timesteps,
            training.context(captions),
            min_snr_gamma=job.train.min_snr_gamma,
            mask=mask_of_batch(batch, device),
        )
    return losses * torch.tensor([picture.weight for picture in batch], device=device), batch


def mask_of_batch(batch: Sequence[EncodedPicture], device: torch.device) -> Tensor | None:
    """(batch, 1, height / 8, width / 8); None where all of every picture is learned."""
    if all(picture.mask is None for picture in batch):
        return None
    whole = torch.ones(1, *batch[0].mean.shape[1:])
    return torch.stack([whole if picture.mask is None else picture.mask for picture in batch]).to(device)


def _update(training: Training, step: int, batch: list[EncodedPicture]) -> None:
    parameters = training.trained.parameters()
    training.scaler.unscale_(training.optimizer)
    training.processes.average_gradients(parameters)
    if training.job.train.max_grad_norm:
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.job.train.max_grad_norm)
        if not torch.isfinite(norm) and not training.scaler.is_enabled():
            raise NotFinite(_not_finite_message("the gradient", step, None, batch))
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)


def _not_finite_message(what: str, step: int, losses: Tensor | None, batch: list[EncodedPicture]) -> str:
    blamed = (
        [p for p, loss in zip(batch, losses, strict=True) if not torch.isfinite(loss)] if losses is not None else []
    )
    names = ", ".join(sorted({str(picture.path) for picture in blamed or batch}))
    return (
        f"{what} of step {step + 1} is not a finite number. Pictures in that batch: {names}."
        " Look at them; if they are fine, lower the rate: optimizer.lr=... (a third of it), or train.max_grad_norm=1.0"
    )


def _without_pause(times: deque[float]) -> float:
    """Evaluating, sampling and saving don't count as training time."""
    pause = time.monotonic() - times[-1]
    for place in range(len(times) - 1):
        times[place] += pause
    return times[-1] + pause


# --------------------------------------------------------------------------------------------------- now and then


def _now_and_then(training: Training, step: int) -> None:
    train_part, last = training.job.train, step == training.job.train.steps
    if _due(step, train_part.checkpoint_every_steps) and not last:
        _save_checkpoint(training, step)
    if last or _due(step, train_part.heldout_every_steps):
        _evaluate(training, step)
    if last or _due(step, training.job.sample.every_steps):
        _sample(training, step)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _save_checkpoint(training: Training, step: int) -> None:
    if training.processes.first:
        path = training.checkpoints.save(
            step, training.trained.modules, training.optimizer, dict(training.scaler.state_dict())
        )
        training.tell("checkpoint", step=step, path=str(path.relative_to(training.job.run_dir)))
    training.processes.wait()


def _resume(training: Training) -> int:
    saved = _last_checkpoint(training)
    if saved is None:
        return 0
    saved.put_into(training.trained.modules, training.optimizer)
    if saved.scaler:
        training.scaler.load_state_dict(saved.scaler)
    training.tell("phase", text=f"going on from step {saved.step}")
    return saved.step


def _last_checkpoint(training: Training) -> Saved | None:
    """Of several machines only the first has any: the others get it from there."""
    processes, checkpoints = training.processes, training.checkpoints
    if training.job.num_machines == 1:
        return checkpoints.read_last(processes.device)
    files = checkpoints.last_files() if processes.first else ()
    sent = [processes.from_first(files[place] if files else b"") for place in range(len(FILES))]
    return saved_from(sent if all(sent) else ())


@torch.no_grad()
def _show_before(training: Training) -> None:
    """Once for all trials of a sweep that begin with the same."""
    run_dir, folder = Path(training.job.run_dir), training.job.before_dir
    if folder and told_before(Path(folder), run_dir, training.tell):
        return
    values, samples = _evaluate(training, 0), _sample(training, 0)
    if folder:
        keep_before(Path(folder), run_dir, values, samples)


def _evaluate(training: Training, step: int) -> dict[str, float]:
    """The mean squared error on held-out pictures at fixed timesteps and noise: comparable within and between runs."""
    if not training.heldout or not training.processes.first:
        training.processes.wait()
        return {}
    training.tell("phase", text="judging by the held-out pictures")
    training.trained.modules.eval()
    clear_timesteps()
    with as_meant(training.optimizer):
        losses = [float(loss) for loss in _heldout_losses(training)]
    values = {"heldout/loss": sum(losses) / len(losses)}
    training.tell("metric", step=step, values=values)
    training.processes.wait()
    return values


def _heldout_losses(training: Training) -> Iterator[Tensor]:
    num_timesteps = training.schedule.config.num_train_timesteps
    fixed = heldout_timesteps(HELDOUT_TIMESTEPS, num_timesteps)
    for place, picture in enumerate(training.heldout):
        training.stop.check()
        rng = generator(0, "heldout", place)
        noise = torch.randn(len(fixed), *picture.mean.shape, generator=rng)
        for begin in range(0, len(fixed), HELDOUT_BATCH):
            part = slice(begin, begin + HELDOUT_BATCH)
            timesteps = fixed[part]
            device = training.processes.device
            with training.autocast():
                yield from sample_losses(
                    training.denoiser,
                    training.schedule,
                    picture.mean.expand(len(timesteps), -1, -1, -1).to(device),
                    noise[part].to(device),
                    timesteps.to(device),
                    training.context([picture.caption] * len(timesteps)),
                    mask=mask_of_batch([picture], device),
                )


@torch.no_grad()
def _sample(training: Training, step: int) -> list[dict[str, Any]]:
    """The same prompts and seeds each time; the autoencoder is loaded for it and leaves again."""
    job, device = training.job, training.processes.device
    if not job.sample.prompts or not training.processes.first:
        training.processes.wait()
        return []
    training.tell("phase", text=f"drawing {counted(len(job.sample.prompts), 'sample')}")
    training.trained.modules.eval()
    clear_timesteps()
    with as_meant(training.optimizer):
        drawn = [_sample_one(training, index) for index in range(len(job.sample.prompts))]
    autoencoder = load_autoencoder(job.model).to(device)
    samples = []
    for index, latents in enumerate(drawn):
        path = sample_path(Path(job.run_dir), step, index)
        path.parent.mkdir(exist_ok=True)
        decode_picture(autoencoder, latents).save(path)
        told = {"prompt": job.sample.prompts[index], "seed": job.sample.seed + index}
        samples.append({"step": step, "index": index, **told, "path": str(path.relative_to(job.run_dir))})
        training.tell("sample", **samples[-1])
    del autoencoder
    give_back()
    training.processes.wait()
    return samples


def _sample_one(training: Training, index: int) -> Tensor:
    job = training.job
    prompt, negative = training.embeddings.of([job.sample.prompts[index], job.sample.negative_prompt])
    side = job.train.resolution_px // 8
    with training.autocast():
        return sample_latents(
            training.denoiser,
            training.schedule,
            prompt,
            negative,
            job.sample,
            seed=job.sample.seed + index,
            shape=(4, side, side),
            device=training.processes.device,
            between=training.stop.check,
        )


def sample_path(run_dir: Path, step: int, index: int) -> Path:
    return run_dir / "samples" / f"step-{step:06d}_{index}.png"


# ---------------------------------------------------------------------------------------------------------- finish


def _finish(training: Training) -> Path:
    job = training.job
    path = Path(job.run_dir) / "weights"
    if training.processes.first:
        training.tell("phase", text="saving")
        _write_grid(job)
        settle(training.optimizer)
        training.optimizer.state.clear()  # nothing is trained any more, and a whole model's is twice its size
        give_back()
        path = save_weights(job, training.trained, training.denoiser, training.text)
        training.tell("weights", path=str(path), memory_bytes=peak_memory_bytes(training.processes.device))
    training.processes.wait()
    return path


def _write_grid(job: NativeJob) -> None:
    run_dir, prompts = Path(job.run_dir), job.sample.prompts
    before, after = (
        [sample_path(run_dir, step, index) for index in range(len(prompts))] for step in (0, job.train.steps)
    )
    write_grid(run_dir, before, after, prompts)


@contextmanager
def _only_trainer(run_dir: Path) -> Iterator[None]:
    """One trainer a run directory: one whose runner has died may still be saving its checkpoint."""
    with (run_dir / "trainer.lock").open("w") as lock:
        for _ in range(600):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        else:
            raise RunError(f"{run_dir} is in use by another trainer. Wait for its end, or type hydra.run.dir=...")
        yield
