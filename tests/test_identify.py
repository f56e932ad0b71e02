from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.checkpoint.bundle import Bundle, Part
from pipeline.checkpoint.catalog import trainable
from pipeline.checkpoint.groups import split
from pipeline.checkpoint.header import Header, Tensor
from pipeline.checkpoint.identify import identify, identity_of
from pipeline.checkpoint.identity import Identity, Kind
from pipeline.checkpoint.prediction import prediction_of
from pipeline.checkpoint.signature import holds
from pipeline.errors import UnreadableFile
from tests import given, header_cases
from tests.header_cases import CASES, Case, as_dtype, plus, read, renamed, reshaped, with_metadata

BY_NAME = {case.name: case for case in CASES}
KINDS = get_args(Kind)
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def identified(case: Case, folder: Path, name: str = "") -> Identity:
    """What the case's file is said to be, under another name where one is given. It does not stay on the disk."""
    path = header_cases.write(replace(case, file_name=name) if name else case, folder)
    try:
        return identify(path)
    finally:
        path.unlink()


def said(identity: Identity, about: str) -> str:
    return " | ".join(str(evidence) for evidence in identity.evidence if evidence.about == about)


# ----------------------------------------------------------------------------------------------------- every kind


def test_there_are_hundreds_of_kinds_of_files() -> None:
    assert len(CASES) > 300
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_file_is_told(case: Case, tmp_path: Path) -> None:
    expect = case.expect
    try:
        found = identified(case, tmp_path)
    except UnreadableFile:
        assert "unknown" in expect.kinds
        return
    assert found.kind in expect.kinds
    assert (found.family or "unknown") in expect.families
    if "unknown" in expect.kinds and (expect.prediction is None or found.kind == "unknown"):
        return  # a family that need not be known: whoever knows it may know what it predicts
    right = {*expect.predictions, *({expect.truth} if expect.truth else ())}
    assert found.prediction in {PREDICTIONS.get(name or "", name) for name in right}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_two_models_claim_the_same_file(case: Case) -> None:
    entries = [entry for entry in trainable().values() if entry.narrower is None]
    groups = split({name: Tensor(dtype, shape, 0, 0) for name, (dtype, shape) in case.tensors.items()})
    for view in (view for group in groups for _, view in group.views()):
        claiming = {entry.name for entry in entries if any(holds(view, each) for each in entry.layouts.values())}
        assert len(claiming) <= 1


