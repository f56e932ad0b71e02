"""What is rendered for sd-scripts, part by part, without running any of it."""

from __future__ import annotations

import ast
import json
import shlex
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.backends.kohya.buckets import batches_per_epoch, bucket_limits_px, bucket_sides, nearest_side, own_side
from pipeline.backends.kohya.dataset_file import dataset_table, link_all, link_pictures, metadata_texts
from pipeline.backends.kohya.epochs import updates_per_epoch
from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.launch import accelerate_config, environment, launch_argv
from pipeline.backends.kohya.look import _hijack_problems, look_for_trainer
from pipeline.backends.kohya.lycoris_arguments import OF_THE_NETWORK
from pipeline.backends.kohya.manifest import differences as changed_arguments
from pipeline.backends.kohya.manifest import load, parser_for
from pipeline.backends.kohya.network import NetworkPart, lycoris_preset, network_part
from pipeline.backends.kohya.parsers import read_parser
from pipeline.backends.kohya.prompts import prompts_text
from pipeline.backends.kohya.render import render
from pipeline.backends.kohya.resuming import Resumed, goes_on_from
from pipeline.backends.kohya.support import kohya_problems
from pipeline.backends.kohya.tokenizers import tokenizer_links
from pipeline.backends.kohya.train_file import chosen_caches
from pipeline.backends.kohya.translation import DEFAULTS, script_for, settings_of
from pipeline.backends.kohya.written import LAST_OF_STATE, differences
from pipeline.dataset.epoch import regularising
from pipeline.dataset.scan import scan
from pipeline.errors import InvalidSettings, Problem
from pipeline.journal import Journal
from pipeline.machine.facts import facts_record
from pipeline.records import Dataset, Machine, Picture, Plan, Variable
from pipeline.resume import checkpoints
from pipeline.settings import PROJECT, Algorithm, PlatformName
from tests import given
from tests.golden_kohya import composed, sized
from tests.test_kohya_support import checkout as checkout_with
from tests.test_machines import facts_of as machine_facts

FILE = Path("/models/model.safetensors")


def plan_of(
    *words: str,
    model: str = "sd15",
    machine: Machine = given.CARD,
    dataset: Dataset | None = None,
    prompts: tuple[str, ...] = ("a cat", "a dog"),
    path: Path = FILE,
    steps: int = 12,
) -> Plan:
    """Twenty-four pictures in batches of four make six updates an epoch."""
    typed = ("data=folder", "data.dir=pictures", f"model.path={path}", "train.batch_size=4")
    settings = sized(given.settings("backend=kohya", f"model={model}", *typed, *words))
    return Plan(
        settings=settings,
        machine=machine,
        checkpoint=replace(given.CHECKPOINT, path=path, layout="single_file"),
        dataset=dataset or given.dataset(),
        precision="bf16" if machine.bf16 else "fp32",
        num_processes=settings.hardware.all_processes,
        steps=steps,
        warmup_steps=1,
        sample_prompts=prompts,
        fingerprint="f",
    )


def told(run_dir: Path, name: str = "train.toml") -> dict[str, Any]:
    return tomllib.loads((run_dir / "job" / name).read_text())


# ------------------------------------------------------------------------------------------------------------ buckets
# The sides and the choices are those of sd-scripts' own BucketManager (48d368f).

SIZES = [(512, 512), (600, 400), (400, 600), (1920, 1080), (3000, 200), (64, 64), (768, 512), (513, 512), (1000, 999)]


@pytest.mark.parametrize(
    ("resolution_px", "step_px", "count", "first", "chosen"),
    [
        (512, 64, 17, (256, 832), "512x512 640x384 384x640 640x384 1024x256 512x512 640x384 512x512 512x512"),
        (768, 64, 25, (384, 1344), "768x768 896x640 640x896 1024x576 1536x384 768x768 896x640 768x768 768x768"),
        (
            1024,
            32,
            65,
            (512, 1952),
            "1024x1024 1248x832 832x1248 1344x768 2048x512 1024x1024 1248x832 1024x1024 1024x1024",
        ),
        (
            1024,
            16,
            129,
            (512, 2000),
            "1024x1024 1248x832 832x1248 1360x768 2048x512 1024x1024 1248x832 1024x1024 1024x1024",
        ),
        (64, 64, 1, (64, 64), " ".join(["64x64"] * 9)),
    ],
)
def test_buckets_are_those_of_sd_scripts(
    resolution_px: int, step_px: int, count: int, first: tuple[int, int], chosen: str
) -> None:
    sides = bucket_sides(resolution_px, step_px)
    assert (len(sides), sides[0]) == (count, first)
    assert " ".join("{}x{}".format(*nearest_side(sides, *size)) for size in SIZES) == chosen


@pytest.mark.parametrize(
    ("resolution_px", "step_px", "chosen"),
    [
        (512, 64, "512x512 576x384 384x576 640x384 1280x128 64x64 576x384 512x512 512x512"),
        (768, 64, "512x512 576x384 384x576 1024x576 1920x192 64x64 768x512 512x512 768x768"),
        (1024, 32, "512x512 576x384 384x576 1344x768 2976x288 64x64 768x512 512x512 992x992"),
        (1024, 16, "512x512 592x400 400x592 1360x768 2992x288 64x64 768x512 512x512 992x992"),
    ],
)
def test_buckets_without_enlarging(resolution_px: int, step_px: int, chosen: str) -> None:
    sizes = [*SIZES[:4], (3000, 300), *SIZES[5:]]
    sides = [own_side(*size, resolution_px=resolution_px, step_px=step_px) for size in sizes]
    assert " ".join("{}x{}".format(*side) for side in sides) == chosen


