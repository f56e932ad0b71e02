"""The examination of a machine: what it finds, what it says to type, and that one probe does not stop another."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline import doctor
from pipeline.doctor import Examination, Patient, as_json, examine, lines
from pipeline.machine import findings
from pipeline.machine.facts import MachineFacts, machine_from, read_facts
from pipeline.machine.findings import Finding
from pipeline.optimizer.catalog import Option, options
from pipeline.optimizer.choose import Trial
from pipeline.optimizer.findings import examine_optimizers
from pipeline.optimizer.trial import NotInstalled, Steps, TrialError
from pipeline.settings import PROJECT, PlatformName
from pipeline.tracking.findings import examine_store
from tests import given
from tests.test_machines import facts_of, found_on

GIB = 2**30


def patient(facts: MachineFacts, **parts: object) -> Patient:
    whole = Patient(facts, machine_from(facts, PlatformName.auto)[0], seconds=60)
    return replace(whole, **parts)  # type: ignore[arg-type]


def answering(text: str) -> list[str]:
    """A command in the place of the trial of attention."""
    return [sys.executable, "-c", f"print({text!r})"]


@pytest.fixture
def facts(tmp_path: Path) -> MachineFacts:
    return facts_of("rx_7900_xtx", tmp_path)


# ----------------------------------------------------------------------------------------------------------- examining


def _hanging(_: Patient) -> Iterator[Finding]:
    yield Finding("ok", "first", "seen before it hangs")
    time.sleep(60)


def _raising(_: Patient) -> Iterator[Finding]:
    yield from ()
    raise RuntimeError("a bug")


def _fine(_: Patient) -> Iterator[Finding]:
    yield Finding("ok", "fine", "well")


def test_a_probe_that_hangs_does_not_stop_the_others(facts: MachineFacts) -> None:
    examination = examine(0.1, probes={"slow": _hanging, "fine": _fine}, facts=facts)
    assert [finding.subject for finding in examination.findings] == ["first", "slow", "fine"]
    assert examination.failed


def test_a_probe_that_breaks_does_not_stop_the_others(facts: MachineFacts) -> None:
    examination = examine(10, probes={"broken": _raising, "fine": _fine}, facts=facts)
    assert [finding.level for finding in examination.findings] == ["failure", "ok"]
    assert "RuntimeError: a bug" in examination.findings[0].text


def test_what_it_prints_is_what_hardware_facts_takes(facts: MachineFacts, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(as_json(examine(10, probes={}, facts=facts)))
    assert read_facts(tmp_path / "facts.json") == facts


def test_the_wrong_torch_is_a_failure_with_the_command(tmp_path: Path) -> None:
    told = list(doctor._torch(patient(facts_of("arc_a770_cuda_torch", tmp_path))))
    assert [finding.level for finding in told] == ["ok", "failure"]
    assert "whl/xpu" in told[1].fix


def test_precision_and_variables_are_told(facts: MachineFacts) -> None:
    told = [finding.text for finding in doctor._precision(patient(facts))]
    assert told[0].startswith("bf16: AMD Radeon RX 7900 XTX multiplies bfloat16")
    assert any(text.startswith("MIOPEN_FIND_MODE=FAST:") for text in told)


@pytest.mark.parametrize(
    ("answer", "levels"),
    [
        ('{"kernels": ["flash", "math"], "right": true}', ["ok"]),
        ('{"kernels": ["math"], "right": false}', ["ok", "failure"]),
        ('{"kernels": [], "right": true}', ["failure"]),
        ("no JSON", ["failure"]),
    ],
)
def test_attention_is_tried_in_a_process(facts: MachineFacts, answer: str, levels: list[str]) -> None:
    told = doctor._attention(patient(facts, attention=answering(answer)))
    assert [finding.level for finding in told] == levels


def test_torch_itself_tries_its_kernels_on_a_cpu() -> None:
    command = [*doctor.ATTENTION, "cpu", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    assert said["right"]
    assert "math" in said["kernels"]


def test_a_checkout_is_examined_only_where_one_is_named(facts: MachineFacts, tmp_path: Path) -> None:
    assert list(doctor._sd_scripts(patient(facts, environment={}))) == []
    (told,) = doctor._sd_scripts(patient(facts, environment={"SD_SCRIPTS_ROOT": str(tmp_path)}))
    assert (told.level, told.fix[:25]) == ("failure", "export SD_SCRIPTS_PYTHON=")


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(width: int, facts: MachineFacts) -> None:
    text = "a rather long sentence that goes on " * 6
    said = Examination(
        facts,
        given.CARD,
        (Finding("warning", "card", text, "pip install a; or hardware=cpu"), Finding("ok", "disk", "free")),
    )
    told = lines(said, width)
    assert max(len(line) for line in told if not line.startswith("  > ")) <= width
    assert [line for line in told if line.startswith("  > ")] == ["  > pip install a", "  > hardware=cpu"]
    assert told[-1] == "1 warning"


# ---------------------------------------------------------------------------- optimizers, and their library

GOOD = Steps(52.0, 41.0, 2.05, paged=False, fused=None, cosine=0.9999, norm_ratio=1.0)


def trying(reasons: dict[str, str], *, missing: tuple[str, ...] = ()) -> Trial:
    """Every optimizer takes its steps, but those that fail for a reason, and those whose package is missing."""

    def trial(option: Option, _: float) -> Steps:
        if option.name in reasons:
            raise TrialError(reasons[option.name])
        if option.name in missing:
            raise NotInstalled(option.package, "")
        return GOOD

    return trial


def test_every_optimizer_has_its_verdict_and_what_it_saves() -> None:
    told = [finding.text for finding in examine_optimizers(trying({}))]
    assert [text.partition(":")[0] for text in told] == ["adamw", *(name for name in options() if name != "adamw")]
    assert "adamw8bit: works, 2.05 bytes a parameter, 74% less than adamw; cosine 0.9999 with 32 bits" in told


def test_an_optimizer_that_fails_is_told_with_what_takes_its_place() -> None:
    told = list(examine_optimizers(trying({"adamw8bit": "no kernel image is available"})))
    (failed,) = (finding for finding in told if finding.level == "warning")
    assert failed.text == "adamw8bit does not work: no kernel image is available"
    assert failed.fix == "optimizer=adamw, in its place"


def test_what_is_not_installed_is_one_line_with_one_command() -> None:
    told = list(examine_optimizers(trying({}, missing=("lion", "came", "prodigy"))))
    assert (told[-1].level, told[-1].text) == ("ok", "not installed: came, lion, prodigy")
    assert told[-1].fix == "pip install lion-pytorch prodigyopt pytorch-optimizer"


def test_where_the_plainest_optimizer_fails_no_other_is_tried() -> None:
    (told,) = examine_optimizers(trying({"adamw": "5 steps took more than 30 s"}))
    assert told.level == "failure"
    assert told.text.endswith("the others were not tried")


@pytest.mark.parametrize(
    ("library", "level"), [("libbitsandbytes_rocm72.so", "ok"), ("libbitsandbytes_cpu.so", "warning"), ("", "warning")]
)
def test_the_library_of_bitsandbytes_is_one_for_the_card(
    facts: MachineFacts, library: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "BITSANDBYTES", answering(json.dumps({"library": library})))
    (told,) = doctor._bitsandbytes(patient(facts))
    assert told.level == level


def test_bitsandbytes_itself_loads_a_library_here() -> None:
    done = subprocess.run(doctor.BITSANDBYTES, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.strip().rpartition("\n")[2])["library"].startswith("libbitsandbytes_")


# ------------------------------------------------------------------------------------------------------------ tracking


def test_a_store_that_is_not_there_yet_is_made_by_the_first_run(tmp_path: Path) -> None:
    (told,) = examine_store(None, tmp_path / "mlflow")
    assert (told.level, told.text) == ("ok", f"{tmp_path / 'mlflow' / 'mlflow.db'} will be made by the first run")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    (told,) = examine_store(None, tmp_path)
    assert (told.level, told.fix) == ("failure", "tracking.store_dir=FOLDER; or tracking=off")


def test_a_server_that_does_not_answer_is_told_without_its_password() -> None:
    (told,) = examine_store("http://user:secret@127.0.0.1:1")
    assert (told.level, told.fix) == ("warning", "tracking=local; or start the server")
    assert "secret" not in told.text


class Healthy(BaseHTTPRequestHandler):
    """Answers as a server of MLflow does at /health."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_server_that_answers_is_well() -> None:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.handle_request, daemon=True).start()
        (told,) = examine_store(f"http://127.0.0.1:{server.server_port}/")
    assert told.level == "ok"