Changed = Callable[[str, Tensor], tuple[str, Tensor]]
ODD_TENSORS: dict[str, Changed] = {
    "scalars": lambda name, _: (name, Tensor("F16", (), 0, 2)),
    "nothing": lambda name, _: (name, Tensor("F16", (0,), 0, 0)),
    "vectors": lambda name, tensor: (name, Tensor(tensor.dtype, (tensor.elements,), 0, tensor.bytes)),
    "cubes": lambda name, tensor: (name, Tensor(tensor.dtype, (1, 0, 2), 0, 0)),
    "unknown numbers": lambda name, tensor: (name, tensor._replace(dtype="Q9")),
    "bytes": lambda name, tensor: (name, tensor._replace(dtype="U8")),
    "short names": lambda name, tensor: (name.split(".")[0], tensor),
    "cut names": lambda name, tensor: (name[: len(name) // 2], tensor),
    "no first part": lambda name, tensor: (name.partition(".")[2], tensor),
    "long numbers": lambda name, tensor: (re.sub(r"\d+", "7" * 30, name), tensor),
    "other digits": lambda name, tensor: (re.sub(r"\d", "\N{SUPERSCRIPT TWO}", name), tensor),
}


@pytest.mark.parametrize("change", ODD_TENSORS)
def test_no_header_is_too_odd_to_be_told(change: str) -> None:
    for case in CASES[::4]:
        plain = {name: Tensor(dtype, shape, 0, 0) for name, (dtype, shape) in case.tensors.items()}
        tensors = dict(ODD_TENSORS[change](name, tensor) for name, tensor in plain.items())
        header = Header(tensors, case.metadata, file_bytes=10**9, header_bytes=10**5)
        path = Path("odd.safetensors")
        found = identity_of(Bundle(path, "file", {"": Part(path, {}, {path.name: header})}))
        assert found.kind in KINDS


SDXL = with_metadata(read("sdxl_base_full_fp16"))
SDXL_V = header_cases.with_tensors(SDXL, SDXL.tensors | {"v_pred": ("F32", (0,))})
EXAMPLES = {
    "sd15": read("sd15_full_fp16"),
    "sd2": read("sd2_base_512"),
    "sdxl": SDXL,
    "sdxl_vpred": SDXL_V,
    "pony": with_metadata(SDXL, modelspec__title="Pony Diffusion V6 XL"),
    "illustrious": with_metadata(SDXL, modelspec__title="Illustrious-XL-v1.1"),
    "noobai_vpred": with_metadata(SDXL_V, modelspec__title="NoobAI-XL Vpred 1.0"),
    "sd3": read("sd3_medium"),
    "sd35_medium": read("sd35_medium"),
    "sd35_large": read("sd35_large_diffusers"),
    "flux_dev": read("flux1_dev_bfl"),
    "flux_schnell": read("flux1_schnell_diffusers"),
    "flux2_dev": read("flux2_dev_bfl"),
    "flux2_klein": read("flux2_klein_9b_diffusers"),
    "chroma": read("chroma1_hd"),
    "lumina2": read("lumina_image2"),
    "hunyuan_image21": read("hunyuan_image21"),
    "qwen_image": read("qwen_image"),
    "z_image": read("z_image_comfy"),
    "anima": read("anima"),
}


def test_every_model_has_an_example() -> None:
    assert {*EXAMPLES} == {*trainable()} - {"demo"}


@pytest.mark.parametrize("model", EXAMPLES)
def test_every_model_is_the_best_answer_for_its_files(model: str, tmp_path: Path) -> None:
    found = identified(EXAMPLES[model], tmp_path)
    assert found.model == model
    assert found.models[0] == model
    assert found.refused is None
    assert said(found, "family")


def test_the_demos_model_is_told() -> None:
    from pipeline.settings import PROJECT

    found = identify(PROJECT / "demo" / "model")
    assert (found.model, found.family, found.kind, found.prediction) == ("demo", "sd15", "checkpoint", "epsilon")


def test_figures_are_those_of_the_denoiser(tmp_path: Path) -> None:
    found = identified(read("sdxl_base_full_fp16"), tmp_path)
    assert (found.dtype, found.layout, found.storage) == ("fp16", "original", "file")
    assert found.parameters == 2_567_463_684
    assert found.parts == ("denoiser", "clip_l", "clip_g", "vae")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("sdxl_full_bf16", "bf16"),
        ("sdxl_full_fp32", "fp32"),
        ("sdxl_full_unet_fp8", "fp8_e4m3"),
        ("sdxl_unet_fp8_e5m2", "fp8_e5m2"),
        ("flux1_dev_fp8_scaled", "fp8_e4m3_scaled"),
        ("flux1_dev_comfy_quant", "fp8_e4m3_scaled"),
        ("flux1_dev_nf4_unet", "nf4"),
        ("flux1_dev_nvfp4", "nvfp4"),
    ],
)
def test_how_numbers_are_stored_is_told(name: str, dtype: str, tmp_path: Path) -> None:
    assert identified(BY_NAME[name], tmp_path).dtype == dtype


@pytest.mark.parametrize("name", ["flux1_dev_nf4_unet", "flux1_dev_nvfp4", "flux1_dev_fp8_scaled"])
def test_packed_numbers_are_counted_as_many_as_they_were(name: str, tmp_path: Path) -> None:
    plain = identified(read("flux1_dev_bfl"), tmp_path).parameters
    assert identified(BY_NAME[name], tmp_path).parameters == plain


