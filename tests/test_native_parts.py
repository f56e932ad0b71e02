"""The native trainer's small parts: order, captions, schedules, weights of the loss, checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.backends.native.batches import BatchOrder
from pipeline.backends.native.captions import caption_at
from pipeline.backends.native.checkpoints import Checkpoints
from pipeline.backends.native.job import ModelPart, OptimizerPart, TrainPart, changes
from pipeline.backends.native.objective import heldout_timesteps, min_snr_weights
from pipeline.backends.native.processes import limit_memory
from pipeline.backends.native.randomness import draw_batch, is_mirrored
from pipeline.backends.native.render import render
from pipeline.backends.native.schedule import as_meant, build_optimizer, lr_factor, settle
from pipeline.backends.native.stable_diffusion_1 import load_autoencoder
from pipeline.backends.native.weights import filled, read_float32
from pipeline.dataset.buckets import bucket_side
from pipeline.optimizer.catalog import options
from pipeline.records import Variable
from pipeline.render import BACKENDS
from pipeline.settings import PROJECT, RateMeaning
from tests.conftest import PlanFor

TRAIN = TrainPart(
    steps=100,
    warmup_steps=10,
    batch_size=4,
    accumulation_steps=1,
    max_grad_norm=1.0,
    prior_loss_weight=1.0,
    resolution_px=512,
    more_resolutions_px=[],
    resolution_step_px=64,
    flip=False,
    scheduler="cosine",
    scheduler_cycles=2,
    noise_offset=0.0,
    caption_dropout=0.0,
    shuffle_tags=True,
    tag_dropout=0.0,
    keep_tags=1,
    wildcards=False,
    gradient_checkpointing=False,
    checkpoint_every_steps=10,
    keep_checkpoints=2,
    heldout_every_steps=0,
)


@given(width=st.integers(64, 6000), height=st.integers(64, 6000))
def test_a_bucket_is_within_the_area_and_on_the_grid(width: int, height: int) -> None:
    side = bucket_side(width, height, resolution_px=512, step_px=64)
    assert side[0] * side[1] <= 512 * 512
    assert side[0] % 64 == side[1] % 64 == 0
    assert max(side) <= 1024


def test_a_square_picture_is_trained_as_a_square() -> None:
    assert bucket_side(3000, 3000, resolution_px=512, step_px=64) == (512, 512)


def test_a_wide_picture_stays_wide() -> None:
    width, height = bucket_side(1920, 1080, resolution_px=512, step_px=64)
    assert abs(width / height - 16 / 9) < 0.2


def test_every_picture_comes_once_an_epoch_and_batches_hold_one_bucket() -> None:
    buckets = [(64, 64)] * 8 + [(128, 32)] * 4
    order = BatchOrder(buckets, batch_size=4, seed=3)
    batches = [order.batch(number) for number in range(order.batches_per_epoch)]
    assert Counter(index for batch in batches for index in batch) == Counter(range(12))
    assert all(len({buckets[index] for index in batch}) == 1 for batch in batches)


def test_equal_sides_of_two_resolutions_are_two_buckets() -> None:
    buckets = [(512, (256, 1024))] * 3 + [(576, (256, 1024))] * 3
    order = BatchOrder(buckets, batch_size=2, seed=3)
    batches = [order.batch(number) for number in range(order.batches_per_epoch)]
    assert len(batches) == 4
    assert all(len({buckets[index][0] for index in batch}) == 1 for batch in batches)


def test_one_in_two_draws_is_mirrored_as_seed_position_and_place_say() -> None:
    drawn = [is_mirrored(0, position, place) for position in range(500) for place in range(4)]
    assert drawn == [is_mirrored(0, position, place) for position in range(500) for place in range(4)]
    assert 900 < sum(drawn) < 1100
    assert drawn[::4] != drawn[1::4]
    assert drawn != [is_mirrored(1, position, place) for position in range(500) for place in range(4)]


def test_the_order_is_a_function_of_the_batch_number() -> None:
    buckets = [(64, 64)] * 10
    asked_in_order = [BatchOrder(buckets, 3, seed=1).batch(number) for number in range(12)]
    one = BatchOrder(buckets, 3, seed=1)
    assert [one.batch(number) for number in reversed(range(12))] == asked_in_order[::-1]


def test_epochs_differ_in_order() -> None:
    order = BatchOrder([(64, 64)] * 32, batch_size=32, seed=1)
    assert order.batch(0) != order.batch(1)


def test_shuffling_keeps_the_first_tags_in_place() -> None:
    caption = "sks, a, b, c, d, e"
    seen = {caption_at(caption, TRAIN, seed=0, position=position, place=0) for position in range(20)}
    assert len(seen) > 1
    assert all(text.startswith("sks, ") and sorted(text) == sorted(caption) for text in seen)


def test_a_caption_without_tags_to_shuffle_stays() -> None:
    assert not changes("sks, a", TRAIN)
    assert changes("sks, a, b", TRAIN)


def test_a_caption_with_nothing_but_kept_tags_loses_none() -> None:
    train = replace(TRAIN, shuffle_tags=False, tag_dropout=0.1)
    assert not changes("sks", train)
    assert changes("sks, a", train)
    assert {caption_at("sks", train, seed=0, position=position, place=0) for position in range(100)} == {"sks"}


def test_the_share_of_dropped_tags_is_the_one_asked_for_and_the_others_stay_in_order() -> None:
    train = replace(TRAIN, shuffle_tags=False, tag_dropout=0.25)
    seen = [caption_at("sks, a, b, c, d", train, seed=0, position=i, place=0).split(", ") for i in range(1000)]
    assert all(tags[0] == "sks" and tags == sorted(tags, key=["sks", "a", "b", "c", "d"].index) for tags in seen)
    assert 900 < sum(5 - len(tags) for tags in seen) < 1100


def test_the_share_of_dropped_captions_is_the_one_asked_for() -> None:
    train = replace(TRAIN, caption_dropout=0.25, shuffle_tags=False)
    dropped = sum(not caption_at("a cat", train, seed=0, position=i, place=0) for i in range(2000))
    assert 420 < dropped < 580


def test_noise_depends_on_seed_and_position_alone() -> None:
    first = draw_batch(7, 5, (4, 4, 8, 8), num_timesteps=1000, train=TRAIN)
    torch.randn(1000)
    again = draw_batch(7, 5, (4, 4, 8, 8), num_timesteps=1000, train=TRAIN)
    other = draw_batch(7, 6, (4, 4, 8, 8), num_timesteps=1000, train=TRAIN)
    assert torch.equal(first.noise, again.noise) and torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)


def test_timesteps_cover_the_whole_range() -> None:
    timesteps = torch.cat(
        [draw_batch(0, i, (8, 4, 1, 1), num_timesteps=1000, train=TRAIN).timesteps for i in range(500)]
    )
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    assert abs(timesteps.float().mean() - 499.5) < 10


def test_noise_offset_moves_whole_channels() -> None:
    shape = (2, 4, 16, 16)
    plain = draw_batch(0, 0, shape, num_timesteps=1000, train=TRAIN).noise
    moved = draw_batch(0, 0, shape, num_timesteps=1000, train=replace(TRAIN, noise_offset=0.5)).noise
    difference = moved - plain
    assert torch.allclose(difference.std(dim=(2, 3)), torch.zeros(2, 4), atol=1e-6)
    assert difference.abs().max() > 0


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine", "cosine_restarts"])
def test_the_rate_warms_up_to_the_peak(scheduler: str) -> None:
    train = replace(TRAIN, scheduler=scheduler)
    warmup = [lr_factor(train, step) for step in range(11)]
    assert warmup == sorted(warmup)
    assert lr_factor(train, 9) == lr_factor(train, 10) == 1.0


def test_restarts_return_to_the_peak() -> None:
    train = replace(TRAIN, scheduler="cosine_restarts", warmup_steps=0)
    assert lr_factor(train, 49) < 0.01
    assert lr_factor(train, 50) == 1.0


def test_min_snr_weights_of_epsilon_are_gamma_over_snr() -> None:
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    kept = schedule.alphas_cumprod
    snr = kept / (1 - kept)
    weights = min_snr_weights(schedule, torch.arange(1000), 5.0)
    assert torch.allclose(weights[snr < 5], torch.ones(int((snr < 5).sum())))
    assert torch.allclose(weights[0], 5 / snr[0])


def test_heldout_timesteps_are_evenly_spaced() -> None:
    assert heldout_timesteps(4, 1000).tolist() == [125, 375, 625, 875]


def _stepped(seed: int) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(seed)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        layer(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer, optimizer


def put_back(checkpoints: Checkpoints, trained: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step of the newest checkpoint, which is in both then."""
    saved = checkpoints.read_last(torch.device("cpu"))
    assert saved is not None
    saved.put_into(trained, optimizer)
    return saved.step