def test_an_address_that_is_none_is_a_failure() -> None:
    (told,) = examine_store("ftp://somewhere")
    assert (told.level, told.fix) == ("failure", "unset MLFLOW_TRACKING_URI")


# ----------------------------------------------------------------------------------------------------------- container


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


LIMITED = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
    "proc/meminfo": f"MemTotal:       {64 * GIB // 1024} kB\n",
}


def test_a_container_has_its_own_memory(tmp_path: Path) -> None:
    (told,) = findings.limits(tree(tmp_path, LIMITED), {"RUNPOD_POD_ID": "x"})
    assert told.text.startswith("a pod of RunPod: 8.0 of the machine's 64.0 GiB may be used")


def test_a_machine_of_ones_own_has_no_limits_to_tell(tmp_path: Path) -> None:
    assert list(findings.limits(tmp_path, {})) == []


@pytest.mark.parametrize(("size", "count"), [(64 * 2**20, 1), (16 * GIB, 0)])
def test_little_shared_memory_is_told(tmp_path: Path, size: int, count: int) -> None:
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    told = list(findings.shared_memory(tmp_path, lambda _: size))
    assert len(told) == count
    assert all("max_data_loader_n_workers=0" in finding.fix for finding in told)


def test_cards_of_the_host_are_told_with_what_opens_them(tmp_path: Path) -> None:
    told = list(findings.cards(found_on("container_without_devices", tmp_path)))
    assert [finding.level for finding in told] == ["warning", "warning"]
    assert any("--gpus all" in finding.fix for finding in told)
    assert any("--device=/dev/kfd" in finding.fix for finding in told)