# ------------------------------------------------------------------------------------------------------ prediction

SD2_PROBE = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"


def predicted(
    *,
    marks: Sequence[str] = (),
    metadata: str = "",
    scheduler: str | None = None,
    spread: float = 0.0,
    family: str = "",
) -> tuple[str | None, str, str]:
    tensors = {name: Tensor("F32", (0,), 0, 0) for name in marks} | {SD2_PROBE: Tensor("F32", (2,), 0, 8)}
    told = prediction_of(
        tensors,
        {"modelspec.prediction_type": metadata} if metadata else {},
        scheduler=scheduler,
        predicts=family or None,
        read=lambda _: (spread, -spread),
    )
    return told.prediction, told.sure, told.reason


def test_marks_speak_louder_than_metadata() -> None:
    assert predicted(marks=["v_pred"], metadata="epsilon", scheduler="epsilon")[:2] == ("v_prediction", "certain")


def test_metadata_speak_louder_than_the_scheduler() -> None:
    assert predicted(metadata="v", scheduler="epsilon", family="epsilon")[:2] == ("v_prediction", "likely")


def test_the_scheduler_speaks_louder_than_numbers() -> None:
    assert predicted(scheduler="epsilon", spread=0.5)[:2] == ("epsilon", "certain")


@pytest.mark.parametrize(("spread", "prediction"), [(0.2, "v_prediction"), (0.05, "epsilon")])
def test_numbers_speak_where_the_family_does_not(spread: float, prediction: str) -> None:
    assert predicted(spread=spread)[:2] == (prediction, "likely")


@pytest.mark.parametrize("spread", [0.0, float("nan")])
def test_numbers_that_say_nothing_leave_it_open(spread: float) -> None:
    assert predicted(spread=spread)[0] is None


def test_numbers_that_are_not_read_leave_it_open(tmp_path: Path) -> None:
    found = identified(as_dtype(replace(read("sd21_768_v"), fill=()), "F8_E4M3"), tmp_path)
    assert (found.family, found.prediction, found.dtype) == ("sd2", None, "fp8_e4m3")


def test_the_family_speaks_last() -> None:
    assert predicted(family="epsilon")[:2] == ("epsilon", "assumed")


def test_a_flow_is_a_flow_whatever_else_is_said() -> None:
    assert predicted(marks=["v_pred"], metadata="epsilon", scheduler="epsilon", family="flow")[0] == "flow"


@pytest.mark.parametrize(
    ("marks", "metadata", "scheduler", "against"),
    [
        (["v_pred"], "epsilon", None, "though modelspec.prediction_type is epsilon"),
        (["ztsnr"], "", "epsilon", "though scheduler_config.json says epsilon"),
        ([], "v", "epsilon", "though scheduler_config.json says epsilon"),
    ],
)
def test_whoever_says_otherwise_is_told(marks: list[str], metadata: str, scheduler: str | None, against: str) -> None:
    assert against in predicted(marks=marks, metadata=metadata, scheduler=scheduler)[2]


def test_those_who_agree_are_not_told_apart() -> None:
    assert "though" not in predicted(marks=["v_pred"], metadata="v", scheduler="v_prediction")[2]


def test_a_zero_terminal_ratio_is_told(tmp_path: Path) -> None:
    found = identified(BY_NAME["sdxl_v_pred_ztsnr"], tmp_path)
    assert found.zero_terminal_snr
    assert "ztsnr" in said(found, "prediction")


@pytest.mark.parametrize("name", ["playground_25_full", "cosxl_full"])
def test_models_for_edm_noise_are_named_and_refused(name: str, tmp_path: Path) -> None:
    found = identified(BY_NAME[name], tmp_path)
    assert (found.family, found.model, found.models) == ("sdxl", None, ())
    assert found.variant == {"playground_25_full": "playground-2.5", "cosxl_full": "cosxl"}[name]
    assert "EDM" in str(found.refused)


# -------------------------------------------------------------------------------------------------- narrower names


