"""The command as a user types it: real processes, from the composed configuration to the messages."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from pipeline import composition, mistakes
from pipeline.errors import InvalidSettings
from pipeline.settings import PROJECT
from tests import header_cases
from tests.given import picture, safetensors, sd15_folder, single_file_shapes

HEAVY = ("torch", "mlflow", "diffusers", "transformers", "accelerate", "lycoris", "bitsandbytes", "numpy", "rich")


def run_py(*words: str, cwd: Path, python: Sequence[str] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = [*python, str(PROJECT / "run.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def complaint(*words: str, cwd: Path) -> str:
    """The message of a command that is wrong: nothing but the message, and exit code 1."""
    done = run_py(*words, cwd=cwd)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr
    return done.stderr


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Overrides that name a model and a dataset, far too small to train."""
    model = sd15_folder(tmp_path / "model")
    for number in range(4):
        picture(tmp_path / "pictures" / f"{number}.png", seed=number, size=(64, 64))
    return ["model=demo", f"model.path={model}", f"data.dir={tmp_path / 'pictures'}"]


# ------------------------------------------------------------------------------------------------------------ --cfg


def test_cfg_shows_the_values_behind_the_figures(tmp_path: Path) -> None:
    done = run_py("--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["optimizer"]["lr"] == 0.003
    assert shown["backend"]["weights_name"] == "style-demo"
    assert "${" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_cfg_of_the_finetune_experiment(tmp_path: Path) -> None:
    for spelling in ("experiment=demo_finetune", "+experiment=demo_finetune"):
        shown = yaml.safe_load(run_py(spelling, "--cfg", "job", cwd=tmp_path).stdout)
        assert shown["mode"]["name"] == "finetune"
        assert shown["network"] is None


def test_cfg_and_validation_errors_import_nothing_heavy(tmp_path: Path) -> None:
    for words in (["--cfg", "job"], ["data.dir=/nowhere"]):
        done = run_py(*words, cwd=tmp_path, python=(sys.executable, "-X", "importtime"))
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert "hydra" in imported
        assert not imported.intersection(HEAVY)


def test_sweeping_and_showing_the_configuration_are_two_commands(tmp_path: Path) -> None:
    assert "leave -m out" in complaint("-m", "--cfg", "job", "seed=1,2", cwd=tmp_path)


def test_help_is_told(tmp_path: Path) -> None:
    assert "profile: anime" in run_py("--help", cwd=tmp_path).stdout


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.bacth_size=8"], ["unknown setting 'train.bacth_size'. Did you mean train.batch_size?"]),
        (["train.lr=1e-4"], ["Did you mean optimizer.lr?", "try: optimizer.lr=1e-4"]),
        (["optimiser=adamw"], ["Did you mean optimizer?", "try: optimizer=adamw"]),
        (["profile=sytle"], ["there is no profile 'sytle'. Did you mean style?", "anime, character, concept"]),
        (["experiment=nope"], ["there is no experiment 'nope'.", "demo_finetune"]),
        (["train.batch_size=abc"], ["train.batch_size=abc: 'abc' is not a whole number"]),
        (["hardware.precision=fp8"], ["hardware.precision=fp8", "one of auto, fp32, bf16, fp16"]),
        (["train=3"], ["is a group of settings"]),
        (["network=loha", "mode=finetune"], [mistakes.NO_NETWORK]),
        (["mode=finetune", "network.rank=8"], [mistakes.NO_NETWORK]),
        (["mode.save_dtype=fp16"], ["is a setting of mode=finetune only"]),
        (["data.dir=/my dir (v2)"], ["""'data.dir="/my dir (v2)"'"""]),
        (["data.dir=/a=b"], ["""'data.dir="/a=b"'"""]),
        (["+new=1"], ["unknown setting 'new'"]),
        (["data.concepts=[{dir:a,repeat:2}]"], ["its elements have no 'repeat', only dir, repeats, caption"]),
        (["data.concepts=[{dir:a,repeats:x}]"], ["Value 'x'", "data.concepts=[{dir:...,repeats:...,caption:...}]"]),
        (["++train.bacth_size=1"], ["Did you mean train.batch_size?"]),
        (["+train.resolution_px=64"], ["leave the + out"]),
        (["optimizer.args.foo=1"], ["try: +optimizer.args.foo=1"]),
        (["~profile"], ["a run needs its profile"]),
        (["train.batch_size=1,2"], ["-m train.batch_size=1,2"]),
        (["nonsense"], ["key=value"]),
        (["data=folder", "model=sd15"], ["data.dir=???", "model.path=???"]),
        (
            ["train.bacth_size=8", "profile=sytle", "seed=x"],
            ["3 problems", "train.bacth_size=8", "profile=sytle", "seed=x"],
        ),
        (
            ["-m", "train.bacth_size=1,2", "profile=style,sytle"],
            ["2 problems", "train.batch_size", "Did you mean style"],
        ),
    ],
    ids=lambda value: shlex.join(value) if isinstance(value, list) else "",
)
def test_mistake_is_told_plainly(words: list[str], told: list[str], tmp_path: Path) -> None:
    message = complaint(*words, cwd=tmp_path)
    for text in told:
        assert text in message
    advice = message.replace("+optimizer.args.foo=1", "").replace("leave the + out", "")
    assert "+" not in advice.replace("; + adds one", ""), "Hydra's advice would hide the mistake"
    assert not list(tmp_path.glob("outputs/*"))


