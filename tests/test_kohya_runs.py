"""The command as a user types it with `backend=kohya`: the real run.py, its watcher, and the stand-in for a checkout of
sd-scripts (`tests/sd_scripts`) in real processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.checkpoint.header import read_header
from pipeline.journal import read_journal
from pipeline.optimizer.trial import ATTEMPT
from pipeline.settings import PROJECT
from tests import given, header_cases
from tests.test_kohya_watch import nothing_is_left, wait_for

pytestmark = pytest.mark.slow

CHECKOUT = PROJECT / "tests" / "sd_scripts"
CLIP, UNET = "cond_stage_model.transformer.text_model.", "model.diffusion_model."
SD15: given.Shapes = {
    f"{UNET}input_blocks.0.0.weight": ("F16", (320, 4, 3, 3)),
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ("F16", (320, 768)),
    f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight": ("F16", (1280, 768)),
    "first_stage_model.decoder.conv_in.weight": ("F16", (512, 4, 3, 3)),
    f"{CLIP}embeddings.token_embedding.weight": ("F16", (9, 768)),
    **{f"{CLIP}encoder.layers.{layer}.mlp.fc1.weight": ("F16", (2, 768)) for layer in range(12)},
}
"""As much of a Stable Diffusion 1.5 as it is recognised by."""
PEAK = 3e-4


@dataclass(frozen=True)
class Place:
    """A folder with a model, six pictures to train on and two that are held out: an epoch has three batches."""

    dir: Path
    cache_dir: Path
    """Keeps what torch said of the machine, for all tests."""

    @property
    def run_dir(self) -> Path:
        return self.dir / "run"

    @property
    def python(self) -> Path:
        """Stands for the interpreter of the checkout's environment. An optimizer is tried with the real torch, which
        the stand-in's is not."""
        path = self.cache_dir / "python"
        packages = f"PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={CHECKOUT / 'packages'}"
        tries = f'case "$1" in {ATTEMPT}) exec {sys.executable} "$@";; esac'
        path.write_text(f'#!/bin/sh\n{tries}\n{packages} exec {sys.executable} -S "$@"\n')
        path.chmod(0o755)
        return path

    def command(self, *words: str) -> list[str]:
        model = given.safetensors(self.dir / "model" / "sd15.safetensors", SD15)
        usual = {
            **{"backend": "kohya", "backend.root": CHECKOUT, "backend.python": self.python, "model.path": model},
            **{"data.dir": self.dir / "pictures", "data.heldout_fraction": 0.25, "tracking": "off"},
            **{
                "train.batch_size": 2,
                "train.effective_batch_size": 2,
                "train.resolution_px": 256,
                "train.max_steps": 8,
                "sample.prompts": "[a cat,a dog]",
            },
            **{"train.checkpoint_every_steps": 2, "hydra.run.dir": self.run_dir, "optimizer.lr": PEAK},
            **{"train.scheduler": "cosine", "train.warmup_fraction": 0.125, "train.heldout_every_steps": 3},
        }
        typed = [word.partition("=")[0].lstrip("+~") for word in words]
        left = [f"{name}={value}" for name, value in usual.items() if name not in typed]
        return [sys.executable, str(PROJECT / "run.py"), *left, *words]

    def environment(self, faults: str, fault_step: int) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("SD_SCRIPTS_", "HYDRA_"))}
        stand_in = {"STAND_IN_FAULTS": faults, "STAND_IN_FAULT_STEP": str(fault_step), "STAND_IN_SECONDS": "0"}
        return mine | stand_in | {"XDG_CACHE_HOME": str(self.cache_dir), "OF_THE_TEST": str(self.dir)}

    def run(self, *words: str, faults: str = "", fault_step: int = 2) -> subprocess.CompletedProcess[str]:
        environment = self.environment(faults, fault_step)
        command = self.command(*words)
        return subprocess.run(command, cwd=self.dir, env=environment, capture_output=True, text=True, check=False)

    def finish(self, *words: str) -> str:
        """What a run tells that ends well."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    def refusal(self, *words: str) -> str:
        """The message of a command that does not come to a training."""
        done = self.run(*words)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        assert not (self.run_dir / "journal.jsonl").exists()
        return " ".join(done.stderr.split())

    @contextmanager
    def hanging(self, *words: str, at: int, state: int, faults: str = "hang") -> Iterator[subprocess.Popen[str]]:
        """A run that stands still at an update of this start, once a state is told of."""
        seen, environment = len(self.events("checkpoint")), self.environment(faults, at)
        with subprocess.Popen(
            self.command(*words),
            cwd=self.dir,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wait_for(
                    lambda: (
                        process.poll() is not None
                        or state in [event["step"] for event in self.events("checkpoint")[seen:]]
                    )
                )
                assert process.poll() is None, process.communicate()[1]
                yield process
            finally:
                process.kill()
        wait_for(lambda: nothing_is_left(self.dir))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in read_journal(self.run_dir) if event.kind == kind]

    def starts(self) -> list[list[int]]:
        """The steps of each start of the run."""
        found: list[list[int]] = []
        for event in read_journal(self.run_dir):
            if event.kind == "run":
                found.append([])
            elif event.kind == "step":
                found[-1].append(int(str(event.data["step"])))
        return found

    def outcome(self) -> dict[str, Any]:
        return dict(json.loads((self.run_dir / "outcome.json").read_text()))

    def told(self, name: str = "train.toml") -> dict[str, Any]:
        return tomllib.loads((self.run_dir / "job" / name).read_text())

    def metadata(self) -> dict[str, str]:
        return dict(read_header(Path(self.outcome()["weights"])).metadata)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache_dir: Path) -> Place:
    for number in range(8):
        given.picture(tmp_path / "pictures" / f"{number}.png", f"cat {number}, tag", seed=number, size=(64, 64))
    return Place(tmp_path, cache_dir)


def cosine(step: int, *, steps: int = 8, warmup: int = 1) -> float:
    """What the scheduler gives after so many steps."""
    if step < warmup:
        return PEAK * step / warmup
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


# ---------------------------------------------------------------------------------------------------------- to the end


def test_a_run_to_its_end(place: Place) -> None:
    for name in ("vocab.json", "merges.txt"):
        (place.dir / "model" / "tokenizer").mkdir(parents=True, exist_ok=True)
        (place.dir / "model" / "tokenizer" / name).write_text("{}")
    told = place.finish("train.flip=true", "backend.args.vae_batch_size=2", "sample.every_steps=4")
    assert f"backend.root={CHECKOUT}: sd-scripts" in told
    assert "finished after 8 steps" in told
    outcome = place.outcome()
    assert (outcome["status"], outcome["steps"], outcome["cause"]) == ("finished", 8, None)
    assert place.starts() == [list(range(1, 9))]
    rates = [event["lr"] for event in place.events("step")]
    assert rates == pytest.approx([cosine(step) for step in range(1, 9)], rel=1e-5, abs=1e-9)
    assert [event["step"] for event in place.events("checkpoint")][-1] == 8
    samples = place.events("sample")
    assert [(each["step"], each["prompt"]) for each in samples] == [
        (step, prompt) for step in (0, 4, 8) for prompt in ("a cat", "a dog")
    ]
    assert all((place.run_dir / str(each["path"])).is_file() for each in samples)
    with Image.open(place.run_dir / "final_grid.png") as grid:
        assert grid.width > 2 * 256 < grid.height, "two prompts, before and after"
    heldout = {event["step"]: event["values"]["heldout/loss"] for event in measured(place)}
    assert heldout == pytest.approx({3: 2 / 4, 6: 2 / 7, 8: 2 / 9})
    metadata = place.metadata()
    (train, _) = json.loads(metadata["ss_datasets"])
    assert train["subsets"][0]["flip_aug"]
    assert (metadata["ss_num_train_images"], metadata["ss_num_validation_images"]) == ("6", "2")
    assert "load tokenizer from cache" in (place.run_dir / "trainer.log").read_text()


def test_several_resolutions_are_datasets_of_one_epoch(place: Place) -> None:
    """Ten pictures in batches of two at 256 px, and eight of them at their own 64 px: two of 16 px are too small."""
    for name in ("small", "smaller"):
        given.picture(place.dir / "pictures" / f"{name}.png", name, size=(16, 16))
    told = place.finish("train.more_resolutions_px=[64]", "data.heldout_fraction=0", "train.heldout_every_steps=0")
    assert "2 pictures too small for train.more_resolutions_px=64" in told
    assert place.starts() == [list(range(1, 9))]
    metadata = place.metadata()
    base, further = json.loads(metadata["ss_datasets"])
    assert (base["num_train_images"], further["num_train_images"]) == (10, 8)
    assert (base["resolution"], further["resolution"]) == ([256, 256], [64, 64])
    assert metadata["ss_num_batches_per_epoch"] == "9"


def test_a_run_leaves_no_more_in_the_cache_than_the_limit(place: Place) -> None:
    cache = place.dir / "kept"
    for limit, left in (("1", 1), ("1e-9", 0)):
        place.finish(f"cache.dir={cache}", f"cache.max_gib={limit}", "resume=never")
        assert len(list((cache / "pages").glob("*.html"))) == left
        assert (place.run_dir / "dataset.html").is_file()


def measured(place: Place) -> list[dict[str, Any]]:
    return [event for event in place.events("metric") if "heldout/loss" in event["values"]]


def test_pictures_that_are_held_out_are_not_trained_on(place: Place) -> None:
    place.finish("until=render")
    lines = (place.run_dir / "job" / "pictures.jsonl").read_text().splitlines()
    trained = {Path(json.loads(line)["image_path"]).resolve() for line in lines}
    heldout = {link.resolve() for link in (place.run_dir / "job" / "heldout").glob("*.png")}
    assert (len(trained), len(heldout)) == (6, 2)
    assert trained | heldout == set((place.dir / "pictures").glob("*.png"))
    train, validation = place.told("dataset.toml")["datasets"]
    assert "validation_split" not in train
    assert (validation["validation_split"], validation["batch_size"]) == (1.0, 1)


def test_mlflow_has_what_the_journal_tells(place: Place) -> None:
    from pipeline.tracking.store import open_client, store_at

    words = ("tracking=local", f"tracking.store_dir={place.dir / 'mlflow'}", "tracking.system_metrics=false")
    place.finish(*words)
    client = open_client(store_at(None, place.dir / "mlflow"))
    experiment = client.get_experiment_by_name("lora-easy-pipeline")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in ("train/loss", "train/lr", "heldout/loss")
    }
    assert [step for step, _ in history["train/loss"]] == list(range(1, 9))
    assert history["train/loss"][0][1] == pytest.approx(1.0)
    assert history["train/lr"][0][1] == pytest.approx(PEAK)
    assert [step for step, _ in history["heldout/loss"]] == [3, 6, 8]
    job = {file.path for file in client.list_artifacts(run.info.run_id, "job")}
    assert {"job/train.toml", "job/dataset.toml", "job/pictures.jsonl", "job/command.json"} <= job
    assert [file.path for file in client.list_artifacts(run.info.run_id, "weights")] == [
        "weights/style-sd15.safetensors"
    ]


@pytest.mark.parametrize(
    ("model", "header", "parts", "caches"),
    [
        ("sdxl", "sdxl_base_full_fp16", {}, ("_te_outputs.npz", "_0064x0064_sdxl.npz")),
        (
            "flux_dev",
            "flux1_dev_bfl",
            {"clip_l": "clip_l_alone", "t5xxl": "t5xxl_v11_encoder", "vae": "flux1_ae"},
            ("_flux_te.npz", "_0064x0064_flux.npz"),
        ),
    ],
)
def test_other_families_and_their_caches(
    place: Place, model: str, header: str, parts: dict[str, str], caches: tuple[str, ...]
) -> None:
    """Text is kept beside the pictures too, and read back by the second run."""
    files = {name: header_cases.write(header_cases.read(case), place.dir / name) for name, case in parts.items()}
    path = header_cases.write(header_cases.read(header), place.dir / "model")
    words = (
        *(f"model={model}", f"model.path={path}", "network=lora", "train.max_steps=2", "hydra.run.dir=again"),
        *("backend.cache_latents=disk", "backend.cache_text=disk"),
        *("train.caption_dropout=0", "train.shuffle_tags=false", "mode.text_encoder_lr=0"),
        *(f"model.parts.{name}={file}" for name, file in files.items()),
    )
    place.finish(*words, f"hydra.run.dir={place.run_dir}")
    assert place.told()["cache_text_encoder_outputs_to_disk"]
    names = {path.name for path in (place.dir / "pictures").glob("*.npz")}
    assert len(names) == 6 * len(caches)
    assert all(name.endswith(caches) for name in names)
    before = stamps(place)
    place.finish(*words)
    assert stamps(place) == before


def stamps(place: Place) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (place.dir / "pictures").glob("*.npz")}


# -------------------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        ("crash", "unknown", "RuntimeError: something broke"),
        ("oom", "out_of_memory", "train.batch_size=1"),
        ("metadata", "unknown", "the finished adapter is not what was asked for. ss_network_dim: asked 16, found 17"),
    ],
)
def test_a_death_is_told(place: Place, fault: str, cause: str, words: str) -> None:
    done = place.run(faults=fault)
    assert done.returncode == 1
    assert words in done.stderr
    assert str(place.run_dir / "trainer.log") in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr
    assert (place.outcome()["status"], place.outcome()["cause"]) == ("failed", cause)
    assert nothing_is_left(place.dir)


@pytest.mark.parametrize("faults", ["hang", "hang,deaf,grandchild"])
def test_a_stop_ends_everything(place: Place, faults: str) -> None:
    with place.hanging(at=4, state=2, faults=faults) as process:
        process.terminate()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 143
        assert "The last checkpoint is of step 2: the same command goes on from there" in told
        assert nothing_is_left(place.dir)
    assert (place.outcome()["status"], place.outcome()["cause"]) == ("killed", "stopped_by_user")


# ---------------------------------------------------------------------------------------------------------- going on


def test_a_run_that_is_killed_goes_on(place: Place) -> None:
    """Twice: the second start goes on from a state that counts from 0, the third from one that counts on."""
    with place.hanging(at=5, state=4, faults="hang,deaf,grandchild") as process:
        process.kill()
    assert place.starts() == [[1, 2, 3, 4]]
    with place.hanging(at=5, state=7) as process:  # 5 by its own count: the eighth update
        process.kill()
    assert place.starts()[1] == [5, 6, 7]
    second = place.told()
    assert second["resume"] == str(place.run_dir / "weights" / "style-sd15-step00000004-state")
    assert (second["initial_step"], second["skip_until_initial_step"], second["max_train_steps"]) == (1, True, 5)
    assert second["lr_scheduler_type"] == "transformers.optimization.get_cosine_schedule_with_warmup"
    assert second["lr_scheduler_args"] == ["num_warmup_steps=1", "num_training_steps=8"]
    assert (second["lr_warmup_steps"], "lr_scheduler" in second) == (0, False)
    told = place.finish()
    assert place.starts()[2] == [8]
    assert "going on with run from step 7" in told
    assert place.outcome()["weights"] == str(place.run_dir / "weights" / "from-00000007" / "style-sd15.safetensors")
    steps = place.events("step")
    rates = [event["lr"] for event in steps]
    assert rates == pytest.approx([cosine(step) for step in range(1, 9)], rel=1e-5, abs=1e-9)
    assert place.metadata()["ss_training_comment"] == "goes on from step 7 of 8"
    assert [event["step"] for event in measured(place)][-1] == 8
    assert {event["step"] for event in place.events("sample")} == {0, 8}


def test_a_finetune_that_goes_on_counts_from_0(place: Place) -> None:
    words = ("mode=finetune", "train.heldout_every_steps=0", "sample.prompts=[]")
    with place.hanging(*words, at=5, state=4) as process:
        process.kill()
    told = place.finish(*words)
    assert "fine_tune.py counts from 0 when it goes on from a state" in told
    assert "fine_tune.py measures no held-out loss" in told
    assert place.starts() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert place.told()["max_train_steps"] == 4
    assert not {"initial_step", "skip_until_initial_step"} & set(place.told())
    rates = [event["lr"] for event in place.events("step")]
    assert rates == pytest.approx([cosine(step) for step in range(1, 9)], rel=1e-5, abs=1e-9)
    assert [event["step"] for event in place.events("checkpoint")][-1] == 8


# ------------------------------------------------------------------------------------------------------------- caches


def test_a_cache_of_another_picture_is_not_trained_on(place: Place) -> None:
    words = ("backend.cache_latents=disk", "train.max_steps=2", "data.heldout_fraction=0")
    first = place.finish(*words, f"hydra.run.dir={place.dir / 'first'}")
    assert "backend.stale_cache" not in first
    picture = given.picture(place.dir / "pictures" / "3.png", "cat 3, tag", seed="another", size=(64, 64))
    cache = place.dir / "pictures" / "3_0064x0064_sd.npz"
    digest = hashlib.sha256(picture.read_bytes()).digest()
    before = stamps(place)
    assert digest not in cache.read_bytes()
    refused = place.refusal(*words)
    assert f"1 cache does not fit this run, and sd-scripts would train on what is in there: {cache}" in refused
    assert "the picture has changed" in refused
    assert "try: backend.stale_cache=clear" in refused
    place.finish(*words, "backend.stale_cache=clear")
    assert digest in cache.read_bytes()
    changed = {name for name, stamp in stamps(place).items() if stamp != before[name]}
    assert changed == {cache.name}
    place.finish(*words, f"hydra.run.dir={place.dir / 'third'}")


# ------------------------------------------------------------------------------------------------------ before a start


def test_without_a_checkout_it_is_rendered_for_the_audited_version(place: Place) -> None:
    told = place.finish("until=render", "backend.root=null", "backend.python=null")
    assert "no checkout is named: this is rendered for sd-scripts" in told
    assert "cd sd-scripts &&" in told
    assert "python -m accelerate.commands.launch" in told
    assert place.told()["max_train_steps"] == 8


def test_a_training_without_a_checkout_is_refused(place: Place) -> None:
    told = place.refusal("backend.root=null", "backend.python=null")
    assert "backend.root=null: backend=kohya trains with your own checkout of kohya-ss/sd-scripts" in told
    assert "export SD_SCRIPTS_ROOT=FOLDER" in told
    assert "git clone https://github.com/kohya-ss/sd-scripts" in told


def test_a_folder_that_is_no_checkout(place: Place) -> None:
    told = place.refusal(f"backend.root={place.dir}")
    assert f"backend.root={place.dir}: is no checkout of sd-scripts: it has no train_network.py" in told


def test_arguments_that_would_have_no_effect_are_told_together(place: Place) -> None:
    told = place.refusal(
        "backend.args.flip_agu=true",
        "backend.args.min_timestep=many",
        "backend.args.loss_type=l3",
        "backend.args.output_name=x",
        "backend.network_args.conv_dim=4",
        "backend.network_args.rank_drop=0.1",
    )
    assert told.startswith("6 problems")
    for words in (
        "flip_agu=true: train_network.py has no argument flip_agu. Did you mean flip_aug?",
        "min_timestep=many: must be a whole number",
        "loss_type=l3: must be one of l1, l2, huber, smooth_l1.",
        "output_name=x: is what backend.weights_name sets",
        "backend.network_args.conv_dim=4: is what network.conv_rank sets",
        "rank_drop=0.1: networks.lora knows no such argument and would ignore it. Did you mean rank_dropout?",
    ):
        assert words in told, told
