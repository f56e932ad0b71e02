"""What the kohya backend refuses, chooses and warns of, before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.backends.kohya.cache_keeping import cache_part
from pipeline.backends.kohya.manifest import SCRIPTS
from pipeline.backends.kohya.support import kohya_problems, kohya_warnings
from pipeline.backends.kohya.translation import ELSEWHERE, settings_of
from pipeline.errors import Problem
from pipeline.records import Checkout, Picture, Platform
from pipeline.settings import PROJECT, KohyaCache, Settings
from tests import given
from tests.golden_kohya import composed, facts_of, plan_of, sized


def problems(settings: Settings) -> list[Problem]:
    return list(kohya_problems(sized(settings), facts_of(settings)))


def told(settings: Settings) -> tuple[str, str, str]:
    """Key, reason and fix of the one problem."""
    (problem,) = problems(settings)
    return problem.key, problem.reason, problem.fix


# -------------------------------------------------------------------------------------------------------- backend.args


@pytest.mark.parametrize(
    ("typed", "reason", "fix"),
    [
        ("flip_agu=true", "has no argument flip_agu. Did you mean flip_aug?", "leave backend.args.flip_agu out"),
        ("color_aug=sometimes", "must be true or false", "backend.args.color_aug=..."),
        ("flip_aug=true", "is what train.flip sets", "train.flip=..."),
        ("loss_type=hubert", "must be one of l1, l2, huber, smooth_l1", "backend.args.loss_type=..."),
        ("vae_batch_size=1.5", "must be a whole number", "backend.args.vae_batch_size=..."),
        ("network_dim=8", "is what network.rank sets", "network.rank=..."),
        ("train_batch_size=8", "is what train.batch_size sets", "train.batch_size=..."),
        ("lr_scheduler_type=x.Y", "is what train.scheduler sets", "train.scheduler=..."),
        ("wandb_api_key=secret", "is not offered: runs are recorded in MLflow", "leave backend.args.wandb_api_key out"),
        ("max_train_epochs=3", "this program counts the steps", "leave backend.args.max_train_epochs out"),
        ("learning_rate=1e-4", "the LoRA scripts take optimizer.lr as unet_lr", "leave backend.args.learning_rate out"),
    ],
)
def test_an_argument_that_can_not_be_passed_on_is_told_once(typed: str, reason: str, fix: str) -> None:
    key, why, what = told(composed("sdxl", "lora", f"+backend.args.{typed}"))
    assert key == f"backend.args.{typed.partition('=')[0]}"
    assert reason in why
    assert what.startswith(fix)


def test_several_mistakes_are_told_together() -> None:
    settings = composed("sdxl", "lora", "+backend.args.a=1", "+backend.args.seed=1", "+backend.network_args.b=1")
    assert {problem.key for problem in problems(settings)} == {
        "backend.args.a",
        "backend.args.seed",
        "backend.network_args.b",
    }


def test_workers_can_be_left_out() -> None:
    assert problems(composed("sdxl", "lora", "+backend.args.max_data_loader_n_workers=0")) == []


def test_faces_are_not_cropped_beside_buckets_and_that_is_told() -> None:
    settings = composed("sdxl", "lora", "+backend.args.face_crop_aug_range=[1.0,2.0]", "backend.cache_latents=off")
    assert "backend.args.face_crop_aug_range" in {problem.key for problem in problems(settings)}


# -------------------------------------------------------------------------------------------------------- network_args


@pytest.mark.parametrize(
    ("model", "typed", "key", "reason"),
    [
        ("sdxl", "backend.network_args.preset=full", "backend.network_args.preset", "networks.lora knows no such"),
        ("sdxl", "backend.network_args.conv_dim=4", "backend.network_args.conv_dim", "is what network.conv_rank sets"),
        ("flux_dev", "backend.network_args.train_t5=true", "backend.network_args.train_t5", "Did you mean train_t5xxl"),
        ("flux_dev", "network.args.use_scalar=true", "network.args.use_scalar", "networks.lora_flux knows no such"),
    ],
)
def test_network_arguments_without_effect_are_told(model: str, typed: str, key: str, reason: str) -> None:
    found = told(composed(model, "lora", "network=lora", f"+{typed}"))
    assert found[0] == key
    assert reason in found[1]


def test_a_finetune_has_no_network_arguments() -> None:
    assert told(composed("sdxl", "finetune", "+backend.network_args.preset=full"))[0] == "backend.network_args.preset"


# ------------------------------------------------------------------------------------------------- what a script can't


@pytest.mark.parametrize(
    ("model", "mode", "more", "key"),
    [
        ("lumina2", "lora", ("mode.text_encoder_lr=1e-5",), "mode.text_encoder_lr"),
        ("lumina2", "lora", ("sample.seed=0",), "sample.seed"),
        ("flux_dev", "lora", ("network=locon", "network.dropout=0.1"), "network.dropout"),
        ("flux_dev", "finetune", ("hardware.precision=fp16",), "hardware.precision"),
        ("sd15", "lora", ("model.tokenizer=/", "+backend.args.tokenizer_cache_dir=x"), "model.tokenizer"),
        ("sd15", "lora", ("model.tokenizer=/",), "model.tokenizer"),
    ],
)
def test_what_would_die_late_or_do_nothing_is_told(model: str, mode: str, more: tuple[str, ...], key: str) -> None:
    assert told(composed(model, mode, *more))[0] == key


def test_a_cpu_has_one_process() -> None:
    settings = composed("sd15", "lora", "hardware.num_processes=2")
    on_cpu = list(kohya_problems(sized(settings), replace(facts_of(settings), machine=given.CPU)))
    assert [problem.key for problem in on_cpu] == ["hardware.num_processes"]
    assert problems(settings) == []


@pytest.mark.parametrize(
    ("model", "mode", "more", "words"),
    [
        ("flux_dev", "finetune", (), "trains the weights themselves in bf16"),
        (
            "flux_dev",
            "lora",
            ("train.caption_dropout=0.1", "memory=low_memory"),
            "lets T5 drop a tenth",
        ),
    ],
)
def test_what_sd_scripts_does_by_itself_is_warned_of(model: str, mode: str, more: tuple[str, ...], words: str) -> None:
    settings = composed(model, mode, *more)
    assert any(words in text for text in kohya_warnings(sized(settings), facts_of(settings)))


def test_t_lora_is_refused() -> None:
    key, reason, _ = told(composed("sdxl", "lora", "network=tlora"))
    assert key == "network.algo"
    assert "timestep" in reason


def test_a_finetune_measures_no_heldout_loss() -> None:
    assert composed("sdxl", "finetune").train.heldout_every_steps == 0
    settings = composed("sdxl", "finetune", "train.heldout_every_steps=50")
    assert told(settings)[0] == "train.heldout_every_steps"
    assert any("measures no held-out loss" in text for text in kohya_warnings(sized(settings), facts_of(settings)))


def test_a_finetune_needs_cached_latents() -> None:
    key, reason, fix = told(composed("sdxl", "finetune", "backend.cache_latents=off"))
    assert key == "backend.cache_latents"
    assert "sizes of the pictures" in reason
    assert fix == "backend.cache_latents=memory"


@pytest.mark.parametrize(("model", "mode"), [("flux_dev", "finetune"), ("lumina2", "finetune"), ("chroma", "lora")])
def test_a_text_encoder_that_is_not_trained_is_told(model: str, mode: str) -> None:
    assert told(composed(model, mode, "mode.text_encoder_lr=1e-5"))[0] == "mode.text_encoder_lr"


def test_chroma_trains_t5_when_it_is_told_so() -> None:
    more = ("mode.text_encoder_lr=1e-5", "+backend.network_args.train_t5xxl=true")
    assert problems(composed("chroma", "lora", *more)) == []


def test_parts_must_be_single_files(tmp_path: Path) -> None:
    (tmp_path / "t5").mkdir()
    assert told(composed("flux_dev", "lora", f"model.parts.t5xxl={tmp_path / 't5'}"))[0] == "model.parts.t5xxl"
    fetched = told(composed("flux_dev", "lora", "model.parts.t5xxl=google/t5-v1_1-xxl"))
    assert "fetches nothing" in fetched[1]


def test_a_part_that_the_script_takes_from_the_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.safetensors").touch()
    key, reason, _ = told(composed("sdxl", "lora", f"model.parts.clip_l={tmp_path / 'clip.safetensors'}"))
    assert key == "model.parts.clip_l"
    assert "from the checkpoint" in reason


def test_a_diffusers_folder_of_a_transformer_is_told() -> None:
    settings = composed("flux_dev", "lora")
    facts = facts_of(settings)
    assert facts.checkpoint is not None
    folder = replace(facts, checkpoint=replace(facts.checkpoint, layout="diffusers"))
    assert [problem.key for problem in kohya_problems(sized(settings), folder)] == ["model.path"]


def test_buckets_must_suit_the_script() -> None:
    key, reason, fix = told(composed("sd15", "lora", "model.resolution_step_px=32"))
    assert (key, fix) == ("model.resolution_step_px", "model.resolution_step_px=64")
    assert "multiple of 64" in reason


def test_pictures_that_are_stored_turned_are_told() -> None:
    settings = composed("sdxl", "lora")
    turned = tuple(replace(picture, orientation=6) for picture in given.pictures(5))
    facts = replace(facts_of(settings), dataset=replace(given.dataset(), train=turned))
    (problem,) = kohya_problems(sized(settings), facts)
    assert problem.key == "data.dir"
    assert "5 pictures are stored turned" in problem.reason
    assert "... and 2 more" in problem.reason


def test_a_negative_prompt_of_a_distilled_model_is_told() -> None:
    assert told(composed("flux_dev", "lora", "sample.negative_prompt=blurry"))[0] == "sample.negative_prompt"
    assert problems(composed("chroma", "lora", "sample.negative_prompt=blurry")) == []


@pytest.mark.parametrize("mode", ["lora", "finetune"])
def test_every_setting_has_its_effect_somewhere(mode: str) -> None:
    """A setting that is new must be translated, or its place be named: it is never dropped."""
    placed = {setting for script in SCRIPTS for setting in settings_of(script).values()} | {*ELSEWHERE}
    keys = composed("sdxl", mode).flat().keys() - {"network"}  # null in a finetune
    lost = [key for key in keys if not any(key == place or key.startswith(f"{place}.") for place in placed)]
    assert lost == []


def test_places_that_are_named_are_settings() -> None:
    keys = {*composed("sdxl", "lora").flat(), *composed("sdxl", "finetune").flat()}
    assert [place for place in ELSEWHERE if not any(key == place or key.startswith(f"{place}.") for key in keys)] == []


# -------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize(
    ("model", "more", "latents", "text"),
    [
        ("sd15", (), "memory", "off"),
        ("sdxl", (), "memory", "off"),
        ("sdxl", ("train.shuffle_tags=false", "train.caption_dropout=0"), "memory", "memory"),
        ("flux_dev", (), "memory", "memory"),
        ("flux_dev", ("train.caption_dropout=0.1",), "memory", "off"),
        ("anima", ("train.shuffle_tags=false",), "memory", "memory"),
        ("flux_dev", ("data.wildcards=true",), "memory", "off"),
        ("sdxl", ("+backend.args.color_aug=true",), "off", "off"),
    ],
)
def test_what_may_be_kept_is_kept(model: str, more: tuple[str, ...], latents: str, text: str) -> None:
    plan = plan_of(model, "lora", *more)
    chosen = {choice.key: choice.value for choice in plan.choices}
    assert chosen["backend.cache_latents"] == latents
    assert chosen.get("backend.cache_text", "off") == text


def test_captions_are_dropped_by_default_where_that_costs_no_encoder() -> None:
    """A large text encoder would have to stay in memory for it; what is typed is taken."""
    assert composed("flux_dev", "lora").train.caption_dropout == 0
    assert composed("flux_dev", "lora", "train.caption_dropout=0.2").train.caption_dropout == 0.2
    assert composed("sdxl", "lora").train.caption_dropout > 0
    assert given.settings("model=flux_dev", "model.path=x").train.caption_dropout > 0, "another backend drops them"
    assert any(choice.key == "train.caption_dropout" for choice in plan_of("flux_dev", "lora").choices)


def test_the_interval_of_the_heldout_loss_is_told_as_it_is() -> None:
    choice = next(each for each in plan_of("sdxl", "lora").choices if each.key == "train.heldout_every_steps")
    assert "here of 6 steps: every 168 steps" in choice.reason


@pytest.mark.parametrize("mode", ["lora", "finetune"])
def test_two_pictures_of_one_name_share_no_cache_on_the_disk(mode: str) -> None:
    pair = tuple(Picture(Path(f"/pictures/a.{end}"), "a cat", 64, 64, end) for end in ("png", "jpg"))
    for where, keys in (("disk", ["data.dir"]), ("memory", [])):
        settings = composed("sdxl", mode, f"backend.cache_latents={where}")
        facts = replace(facts_of(settings), dataset=replace(given.dataset(), train=pair))
        assert [problem.key for problem in kohya_problems(sized(settings), facts)] == keys


def test_a_cache_that_can_not_be_is_told() -> None:
    assert "train.caption_dropout" in {
        p.key for p in problems(composed("flux_dev", "lora", "backend.cache_text=memory", "train.caption_dropout=0.1"))
    }
    key, _, fix = told(composed("flux_dev", "lora", "backend.cache_text=memory", "data.wildcards=true"))
    assert (key, fix) == ("data.wildcards", "data.wildcards=false, or backend.cache_text=off")
    assert told(composed("sd15", "lora", "backend.cache_text=disk"))[0] == "backend.cache_text"
    assert composed("sd15", "lora", "backend.cache_text=disk").backend.cache_text is KohyaCache.disk


def test_captions_of_another_length_are_another_cache() -> None:
    def made(*words: str) -> str:
        settings = sized(composed("sdxl", "lora", *words))
        assert given.CHECKPOINT is not None
        part = cache_part(settings, given.CHECKPOINT, "sdxl_train_network.py", "bf16", latents="disk", text="disk")
        assert part is not None
        return part.text_encoders

    assert made() == made("train.caption_tokens=75")
    assert len({made(f"train.caption_tokens={tokens}") for tokens in (75, 150, 225)}) == 3


# ------------------------------------------------------------------------------------------------------------ captions


@pytest.mark.parametrize(
    ("typed", "setting"),
    [
        ("enable_wildcard=true", "data.wildcards"),
        ("caption_prefix=x", "data.caption_prefix"),
        ("caption_suffix=x", "data.caption_suffix"),
        ("max_token_length=225", "train.caption_tokens"),
    ],
)
def test_what_captions_are_made_of_is_said_by_settings(typed: str, setting: str) -> None:
    key, reason, fix = told(composed("sdxl", "lora", f"+backend.args.{typed}"))
    assert key == f"backend.args.{typed.partition('=')[0]}"
    assert (reason, fix) == (f"is what {setting} sets", f"{setting}=...")


@pytest.mark.parametrize("model", ["flux_dev", "sd35_medium", "lumina2", "hunyuan_image21", "anima", "chroma"])
def test_only_clip_reads_captions_in_chunks(model: str) -> None:
    key, reason, fix = told(composed(model, "lora", "train.caption_tokens=150"))
    assert (key, fix) == ("train.caption_tokens", "train.caption_tokens=75")
    assert "ignores it" in reason


@pytest.mark.parametrize("model", ["sd15", "sd2", "sdxl", "illustrious"])
def test_clip_reads_captions_in_chunks(model: str) -> None:
    assert problems(composed(model, "lora", "train.caption_tokens=225")) == []


# ------------------------------------------------------------------------------------------------------ the environment


def checkout(**packages: str) -> Checkout:
    return Checkout(
        root=Path("/sd-scripts"),
        python=Path("/sd-scripts/venv/bin/python"),
        commit="f" * 40,
        version="0.10.1",
        platform="cuda",
        device_names=("A card",),
        memory_bytes=24 * 2**30,
        bf16=True,
        packages=packages,
        broken={"bitsandbytes": "ImportError: libcudart.so"},
        torch_version="2.8.0+cu128",
        python_version="3.11.7",
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("prodigyopt.Prodigy", "package prodigyopt is not installed in the environment of backend.python"),
        ("bitsandbytes.optim.AdamW8bit", "package bitsandbytes can't be imported: ImportError: libcudart.so"),
    ],
)
def test_the_optimizer_is_looked_for_where_it_will_run(target: str, reason: str) -> None:
    settings = composed("sdxl", "lora", f"optimizer.target={target}", "optimizer.lr=1.0", "optimizer.fallback=error")
    facts = replace(facts_of(settings), checkout=checkout(**{"module:torch": "there", "module:bitsandbytes": "there"}))
    assert reason in " ".join(problem.reason for problem in kohya_problems(sized(settings), facts))


def test_an_optimizer_that_another_may_take_the_place_of_is_left_to_its_trial() -> None:
    settings = composed("sdxl", "lora", "optimizer=adamw8bit")
    facts = replace(facts_of(settings), checkout=checkout(**{"module:torch": "there"}))
    assert not [problem for problem in kohya_problems(sized(settings), facts) if problem.key == "optimizer.target"]


def test_lycoris_is_looked_for_where_it_will_run() -> None:
    settings = composed("sdxl", "lora", "network=loha")
    facts = replace(facts_of(settings), checkout=checkout(**{"module:torch": "there"}))
    (problem,) = kohya_problems(sized(settings), facts)
    assert problem.key == "network"
    assert "pip install lycoris-lora" in problem.fix


def test_what_suits_the_family_and_is_set_otherwise_is_warned_of() -> None:
    settings = composed("flux_dev", "lora", "+backend.args.guidance_scale=3.5")
    warnings = list(kohya_warnings(sized(settings), facts_of(settings)))
    (told,) = (warning for warning in warnings if warning.startswith("backend.args.guidance_scale=3.5: "))
    assert "FLUX.1 [dev] is trained with 1" in told
    assert told.endswith("; try backend.args.guidance_scale=1")


def test_without_a_checkout_the_audited_version_speaks() -> None:
    settings = composed("sdxl", "lora")
    assert any("no checkout is named" in text for text in kohya_warnings(sized(settings), facts_of(settings)))


def test_a_caption_of_several_lines_is_one_cache(tmp_path: Path) -> None:
    """What is looked for in the side-cars is the caption that the script reads."""
    from pipeline.backends.kohya.dataset_file import one_line

    assert one_line("a cat,\n on a  mat\n") == "a cat, on a mat"
    assert one_line(Picture(tmp_path / "a.png", "a cat", 1, 1, "d").caption) == "a cat"


@pytest.mark.parametrize(("platform", "count"), [("cpu", 1), ("xpu", 1), ("cuda", 0), ("rocm", 0)])
def test_several_processes_are_refused_where_one_would_start(platform: Platform, count: int) -> None:
    settings = composed("sdxl", "lora", "hardware.num_processes=2")
    machine = replace(given.CARD, platform=platform, device_names=("A card", "A card"))
    told = kohya_problems(sized(settings), replace(facts_of(settings), machine=machine))
    assert [problem.key for problem in told] == ["hardware.num_processes"] * count


MEETING = ("hardware.num_machines=2", "hardware.main_address=node0")


def test_several_machines_can_not_go_on_from_a_state() -> None:
    settings = composed("sdxl", "lora", *MEETING)
    (problem,) = kohya_problems(sized(settings), replace(facts_of(settings), machine=given.CARD))
    assert (problem.key, problem.value) == ("resume", "auto")
    never = composed("sdxl", "lora", *MEETING, "resume=never")
    assert not list(kohya_problems(sized(never), replace(facts_of(never), machine=given.CARD)))


def test_several_machines_need_what_joins_processes() -> None:
    settings = composed("sdxl", "lora", *MEETING, "resume=never")
    (problem,) = kohya_problems(sized(settings), replace(facts_of(settings), machine=given.CPU))
    assert problem.key == "hardware.num_machines"


@pytest.mark.parametrize(("model", "told"), [("sd15", True), ("sdxl", True), ("flux_dev", False)])
def test_captions_that_clip_does_not_see_whole_are_told(model: str, told: bool) -> None:
    """What a T5 reads is counted by another tokenizer."""
    settings = composed(model, "lora", f"model.tokenizer={PROJECT / 'demo' / 'model' / 'tokenizer'}")
    facts = facts_of(settings)
    assert facts.dataset is not None
    train = tuple(replace(picture, caption="red " * 90) for picture in facts.dataset.train)
    warnings = list(kohya_warnings(sized(settings), replace(facts, dataset=replace(facts.dataset, train=train))))
    assert any("train.caption_tokens=150 reads more" in text for text in warnings) == told


@pytest.mark.parametrize(
    ("mode", "model", "words", "key"),
    [
        ("finetune", "sd15", ("data.reg_dir=/reg",), "data.reg_dir"),
        ("finetune", "sd15", ("data.masks_dir=/masks",), "data.masks_dir"),
        ("lora", "sdxl", ("data.reg_dir=/reg", "data.masks_dir=/masks"), "data.masks_dir"),
        ("finetune", "sdxl", ("data.reg_dir=/reg", "train.prior_loss_weight=0.5"), "train.prior_loss_weight"),
        ("finetune", "sdxl", ("data.reg_dir=/reg",), None),
        ("lora", "sdxl", ("data.reg_dir=/reg", "train.prior_loss_weight=0.5"), None),
        ("lora", "sdxl", ("data.masks_dir=/masks",), None),
        ("lora", "sdxl", ("data.reg_dir=/reg", "data.alpha_masks=true"), None),
        ("finetune", "sdxl", ("data.alpha_masks=true",), None),
    ],
)
def test_what_a_script_can_not_take_from_folders_is_told(
    mode: str, model: str, words: tuple[str, ...], key: str | None
) -> None:
    settings = composed(model, mode, *words)
    found = [each.key for each in kohya_problems(sized(settings), facts_of(settings))]
    assert found == ([] if key is None else [key])