@pytest.mark.parametrize(
    ("metadata", "model"),
    [
        ({"modelspec__title": "Pony Diffusion V6 XL"}, "pony"),
        ({"modelspec__merged_from": "ponyDiffusionV6XL, other"}, "sdxl"),  # no word of its own
        ({"modelspec__merged_from": "pony_v6, other"}, "pony"),
        ({"modelspec__title": "Illustrious-XL"}, "illustrious"),
        ({"modelspec__title": "NoobAI-XL 1.1"}, "illustrious"),  # the versions that predict noise
        ({"modelspec__title": "symphonyXL"}, "sdxl"),
        ({"modelspec__title": "ponytail enhancer"}, "sdxl"),
        ({"ss_sd_model_name": "ponyxl_v6.safetensors"}, "pony"),
        ({"modelspec__author": "Pony lover"}, "sdxl"),
        ({"modelspec__title": "NoobAI vpred", "modelspec__prediction_type": "v"}, "noobai_vpred"),
        ({"modelspec__title": "Pony vpred", "modelspec__prediction_type": "v"}, "sdxl_vpred"),
    ],
)
def test_words_of_the_metadata_tell_kin_of_sdxl(metadata: dict[str, str], model: str, tmp_path: Path) -> None:
    assert identified(with_metadata(SDXL, **metadata), tmp_path).model == model


def test_the_word_that_told_the_model_is_told(tmp_path: Path) -> None:
    found = identified(EXAMPLES["pony"], tmp_path)
    assert "modelspec.title is Pony Diffusion V6 XL" in said(found, "model")


def test_a_file_that_says_nothing_may_be_called_by_any_narrower_name(tmp_path: Path) -> None:
    found = identified(SDXL, tmp_path)
    assert found.models[0] == "sdxl"
    assert {*found.models} == {"sdxl", "sdxl_vpred", "pony", "illustrious", "noobai_vpred"}


def test_a_file_that_predicts_v_may_only_be_called_by_names_that_do(tmp_path: Path) -> None:
    assert {*identified(SDXL_V, tmp_path).models} == {"sdxl_vpred", "noobai_vpred"}


def test_a_file_that_says_epsilon_may_not_be_called_a_v_model(tmp_path: Path) -> None:
    found = identified(with_metadata(SDXL, modelspec__prediction_type="epsilon"), tmp_path)
    assert {*found.models} == {"sdxl", "pony", "illustrious"}


@pytest.mark.parametrize("model", ["sd15", "flux_dev", "sd35_large", "chroma"])
def test_where_shapes_tell_there_is_one_name(model: str, tmp_path: Path) -> None:
    assert identified(EXAMPLES[model], tmp_path).models == (model,)


# -------------------------------------------------------------------------------------------------------- newcomers

FLUX = read("flux1_dev_bfl")


def newcomer(case: Case, tmp_path: Path) -> str:
    """What is said of a model that nobody knows."""
    found = identified(case, tmp_path)
    assert (found.kind, found.family, found.model, found.models) == ("unknown", None, None, ())
    assert found.refused
    return said(found, "family")


def test_a_module_more_makes_it_another_model(tmp_path: Path) -> None:
    told = newcomer(plus(FLUX, memory_in__weight=("BF16", (3072, 3072))), tmp_path)
    assert "nearest is FLUX.1 [dev]" in told
    assert "has memory_in" in told


def test_the_nearest_is_called_by_its_widest_name(tmp_path: Path) -> None:
    odd = plus(SDXL, model__diffusion_model__extra__weight=("F16", (8, 8)))
    assert "nearest is Stable Diffusion XL, from which it differs: has extra" in newcomer(odd, tmp_path)


def test_another_width_makes_it_another_model(tmp_path: Path) -> None:
    told = newcomer(reshaped(FLUX, "txt_in.weight", 3072, 5120), tmp_path)
    assert "nearest is FLUX.1 [dev]" in told
    assert "txt_in.weight is [3072, 5120], not [3072, 4096]" in told


