"""The memory estimate against native runs on this CPU, at three sizes; bench/cpu_memory.py has the whole table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cpu_memory import CHECKPOINTED, FINETUNE, LORA, PLAIN, SMALL, Measured, build_model, measured, shape
from pipeline.settings import PROJECT

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


def test_a_process_is_not_as_large_as_the_one_that_started_it() -> None:
    own = "import torch; from pipeline.backends.native.peak import *; print(peak_memory_bytes(torch.device('cpu')))"
    large = f"import subprocess, sys; kept = b'x' * 2**31; subprocess.run([sys.executable, '-c', {own!r}], check=True)"
    printed = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert 2**26 < int(printed.stdout) < 2**30


def _is_close(found: Measured) -> None:
    assert abs(found.error) <= CLOSE, found