@pytest.mark.parametrize(
    ("resolution_px", "step_px", "limits"),
    [(512, 64, (256, 1024)), (320, 64, (128, 640)), (96, 64, (64, 192)), (64, 64, (64, 128)), (1000, 8, (496, 2000))],
)
def test_limits_of_the_buckets_are_whole_steps(resolution_px: int, step_px: int, limits: tuple[int, int]) -> None:
    assert bucket_limits_px(resolution_px, step_px) == limits


def test_a_bucket_ends_with_a_smaller_batch() -> None:
    sizes = [(64, 64)] * 5 + [(128, 64)] * 3 + [(640, 320)]  # two squares' batches, two of wide ones or one of each
    pictures = [Picture(Path(f"{n}.png"), "", *size, str(n)) for n, size in enumerate(sizes)]
    asked: dict[str, Any] = {"resolution_px": 512, "step_px": 64, "batch_size": 4}
    assert batches_per_epoch(pictures, **asked) == 2 + 1
    assert batches_per_epoch(pictures, **asked, no_upscale=True) == 2 + 1 + 1


# ----------------------------------------------------------------------------------------------------------- going on


def resumed(step: int = 8, *, skips: bool = True, accumulation_steps: int = 1, num_processes: int = 1) -> Resumed:
    return goes_on_from(
        Path("/run/state"),
        step,
        steps=12,
        updates_per_epoch=6,
        accumulation_steps=accumulation_steps,
        skips=skips,
        num_processes=num_processes,
    )


COSINE: dict[str, Any] = {"lr_scheduler": "cosine", "lr_warmup_steps": 1, "max_train_steps": 12}


def test_what_is_left_is_counted_on_from_the_place_in_the_epoch() -> None:
    changed = resumed(8).changed(COSINE)
    assert (changed["initial_step"], changed["skip_until_initial_step"], changed["max_train_steps"]) == (2, True, 6)
    assert changed["resume"] == "/run/state"
    assert changed["training_comment"] == "goes on from step 8 of 12"
    changed = resumed(6).changed(COSINE | {"training_comment": "mine"})
    assert (changed["initial_step"], changed["max_train_steps"], changed["training_comment"]) == (0, 6, "mine")


def test_with_accumulation_the_epoch_is_begun_anew() -> None:
    changed = resumed(8, accumulation_steps=2).changed(COSINE)
    assert (changed["initial_step"], changed["max_train_steps"]) == (0, 4)


def test_a_script_that_can_not_be_told_where_to_begin() -> None:
    changed = resumed(8, skips=False).changed(COSINE)
    assert changed["max_train_steps"] == 4
    assert not {"initial_step", "skip_until_initial_step", "training_comment"} & set(changed)


@pytest.mark.parametrize(
    ("values", "function", "arguments"),
    [
        ({"lr_scheduler": "cosine"}, "get_cosine_schedule_with_warmup", []),
        ({"lr_scheduler": "linear"}, "get_linear_schedule_with_warmup", []),
        (
            {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3},
            "get_cosine_with_hard_restarts_schedule_with_warmup",
            ["num_cycles=3"],
        ),
    ],
)
def test_a_curve_keeps_its_length(values: dict[str, Any], function: str, arguments: list[str]) -> None:
    """accelerate steps a scheduler once a process."""
    changed = resumed(num_processes=2).changed(COSINE | {"lr_warmup_steps": 4} | values)
    assert changed["lr_scheduler_type"] == f"transformers.optimization.{function}"
    assert changed["lr_scheduler_args"] == ["num_warmup_steps=4", "num_training_steps=24", *arguments]
    assert changed["lr_warmup_steps"] == 0
    assert not {"lr_scheduler", "lr_scheduler_num_cycles"} & set(changed)
    assert all(ast.literal_eval(each.split("=")[1]) for each in changed["lr_scheduler_args"])


@pytest.mark.parametrize("scheduler", ["constant", "constant_with_warmup"])
def test_a_curve_without_a_length_stays(scheduler: str) -> None:
    changed = resumed().changed(COSINE | {"lr_scheduler": scheduler})
    assert (changed["lr_scheduler"], changed["lr_warmup_steps"]) == (scheduler, 1)
    assert "lr_scheduler_type" not in changed


def test_samples_of_a_start_that_goes_on() -> None:
    of_the_end = resumed(8).changed(COSINE | {"sample_at_first": True, "sample_every_n_steps": 12})
    assert (of_the_end["sample_at_first"], of_the_end["sample_every_n_steps"]) == (False, 6)
    on_the_way = resumed(8).changed(COSINE | {"sample_at_first": True, "sample_every_n_steps": 3})
    assert on_the_way["sample_every_n_steps"] == 3
    assert "sample_at_first" not in resumed(8).changed(COSINE)


def state_of(run_dir: Path, step: int, *, whole: bool = True) -> Path:
    """A state that the journal tells of."""
    folder = run_dir / "weights" / f"style-step{step:08d}-state"
    folder.mkdir(parents=True)
    (folder / "optimizer.bin").write_bytes(b"x")
    if whole:
        with zipfile.ZipFile(folder / LAST_OF_STATE, "w") as file:
            file.writestr("data", b"")
    journal = Journal(run_dir)
    journal.write("checkpoint", step=step, path=str(folder.relative_to(run_dir)))
    journal.close()
    return folder


