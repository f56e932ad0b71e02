"""The parts of tracking that need no store: masking, owners, and the samples of the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.journal import Journal, read_journal
from pipeline.tracking.masking import Masker, has_credentials, looks_secret, without_credentials
from pipeline.tracking.owner import is_alive, this_owner
from pipeline.tracking.system_metrics import Sampler, amd_metrics, nvidia_metrics


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "WANDB_API_KEY", "args.token"])
def test_name_of_a_secret_is_known(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PWD", "TOKENIZERS_PARALLELISM", "model.tokenizer", "train.keep_tags", "KEYBOARD"),
        *("train.caption_tokens", "CAPTION_TOKENS", "data.trigger"),
    ],
)
def test_name_of_no_secret_is_let_pass(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("to http://me:pw@host/x and back", "to http://***@host/x and back"),
        ("HF_TOKEN=abc next", "HF_TOKEN=*** next"),
        ("login with hf_abcdefghijklmnopqrstuvwx", "login with ***"),
        ('"API_KEY": "abc"', '"API_KEY": "***"'),
        ("say correct-horse twice: correct-horse", "say *** twice: ***"),
        ("mail me@host.org, see http://host/a@b", "mail me@host.org, see http://host/a@b"),
        ("keep_tokens: 3, tokenizer: x", "keep_tokens: 3, tokenizer: x"),
    ],
)
def test_text_is_kept_without_its_secrets(text: str, kept: str) -> None:
    assert Masker({"SOME_TOKEN": "correct-horse", "PATH": "twice"})(text) == kept


def test_credentials_leave_the_address_and_nothing_else() -> None:
    assert (
        without_credentials("postgresql+psycopg://me:p@ss@host:5432/db?x=1") == "postgresql+psycopg://host:5432/db?x=1"
    )
    assert without_credentials("postgresql://host/db?user=me&password=pw&x=1") == "postgresql://host/db?user=me&x=1"
    assert without_credentials("sqlite:////a@b/mlflow.db") == "sqlite:////a@b/mlflow.db"


@pytest.mark.parametrize("text", ["http://me:pw@host", "postgresql://me:p%40ss@host/db", "mysql://host/db?password=pw"])
def test_address_with_a_password_is_known(text: str) -> None:
    assert has_credentials(text)


@pytest.mark.parametrize(
    "text", ["http://host:5000", "sqlite:////a@b/mlflow.db", "me@host.org", "/a?password=pw", "1e-4"]
)
def test_what_holds_no_password_is_let_pass(text: str) -> None:
    assert not has_credentials(text)


def test_password_of_the_store_is_masked_wherever_it_stands() -> None:
    mask = Masker({"MLFLOW_TRACKING_URI": "postgresql://me:battery%40staple@host/db"})
    assert mask("failed for battery@staple, battery%40staple") == "failed for ***, ***"


def test_this_process_lives() -> None:
    assert is_alive(this_owner()) is True


def test_process_that_ended_is_dead() -> None:
    code = "from pipeline.tracking.owner import this_owner; print(this_owner())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert is_alive(told) is False


def test_process_that_nobody_reaped_is_dead() -> None:
    code = "from pipeline.tracking.owner import this_owner; print(this_owner())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = process.stdout.read().strip()
        deadline = time.monotonic() + 10
        while is_alive(owner) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_alive(owner) is False


def test_another_process_of_the_same_number_is_not_the_owner() -> None:
    host, boot, pid, _ = this_owner().rsplit(":", 3)
    assert is_alive(f"{host}:{boot}:{pid}:1") is False
    assert is_alive(f"{host}:another-boot:{pid}:{this_owner().rsplit(':', 1)[1]}") is False


def test_process_of_another_host_cannot_be_asked() -> None:
    assert is_alive(f"not-{socket.gethostname()}:boot:1:1") is None


def sampled(run_dir: Path) -> list[dict[str, object]]:
    sampler = Sampler(run_dir, interval_seconds=60)
    sampler.start()
    until = time.monotonic() + 0.2
    while time.monotonic() < until:  # something to measure
        pass
    sampler.stop()
    return [dict(event.data) for event in read_journal(run_dir)]


def test_first_sample_comes_at_once_under_the_names_of_the_ui(tmp_path: Path) -> None:
    (event,) = sampled(tmp_path)
    names = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage"}
    names |= {"disk_usage_percentage", "disk_usage_megabytes", "disk_available_megabytes"}
    values = event["values"]
    assert isinstance(values, dict) and {f"system/{name}" for name in names} <= set(values)
    assert event["step"] == 0
    assert values["system/cpu_utilization_percentage"] > 0


def test_samples_of_a_run_that_goes_on_count_on(tmp_path: Path) -> None:
    Journal(tmp_path).write("metric", step=900, values={"heldout/loss": 1.0})
    sampled(tmp_path)
    assert [event["step"] for event in sampled(tmp_path)] == [900, 0, 1]


def test_nvidia_gpus_are_read_from_their_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '40, 1000, 4000, 55.5\\n[N/A], 2000, 4000, [N/A]\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert nvidia_metrics() == {
        "gpu_0_utilization_percentage": 40.0,
        "gpu_0_memory_usage_megabytes": pytest.approx(1048.576),
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_power_usage_watts": 55.5,
        "gpu_1_memory_usage_megabytes": pytest.approx(2097.152),
        "gpu_1_memory_usage_percentage": 50.0,
    }


def test_nvidia_tool_that_fails_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert nvidia_metrics() == {}


def test_amd_gpus_are_read_from_the_kernel(tmp_path: Path) -> None:
    device = tmp_path / "card1" / "device"
    device.mkdir(parents=True)
    for name, text in {"gpu_busy_percent": "30", "mem_info_vram_used": "1000000000"}.items():
        (device / name).write_text(f"{text}\n")
    (device / "mem_info_vram_total").write_text("4000000000\n")
    assert amd_metrics(tmp_path) == {
        "gpu_0_utilization_percentage": 30.0,
        "gpu_0_memory_usage_megabytes": 1000.0,
        "gpu_0_memory_usage_percentage": 25.0,
    }
