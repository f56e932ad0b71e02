from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.detect import _look_at_disk, detect
from pipeline.records import Facts
from pipeline.settings import PROJECT, PlatformName, Settings
from tests import given

NOBODY = 65534


@pytest.fixture(autouse=True)
def _cached_probe(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all tests of this file: torch is asked once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def demo_like(tmp_path: Path) -> Settings:
    """Settings for a tiny model and three pictures of the test's own."""
    given.sd15_folder(tmp_path / "model")
    for i in range(3):
        given.picture(tmp_path / "train" / f"{i}.png", f"caption {i}")
    given.picture(tmp_path / "heldout" / "h.png", "held out")
    return given.settings(
        hardware__name=PlatformName.cpu,
        model__path=str(tmp_path / "model"),
        data__dir=str(tmp_path / "train"),
        data__heldout_dir=str(tmp_path / "heldout"),
    )


def keys(facts: Facts) -> list[str]:
    return [problem.key for problem in facts.problems]


def test_all_that_is_here_is_found(tmp_path: Path) -> None:
    facts = detect(demo_like(tmp_path), tmp_path / "run")
    assert facts.problems == ()
    assert facts.machine.platform == "cpu"
    assert facts.checkpoint is not None
    assert facts.checkpoint.family == "sd15"
    assert facts.dataset is not None
    assert (len(facts.dataset.train), len(facts.dataset.heldout)) == (3, 1)
    assert facts.disk_free_bytes > 0


def test_the_run_directory_is_not_made(tmp_path: Path) -> None:
    detect(demo_like(tmp_path), tmp_path / "outputs" / "run")
    assert not (tmp_path / "outputs").exists()


def test_every_mistake_is_told_and_none_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = given.settings(
        hardware__name=PlatformName.xpu, model__path=str(tmp_path / "nowhere"), data__dir=str(tmp_path / "nowhere")
    )
    facts = detect(settings, tmp_path / "file" / "run")
    assert keys(facts)[:3] == ["hardware", "model.path", "data.dir"]
    assert keys(facts)[-1] == "hydra.run.dir"
    assert facts.checkpoint is None
    assert facts.dataset is None


def test_the_models_path_is_told_once(tmp_path: Path) -> None:
    settings = given.settings(hardware__name=PlatformName.cpu, model__path=str(tmp_path / "x"))
    told = str(next(problem for problem in detect(settings, tmp_path).problems if problem.key == "model.path"))
    assert told.startswith(f"model.path={tmp_path / 'x'}: there is no such file or folder")


@pytest.mark.parametrize("place", ["closed/run", "closed/inner/run", "readonly/run"])
def test_a_folder_that_is_closed_to_us_is_told(tmp_path: Path, place: str, without_rights: None) -> None:
    (tmp_path / "readonly").mkdir(mode=0o555)
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o000)
    _, (problem,) = _look_at_disk(tmp_path / place)
    assert problem.key == "hydra.run.dir"
    assert f"nothing can be written to {tmp_path / place.partition('/')[0]}" in problem.reason


@pytest.fixture
def without_rights(tmp_path: Path) -> Iterator[None]:
    """Root gives up its rights for the time of a test: it may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(tmp_path, NOBODY, -1)
    for folder in tmp_path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def test_a_path_that_can_not_exist_is_told(tmp_path: Path) -> None:
    settings = given.settings(hardware__name=PlatformName.cpu, model__path="x" * 5000, data__dir="~nobody-at-all/x")
    assert set(keys(detect(settings, tmp_path))) >= {"model.path", "data.dir"}


def test_detect_and_validate_import_nothing_heavy(tmp_path: Path) -> None:
    demo_like(tmp_path)
    code = f"""
import sys
from collections.abc import Iterator
from pathlib import Path
from tests import given
from pipeline.detect import _look_at_disk, detect
from pipeline.validate import validate
from pipeline.settings import PlatformName
settings = given.settings(
    hardware__name=PlatformName.cpu,
    model__path={str(tmp_path / "model")!r},
    data__dir={str(tmp_path / "train")!r},
    data__heldout_dir=None,
)
validate(settings, detect(settings, Path({str(tmp_path)!r})))
heavy = {{"torch", "diffusers", "transformers", "mlflow", "accelerate", "lycoris", "bitsandbytes"}}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