@pytest.mark.parametrize(
    ("step", "every_steps", "epochs"),
    [(0, 0, 2), (0, 6, 1), (4, 0, 2), (6, 0, 1), (8, 0, 1), (8, 6, 1), (8, 1, 1)],
)
def test_the_last_epoch_is_measured_also_of_a_start_that_goes_on(
    tmp_path: Path, step: int, every_steps: int, epochs: int
) -> None:
    """It counts its epochs anew: from step 8 on, in the second epoch, it has only one."""
    if step:
        state_of(tmp_path, step)
    render(plan_of(f"train.heldout_every_steps={every_steps}"), tmp_path)
    assert told(tmp_path)["validate_every_n_epochs"] == epochs


def test_it_goes_on_from_the_newest_whole_state_that_leaves_something_to_do(tmp_path: Path) -> None:
    state = state_of(tmp_path, 4)
    state_of(tmp_path, 8, whole=False)
    state_of(tmp_path, 12)
    job = render(plan_of(), tmp_path)
    assert (job.resume_step, told(tmp_path)["resume"]) == (4, str(state))
    assert told(tmp_path)["output_dir"] == str(tmp_path / "weights" / "from-00000004")
    watched = KohyaJob.read(tmp_path / "job" / "watch.toml")
    assert (watched.first_step, watched.counted_from, watched.steps) == (4, 4, 12)
    assert watched.expected["ss_max_train_steps"] == watched.expected["ss_steps"] == "12"
    assert watched.finished == str(tmp_path / "weights" / "from-00000004" / "style-sd15.safetensors")