def test_fault_in_a_yaml_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "conf" / "profile").mkdir(parents=True)
    (tmp_path / "conf" / "profile" / "mine.yaml").write_text("name: mine\npurpose: x\nfigurse: {}\n")
    message = complaint("-cd", str(tmp_path / "conf"), "profile=mine", cwd=tmp_path)
    assert "profile/mine" in message
    assert "figurse" in message


def test_full_traceback_for_those_who_ask(tmp_path: Path) -> None:
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    command = [sys.executable, str(PROJECT / "run.py"), "train.bacth_size=8"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr


# ----------------------------------------------------------------------------------- completing the command line


def test_pictures_without_a_data_group_are_a_folder(tmp_path: Path) -> None:
    assert composition.complete(["data.dir=/pictures", "seed=1"]) == ["data.dir=/pictures", "seed=1", "data=folder"]
    assert composition.complete(["data=demo", "data.dir=/pictures"]) == ["data=demo", "data.dir=/pictures"]


def test_the_models_header_decides_its_family(tmp_path: Path) -> None:
    folder = sd15_folder(tmp_path / "model")
    single = safetensors(tmp_path / "model (v1).safetensors", single_file_shapes())
    assert composition.complete([f"model.path={folder}"])[1:] == ["model=demo"]
    assert composition.complete([f'model.path="{single}"'])[1:] == ["model=demo"]
    assert composition.complete(["model=auto", f"model.path={folder}"])[1:] == ["model=demo"]
    assert composition.complete(["model.path=/nowhere"])[1:] == ["model=auto"]
    assert composition.complete(["model=demo", f"model.path={folder}"])[2:] == []


def test_flags_may_stand_anywhere() -> None:
    assert composition.complete(["seed=1", "-m", "data.dir=/a"]) == ["seed=1", "data.dir=/a", "data=folder", "-m"]
    assert composition.complete(["-cd", "my=conf", "seed=1"]) == ["seed=1", "-cd", "my=conf"]


def test_every_group_is_taken_with_a_plus_too() -> None:
    assert composition.complete(["+experiment=demo_finetune", "++model=sd15"]) == [
        "experiment=demo_finetune",
        "model=sd15",
    ]


def test_additions_that_nobody_reads_are_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"train\.new"):
        composition.complete(["+train.new=1"])
    assert composition.complete(["+network.args.factor=4"]) == ["+network.args.factor=4"]


def test_command_line_repeats_the_run() -> None:
    typed = ["-cd", "my conf", "-m", "seed=1,2", 'data.dir="/a b"']
    assert shlex.split(composition.command_line(typed, None)) == ["python", "run.py", *typed]
    job = composition.command_line(typed, ["seed=2", 'data.dir="/a b"'])
    assert shlex.split(job) == ["python", "run.py", "-cd", "my conf", "seed=2", 'data.dir="/a b"']


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.bacth_size", "train.batch_size"),
        ("rank", "network.rank"),
        ("learning_rate", "optimizer.lr"),
        ("train.steps", "train.max_steps"),
        ("mode.rank", "network.rank"),
        ("data.heldout", "data.heldout_dir"),
        ("optimizer.learning", None),
        ("xyzzy", None),
    ],
)
def test_nearest_setting(typed: str, meant: str | None) -> None:
    assert mistakes.nearest_setting(typed) == meant


