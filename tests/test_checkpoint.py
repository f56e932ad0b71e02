from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.checkpoint.recognise import recognise
from pipeline.errors import UnreadableFile
from tests import given


def told(path: Path) -> str:
    with pytest.raises(UnreadableFile) as caught:
        recognise(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- single files


def test_a_small_single_file_is_sd15(tmp_path: Path) -> None:
    path = given.safetensors(tmp_path / "a.safetensors", given.single_file_shapes())
    checkpoint = recognise(path)
    assert (checkpoint.layout, checkpoint.family, checkpoint.prediction) == ("single_file", "sd15", "epsilon")
    assert checkpoint.parameters == given.WIDTH * (36 + given.CONTEXT) + 5 * 4
    assert (checkpoint.bytes, checkpoint.text_layers) == (path.stat().st_size, 2)


def test_the_real_width_is_sd15(tmp_path: Path) -> None:
    assert recognise(given.safetensors(tmp_path / "a.safetensors", given.single_file_shapes(768))).family == "sd15"


def test_open_clip_makes_it_sd2(tmp_path: Path) -> None:
    shapes = given.single_file_shapes(1024)
    shapes = {name.replace("cond_stage_model.transformer.", "cond_stage_model.model."): s for name, s in shapes.items()}
    assert recognise(given.safetensors(tmp_path / "a.safetensors", shapes)).family == "sd2"


def test_two_text_encoders_make_it_sdxl(tmp_path: Path) -> None:
    shapes = given.single_file_shapes(2048) | {"conditioner.embedders.1.model.ln_final.weight": ("F16", (4,))}
    assert recognise(given.safetensors(tmp_path / "a.safetensors", shapes)).family == "sdxl"


def test_more_channels_make_it_an_inpainting_model(tmp_path: Path) -> None:
    shapes = given.single_file_shapes(channels=9)
    assert recognise(given.safetensors(tmp_path / "a.safetensors", shapes)).family == "sd15_inpaint"


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["joint_blocks.0.context_block.attn.qkv.weight"], "sd3"),
        (["transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"], "sd3"),
        (["double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.qkv.weight"], "flux2"),
        (["distilled_guidance_layer.in_proj.bias", "double_blocks.0.img_attn.qkv.weight"], "chroma"),
        (["double_blocks.0.img_attn.qkv.weight"], "flux1"),
        (["txt_norm.weight", "transformer_blocks.0.attn.add_q_proj.weight"], "qwen_image"),
        (["cap_embedder.1.weight"], "lumina2"),
        (["head.modulation", "patch_embedding.weight"], "wan"),
    ],
)
def test_other_families_are_named(tmp_path: Path, names: list[str], family: str) -> None:
    shapes = dict.fromkeys(names, ("F16", (2, 2)))
    assert recognise(given.safetensors(tmp_path / "a.safetensors", shapes)).family == family


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["lora_unet_x.lora_down.weight", "lora_unet_x.alpha"], "a LoRA"),
        (["unet.x.lora_A.weight"], "a LoRA"),
        (["lora_unet_x.lokr_w1"], "a LoRA"),
        (["control_model.time_embed.0.weight"], "a ControlNet"),
        (["emb_params"], "a textual-inversion embedding"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "a lone VAE"),
        (["text_model.embeddings.position_embedding.weight"], "a lone CLIP"),
        (["encoder.block.0.layer.0.weight"], "a lone T5"),
        (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
        (["something.else"], "of no kind that is known"),
    ],
)
def test_what_is_no_base_model_is_named(tmp_path: Path, names: list[str], said: str) -> None:
    shapes = dict.fromkeys(names, ("F16", (2, 2)))
    assert said in told(given.safetensors(tmp_path / "a.safetensors", shapes))


def test_a_denoiser_without_its_text_encoder_is_refused(tmp_path: Path) -> None:
    shapes = {name: s for name, s in given.single_file_shapes(768).items() if not name.startswith("cond_stage_model")}
    assert "without text encoder" in told(given.safetensors(tmp_path / "a.safetensors", shapes))


def test_weights_of_eight_bits_are_refused(tmp_path: Path) -> None:
    shapes = {name: ("F8_E4M3", shape) for name, (_, shape) in given.single_file_shapes().items()}
    assert "quantised" in told(given.safetensors(tmp_path / "a.safetensors", shapes))


def test_one_shard_is_refused(tmp_path: Path) -> None:
    path = given.safetensors(tmp_path / "model-00001-of-00002.safetensors", given.single_file_shapes())
    assert "one shard of several" in told(path)


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


def test_a_small_diffusers_folder_is_sd15(tmp_path: Path) -> None:
    checkpoint = recognise(given.sd15_folder(tmp_path / "model"))
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
    with pytest.raises(UnreadableFile, match=r"lacks 1 of 2 shards, part-2\.safetensors"):
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


@pytest.mark.parametrize(
    ("pipeline", "family"), [("StableDiffusionXLPipeline", "sdxl"), ("StableDiffusionImg2ImgPipeline", "sd15")]
)
def test_the_pipelines_class_says_the_family(tmp_path: Path, pipeline: str, family: str) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    assert recognise(folder).family == family


def test_a_transformer_folder_is_recognised_without_its_other_parts(tmp_path: Path) -> None:
    given.safetensors(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", given.UNET)
    (tmp_path / "transformer" / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert recognise(tmp_path).family == "flux1"


def test_the_width_of_the_text_tells_sd2_in_a_folder(tmp_path: Path) -> None:
    unet = {**given.UNET, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": ("F16", (8, 1024))}
    assert recognise(given.sd15_folder(tmp_path / "model", unet=unet)).family == "sd2"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("model_index.json", "no model_index.json"),
        ("unet/diffusion_pytorch_model.safetensors", "no safetensors weights"),
        ("unet/config.json", "can't be read"),
        ("vae", "vae is missing"),
        ("text_encoder", "text_encoder is missing"),
        ("unet", "no unet and no transformer"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path: Path, path: str, said: str) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    target = folder / path
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert said in told(folder)


def test_an_fp16_variant_alone_is_told_with_the_link_to_make(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "model")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert f"ln -s diffusion_pytorch_model.fp16.safetensors {plain}" in told(folder)


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
