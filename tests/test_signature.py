from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline.checkpoint import catalog as catalog_module
from pipeline.checkpoint.catalog import CatalogError, catalog, trainable, with_defaults
from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.signature import Clauses, Dims, Tensors, fit, fits_what_is_there, has_shape, holds
from pipeline.settings import PROJECT

MODELS = sorted((PROJECT / "conf" / "model").glob("*.yaml"))


def tensors(**shapes: tuple[int, ...]) -> Tensors:
    """Two underscores stand for a point."""
    return Tensors({name.replace("__", "."): Tensor("F16", shape, 0, 0) for name, shape in shapes.items()})


def clauses(lacks: tuple[str, ...] = (), modules: frozenset[str] = frozenset(), **shapes: Dims) -> Clauses:
    return Clauses({name.replace("__", "."): dims for name, dims in shapes.items()}, lacks, modules)


# ----------------------------------------------------------------------------------------------------------- tensors

BLOCKS = tensors(blocks__0__q__weight=(4, 2), blocks__10__q__weight=(8, 2), norm=(3,), head__weight=(2, 2))


def test_a_star_is_any_number_and_finds_the_first() -> None:
    found = BLOCKS.find("blocks.*.q.weight")
    assert found is not None
    assert found.shape == (4, 2)


def test_a_name_without_a_star_is_that_name() -> None:
    assert BLOCKS.find("blocks.10.q.weight") == BLOCKS.by_name["blocks.10.q.weight"]
    assert BLOCKS.find("blocks.1.q.weight") is None


def test_numbers_in_a_pattern_are_any_number_too() -> None:
    assert BLOCKS.find("blocks.*.q.bias") is None
    assert tensors(a__3__b__7__w=(1,)).find("a.*.b.7.w") is not None


def test_a_number_in_a_word_is_no_star() -> None:
    assert tensors(conv2__weight=(1,)).find("conv*.weight") is None


def test_names_begin_as_they_are_or_as_patterns() -> None:
    assert BLOCKS.begins("blocks.10.")
    assert BLOCKS.begins("blocks.*.q")
    assert not BLOCKS.begins("q.")
    assert not BLOCKS.begins("blocks.*.k")


def test_only_matrices_make_a_module() -> None:
    assert BLOCKS.modules == {"blocks", "head"}


def test_depth_counts_numbered_blocks() -> None:
    assert BLOCKS.depth("blocks") == 2
    assert BLOCKS.depth("block") == 0
    assert BLOCKS.depth("norm") == 0


# ------------------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    ("shape", "dims", "is_so"),
    [
        ((4, 2), (4, 2), True),
        ((4, 2), (4, 3), False),
        ((4, 2), (4,), False),
        ((4,), (4, 2), False),
        ((), (), True),
        ((4, 2), (None, 2), True),
        ((511,), ("<512",), True),
        ((512,), ("<512",), False),
        ((9,), ([4, 9],), True),
        ((5,), ([4, 9],), False),
    ],
)
def test_dimensions_are_numbers_any_limits_and_lists(shape: tuple[int, ...], dims: Dims, is_so: bool) -> None:
    assert has_shape(Tensor("F16", shape, 0, 0), dims) is is_so


@pytest.mark.parametrize("dtype", ["U8", "F4"])
@pytest.mark.parametrize(
    ("shape", "dims", "is_so"),
    [
        ((64, 32), (64, 64), True),
        ((2048, 1), (64, 64), True),
        ((64, 64), (64, 64), True),
        ((1024, 1), (64, 64), False),
        ((7, 7), (None, 64), True),
    ],
)
def test_two_packed_numbers_share_a_byte(dtype: str, shape: tuple[int, ...], dims: Dims, is_so: bool) -> None:
    assert has_shape(Tensor(dtype, shape, 0, 0), dims) is is_so


def test_plain_numbers_are_not_unpacked() -> None:
    assert not has_shape(Tensor("F16", (64, 32), 0, 0), (64, 64))


# ----------------------------------------------------------------------------------------------------------- clauses

WANTED = clauses(lacks=("guidance.",), modules=frozenset({"blocks", "head"}), blocks__0__q__weight=(4, 2))


def test_all_clauses_met_is_a_whole_fit() -> None:
    found = fit(BLOCKS, WANTED)
    assert found.whole
    assert found.share == 1.0
    assert found.met == ("blocks.0.q.weight is [4, 2]",)
    assert holds(BLOCKS, WANTED)


@pytest.mark.parametrize(
    ("changed", "missing", "different"),
    [
        ({"head__weight": (2, 2)}, ("no blocks.0.q.weight",), ()),
        ({"blocks__0__q__weight": (4, 3)}, (), ("blocks.0.q.weight is [4, 3], not [4, 2]",)),
        ({"blocks__0__q__weight": (4, 2), "guidance__bias": (2,)}, (), ("has guidance.",)),
        ({"blocks__0__q__weight": (4, 2), "extra__weight": (2, 2)}, (), ("has extra",)),
    ],
)
def test_what_does_not_fit_is_told_in_words(
    changed: dict[str, tuple[int, ...]], missing: tuple[str, ...], different: tuple[str, ...]
) -> None:
    found = fit(tensors(**changed), WANTED)
    assert (found.missing, found.different) == (missing, different)
    assert not found.whole
    assert found.share < 1
    assert not holds(tensors(**changed), WANTED)


def test_what_may_stand_there_is_told_in_words() -> None:
    found = fit(tensors(w=(1, 2, 9)), clauses(w=(None, [4, 8], "<8")))
    assert found.different == ("w is [1, 2, 9], not [any, 4 or 8, <8]",)