# ------------------------------------------------------------------------------------------------------- the stages


def test_until_detect_tells_what_is_here_and_leaves_nothing(given: list[str], tmp_path: Path) -> None:
    done = run_py(*given, "until=detect", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "✓ detect" in done.stdout
    assert "sd15, diffusers, predicts epsilon" in done.stdout
    assert not list(tmp_path.glob("outputs/*"))


def test_until_validate_tells_the_choices(given: list[str], tmp_path: Path) -> None:
    done = run_py(*given, "until=validate", "train.max_steps=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hardware.precision=" in done.stdout
    assert "5, 0 of them warm-up" in done.stdout
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize("typed", [[], ["model=auto"]], ids=["left-out", "auto"])
def test_a_models_path_is_enough(typed: list[str], given: list[str], tmp_path: Path) -> None:
    done = run_py(*given[1:], *typed, "until=validate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the demo model" in done.stdout
    shown = yaml.safe_load(run_py(*given[1:], *typed, "--cfg", "job", cwd=tmp_path).stdout)
    assert shown["model"]["name"] == "demo"


def test_a_lora_in_place_of_a_model_is_told_as_such(given: list[str], tmp_path: Path) -> None:
    lora = header_cases.write(header_cases.read("sdxl_lora_kohya"), tmp_path)
    message = complaint(f"model.path={lora}", given[2], "until=validate", cwd=tmp_path)
    assert "is a LoRA for sdxl, not a base model" in message
    assert "model.path wants a whole model" in message


def test_a_wrong_claim_is_told_with_both_names(given: list[str], tmp_path: Path) -> None:
    flux = header_cases.write(header_cases.read("flux1_dev_bfl"), tmp_path)
    message = complaint("model=sdxl", f"model.path={flux}", given[2], "until=validate", cwd=tmp_path)
    assert "model=sdxl: " in message
    assert "is FLUX.1 [dev] (dev), model=flux_dev, by its header, not Stable Diffusion XL" in message
    assert "img_attn.qkv.weight is [9216, 3072]" in message
    assert "model.trust_header=false" in message


def test_a_claim_against_the_header_is_logged(given: list[str], tmp_path: Path) -> None:
    done = run_py("model=sd15", "model.trust_header=false", *given[1:], "until=validate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = " ".join((done.stdout + done.stderr).split())
    assert "model.trust_header=false" in told
    assert "not Stable Diffusion 1.x" in told


def test_until_render_leaves_the_files_and_tells_the_command(given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "mine"
    done = run_py(*given, "until=render", "seed=7", f"hydra.run.dir={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith(f"cd {PROJECT} && ")
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["seed"] == 7
    assert json.loads((run_dir / "plan.json").read_text())["settings"]["seed"] == 7
    assert (run_dir / "job" / "train.toml").exists()
    assert not (run_dir / "journal.jsonl").exists()


def test_what_is_left_out_is_listed_in_the_runs_folder(given: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "pictures" / "bad.png"
    bad.touch()
    run_dir = tmp_path / "run"
    words = [*given, "until=render", f"hydra.run.dir={run_dir}"]
    told = complaint(*words, cwd=tmp_path)
    assert f"1 picture can't be read whole: {bad} (not a picture)" in told
    assert "data.on_bad=skip" in told
    done = run_py(*words, "data.on_bad=skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"! left out, by data.on_bad=skip: 1 picture can't be read whole: {bad}" in done.stdout
    row = {"path": str(bad), "reason": "can't be read whole: not a picture"}
    assert [json.loads(line) for line in (run_dir / "skipped.jsonl").read_text().splitlines()] == [row]
    bad.unlink()
    assert run_py(*words, "data.on_bad=skip", cwd=tmp_path).returncode == 0
    assert not (run_dir / "skipped.jsonl").exists()


def test_explain_shows_where_settings_come_from_and_trains_nothing(given: list[str], tmp_path: Path) -> None:
    done = run_py(*given, "explain=true", "train.batch_size=2", "optimizer.fallback=error", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "batch_size 2 command line:" in told
    assert "samples_floor 800 conf/model/demo.yaml, its own" in told
    assert "max_steps 100 decided" in told
    assert "✓ render" not in done.stdout
    assert not list(tmp_path.glob("outputs/*"))


def test_explain_goes_on_to_the_stage_that_was_typed(given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "mine"
    done = run_py(*given, "explain=true", "until=render", "seed=7", f"hydra.run.dir={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "command line: seed=7" in done.stdout
    assert (run_dir / "job" / "train.toml").exists()


def test_explain_shows_what_can_not_run_too(given: list[str], tmp_path: Path) -> None:
    done = run_py(*given, "explain=true", "train.batch_size=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "train.batch_size=0" in done.stdout
    assert "train.batch_size=0: must be" in done.stderr


def test_every_run_keeps_where_its_settings_come_from(given: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "mine"
    done = run_py(*given, "until=render", "seed=7", "train.epochs=2", f"hydra.run.dir={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = {row["key"]: row for row in json.loads((run_dir / "explain.json").read_text())}
    assert kept["seed"]["source"] == "command line: seed=7"
    assert kept["train.max_steps"]["reason"].endswith("; train.epochs=2")
    assert kept["model.name"]["source"] == "command line: model=demo"


def test_invalid_settings_leave_nothing(given: list[str], tmp_path: Path) -> None:
    message = complaint(*given, "train.batch_size=0", "data.dir=/nowhere", cwd=tmp_path)
    assert "train.batch_size=0" in message
    assert "/nowhere" in message
    assert not list(tmp_path.glob("outputs/*"))


def test_a_directory_that_was_there_before_stays(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    complaint(*given, "train.batch_size=0", "hydra.run.dir=mine", cwd=tmp_path)
    assert (tmp_path / "mine").is_dir()
    complaint(*given, "train.batch_size=0", "hydra.run.dir=other", cwd=tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_failing_job_does_not_end_the_sweep(given: list[str], tmp_path: Path) -> None:
    done = run_py(*given, "-m", "train.batch_size=0,1", "until=validate", cwd=tmp_path)
    assert done.returncode == 1
    assert "train.batch_size=0" in done.stderr
    assert "job 0 failed" in done.stderr
    assert "job 1 failed" not in done.stderr
    assert "✓ validate" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_while_torch_is_asked(number: signal.Signals, exit_code: int, given: list[str], tmp_path: Path) -> None:
    asked = tmp_path / "torch" / "asked"
    asked.parent.mkdir()
    (asked.parent / "__init__.py").write_text(f"open({str(asked)!r}, 'w').close()\nimport time\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, str(PROJECT / "run.py"), *given, "tracking=off"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not asked.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert not list(tmp_path.glob("outputs/*"))
    assert process.returncode == exit_code
    assert "Traceback" not in errors


# ---------------------------------------------------------------------------------------------------------- secrets

PASSWORD = "correcthorsebatterystaple"


def with_password(*words: str, cwd: Path, uri: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "run.py"), *words]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def holding(folder: Path, secret: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]], ids=["run", "sweep"])
def test_typed_password_is_refused_before_anything_is_written(sweep: list[str], tmp_path: Path) -> None:
    message = complaint(*sweep, f"tracking.uri=postgresql://me:{PASSWORD}@host:5432/db", cwd=tmp_path)
    assert PASSWORD not in message
    assert (
        "try: MLFLOW_TRACKING_URI='postgresql://USER:PASSWORD@host:5432/db' python run.py tracking=server"
    ) in message
    assert list(tmp_path.iterdir()) == []


def test_password_in_a_file_of_the_users_is_refused(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "conf" / "tracking").mkdir(parents=True)
    file = tmp_path / "conf" / "tracking" / "mine.yaml"
    server = (PROJECT / "conf/tracking/server.yaml").read_text()
    file.write_text(server.replace("${oc.env:MLFLOW_TRACKING_URI,???}", f"http://me:{PASSWORD}@host"))
    message = complaint("-cd", str(tmp_path / "conf"), "tracking=mine", *given, "until=render", cwd=tmp_path)
    assert PASSWORD not in message
    assert "tracking.uri=http://host" in message
    assert not list(tmp_path.glob("outputs/*"))


SECRETS = {
    "address": ("tracking: {uri: 'postgresql://me:%s@host/db'}", "tracking.uri=postgresql://host/db"),
    "named": ("optimizer: {args: {api_key: %s}}", "optimizer.args.api_key=***"),
    "token": ("sample: {negative_prompt: hf_%s}", "sample.negative_prompt=***"),
    "axis": (
        "hydra: {sweeper: {params: {tracking.uri: 'http://me:%s@a,http://b'}}}",
        "hydra.sweeper.params.tracking.uri",
    ),
}


@pytest.mark.parametrize("launch", [(), ("hydra/launcher=basic",), ("hydra/sweeper=search",)], ids=str)
@pytest.mark.parametrize("kind", SECRETS)
def test_secret_in_a_file_of_the_users_is_in_no_file_of_a_sweep(
    kind: str, launch: tuple[str, ...], given: list[str], tmp_path: Path
) -> None:
    text, told = SECRETS[kind]
    own = experiment_of_the_users(tmp_path / "conf", text)
    words = [*given, "experiment=mine", "seed=1,2", "until=render", *launch]
    message = complaint("-cd", str(own), "-m", *words, cwd=tmp_path)
    assert told in message
    assert PASSWORD not in message
    assert [path for path in holding(tmp_path, PASSWORD) if not path.is_relative_to(own)] == []


def test_secret_in_a_file_of_the_users_is_in_no_file_of_a_run_that_was_there(given: list[str], tmp_path: Path) -> None:
    own = experiment_of_the_users(tmp_path / "conf", SECRETS["address"][0])
    (tmp_path / "mine").mkdir()
    words = [*given, "experiment=mine", "until=render", "hydra.run.dir=mine"]
    message = complaint("-cd", str(own), *words, cwd=tmp_path)
    assert PASSWORD not in message
    assert list((tmp_path / "mine").iterdir()) == []


def experiment_of_the_users(folder: Path, text: str) -> Path:
    """The folder of --config-dir."""
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text.replace('%s', PASSWORD)}\n")
    return folder


def test_password_of_the_environment_is_in_no_file_of_a_run(given: list[str], tmp_path: Path) -> None:
    words = ["tracking=server", *given, "until=render", f"hydra.run.dir={tmp_path / 'mine'}"]
    done = with_password(*words, cwd=tmp_path, uri=f"http://me:{PASSWORD}@host:5000")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "mine/config.yaml").read_text())["tracking"]["uri"] == "http://host:5000"
    assert holding(tmp_path / "mine", PASSWORD) == []
    assert PASSWORD not in done.stdout + done.stderr


def test_password_of_the_environment_is_in_no_file_of_a_sweep(given: list[str], tmp_path: Path) -> None:
    words = ["-m", "tracking=server", *given, "until=render", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'mine'}"]
    done = with_password(*words, cwd=tmp_path, uri=f"http://me:{PASSWORD}@host:5000")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine/multirun.yaml").exists()
    assert holding(tmp_path / "mine", PASSWORD) == []


def test_shown_configuration_has_no_password(tmp_path: Path) -> None:
    done = with_password("tracking=server", "--cfg", "job", cwd=tmp_path, uri=f"http://me:{PASSWORD}@host:5000")
    assert yaml.safe_load(done.stdout)["tracking"]["uri"] == "http://host:5000"


# ------------------------------------------------------------------------------------------------------ other verbs


def verb(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_detect_says_what_a_model_is(tmp_path: Path) -> None:
    folder = sd15_folder(tmp_path / "model")
    assert "family      sd15" in verb("detect", str(folder)).stdout
    assert json.loads(verb("detect", str(folder), "--json").stdout)["family"] == "sd15"


def test_detect_of_what_is_no_model_fails_plainly(tmp_path: Path) -> None:
    done = verb("detect", str(tmp_path / "nothing"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no such file or folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_tells_the_machine() -> None:
    assert "platform" in verb("doctor").stdout
    assert json.loads(verb("doctor", "--json").stdout)["machine"]["cpu_cores"] >= 1


def test_help_of_the_verbs_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pipeline", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported.intersection(HEAVY)
    for name in ("detect", "doctor", "runs"):
        assert name in done.stdout