def test_checkpoints_are_what_the_journal_tells_and_what_native_writes(tmp_path: Path) -> None:
    told_of = [state_of(tmp_path, step) for step in (2, 10)]
    gone = state_of(tmp_path, 6)
    gone.rename(tmp_path / "gone")
    for name in ("step-000004", "step-000008.part", "mine"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    native = tmp_path / "checkpoints" / "step-000004"
    assert checkpoints(tmp_path) == [(10, told_of[1]), (4, native), (2, told_of[0])]
    assert checkpoints(tmp_path / "nowhere") == []


# ------------------------------------------------------------------------------------------------------------ network


def part_of(*words: str, model: str = "sd15") -> NetworkPart:
    part = network_part(plan_of(*words, model=model).settings)
    assert part is not None
    return part


@pytest.mark.parametrize("model", ["sd15", "sdxl", "flux_dev"])
def test_every_algorithm(model: str) -> None:
    """By a module of sd-scripts that takes what it is given, or by LyCORIS with an algorithm that it has."""
    settings, manifest = plan_of("network=locon", model=model).settings, load()
    assert settings.network is not None
    for algorithm in set(Algorithm) - {Algorithm.tlora}:  # younger than the audited LyCORIS
        part = network_part(replace(settings, network=replace(settings.network, algo=algorithm)))
        assert part is not None
        if part.module == "lycoris.kohya":
            known = {*manifest.lycoris.algorithms[OF_THE_NETWORK], *manifest.lycoris.algorithms[part.args["algo"]]}
        else:
            assert algorithm in (Algorithm.lora, Algorithm.locon)
            known = {*manifest.networks[part.module]}
        assert set(part.args) <= known, algorithm
        assert (part.dim is None) == (part.alpha is None) == (algorithm in (Algorithm.full, Algorithm.ia3))
        assert [line.split("=", 1)[0] for line in part.lines()] == list(part.args)


@pytest.mark.parametrize(
    ("words", "module", "lines"),
    [
        (("network=lora",), "networks.lora", []),
        (
            ("network=locon", "network.conv_rank=8", "network.conv_alpha=4"),
            "networks.lora",
            ["conv_dim=8", "conv_alpha=4.0"],
        ),
        (
            ("network=locon", "network.conv_rank=8", "network.conv_alpha=4", "+network.args.use_tucker=true"),
            "lycoris.kohya",
            ["algo=locon", "preset=lycoris.toml", "conv_dim=8", "conv_alpha=4.0", "use_tucker=True"],
        ),
        (
            ("network=dora", "network.conv_rank=0", "+network.args={wd_on_out: false}"),
            "lycoris.kohya",
            ["algo=locon", "preset=lycoris.toml", "dora_wd=True", "wd_on_output=False"],
        ),
        (("network=ia3",), "lycoris.kohya", ["algo=ia3", "preset=lycoris.toml"]),
        (("network=full", "network.conv_rank=0"), "lycoris.kohya", ["algo=full", "preset=lycoris.toml"]),
        (
            ("network=lokr", "network.conv_rank=0", "+network.args={factor: 8, decompose_both: false}"),
            "lycoris.kohya",
            ["algo=lokr", "preset=lycoris.toml", "factor=8"],
        ),
        (
            ("network=lora", "+backend.network_args={down_lr_weight: [0, 0.5, 1]}"),
            "networks.lora",
            ["down_lr_weight=0,0.5,1"],
        ),
        (
            ("network=loha", "network.conv_rank=0", "+backend.network_args={preset: full}"),
            "lycoris.kohya",
            ["algo=loha", "preset=full"],
        ),
    ],
)
def test_an_adapter_in_their_words(words: tuple[str, ...], module: str, lines: list[str]) -> None:
    part = part_of(*words)
    assert (part.module, part.lines()) == (module, lines)


def test_which_layers_lycoris_adapts(tmp_path: Path) -> None:
    """Of a UNet those that networks.lora does, by a file of ours, unless the user has another."""
    render(plan_of("network=loha", "network.conv_rank=8"), tmp_path)
    preset = tmp_path / "job" / "lycoris.toml"
    assert f"preset={preset}" in told(tmp_path)["network_args"]
    layers = tomllib.loads(preset.read_text())
    assert layers["enable_conv"]
    assert "ResnetBlock2D" in layers["unet_target_module"]
    assert KohyaJob.read(tmp_path / "job" / "watch.toml").expected["ss_network_args"].count(str(preset)) == 1
    plain = lycoris_preset(plan_of("network=loha", "network.conv_rank=0").settings)
    assert plain is not None
    assert (plain["enable_conv"], plain["unet_target_module"]) == (False, ["Transformer2DModel"])
    assert part_of("network=loha", model="flux_dev").args["preset"] == "attn-mlp"
    for words in (("network=lora",), ("network=loha", "+backend.network_args={preset: full}")):
        assert lycoris_preset(plan_of(*words).settings) is None


def test_a_checkpoint_has_no_adapter() -> None:
    assert network_part(plan_of("mode=finetune").settings) is None


@pytest.mark.parametrize(
    ("found", "is_same"), [("0.0001", True), ("[0.0001]", True), ("0.0002", False), ("None", False)]
)
def test_of_a_list_of_rates_a_network_may_take_the_first(tmp_path: Path, found: str, is_same: bool) -> None:
    """networks.lora and LyCORIS do, lora_flux takes the list; both say so in the metadata."""
    render(plan_of("mode.text_encoder_lr=1e-4"), tmp_path)
    assert told(tmp_path)["text_encoder_lr"] == [0.0001]
    expected = KohyaJob.read(tmp_path / "job" / "watch.toml").expected["ss_text_encoder_lr"]
    weights = given.safetensors(
        tmp_path / "x.safetensors", {"a": ("F32", (1,))}, metadata={"ss_text_encoder_lr": found}
    )
    assert (differences(weights, {"ss_text_encoder_lr": expected}) == []) is is_same


# ------------------------------------------------------------------------------------------------------------ prompts


def prompts(*words: str, model: str = "sd15", texts: tuple[str, ...] = ("a cat", "ein Hund --d 7 ü")) -> list[Any]:
    return list(json.loads(prompts_text(plan_of(*words, model=model, prompts=texts))))


def test_prompts_are_objects_that_no_sign_can_break() -> None:
    first, second = prompts("sample.seed=7", "sample.negative_prompt=blurry", "train.resolution_px=512")
    assert first == {
        **{"prompt": "a cat", "negative_prompt": "blurry", "width": 512, "height": 512},
        **{"sample_steps": 25, "scale": 7.0, "seed": 7},
    }
    assert (second["prompt"], second["seed"]) == ("ein Hund --d 7 ü", 8)


def test_guidance_is_called_what_the_model_takes() -> None:
    flux, chroma = (prompts("sample.guidance_scale=4", model=model)[0] for model in ("flux_dev", "chroma"))
    assert (flux["guidance_scale"], "scale" in flux) == (4.0, False)
    assert (chroma["scale"], chroma["guidance_scale"]) == (4.0, 0.0)
    assert "negative_prompt" not in prompts("sample.negative_prompt=''")[0]


# ----------------------------------------------------------------------------------------------------------- pictures


def test_captions_are_one_line_and_stand_where_tags_are_counted() -> None:
    picture = Picture(Path("/p/ü.png"), "two\n lines,\tone", 64, 48, "d" * 64)
    dataset = Dataset("mine", Path("/p"), (picture,), (), "x")
    row = {"image_path": "/p/ü.png", "image_size": [64, 48], "digest": "d" * 64}
    for words, name, caption in (
        (("train.shuffle_tags=true",), "tags", "two lines, one"),
        (("train.shuffle_tags=false",), "caption", "two lines, one"),
        (("train.shuffle_tags=false", "train.tag_dropout=0.1"), "tags", "two lines, one"),
        (("train.shuffle_tags=true", "data.wildcards=true"), "caption", "two\nlines, one"),
    ):
        (line,) = metadata_texts(plan_of(*words, dataset=dataset), Path("/run"))["pictures.jsonl"].splitlines()
        assert json.loads(line) == row | {name: caption}


def test_a_trigger_is_kept_in_front_and_lines_are_drawn_for_the_training_alone() -> None:
    plan = plan_of("data.trigger=sks", "data.wildcards=true", "train.keep_tags=0")
    train, validation = dataset_table(plan, Path("/run"), Path("/run/heldout"))["datasets"]
    (subset,), (aside,) = train["subsets"], validation["subsets"]
    assert (subset["keep_tokens"], subset["enable_wildcard"]) == (1, True)
    assert "enable_wildcard" not in aside
    assert not [name for name in subset if name.startswith("caption_") and name.endswith("fix")]


@pytest.mark.parametrize(("tokens", "told_length"), [(75, None), (150, 150), (225, 225)])
def test_the_length_of_captions_is_told_where_it_is_no_default(
    tokens: int, told_length: int | None, tmp_path: Path
) -> None:
    render(plan_of(f"train.caption_tokens={tokens}"), tmp_path)
    assert told(tmp_path).get("max_token_length") == told_length


def test_the_dataset_file_names_pictures_and_not_their_folder() -> None:
    captions = ("train.keep_tags=2", "train.caption_dropout=0.5", "train.tag_dropout=0.25")
    plan = plan_of("train.resolution_px=768", "train.shuffle_tags=true", *captions)
    table = dataset_table(plan, Path("/run"), Path("/run/heldout"))
    assert table["general"] == {
        **{"resolution": 768, "enable_bucket": True, "bucket_reso_steps": 64},
        **{"min_bucket_reso": 384, "max_bucket_reso": 1536},
    }
    train, validation = table["datasets"]
    assert train == {
        "batch_size": 4,
        "subsets": [
            {
                **{
                    "metadata_file": "/run/pictures.jsonl",
                    "num_repeats": 1,
                    "flip_aug": False,
                    "shuffle_caption": True,
                },
                **{"keep_tokens": 2, "caption_dropout_rate": 0.5, "caption_tag_dropout_rate": 0.25},
                "enable_wildcard": False,
            }
        ],
    }
    assert (validation["validation_split"], validation["validation_seed"], validation["batch_size"]) == (1.0, 0, 1)
    assert len(dataset_table(plan, Path("/run"), None)["datasets"]) == 1


def repeated(count: int, repeats: int, name: str) -> tuple[Picture, ...]:
    return tuple(Picture(Path(f"/p/{name}{n}.png"), name, 64, 64, f"{name}{n}", repeats=repeats) for n in range(count))


def test_each_number_of_repeats_has_a_file_of_its_own() -> None:
    dataset = Dataset("mine", Path("/p"), (*repeated(2, 3, "cat"), *repeated(1, 1, "dog")), (), "x")
    plan = plan_of(dataset=dataset)
    (train,) = dataset_table(plan, Path("/run"), None)["datasets"]
    told = [(subset["metadata_file"], subset["num_repeats"]) for subset in train["subsets"]]
    assert told == [("/run/pictures-x1.jsonl", 1), ("/run/pictures-x3.jsonl", 3)]
    texts = metadata_texts(plan, Path("/run"))
    assert {name: text.count("\n") for name, text in texts.items()} == {
        **{"pictures.jsonl": 3, "pictures-x1.jsonl": 1, "pictures-x3.jsonl": 2}
    }


def test_regularisation_pictures_make_links_of_all(tmp_path: Path) -> None:
    cats = [Picture(given.picture(tmp_path / f"{n}.png", None), f"cat {n}", 6, 4, f"{n}", repeats=2) for n in range(2)]
    reg = (Picture(given.picture(tmp_path / "reg.png", None), "a cat", 6, 4, "r"),)
    plan = plan_of(dataset=Dataset("mine", tmp_path, tuple(cats), (), "x", regularisation=reg))
    folder = tmp_path / "job"
    link_all(plan, folder)
    (train,) = dataset_table(plan, folder, None)["datasets"]
    told = [(subset["image_dir"], subset["num_repeats"], subset.get("is_reg", False)) for subset in train["subsets"]]
    assert told == [(str(folder / "pictures"), 2, False), (str(folder / "reg"), 1, True)]
    assert (folder / "reg" / "00000.txt").read_text() == "a cat\n"
    assert (folder / "pictures" / "00001.png").resolve() == cats[1].path
    rows = [json.loads(line) for line in metadata_texts(plan, folder)["pictures.jsonl"].splitlines()]
    assert [row["image_path"] for row in rows][-1] == str(folder / "reg" / "00000.png"), "where its caches lie"


def test_masks_of_a_folder_are_links_of_the_same_names(tmp_path: Path) -> None:
    mask = given.picture(tmp_path / "masks" / "a.webp", None)
    picture = Picture(given.picture(tmp_path / "a.jpg", None), "a cat", 6, 4, "x", mask_path=mask, mask_digest="m")
    plan = plan_of(dataset=Dataset("mine", tmp_path, (picture,), (), "x"))
    folder = tmp_path / "job"
    link_all(plan, folder)
    (train,) = dataset_table(plan, folder, None)["datasets"]
    assert train["subsets"][0]["conditioning_data_dir"] == str(folder / "masks-pictures")
    assert (folder / "masks-pictures" / "00000.webp").resolve() == mask


def test_batches_are_counted_as_sd_scripts_shows_regularisation_pictures() -> None:
    reg = repeated(2, 1, "reg")
    for cats, shown in ((1, [1]), (2, [1, 1]), (5, [3, 2])):
        dataset = Dataset("mine", Path("/p"), repeated(cats, 1, "cat"), (), "x", regularisation=reg)
        assert [picture.repeats for picture in regularising(dataset)] == shown


OF_THREE = [(512, 512)] * 9 + [(768, 768)] * 5 + [(1024, 768)] * 3
SEVERAL = ("train.resolution_px=512", "train.more_resolutions_px=[768,640]", "train.flip=true")
BATCH = ("train.batch_size=2", "train.accumulation_steps=1")


def of_sizes(*words: str, model: str = "sd15") -> Plan:
    pictures = tuple(Picture(Path(f"/p/{n}.png"), "", *size, str(n)) for n, size in enumerate(OF_THREE))
    return plan_of(*SEVERAL, *BATCH, *words, model=model, dataset=replace(given.dataset(), train=pictures))


def test_each_further_resolution_is_a_dataset_of_the_pictures_that_are_large_enough(tmp_path: Path) -> None:
    render(of_sizes(), tmp_path)
    base, large, middle, validation = told(tmp_path, "dataset.toml")["datasets"]
    assert [each.get("resolution") for each in (base, large, middle, validation)] == [None, 768, 640, None]
    assert (large["min_bucket_reso"], large["max_bucket_reso"]) == (384, 1536)
    assert all(each["subsets"][0]["flip_aug"] for each in (base, large, middle))
    assert "flip_aug" not in validation["subsets"][0]
    files = [Path(each["subsets"][0]["metadata_file"]) for each in (base, large, middle)]
    assert [file.name for file in files] == ["pictures.jsonl", "pictures-768.jsonl", "pictures-640.jsonl"]
    assert [len(file.read_text().splitlines()) for file in files] == [17, 8, 8]


def test_an_epoch_has_the_batches_of_all_resolutions() -> None:
    """At 512 px 14 squares and 3 wide ones, at 768 and 640 px 5 and 3."""
    assert updates_per_epoch(of_sizes()) == (7 + 2) + 2 * (3 + 2)
    assert updates_per_epoch(of_sizes("train.more_resolutions_px=[]")) == 7 + 2


@pytest.mark.parametrize(("model", "place"), [("sd15", "memory"), ("sdxl", "memory"), ("flux_dev", "disk")])
def test_a_file_of_stable_diffusion_holds_one_size_so_that_several_are_kept_in_memory(model: str, place: str) -> None:
    settings = composed(model, "lora", "memory=ultra_low_memory", "train.more_resolutions_px=[768]")
    script = script_for(settings)
    assert script is not None
    assert chosen_caches(sized(settings), parser_for(None, script))[0] == place


def test_one_size_is_kept_where_the_profile_says() -> None:
    settings = sized(composed("sdxl", "lora", "memory=ultra_low_memory"))
    assert chosen_caches(settings, parser_for(None, "sdxl_train_network.py"))[0] == "disk"


def test_held_out_pictures_are_links_that_sd_scripts_finds(tmp_path: Path) -> None:
    names = ("a/1.tif", "b/1.JPG", "1.png", "1.gif")
    files = [given.picture(tmp_path / name, None) if "png" in name else touched(tmp_path / name) for name in names]
    held = [Picture(file, f"caption\n{n}", 6, 4, str(n)) for n, file in enumerate(files)]
    folder = tmp_path / "heldout"
    link_pictures(folder, held)
    assert [path.name for path in sorted(folder.glob("*.[!t]*"))] == [
        "00000.png",
        "00001.jpg",
        "00002.png",
        "00003.png",
    ]
    assert [path.resolve() for path in sorted(folder.glob("*.[!t]*"))] == files
    assert (folder / "00001.txt").read_text() == "caption 1\n"
    (folder / "00003_0006x0004_sd.npz").touch()
    link_pictures(folder, held[:1])
    assert {path.name for path in folder.iterdir()} == {"00000.png", "00000.txt"}
    assert all(file.exists() for file in files)


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_pictures_that_a_viewer_turns_are_refused(tmp_path: Path) -> None:
    paths = [given.picture(tmp_path / f"{number}.jpg") for number in range(5)]
    for path, orientation in zip(paths, (1, 3, 6, 6, 8), strict=True):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(path) as image:
            image.load()
            image.save(path, exif=exif)
    dataset, _ = scan(given.data(tmp_path), threads=1)
    assert dataset is not None
    pictures = dataset.train
    assert [(each.width_px, each.height_px) for each in pictures] == [(6, 4), (6, 4), (4, 6), (4, 6), (4, 6)]
    (problem,) = problems(Dataset("mine", tmp_path, pictures[:4], pictures[4:], "x"), "data.dir")
    assert problem.reason.startswith(
        "4 pictures are stored turned (EXIF), and sd-scripts would train on them as stored"
    )
    assert f"{paths[1]}, {paths[2]}, {paths[3]} ... and 1 more" in problem.reason
    assert "exiftran" in problem.fix
    assert not problems(Dataset("mine", tmp_path, pictures[:1], (), "x"), "data.dir")


def problems(dataset: Dataset, key: str, *words: str) -> list[Problem]:
    plan = plan_of(*words)
    facts = given.facts(machine=given.CARD, checkpoint=plan.checkpoint, dataset=dataset)
    return [problem for problem in kohya_problems(plan.settings, facts) if problem.key == key]


# --------------------------------------------------------------------------------------------------------- tokenizers


def tokenizer(folder: Path) -> Path:
    for name in ("vocab.json", "merges.txt"):
        touched(folder / name)
    return folder


@pytest.mark.parametrize(
    ("model", "script", "names"),
    [
        ("sd15", "train_network.py", {"openai_clip-vit-large-patch14"}),
        ("sd15", "fine_tune.py", {"openai_clip-vit-large-patch14"}),
        ("sd2", "train_network.py", {"stabilityai_stable-diffusion-2"}),
        (
            "sdxl",
            "sdxl_train_network.py",
            {"openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"},
        ),
    ],
)
def test_a_tokenizer_beside_the_model_is_linked(tmp_path: Path, model: str, script: str, names: set[str]) -> None:
    source = tokenizer(tmp_path / "tokenizer")
    plan = plan_of(model=model, path=tmp_path / "model.safetensors")
    for _ in range(2):  # a folder that is there already
        folder = tokenizer_links(plan, script, tmp_path / "links")
        assert folder == tmp_path / "links"
        assert {path.name for path in folder.iterdir()} == names
        assert {(each / "vocab.json").resolve() for each in folder.iterdir()} == {source / "vocab.json"}


@pytest.mark.parametrize(("model", "pad"), [("sd15", None), ("sd2", "!")])
def test_a_tokenizer_without_a_config_gets_its_length(tmp_path: Path, model: str, pad: str | None) -> None:
    """sd-scripts would pad to the largest number that there is: OverflowError, when it draws the first sample."""
    tokenizer(tmp_path / "tokenizer")
    folder = tokenizer_links(plan_of(model=model, path=tmp_path / "x.safetensors"), "train_network.py", tmp_path / "to")
    assert folder is not None
    (written,) = folder.glob("*/tokenizer_config.json")
    config = json.loads(written.read_text())
    assert (config["model_max_length"], config.get("pad_token")) == (77, pad)
    assert not (tmp_path / "tokenizer" / "tokenizer_config.json").exists()


def test_a_tokenizers_own_config_is_kept(tmp_path: Path) -> None:
    own = tokenizer(tmp_path / "tokenizer") / "tokenizer_config.json"
    own.write_text('{"model_max_length": 32}')
    for _ in range(2):
        folder = tokenizer_links(plan_of(path=tmp_path / "x.safetensors"), "train_network.py", tmp_path / "to")
        assert folder is not None
        (linked,) = folder.glob("*/tokenizer_config.json")
        assert linked.resolve() == own
    assert own.read_text() == '{"model_max_length": 32}'


def test_a_tokenizer_of_a_folder_and_one_that_is_named(tmp_path: Path) -> None:
    inside = tokenizer(tmp_path / "model" / "tokenizer")
    folder = tokenizer_links(plan_of(path=tmp_path / "model"), "train_network.py", tmp_path / "links")
    assert folder is not None
    assert [path.resolve() for path in folder.glob("*/vocab.json")] == [inside / "vocab.json"]
    named = tokenizer(tmp_path / "named")
    plan = plan_of(f"model.tokenizer={named}", path=tmp_path / "model")
    folder = tokenizer_links(plan, "train_network.py", tmp_path / "links")
    assert folder is not None
    assert [path.resolve() for path in folder.glob("*/vocab.json")] == [named / "vocab.json"]


def test_no_tokenizer_is_linked_where_there_is_none(tmp_path: Path) -> None:
    touched(tmp_path / "tokenizer" / "vocab.json")  # half of one
    path = tmp_path / "model.safetensors"
    assert tokenizer_links(plan_of(path=path), "train_network.py", tmp_path / "links") is None
    tokenizer(tmp_path / "tokenizer")
    passed = plan_of("+backend.args.tokenizer_cache_dir=/mine", path=path)
    assert tokenizer_links(passed, "train_network.py", tmp_path / "links") is None
    assert tokenizer_links(plan_of(model="flux_dev", path=path), "flux_train_network.py", tmp_path / "links") is None


# ------------------------------------------------------------------------------------------------------------- launch


@pytest.mark.parametrize(
    ("platform", "processes", "kind", "threads"),
    [
        ("cpu", 1, "NO", 8),
        ("cuda", 3, "MULTI_GPU", 2),
        ("rocm", 2, "MULTI_GPU", 4),
        ("xpu", 16, "MULTI_XPU", 1),
    ],
)
def test_how_processes_are_started(platform: Any, processes: int, kind: str, threads: int) -> None:
    plan = plan_of(f"hardware.num_processes={processes}", machine=replace(given.CARD, platform=platform))
    answers = dict(line.split(": ", 1) for line in accelerate_config(plan).splitlines())
    assert json.loads(answers["distributed_type"]) == kind
    assert answers["num_processes"] == str(processes)
    assert answers["use_cpu"] == json.dumps(platform == "cpu")
    assert json.loads(answers["mixed_precision"]) == "bf16"
    argv = launch_argv(plan, "python", Path("/c.yaml"), "x.py", Path("/t.toml"))
    assert argv[:5] == ["python", "-m", "accelerate.commands.launch", "--config_file", "/c.yaml"]
    assert argv[5:7] == ["--num_cpu_threads_per_process", str(threads)]
    assert argv[-3:] == ["x.py", "--config_file", "/t.toml"]
    assert "--main_process_port" not in argv, "accelerate 1.6 hands a 0 on, and torch waits for a port that is none"
    assert environment(plan)["OMP_NUM_THREADS"] == str(threads)


def test_how_machines_find_each_other() -> None:
    typed = ("hardware.num_machines=2", "hardware.num_processes=4", "hardware.machine_rank=1")
    plan = plan_of(*typed, "hardware.main_address=node0", "hardware.main_port=29600", machine=given.CARD)
    answers = dict(line.split(": ", 1) for line in accelerate_config(plan).splitlines())
    told = {name: json.loads(answers[name]) for name in answers if name.startswith(("num_", "machine_", "main_p"))}
    assert told == {
        "num_machines": 2, "num_processes": 8, "machine_rank": 1,
        "main_process_ip": "node0", "main_process_port": 29600,
    }  # fmt: skip
    assert environment(plan)["OMP_NUM_THREADS"] == "2"


def test_what_the_devices_need_is_in_the_scripts_environment() -> None:
    card = replace(given.CARD, platform="rocm", variables=(Variable("MIOPEN_FIND_MODE", "FAST", "it is faster"),))
    assert environment(plan_of(machine=card))["MIOPEN_FIND_MODE"] == "FAST"


@pytest.mark.parametrize(("torch", "count"), [("2.9.1+xpu", 0), ("2.10.0+xpu", 1), ("2.13.0+xpu", 1)])
def test_a_torch_that_the_scripts_break_on_intel_is_told(torch: str, count: int) -> None:
    card = replace(given.CARD, platform="xpu")
    told = list(_hijack_problems(card, replace(checkout_with(), torch_version=torch)))
    assert len(told) == count
    assert all('"torch<2.10" --index-url' in problem.fix for problem in told)


@pytest.mark.parametrize("wanted", [PlatformName.auto, PlatformName.xpu])
def test_another_machines_facts_need_no_checkout(tmp_path: Path, wanted: PlatformName) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps({"facts": facts_record(machine_facts("arc_b580", tmp_path))}))
    settings = plan_of("until=render", f"hardware={wanted.value}", f"hardware.facts={file}").settings
    machine, checkout, problems = look_for_trainer(settings)
    assert (machine.platform, checkout, problems) == ("xpu", None, ())