def test_a_checkpoint_brings_back_weights_and_optimizer(tmp_path: Path) -> None:
    layer, optimizer = _stepped(0)
    checkpoints = Checkpoints(tmp_path, "print", keep=2)
    checkpoints.save(3, layer, optimizer, {})
    other, fresh = torch.nn.Linear(3, 2), torch.optim.AdamW(torch.nn.Linear(3, 2).parameters())
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    assert put_back(checkpoints, other, fresh) == 3
    assert torch.equal(other.weight, layer.weight)
    moments = zip(optimizer.state.values(), fresh.state.values(), strict=True)
    assert all(torch.equal(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in moments)


def test_a_half_written_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    layer, optimizer = _stepped(0)
    checkpoints = Checkpoints(tmp_path, "print", keep=2)
    whole = checkpoints.save(3, layer, optimizer, {})
    (tmp_path / "step-000006.part").mkdir()
    (tmp_path / "step-000006.part" / "state.json").write_text((whole / "state.json").read_text())
    assert put_back(checkpoints, layer, optimizer) == 3


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    layer, optimizer = _stepped(0)
    checkpoints = Checkpoints(tmp_path, "print", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, layer, optimizer, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_checkpoint_of_another_run_is_not_loaded(tmp_path: Path) -> None:
    layer, optimizer = _stepped(0)
    Checkpoints(tmp_path, "one", keep=2).save(3, layer, optimizer, {})
    assert Checkpoints(tmp_path, "two", keep=2).read_last(torch.device("cpu")) is None


def test_there_are_optimizers_to_try() -> None:
    assert len(options()) >= 13
    assert sum(find_spec(option.package) is not None for option in options().values()) >= 7


@pytest.mark.parametrize("name", options())
def test_every_optimizer_learns_and_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    option = options()[name]
    if find_spec(option.package) is None:
        pytest.skip(f"pip install {option.distribution}")
    assert option.known is not None
    rate = 1.0 if option.known.rate is RateMeaning.multiplier else 3e-4 if option.known.times_adamws else 1e-2
    part = OptimizerPart(target=option.target, lr=rate, text_encoder_lr=0.0, args=dict(option.args))

    def fresh() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(128, 64)
        groups = [{"params": [weight], "lr": part.lr} for weight in layer.parameters()]
        return layer, build_optimizer(part, groups)

    def loss_of(layer: torch.nn.Linear, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        inputs = torch.randn(32, 128)
        return (layer(inputs) - inputs[:, :64]).pow(2).mean()

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> float:
        loss = loss_of(layer, seed)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    layer, optimizer = fresh()
    before = float(loss_of(layer, 0).detach())
    for seed in range(6):
        step(layer, optimizer, seed)
    assert float(loss_of(layer, 0).detach()) < before
    checkpoints = Checkpoints(tmp_path, "print", keep=1)
    checkpoints.save(6, layer, optimizer, {})
    other, other_optimizer = fresh()
    put_back(checkpoints, other, other_optimizer)
    for seed in (7, 8):
        assert step(layer, optimizer, seed) == step(other, other_optimizer, seed)
    assert torch.equal(layer.weight, other.weight)


def test_a_checkpoint_takes_tensors_that_several_weights_share(tmp_path: Path) -> None:
    layer, optimizer = _stepped(0)
    table = torch.arange(4.0)
    for state in optimizer.state.values():
        state["table"] = table
    Checkpoints(tmp_path, "print", keep=1).save(3, layer, optimizer, {})
    other, fresh = _stepped(1)
    put_back(Checkpoints(tmp_path, "print", keep=1), other, fresh)
    assert all(torch.equal(state["table"], table) for state in fresh.state.values())


class Averaging(torch.optim.SGD):
    """Schedule-free in the simplest way: in evaluation the weights are three times as large."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.means_it = True

    def train(self) -> None:
        if self.means_it:
            self._times(1 / 3)
        self.means_it = False

    def eval(self) -> None:
        if not self.means_it:
            self._times(3.0)
        self.means_it = True

    def _times(self, factor: float) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.mul_(factor)


def averaging() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.randn(100, generator=torch.Generator().manual_seed(0)))
    part = OptimizerPart(target=f"{__name__}.Averaging", lr=0.1, text_encoder_lr=0.0, args={})
    return weight, build_optimizer(part, [{"params": [weight], "lr": 0.1}])


def test_an_averaging_optimizer_is_built_in_training() -> None:
    assert not averaging()[1].means_it  # type: ignore[attr-defined]


def test_weights_are_judged_as_they_are_meant_and_trained_on_to_the_last_bit() -> None:
    weight, optimizer = averaging()
    before = weight.detach().clone()
    with as_meant(optimizer):
        assert torch.equal(weight, 3 * before)
    assert torch.equal(weight, before)
    assert not torch.equal(3 * before * (1 / 3), before), "its own way back rounds"


def test_the_last_weights_stay_as_they_are_meant() -> None:
    weight, optimizer = averaging()
    before = weight.detach().clone()
    settle(optimizer)
    assert torch.equal(weight, 3 * before)


def test_other_optimizers_are_left_alone() -> None:
    layer, optimizer = _stepped(0)
    before = layer.weight.detach().clone()
    with as_meant(optimizer):
        assert torch.equal(layer.weight, before)


def test_a_checkpoint_keeps_tensors_of_groups_and_types_narrower_than_the_weights(tmp_path: Path) -> None:
    layer, optimizer = _stepped(0)
    optimizer.param_groups[0] |= {"sum": torch.tensor(2.5), "nothing": {}, "limit": math.inf}
    optimizer.state[layer.weight]["narrow"] = torch.ones(2, dtype=torch.bfloat16)
    Checkpoints(tmp_path, "print", keep=1).save(3, layer, optimizer, {})
    other, fresh = _stepped(1)
    put_back(Checkpoints(tmp_path, "print", keep=1), other, fresh)
    group = fresh.param_groups[0]
    assert (float(group["sum"]), group["nothing"], group["limit"]) == (2.5, {}, math.inf)
    assert fresh.state[other.weight]["narrow"].dtype == torch.bfloat16


def test_every_backend_of_the_group_can_render() -> None:
    assert {path.stem for path in (PROJECT / "conf" / "backend").glob("*.yaml")} == set(BACKENDS)


def test_what_the_devices_need_is_in_the_trainers_environment(plan_for: PlanFor, tmp_path: Path) -> None:
    plan = plan_for(model=tmp_path)
    variables = (Variable("SYCL_CACHE_PERSISTENT", "1", "kernels are kept"),)
    job = render(replace(plan, machine=replace(plan.machine, variables=variables)), tmp_path / "run")
    assert job.env["SYCL_CACHE_PERSISTENT"] == "1"
    assert json.loads((tmp_path / "run" / "job" / "command.json").read_text())["env"] == dict(job.env)


@pytest.mark.parametrize(("device", "limited"), [("xpu", [1.0]), ("cpu", []), ("cuda", [])])
def test_only_an_intel_card_is_told_to_report_its_memory_as_full(
    monkeypatch: pytest.MonkeyPatch, device: str, limited: list[float]
) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        torch.xpu, "set_per_process_memory_fraction", lambda share, _: told.append(share), raising=False
    )
    limit_memory(torch.device(device))
    assert told == limited


# ----------------------------------------------------------------------------------------------------------- loading


def test_stored_halves_are_read_in_float32_by_their_prefix(tmp_path: Path) -> None:
    stored = {f"a.{number}": torch.full((3,), number, dtype=torch.float16) for number in range(100)}
    save_file({**stored, "b.0": torch.ones(3)}, tmp_path / "w.safetensors")
    read = read_float32([tmp_path / "w.safetensors"], "a.")
    assert read.keys() == stored.keys()
    assert all(value.dtype == torch.float32 and value.equal(stored[name].float()) for name, value in read.items())


def test_a_module_is_filled_with_the_very_tensors() -> None:
    weights = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    module = filled(lambda: torch.nn.Linear(3, 2), {**weights, "unknown": torch.ones(1)})
    assert module.weight.data_ptr() == weights["weight"].data_ptr()


@pytest.mark.parametrize("weights", [{"weight": torch.ones(2, 3)}, {"weight": torch.ones(9, 9), "bias": torch.ones(2)}])
def test_weights_that_are_missing_or_of_another_shape_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="weight"):
        filled(lambda: torch.nn.Linear(3, 2), weights)


def test_an_autoencoder_with_the_older_names_of_attention_is_read(tiny_model: Path, tmp_path: Path) -> None:
    old = tmp_path / "vae"
    shutil.copytree(tiny_model / "vae", old)
    file = old / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({_older(name): value for name, value in weights.items()}, file)
    part = ModelPart(
        path=str(tmp_path), layout="diffusers", prediction="epsilon", clip_skip=0, caption_tokens=75, tokenizer=""
    )
    read = load_autoencoder(part).state_dict()
    assert all(read[name].equal(value) for name, value in weights.items())


def _older(name: str) -> str:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name