# -------------------------------------------------------------------------------------------------- folders and drivers


@pytest.mark.parametrize(("free", "level"), [(20 * GIB, "ok"), (10**6, "warning")])
def test_a_cache_needs_room(tmp_path: Path, free: int, level: str) -> None:
    (told,) = findings.cache("HF_HOME", tmp_path / "not" / "yet", lambda _: free)
    assert told.level == level


def test_a_cache_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (told,) = findings.cache("HF_HOME", tmp_path / "file" / "cache")
    assert (told.level, told.fix[:15]) == ("warning", "export HF_HOME=")


def test_no_trace_is_left_of_the_trial(tmp_path: Path) -> None:
    assert findings.why_not_writable(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_caches_of_a_vendor_are_looked_at_where_its_card_is(facts: MachineFacts, tmp_path: Path) -> None:
    told = [finding.text.partition(":")[0] for finding in findings.caches(facts.found, {}, tmp_path)]
    assert "MIOPEN_USER_DB_PATH" in told
    assert "SYCL_CACHE_DIR" not in told


@pytest.mark.parametrize(
    ("library", "environment", "count"),
    [
        ("nowhere/libcuda.so.1", {}, 1),
        ("usr/lib/x86_64-linux-gnu/libcuda.so.1", {}, 0),
        ("opt/driver/libcuda.so.1", {"LD_LIBRARY_PATH": "/opt/driver"}, 0),
    ],
)
def test_a_driver_library_that_is_missing_is_a_failure(
    tmp_path: Path, library: str, environment: dict[str, str], count: int
) -> None:
    found = found_on("t4", tmp_path)
    told = list(findings.driver(found, tree(tmp_path, {library: ""}), environment))
    assert [finding.level for finding in told] == ["failure"] * count


def test_what_the_tool_complained_of_is_told(facts: MachineFacts, tmp_path: Path) -> None:
    found = replace(facts.found, complaint="Driver/library version mismatch")
    (told,) = findings.driver(found, tmp_path, {})
    assert "version mismatch" in told.text


# ------------------------------------------------------------------------------------------------------------ the verb


def test_the_verb_prints_and_tells_by_its_status() -> None:
    command = [sys.executable, "-m", "pipeline", "doctor"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if "\nfailure " in f"\n{done.stdout}" else 0)
    assert "torch" in done.stdout
    assert "precision" in done.stdout
