from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.checkpoint.recognise import recognise
from pipeline.errors import UnreadableFile
from tests import given, header_cases


def told(path: Path) -> str:
    with pytest.raises(UnreadableFile) as caught:
        recognise(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- single files


def test_a_small_single_file_is_the_demos_kind(tmp_path: Path) -> None:
    path = given.safetensors(tmp_path / "a.safetensors", given.single_file_shapes())
    checkpoint = recognise(path)
    assert (checkpoint.layout, checkpoint.family, checkpoint.prediction) == ("single_file", "sd15", "epsilon")
    assert checkpoint.models == ("demo",)
    assert checkpoint.parts == ("denoiser", "vae", "text_encoder")
    assert checkpoint.parameters == given.WIDTH * (36 + 2 * given.CONTEXT)
    assert (checkpoint.bytes, checkpoint.text_layers) == (path.stat().st_size, 2)


def test_a_real_checkpoint_tells_all_that_training_needs(tmp_path: Path) -> None:
    checkpoint = recognise(header_cases.write(header_cases.read("sdxl_base_full_fp16"), tmp_path))
    assert (checkpoint.family, checkpoint.title, checkpoint.variant) == ("sdxl", "Stable Diffusion XL", "base")
    assert checkpoint.models == ("sdxl", "illustrious", "pony")
    assert set(checkpoint.parts) == {"denoiser", "clip_l", "clip_g", "vae"}
    assert (checkpoint.dtype, checkpoint.prediction_sure) == ("fp16", True)
    assert any("label_emb" in line for line in checkpoint.evidence)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("sdxl_lora_kohya", "is a LoRA for sdxl, not a base model"),
        ("sdxl_vae_alone", "is a lone VAE, not a base model"),
        ("t5xxl_alone", "is a lone text encoder, not a base model"),
        ("llama31_8b", "is a language model, not a base model"),
        ("sd15_controlnet_original", "is a ControlNet for sd15, not a base model"),
        ("sdxl_refiner_full_fp16", "the refiner only finishes what the base model began"),
        ("flux1_fill_diffusers", "is shown a mask"),
        ("wan21_t2v_14b_original", "is Wan: it is known, and not supported"),
        ("auraflow_original", "is AuraFlow"),
        ("sdxl_lokr_lycoris", "is a LoRA for sdxl, not a base model"),
        ("longcat_image_diffusers", "nearest is FLUX.1"),
    ],
)
def test_what_is_no_base_to_train_on_is_named(tmp_path: Path, case: str, said: str) -> None:
    assert said in told(header_cases.write(header_cases.read(case), tmp_path))


@pytest.mark.parametrize("case", ["sd15_embedding", "sd15_inpainting_full", "sd2_depth_full", "playground_25_full"])
def test_what_was_made_of_a_base_is_named_with_it(tmp_path: Path, case: str) -> None:
    made = {each.name: each for each in header_cases.CASES}[case]
    said = {
        "sd15_embedding": "is a textual-inversion embedding for sd15, not a base model",
        "sd15_inpainting_full": "is Stable Diffusion 1.x (inpainting): it is shown a mask",
        "sd2_depth_full": "is Stable Diffusion 2.x (depth): it is shown a depth map",
        "playground_25_full": "is Stable Diffusion XL (playground-2.5): it is made for EDM noise",
    }
    assert said[case] in told(header_cases.write(made, tmp_path))


def test_a_width_between_the_known_ones_is_of_no_known_kind(tmp_path: Path) -> None:
    path = given.safetensors(tmp_path / "a.safetensors", given.single_file_shapes(768))
    message = told(path)
    assert "is of no kind that is known here" in message
    assert "model.path wants a whole model" in message


def test_the_digest_follows_the_weights_and_not_the_place(tmp_path: Path) -> None:
    first = given.safetensors(tmp_path / "a.safetensors", given.single_file_shapes())
    moved = given.safetensors(tmp_path / "else" / "b.safetensors", given.single_file_shapes())
    other = given.safetensors(tmp_path / "c.safetensors", given.single_file_shapes(), fill=b"\1")
    assert recognise(first).digest == recognise(moved).digest != recognise(other).digest


def test_a_transformer_alone_is_a_base_whose_other_parts_are_elsewhere(tmp_path: Path) -> None:
    found = recognise(header_cases.write(header_cases.read("flux1_dev_bfl"), tmp_path))
    assert (found.models, found.parts, found.prediction) == (("flux_dev",), ("denoiser",), "flow")


def test_the_digest_of_shards_is_that_of_all_whichever_is_named(tmp_path: Path) -> None:
    paths = given.shards(tmp_path, header_cases.read("flux1_dev_diffusers"), 2)
    (before,) = {recognise(path).digest for path in paths}
    with paths[1].open("r+b") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        file.write(b"\1" * 1000)
    assert recognise(paths[0]).digest != before


def test_a_model_that_is_not_known_is_taken_when_the_user_insists(tmp_path: Path) -> None:
    path = header_cases.write(header_cases.read("longcat_image_diffusers"), tmp_path)
    checkpoint = recognise(path, insisting=True)
    assert (checkpoint.family, checkpoint.models) == ("unknown", ())
    assert checkpoint.refused == "is of no kind that is known here"


def test_a_lora_is_refused_even_then(tmp_path: Path) -> None:
    path = header_cases.write(header_cases.read("sdxl_lora_kohya"), tmp_path)
    with pytest.raises(UnreadableFile, match="is a LoRA"):
        recognise(path, insisting=True)


