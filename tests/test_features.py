"""The cache of what encoders made: found again by what went in, and by nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from pipeline.__main__ import main
from pipeline.backends.native import encoding
from pipeline.backends.native.encoding import (
    Pictures,
    Telling,
    cuts_of,
    encode_captions,
    encode_pictures,
    side_of,
    wanted_of,
)
from pipeline.backends.native.features import latent_key, latent_space, text_space
from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.support import native_problems, native_warnings
from pipeline.checkpoint.contents import weights_digest
from pipeline.dataset.scan import scan
from pipeline.errors import UnreadableFile
from pipeline.features.room import kept, make_room, verify
from pipeline.features.shelf import SHARD_FEATURES, Shelf
from pipeline.features.space import Space, key_of
from pipeline.memory.profiles import first_candidate
from pipeline.records import Facts
from pipeline.settings import PROJECT, Settings
from tests import given, native_jobs
from tests.conftest import PlanFor, compose_settings

CPU = torch.device("cpu")
SPACE = Space("latents", {"vae": "one"})


class Told:
    """What an encoding tells, and where it is to be stopped."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.phases: list[str] = []
        self.warnings: list[str] = []
        self._left = stop_at

    @property
    def telling(self) -> Telling:
        return Telling(self.phases.append, self._between, self.warnings.append)

    def _between(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt

    @property
    def encoded(self) -> list[str]:
        return [text for text in self.phases if text.startswith("encoding")]


@pytest.fixture
def job(plan_for: PlanFor, tmp_path: Path) -> NativeJob:
    """A job on four pictures of its own, with a cache of its own."""
    for number, size in enumerate([(64, 64), (96, 64), (64, 64), (70, 50)]):
        given.picture(tmp_path / "pictures" / f"{number}.png", f"caption {number}", size=size)
    return job_on(plan_for, tmp_path)


def job_on(plan_for: PlanFor, folder: Path, *overrides: str, model: Path | None = None) -> NativeJob:
    """As the pictures in the folder are now."""
    plan = plan_for(f"cache.dir={folder / 'cache'}", *overrides, **({} if model is None else {"model": model}))
    data = replace(plan.settings.data, dir=str(folder / "pictures"), heldout_dir=None)
    dataset, problems = scan(data, threads=2)
    assert dataset is not None and not problems
    run_dir = folder / f"run{len(list(folder.glob('run*')))}"
    run_dir.mkdir()
    from pipeline.render import render

    render(replace(plan, dataset=dataset), run_dir)
    return NativeJob.read(run_dir / "job" / "train.toml")


def encode(job: NativeJob, told: Told | None = None) -> tuple[Shelf, Told]:
    told = told or Told()
    return encode_pictures(job, job.pictures(), CPU, told.telling), told


def keys(job: NativeJob) -> list[str]:
    return [latent_key(row, side_of(row, job.train.resolution_px, job.train)) for row in job.pictures()]


def feature(number: float, *, size: int = 4) -> torch.Tensor:
    return torch.full((size,), float(number))


# ------------------------------------------------------------------------------------------------------- what is found


def test_what_is_encoded_once_is_never_encoded_again(job: NativeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    first, told = encode(job)
    assert told.encoded[0] == "encoding 4 pictures"
    monkeypatch.setattr(encoding, "load_autoencoder", no_encoder)
    second, again = encode(job)
    assert again.encoded == []
    for key in keys(job):
        assert torch.equal(first.read(key), second.read(key))


def no_encoder(*_: object) -> Any:
    raise AssertionError("an encoder was loaded")


def test_captions_are_encoded_once(job: NativeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [str(row["caption"]) for row in job.pictures()]
    first = encode_captions(job, captions, CPU, Told().telling).of(captions)
    monkeypatch.setattr(encoding, "load_text_parts", no_encoder)
    assert torch.equal(encode_captions(job, captions, CPU, Told().telling).of(captions), first)


SEVERAL = ("train.more_resolutions_px=[96]", "train.flip=true")


def test_each_resolution_and_mirror_image_is_an_encoding_of_its_own(
    plan_for: PlanFor, job: NativeJob, tmp_path: Path
) -> None:
    """Of four pictures none is large enough for 96 px, until two come that are."""
    encode(job)
    for number in (4, 5):
        given.picture(tmp_path / "pictures" / f"{number}.png", f"caption {number}", size=(128, 96))
    several = job_on(plan_for, tmp_path, *SEVERAL)
    cuts = cuts_of(several.pictures(), several.train, "train")
    assert [cut.resolution_px for cut in cuts] == [64] * 6 + [96] * 2
    made = [cut.key(mirrored=mirrored) for cut in cuts for mirrored in (False, True)]
    assert len({*made}) == 16
    _, told = encode(several)
    assert told.encoded[0] == "encoding 12 pictures", "the four are there as they are"


def test_a_mirror_image_is_encoded_as_a_mirrored_picture_is(plan_for: PlanFor, tmp_path: Path) -> None:
    """And so not as mirrored latents."""
    path = given.picture(tmp_path / "pictures" / "0.png", "caption", size=(96, 96))
    with Image.open(path) as image:
        ImageOps.mirror(image).save(path.with_name("1.png"))
    path.with_name("1.txt").write_text("caption")
    job = job_on(plan_for, tmp_path, *SEVERAL)
    shelf, _ = encode(job)
    pictures = Pictures(cuts_of(job.pictures(), job.train, "train"), job.train, shelf)
    assert [each.path.name for each in pictures] == ["0.png", "1.png"] * 2
    for index, other in ((0, 1), (2, 3)):
        mirrored = pictures.read(index, mirrored=True)
        assert torch.equal(mirrored.mean, pictures[other].mean)
        assert not torch.equal(mirrored.mean, pictures[index].mean.flip(-1))
    assert [tuple(each.mean.shape) for each in pictures] == [(4, 8, 8)] * 2 + [(4, 12, 12)] * 2


def test_what_is_held_out_is_judged_at_the_base_as_it_is(plan_for: PlanFor, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    native_jobs.new_job(plan_for, run_dir, *SEVERAL, "train.more_resolutions_px=[32]")
    job = NativeJob.read(run_dir / "job" / "train.toml")
    held = cuts_of(job.pictures(), job.train, "heldout")
    assert len(held) == len([row for row in job.pictures() if row["split"] == "heldout"]) > 0
    assert {cut.resolution_px for cut in held} == {64}
    encodings = {wanted.cut.key(mirrored=wanted.mirrored) for wanted in wanted_of(job.pictures(), job.train)}
    assert not encodings & {cut.key(mirrored=True) for cut in held}


def test_an_edited_picture_is_encoded_anew_under_its_old_name(
    plan_for: PlanFor, job: NativeJob, tmp_path: Path
) -> None:
    before, _ = encode(job)
    path = tmp_path / "pictures" / "0.png"
    times = path.stat()
    given.picture(path, "caption 0", size=(64, 64), seed="other")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    edited = job_on(plan_for, tmp_path)
    after, told = encode(edited)
    assert told.encoded[0] == "encoding 1 picture"
    assert not torch.equal(before.read(keys(job)[0]), after.read(keys(edited)[0]))


def test_a_picture_that_changes_after_it_was_looked_at_is_not_kept_under_its_old_digest(
    job: NativeJob, tmp_path: Path
) -> None:
    given.picture(tmp_path / "pictures" / "3.png", "caption 3", size=(70, 50), seed="other")
    with pytest.raises(UnreadableFile, match=r"3\.png has changed"):
        encode(job)
    assert Shelf(Path(job.cache_dir), latent_space(job)).missing(keys(job)) >= {keys(job)[3]}


def test_an_edited_caption_is_encoded_anew(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    captions = [str(row["caption"]) for row in job.pictures()]
    encode_captions(job, captions, CPU, Told().telling)
    (tmp_path / "pictures" / "0.txt").write_text("another caption")
    edited, told = job_on(plan_for, tmp_path), Told()
    encode_captions(edited, [str(row["caption"]) for row in edited.pictures()], CPU, told.telling)
    assert told.encoded == ["encoding 1 caption"]


def test_a_renamed_picture_is_not_encoded_again(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    encode(job)
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "pictures")
    for ending in ("png", "txt"):
        (tmp_path / "pictures" / f"0.{ending}").rename(tmp_path / "pictures" / f"zebra.{ending}")
    assert encode(job_on(plan_for, tmp_path))[1].encoded == []


def test_another_resolution_is_another_feature(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    encode(job)
    larger = job_on(plan_for, tmp_path, "train.resolution_px=128")
    assert encode(larger)[1].encoded[0] == "encoding 4 pictures"


def test_one_number_of_the_autoencoder_makes_everything_anew(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    encode(job)
    shutil.copytree(job.model.path, tmp_path / "model")
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    other = job_on(plan_for, tmp_path, model=tmp_path / "model")
    assert latent_space(other) != latent_space(job)
    assert text_space(other) == text_space(job)
    assert encode(other)[1].encoded[0] == "encoding 4 pictures"


def test_another_layer_of_the_text_encoder_is_another_space(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    assert text_space(job_on(plan_for, tmp_path, "model.clip_skip=1")) != text_space(job)


def test_longer_captions_are_another_space(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    """A caption of one word has as many positions then as the longest."""
    captions = [str(row["caption"]) for row in job.pictures()]
    short = encode_captions(job, captions, CPU, Told().telling).of(captions)
    longer, told = job_on(plan_for, tmp_path, "train.caption_tokens=150"), Told()
    assert text_space(longer) != text_space(job)
    embeddings = encode_captions(longer, captions, CPU, told.telling).of(captions)
    assert told.encoded != []
    assert (short.shape[1], embeddings.shape[1]) == (32, 62)


def test_captions_that_are_drawn_are_encoded_at_each_step(plan_for: PlanFor, job: NativeJob, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "0.txt").write_text("{a|b}")
    for wildcards, kept_there in ((True, False), (False, True)):
        other = job_on(plan_for, tmp_path, f"data.wildcards={str(wildcards).lower()}")
        captions = [str(row["caption"]) for row in other.pictures()]
        assert (encode_captions(other, captions, CPU, Told().telling).shelf is not None) == kept_there


def test_the_same_weights_in_another_file_are_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "one.safetensors", metadata={"title": "one"})
    save_file({f"vae.{key}": value for key, value in tensors.items()} | {"x": torch.zeros(1)}, tmp_path / "two")
    assert weights_digest([tmp_path / "one.safetensors"]) == weights_digest([tmp_path / "two"], "vae.")
    assert weights_digest([tmp_path / "one.safetensors"]) != weights_digest([tmp_path / "two"])


# ----------------------------------------------------------------------------------------------- stopped, and together


def test_an_encoding_that_was_stopped_goes_on_and_ends_with_the_same_bits(job: NativeJob, tmp_path: Path) -> None:
    whole, _ = encode(replace(job, cache_dir=str(tmp_path / "other")))
    with pytest.raises(KeyboardInterrupt):
        encode(job, Told(stop_at=2))
    shelf, told = encode(job)
    assert told.encoded[0] == "encoding 2 pictures"
    for key in keys(job):
        assert torch.equal(shelf.read(key), whole.read(key))


WRITER = """
import sys, torch
from pathlib import Path
from pipeline.features.shelf import Shelf
from pipeline.features.space import Space, key_of
shelf = Shelf(Path(sys.argv[1]), Space("latents", {"vae": "one"}))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    shelf.put(key_of(number), torch.full((4,), float(number)))
    if number % 7 == 0:
        shelf.flush()
shelf.close()
"""


def test_several_processes_may_write_at_once(tmp_path: Path) -> None:
    parts = [("0", "60"), ("40", "100"), ("0", "100")]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), *part], cwd=PROJECT) for part in parts]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    shelf = Shelf(tmp_path, SPACE)
    assert shelf.missing(key_of(number) for number in range(100)) == set()
    assert all(torch.equal(shelf.read(key_of(number)), feature(number)) for number in range(100))


def test_of_two_that_would_encode_the_same_the_second_waits_and_finds_it(tmp_path: Path) -> None:
    first, second = Shelf(tmp_path, SPACE), Shelf(tmp_path, SPACE)
    told: list[str] = []

    def finished() -> None:
        if inside:
            first.put("a", feature(1))
            writing.__exit__(None, None, None)
            inside.clear()

    inside = [True]
    writing = first.writing(between=lambda: None, waiting=lambda: None)
    writing.__enter__()
    with second.writing(between=finished, waiting=lambda: told.append("waiting")):
        assert told == ["waiting"]
        assert second.missing(["a"]) == set()


def test_a_large_shelf_is_many_files_and_each_is_full(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, SPACE)
    for number in range(2 * SHARD_FEATURES + 1):
        shelf.put(key_of(number), feature(number))
    shelf.close()
    assert len(list(shelf.folder.glob("*.safetensors"))) == 3


def test_what_was_read_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.features.shelf.MEMORY_BYTES", 100)
    shelf = Shelf(tmp_path, SPACE)
    for number in range(10):
        shelf.put(key_of(number), feature(number, size=10))
    shelf.flush()
    for number in range(10):
        assert torch.equal(shelf.read(key_of(number)), feature(number, size=10))
    assert sum(each.nbytes for each in shelf._memory.values()) <= 100


# --------------------------------------------------------------------------------------------------------- what breaks


def one_feature(cache: Path) -> tuple[Shelf, Path]:
    shelf = Shelf(cache, SPACE)
    shelf.put("a", feature(1))
    shelf.close()
    return shelf, next(shelf.folder.glob("*.safetensors"))


def test_a_damaged_feature_is_not_trained_on(tmp_path: Path) -> None:
    _, shard = one_feature(tmp_path)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UnreadableFile, match="cache verify"):
        Shelf(tmp_path, SPACE).read("a")


def test_a_file_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    _, shard = one_feature(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-3])
    shelf = Shelf(tmp_path, SPACE)
    assert shelf.missing(["a"]) == {"a"}
    one_feature(tmp_path)
    assert Shelf(tmp_path, SPACE).missing(["a"]) == set()


def test_verify_removes_what_is_damaged_and_keeps_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, shard = one_feature(tmp_path)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    shelf = Shelf(tmp_path, SPACE)
    shelf.put("b", feature(2))
    shelf.close()
    assert main(["cache", "verify", "--dir", str(tmp_path)]) == 1
    assert str(shard) in capsys.readouterr().out
    assert verify(tmp_path).damaged == ()
    assert Shelf(tmp_path, SPACE).missing(["a", "b"]) == {"a"}


# ------------------------------------------------------------------------------------------------------------ the limit


def filled(cache: Path, vae: str, used: int) -> Space:
    space = Space("latents", {"vae": vae})
    shelf = Shelf(cache, space)
    shelf.put("a", feature(used, size=1000))
    shelf.close()
    for shard in shelf.folder.glob("*.safetensors"):
        os.utime(shard, (used, used))
    return space


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    spaces = {used: filled(tmp_path, f"vae {used}", used) for used in (200, 100, 300)}
    assert make_room(tmp_path, 9000).files == 1
    assert [row.name for row in kept(tmp_path)] == [spaces[300].name, spaces[200].name]


def test_using_a_feature_keeps_it_longer(tmp_path: Path) -> None:
    old, new = filled(tmp_path, "old", 100), filled(tmp_path, "new", 200)
    shelf = Shelf(tmp_path, old)
    shelf.use(["a"])
    shelf.close()
    make_room(tmp_path, 5000)
    assert [row.name for row in kept(tmp_path)] == [old.name]
    assert new.name not in {folder.name for folder in tmp_path.rglob("*")}


def test_what_a_run_is_reading_is_not_removed(tmp_path: Path) -> None:
    space = filled(tmp_path, "old", 100)
    shelf = Shelf(tmp_path, space)
    assert make_room(tmp_path, 0).files == 0
    assert torch.equal(shelf.read("a"), feature(100, size=1000))
    shelf.close()
    assert make_room(tmp_path, 0).files == 1


def test_what_a_killed_writer_left_unfinished_is_removed(tmp_path: Path) -> None:
    space = filled(tmp_path, "old", 100)
    unfinished = space.folder(tmp_path) / "x.safetensors.1.part"
    unfinished.write_bytes(b"half")
    make_room(tmp_path, 1e9)
    assert not unfinished.exists()


def with_cache(folder: Path, *, pictures: int = 24, max_gib: float = 50.0) -> tuple[Settings, Facts]:
    settings = compose_settings(f"cache.dir={folder}", f"cache.max_gib={max_gib}")
    return first_candidate(settings, 0), given.facts(dataset=given.dataset(train=pictures))


def test_a_cache_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = native_problems(*with_cache(tmp_path / "file" / "cache"))
    assert (problem.key, problem.reason) == ("cache.dir", f"{tmp_path / 'file'} is not a folder")


def test_a_dataset_that_does_not_fit_on_the_disk_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    (problem,) = native_problems(*with_cache(tmp_path))
    assert problem.key == "cache.dir" and "1000 bytes are free" in problem.reason
    filled(tmp_path, "old", 100)
    shard = next(tmp_path.rglob("*.safetensors"))
    with shard.open("ab") as file:
        file.truncate(1 << 30)
    assert list(native_problems(*with_cache(tmp_path))) == []


def test_a_dataset_that_is_larger_than_the_limit_is_warned_of(tmp_path: Path) -> None:
    assert "cache.max_gib=0.001" in next(native_warnings(*with_cache(tmp_path, max_gib=0.001)))
    assert list(native_warnings(*with_cache(tmp_path))) == []


# ----------------------------------------------------------------------------------------------------------- the verbs


def test_show_tells_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, "0123456789abcdef", 100)
    assert main(["cache", "show", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "1 features" in told and "0123456789" in told
    assert main(["cache", "show", "--dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spaces"][0]["features"] == 1


def test_prune_leaves_at_most_what_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, "old", 100)
    assert main(["cache", "prune", "--dir", str(tmp_path), "--max-gib", "0"]) == 0
    assert "1 file removed" in capsys.readouterr().out
    assert kept(tmp_path) == []


def test_a_page_that_was_not_used_for_longest_goes_before_a_feature(tmp_path: Path) -> None:
    filled(tmp_path, "new", 200)
    page = tmp_path / "pages" / "a.html"
    page.parent.mkdir()
    page.write_text("x" * 5000)
    os.utime(page, (100, 100))
    assert make_room(tmp_path, 6000).files == 1
    assert not page.exists() and len(kept(tmp_path)) == 1


def test_the_verbs_look_where_runs_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_EASY_CACHE", str(tmp_path / "elsewhere"))
    assert main(["cache", "show"]) == 0
    assert str(tmp_path / "elsewhere") in capsys.readouterr().out
    assert compose_settings().cache.dir == str(tmp_path / "elsewhere")


def test_show_of_a_cache_that_is_not_there_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "show", "--dir", str(tmp_path / "none")]) == 0
    assert "0 features" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- the training


@pytest.mark.slow
def test_a_run_on_a_warm_cache_ends_with_the_same_bytes(plan_for: PlanFor, tmp_path: Path) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    cold = native_jobs.finish(native_jobs.new_job(plan_for, tmp_path / "cold", cache))
    warm_job = native_jobs.new_job(plan_for, tmp_path / "warm", cache)
    warm = native_jobs.finish(warm_job)
    assert warm.read_bytes() == cold.read_bytes()
    phases = [event["text"] for event in native_jobs.events(warm_job.run_dir, "phase")]
    assert not [text for text in phases if text.startswith("encoding")]


@pytest.mark.slow
def test_a_training_leaves_no_more_than_the_limit(plan_for: PlanFor, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    native_jobs.finish(native_jobs.new_job(plan_for, tmp_path / "run", f"cache.dir={cache}", "cache.max_gib=1e-5"))
    assert sum(row.bytes for row in kept(cache)) <= 1e-5 * 2**30