@pytest.mark.parametrize("name", ["run", "a run's (v2)"])
def test_the_command_is_told_in_three_ways(tmp_path: Path, name: str) -> None:
    """As a list in command.json, as the watcher's job, and as a line to paste."""
    run_dir, root = tmp_path / name, PROJECT / "tests" / "sd_scripts"
    job = render(plan_of(f"backend.root={root}", "backend.python=/venv/bin/python"), run_dir)
    command = json.loads((run_dir / "job" / "command.json").read_text())
    assert command["cwd"] == str(root)
    assert command["argv"][0] == "/venv/bin/python"
    assert command["argv"][-3:] == ["train_network.py", "--config_file", str(run_dir / "job" / "train.toml")]
    watched = KohyaJob.read(run_dir / "job" / "watch.toml")
    assert {"argv": watched.argv, "cwd": watched.cwd, "env": watched.env} == command
    cd, folder, _, *words = shlex.split(job.command)
    assert (cd, folder) == ("cd", str(root))
    assert words == [*(f"{key}={value}" for key, value in command["env"].items()), *command["argv"]]
    assert job.argv == (sys.executable, "-m", "pipeline.backends.kohya", str(run_dir / "job" / "watch.toml"))
    assert all(file.is_file() for file in job.files)


def test_arguments_reach_train_toml_beside_our_own(tmp_path: Path) -> None:
    words = (
        "+backend.args.vae_batch_size=2",
        "+backend.args.xformers=true",
        "+backend.args.max_data_loader_n_workers=0",
    )
    render(plan_of(*words), tmp_path)
    values = told(tmp_path)
    assert (values["vae_batch_size"], values["xformers"], values["max_data_loader_n_workers"]) == (2, True, 0)
    assert "sdpa" not in values
    assert all(not isinstance(value, dict) for value in values.values())


