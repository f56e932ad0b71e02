"""The memory estimate against native runs on this CPU, at three sizes; bench/cpu_memory.py has the whole table."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cpu_memory import CHECKPOINTED, FINETUNE, LORA, PLAIN, SMALL, Measured, build_model, measured, shape

pytestmark = pytest.mark.slow
CLOSE = 0.15
SHAPE = shape(128, 4)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("small"), SMALL)


def test_the_demo_model_takes_what_is_predicted(tmp_path: Path) -> None:
    _is_close(measured(tmp_path, "model=demo", LORA, PLAIN))


def test_a_larger_models_lora_takes_what_is_predicted(tmp_path: Path, small_model: Path) -> None:
    _is_close(measured(tmp_path, "model=demo", f"model.path={small_model}", LORA, PLAIN, *SHAPE))


def test_a_larger_models_finetune_takes_what_is_predicted(tmp_path: Path, small_model: Path) -> None:
    found = measured(tmp_path, "model=demo", f"model.path={small_model}", FINETUNE, CHECKPOINTED, *SHAPE)
    _is_close(found)
    assert found.peak_bytes > 2**30, "of a run that the libraries decide, the estimate could not be told to be wrong"


def _is_close(found: Measured) -> None:
    assert abs(found.error) <= CLOSE, found