def test_a_lone_shard_is_refused(tmp_path: Path) -> None:
    path = given.safetensors(tmp_path / "model-00001-of-00002.safetensors", given.single_file_shapes())
    assert "is one shard of 2, and 1 of them are not beside it" in told(path)


@pytest.mark.parametrize(
    ("metadata", "marks", "prediction"),
    [
        ({}, [], "epsilon"),
        ({"modelspec.prediction_type": "v"}, [], "v_prediction"),
        ({"modelspec.predict_key": "v"}, [], "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, ["v_pred"], "v_prediction"),
    ],
)
def test_prediction_of_a_single_file(
    tmp_path: Path, metadata: dict[str, str], marks: list[str], prediction: str
) -> None:
    shapes = given.single_file_shapes() | dict.fromkeys(marks, ("F32", (0,)))
    assert recognise(given.safetensors(tmp_path / "a.safetensors", shapes, metadata=metadata)).prediction == prediction


def test_edm_models_are_refused(tmp_path: Path) -> None:
    shapes = given.single_file_shapes() | {"edm_mean": ("F32", (4,))}
    assert "EDM" in told(given.safetensors(tmp_path / "a.safetensors", shapes))


# ---------------------------------------------------------------------------------------------------------- folders


def test_a_small_diffusers_folder_is_the_demos_kind(tmp_path: Path) -> None:
    checkpoint = recognise(given.sd15_folder(tmp_path / "model"))
    assert checkpoint.models == ("demo",)
    assert (checkpoint.layout, checkpoint.family, checkpoint.prediction) == ("diffusers", "sd15", "epsilon")
    assert (checkpoint.parameters, checkpoint.text_layers) == (given.UNET_PARAMETERS, 3)
    assert checkpoint.bytes == sum(file.stat().st_size for file in (tmp_path / "model").rglob("*.safetensors"))


def test_the_schedulers_config_says_the_prediction(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    assert recognise(folder).prediction == "v_prediction"


def test_a_prediction_that_can_not_be_trained_is_refused(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "sample"}')
    assert "predicts 'sample'" in told(folder)


def test_the_folders_digest_follows_weights_and_configs_but_not_the_place(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    before = recognise(folder).digest
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert recognise(moved).digest == before
    (folder / "vae" / "config.json").write_text('{"scaling_factor": 0.5}')
    assert recognise(folder).digest != before
    assert recognise(given.sd15_folder(tmp_path / "other", fill=b"\1")).digest != before


def test_shards_are_read_together(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    assert recognise(folder).parameters == given.UNET_PARAMETERS


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "unet" / "part-2.safetensors").unlink()
    with pytest.raises(UnreadableFile, match=r"lacks 1 of 4 shards, part-2\.safetensors"):
        recognise(folder)


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "../../secret.safetensors"}}')
    with pytest.raises(UnreadableFile, match="names no shards beside it"):
        recognise(folder)


def sharded(tmp_path: Path) -> Path:
    folder = given.sd15_folder(tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    weight_map = {}
    for number, (name, shape) in enumerate(given.UNET.items(), start=1):
        weight_map[name] = f"part-{number}.safetensors"
        given.safetensors(folder / "unet" / weight_map[name], {name: shape})
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_the_tensors_say_the_family_and_not_the_pipelines_class(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    checkpoint = recognise(folder)
    assert checkpoint.family == "sd15"
    assert "layout: model_index.json names a FluxPipeline (certain)" in checkpoint.evidence


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("model_index.json", "no model_index.json"),
        ("unet/diffusion_pytorch_model.safetensors", "no safetensors weights"),
        ("unet/config.json", "can't be read"),
        ("unet", "no unet and no transformer"),
    ],
)
def test_what_a_folder_can_not_do_without_is_named(tmp_path: Path, path: str, said: str) -> None:
    assert said in told(without(tmp_path, path))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("vae/config.json", "vae/config.json can't be read"),
        ("text_encoder/model.safetensors", "text_encoder has no safetensors weights"),
    ],
)
def test_a_part_that_can_not_be_read_is_lacking_with_its_reason(tmp_path: Path, path: str, said: str) -> None:
    checkpoint = recognise(without(tmp_path, path))
    assert path.partition("/")[0] not in checkpoint.parts
    assert any(said in reason for reason in checkpoint.lacking)


def test_pickles_in_place_of_weights_are_named(tmp_path: Path) -> None:
    folder = without(tmp_path, "vae/diffusion_pytorch_model.safetensors")
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "only .bin pickles" in recognise(folder).lacking[0]


def without(tmp_path: Path, path: str) -> Path:
    """A folder that lacks one thing."""
    folder = given.sd15_folder(tmp_path / "model")
    target = folder / path
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return folder


def test_an_fp16_variant_alone_is_read(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    checkpoint = recognise(folder)
    assert checkpoint.parameters == given.UNET_PARAMETERS
    assert any("only the fp16 variant" in line for line in checkpoint.evidence)


def test_a_folder_with_a_single_file_says_to_give_the_file(tmp_path: Path) -> None:
    given.safetensors(tmp_path / "dream.safetensors", given.single_file_shapes())
    assert "dream.safetensors; give the file itself" in told(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_broken_index_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model_index.json").write_bytes(content)
    told(tmp_path)


@pytest.mark.parametrize("path", ["nowhere/model", "x" * 5000])
def test_a_path_that_is_not_there_is_told(tmp_path: Path, path: str) -> None:
    told(tmp_path / path)