def test_other_names_make_it_another_model(tmp_path: Path) -> None:
    told = newcomer(renamed(FLUX, r"^single_blocks\.", "solo_blocks."), tmp_path)
    assert "nearest is FLUX.1 [dev]" in told
    assert "has solo_blocks" in told
    assert "no single_blocks." in told


def test_vectors_of_a_new_module_do_not_matter(tmp_path: Path) -> None:
    found = identified(plus(FLUX, scale_factors__value=("F32", (8,))), tmp_path)
    assert found.model == "flux_dev"


def test_a_tensor_called_like_a_row_of_blocks_does_not_matter(tmp_path: Path) -> None:
    assert identified(plus(read("flux1_dev_bfl"), double_blocks=("BF16", (1,))), tmp_path).model == "flux_dev"


def test_a_newcomer_that_is_like_nothing_has_no_nearest(tmp_path: Path) -> None:
    assert newcomer(BY_NAME["four_numbers"], tmp_path) == ""


def test_fewer_blocks_are_told_as_a_variant(tmp_path: Path) -> None:
    found = identified(BY_NAME["flux1_lite_bfl"], tmp_path)
    assert found.family == "flux1"
    assert "8 double_blocks" in str(found.variant)
    assert "19 double_blocks" in said(found, "variant")


def test_a_known_model_that_is_not_supported_is_named_and_refused(tmp_path: Path) -> None:
    found = identified(read("auraflow_original"), tmp_path)
    assert (found.kind, found.family, found.model) == ("denoiser", "auraflow", None)
    assert "not supported" in str(found.refused)


@pytest.mark.parametrize(
    ("name", "kind", "title"),
    [
        ("sdxl_lora_kohya", "lora", "a LoRA for sdxl"),
        ("sdxl_lokr_lycoris", "lora", "a LoRA for sdxl"),
        ("sd15_controlnet_original", "controlnet", "a ControlNet for sd15"),
        ("sd15_embedding", "embedding", "a textual-inversion embedding for sd15"),
    ],
)
def test_what_is_no_base_is_named_and_refused(name: str, kind: str, title: str, tmp_path: Path) -> None:
    found = identified(BY_NAME[name], tmp_path)
    assert (found.kind, found.title, found.model) == (kind, title, None)
    assert found.refused == f"is {title}, not a base model"


# ------------------------------------------------------------------------------------------------------- file names


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("sd3_medium_incl_clips", "sd3_medium_incl_clips_t5xxl.safetensors"),
        ("sd15_full_fp16", "pixl/dreamshaper.safetensors"),
        ("sd15_full_fp16", "model-v1-5-sdxl.safetensors"),
        ("sdxl_base_full_fp16", "model-v1-5-sdxl.safetensors"),
        ("sdxl_base_full_fp16", "v1-5-pruned-emaonly.safetensors"),
        ("sd21_768_v", "v2-1_768-ema-pruned.safetensors"),
        ("sd2_base_512", "v2-1_768-ema-pruned.safetensors"),
        ("sdxl_full_fp32", "flux1-dev-fp8.safetensors"),
        ("sdxl_full_fp8_e4m3", "sd15-lora-vae.safetensors"),
        ("sdxl_lora_kohya", "sd_xl_base_1.0.safetensors"),
        ("flux1_ae", "flux1-dev.safetensors"),
    ],
)
def test_a_files_name_decides_nothing(name: str, file_name: str, tmp_path: Path) -> None:
    case, path = BY_NAME[name], tmp_path / file_name
    plain = identified(case, tmp_path, "x.safetensors")
    named = identified(case, path.parent, path.name)
    assert named.path == path
    assert replace(named, path=plain.path) == plain