def test_what_the_script_would_not_take_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no argument flip_agu"):
        render(plan_of("+backend.args.flip_agu=true"), tmp_path)
    assert not (tmp_path / "job" / "train.toml").exists()


# ------------------------------------------------------------------------------------------------------- the stand-in


@pytest.mark.parametrize(
    "script", ["train_network.py", "sdxl_train_network.py", "flux_train_network.py", "fine_tune.py"]
)
def test_the_stand_in_takes_what_the_audited_version_does(script: str) -> None:
    """What it has is as there, and it has all that is written."""
    audited, ours = load().parsers[script], read_parser(PROJECT / "tests" / "sd_scripts", script)
    found = changed_arguments(audited, ours)
    assert {each.kind for each in found} <= {"gone"}, found
    assert not {each.name for each in found} & {*settings_of(script), *DEFAULTS, "training_comment"}


# ---------------------------------------------------------------------------------------------------------- a checkout


def test_a_checkout_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell replaces the ~ of backend.root=~/sd-scripts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("train_network.py", "library/train_util.py"):
        touched(tmp_path / "sd-scripts" / name)
    answer = {"python": "3.10.6", "torch": "2.8.0", "platform": "cpu", "devices": [], "packages": {}, "broken": {}}
    python = touched(tmp_path / "sd-scripts" / "venv" / "bin" / "python")
    python.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
    python.chmod(0o755)
    settings = plan_of('backend.root="~/sd-scripts"').settings
    _, checkout, _ = look_for_trainer(settings)
    assert checkout is not None
    assert (checkout.root, checkout.python) == (tmp_path / "sd-scripts", python)


def test_a_home_of_nobody_is_told(tmp_path: Path) -> None:
    settings = plan_of('backend.root="~nobody-of-that-name/sd"', "until=render").settings
    _, checkout, (problem, *_) = look_for_trainer(settings)
    assert checkout is None
    assert (problem.key, problem.reason) == ("backend.root", "there is no such folder")