def test_no_modules_named_means_any() -> None:
    assert holds(BLOCKS, clauses(norm=(3,)))


def test_nothing_met_is_no_whole_fit() -> None:
    assert not fit(tensors(), clauses()).whole


def test_of_a_variants_names_those_that_are_there_must_fit() -> None:
    both = clauses(conv_in__weight=(320, 9), input_blocks__0__weight=(320, 9))
    assert fits_what_is_there(tensors(conv_in__weight=(320, 9)), both)
    assert not fits_what_is_there(tensors(conv_in__weight=(320, 4)), both)
    assert not fits_what_is_there(tensors(other=(320, 9)), both)


def test_a_variant_may_be_told_by_what_it_lacks() -> None:
    assert fits_what_is_there(tensors(a__weight=(1,)), clauses(lacks=("b.",)))
    assert not fits_what_is_there(tensors(b__weight=(1,)), clauses(lacks=("b.",)))


# ----------------------------------------------------------------------------------------------------------- catalog


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copies of the models' files and of the others, to be spoilt."""
    folder = Path(shutil.copytree(PROJECT / "conf" / "model", tmp_path / "model"))
    others = shutil.copy(catalog_module.OTHERS, tmp_path / "others.yaml")
    monkeypatch.setattr(catalog_module, "MODELS", folder)
    monkeypatch.setattr(catalog_module, "OTHERS", Path(others))
    _forget()
    yield folder
    _forget()


def _forget() -> None:
    catalog.cache_clear()
    trainable.cache_clear()


def spoil(file: Path, right: str, wrong: str) -> str:
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong, 1))
    with pytest.raises(CatalogError) as caught:
        catalog()
    return str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("\n  predicts: epsilon", "\n  predict: epsilon"),
        ("      modules: [time_embed,", "      module: [time_embed,"),
        ("      refused: it is shown a mask", "      refuse: it is shown a mask"),
    ],
)
def test_a_misspelt_key_of_a_model_is_told(right: str, wrong: str, models: Path) -> None:
    told = spoil(models / "sd15.yaml", right, wrong)
    assert "sd15" in told
    assert wrong.split(":")[0].strip() in told


def test_a_misspelt_word_for_a_narrower_name_is_told(models: Path) -> None:
    told = spoil(models / "pony.yaml", "words:", "wrods:")
    assert "pony" in told
    assert "wrods" in told


@pytest.mark.parametrize(
    ("right", "wrong"), [("  variant: refiner", "  varaint: refiner"), ("      lacks:", "      lack:")]
)
def test_a_misspelt_key_of_the_others_is_told(right: str, wrong: str, models: Path) -> None:
    told = spoil(models.parent / "others.yaml", right, wrong)
    assert wrong.split(":")[0].strip() in told
    assert {"sdxl_refiner", "ssd_1b"} & set(told.replace(":", " ").split())


@pytest.mark.parametrize("missing", ["  title: Stable Diffusion XL refiner\n", "  kind: denoiser\n"])
def test_a_key_that_is_missing_is_told(missing: str, models: Path) -> None:
    told = spoil(models.parent / "others.yaml", missing, "")
    assert "sdxl_refiner" in told
    assert missing.split(":")[0].strip() in told


def test_a_signature_without_layouts_is_told(models: Path) -> None:
    (models / "mine.yaml").write_text("family: mine\nknown: {title: Mine}\nsignature: {predicts: flow}\n")
    with pytest.raises(CatalogError, match=r"mine.*layouts"):
        catalog()


def test_extending_what_is_not_there_is_told(models: Path) -> None:
    assert "extends sdxxl" in spoil(models / "pony.yaml", "- sdxl", "- sdxxl")


def test_a_broken_yaml_is_told(models: Path) -> None:
    assert "sd2.yaml can't be read" in spoil(models / "sd2.yaml", "name: sd2", "name: [sd2")


def test_null_takes_an_inherited_clause_away(models: Path) -> None:
    schnell, dev = trainable()["flux_schnell"], trainable()["flux_dev"]
    assert "guidance_in.in_layer.weight" in dev.layouts["original"].shapes
    assert "guidance_in.in_layer.weight" not in schnell.layouts["original"].shapes
    assert schnell.layouts["original"].shapes["txt_in.weight"] == (3072, 4096)


def test_a_model_of_ones_own_is_known_by_its_file_alone(models: Path) -> None:
    (models / "mine.yaml").write_text("defaults: [sdxl, _self_]\nname: mine\nsignature: {narrower: {words: [mine]}}\n")
    mine = trainable()["mine"]
    assert (mine.family, mine.layouts) == ("sdxl", trainable()["sdxl"].layouts)
    assert mine.narrower is not None
    assert mine.narrower.words == ("mine",)


def test_the_trainable_ones_are_those_of_conf() -> None:
    assert {*trainable()} == {file.stem for file in MODELS} - {"auto"}


def test_every_entry_is_told_apart_by_its_name() -> None:
    names = [entry.name for entry in catalog()]
    assert len(set(names)) == len(names)


def test_whoever_can_not_be_trained_has_a_reason() -> None:
    assert all(entry.trainable or entry.refused or entry.kind != "denoiser" for entry in catalog())


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_a_signature_is_read_as_hydra_composes_it(file: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(file.parent)):
        composed = OmegaConf.to_container(compose(file.stem).signature)
    assert with_defaults(file)["signature"] == composed