@pytest.mark.parametrize(("name", "least_gb", "most_gb"), [("sdxl_full_fp32", 13, 14), ("sdxl_full_fp8_e4m3", 3, 4)])
def test_a_files_size_decides_nothing(name: str, least_gb: int, most_gb: int, tmp_path: Path) -> None:
    found = identified(BY_NAME[name], tmp_path)
    assert least_gb * 10**9 < found.bytes < most_gb * 10**9
    assert found.model == "sdxl"


# ------------------------------------------------------------------------------------------------------ what is read


class Counting(io.FileIO):
    """Knows how much was read of all files."""

    read_bytes = 0

    def readinto(self, buffer: Any, /) -> int | None:
        count = super().readinto(buffer)
        Counting.read_bytes += count or 0
        return count


def opened(path: Path, mode: str) -> io.BufferedReader:
    return io.BufferedReader(Counting(str(path), mode))


@pytest.mark.parametrize("name", ["sdxl_base_full_fp16", "sd21_768_v"])
def test_hardly_more_than_the_header_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = read(name)
    path = header_cases.write(case, tmp_path)
    identify(path)  # the catalog's files are read once
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Counting, "read_bytes", 0)
    found = identify(path)
    header_bytes = len(header_cases.header(case))
    assert found.bytes > 10**9
    assert header_bytes <= Counting.read_bytes < header_bytes + 64 * 1024
    path.unlink()


# ------------------------------------------------------------------------------------------------------------ shards


def test_shards_are_a_whole_model_by_any_of_their_paths(tmp_path: Path) -> None:
    whole = identified(read("flux1_dev_diffusers"), tmp_path / "whole")
    paths = given.shards(tmp_path / "model", read("flux1_dev_diffusers"), 3)
    index = tmp_path / "model" / "diffusion_pytorch_model.safetensors.index.json"
    for path in (*paths, index):
        found = identify(path)
        assert found.storage == "shards"
        assert found.incomplete is None
        assert (found.model, found.models, found.parameters) == (whole.model, whole.models, whole.parameters)
        assert found.evidence == whole.evidence


def test_shards_that_are_missing_are_told(tmp_path: Path) -> None:
    paths = given.shards(tmp_path, read("flux1_dev_diffusers"), 3)
    paths[1].unlink()
    found = identify(paths[0])
    assert "one shard of 3, and 1 of them" in str(found.incomplete)
    assert (found.model, found.models) == (None, ())
    with pytest.raises(UnreadableFile, match=f"lacks 1 of 3 shards, {paths[1].name}"):
        identify(tmp_path / "diffusion_pytorch_model.safetensors.index.json")


def test_what_one_shard_may_be_is_only_likely(tmp_path: Path) -> None:
    paths = given.shards(tmp_path, read("flux1_dev_diffusers"), 3)
    for path in paths[1:]:
        path.unlink()
    found = identify(paths[0])
    assert all(e.sure != "certain" for e in found.evidence if e.about == "family")


# ----------------------------------------------------------------------------------------------------------- folders

SD15_PARTS = {
    "unet": read("sd15_unet_diffusers"),
    "vae": read("sd15_vae_diffusers"),
    "text_encoder": read("clip_l_alone"),
}
SDXL_PARTS = {
    "unet": read("sdxl_unet_diffusers"),
    "vae": read("sd15_vae_diffusers"),
    "text_encoder": read("clip_l_alone"),
    "text_encoder_2": read("clip_g_alone"),
}
FLUX_PARTS = {
    "transformer": read("flux1_dev_diffusers"),
    "vae": read("flux1_vae_diffusers"),
    "text_encoder": read("clip_l_alone"),
    "text_encoder_2": read("t5xxl_v11_encoder"),
}


@pytest.mark.parametrize(
    ("parts", "pipeline", "model", "inside"),
    [
        (SD15_PARTS, "StableDiffusionPipeline", "sd15", {"clip_l", "vae"}),
        (SDXL_PARTS, "StableDiffusionXLPipeline", "sdxl", {"clip_l", "clip_g", "vae"}),
        (FLUX_PARTS, "FluxPipeline", "flux_dev", {"clip_l", "t5xxl", "vae"}),
    ],
    ids=["sd15", "sdxl", "flux"],
)
def test_a_diffusers_folder_is_told_with_its_parts(
    parts: dict[str, Case], pipeline: str, model: str, inside: set[str], tmp_path: Path
) -> None:
    found = identify(given.diffusers_folder(tmp_path / "m", pipeline, parts))
    assert (found.kind, found.model, found.layout, found.storage) == ("checkpoint", model, "diffusers", "folder")
    assert {*found.parts} == {"denoiser", *inside}
    assert found.bytes == sum(header_cases.file_size(case) for case in parts.values())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_folders_scheduler_says_what_is_predicted(prediction: str, tmp_path: Path) -> None:
    folder = given.diffusers_folder(
        tmp_path / "m", "StableDiffusionXLPipeline", SDXL_PARTS, scheduler={"prediction_type": prediction}
    )
    found = identify(folder)
    assert (found.prediction, found.prediction_sure) == (prediction, "certain")
    assert found.model == {"epsilon": "sdxl", "v_prediction": "sdxl_vpred"}[prediction]


def test_the_pipelines_class_decides_nothing(tmp_path: Path) -> None:
    assert identify(given.diffusers_folder(tmp_path / "m", "FluxPipeline", SDXL_PARTS)).family == "sdxl"


def test_a_folder_that_has_only_the_fp16_variant_is_told_with_a_note(tmp_path: Path) -> None:
    folder = given.diffusers_folder(tmp_path / "m", "StableDiffusionPipeline", SD15_PARTS)
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = identify(folder)
    assert found.model == "sd15"
    assert "only the fp16 variant is there" in said(found, "parts")


def test_of_twins_the_plain_one_is_taken(tmp_path: Path) -> None:
    unet = read("sd15_unet_diffusers")
    folder = given.diffusers_folder(
        tmp_path / "m", "StableDiffusionPipeline", SD15_PARTS | {"unet": as_dtype(unet, "F32")}
    )
    given.diffusers_part(folder / "unet", as_dtype(unet, "F16"), variant=".fp16")
    found = identify(folder)
    assert found.dtype == "fp32"
    assert "fp16 variant" not in said(found, "parts")


def test_a_text_encoder_that_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    folder = given.diffusers_folder(tmp_path / "m", "StableDiffusionPipeline", SD15_PARTS)
    (folder / "text_encoder" / "model.safetensors").unlink()
    found = identify(folder)
    assert found.parts == ("denoiser", "vae")
    assert "text_encoder" in said(found, "parts")


def test_a_part_that_the_index_says_is_none_is_not_missed(tmp_path: Path) -> None:
    folder = given.diffusers_folder(tmp_path / "m", "StableDiffusion3Pipeline", SD15_PARTS)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None]}))
    assert "text_encoder_3" not in said(identify(folder), "parts")


def test_a_transformers_folder_is_told_alone(tmp_path: Path) -> None:
    found = identify(given.diffusers_part(tmp_path / "transformer", read("flux1_dev_diffusers")))
    assert (found.kind, found.model, found.parts) == ("denoiser", "flux_dev", ("denoiser",))


def test_a_folder_of_shards_is_one_part(tmp_path: Path) -> None:
    folder = given.diffusers_folder(tmp_path / "m", "FluxPipeline", FLUX_PARTS)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    given.shards(folder / "transformer", read("flux1_dev_diffusers"), 3)
    found = identify(folder)
    assert found.model == "flux_dev"
    assert {*found.parts} == {"denoiser", "clip_l", "t5xxl", "vae"}


def test_strangers_words_are_told_in_one_printable_line(tmp_path: Path) -> None:
    nasty = "Pony\x1b[31m\n" + "x" * 5000
    found = identified(with_metadata(SDXL, modelspec__title=nasty), tmp_path)
    told = said(found, "metadata")
    assert re.search(r"modelspec\.title is Pony \[31m x+…", told)
    assert "\x1b" not in told
    assert "\n" not in told
