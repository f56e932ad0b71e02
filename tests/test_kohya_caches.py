from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.backends.kohya import caches
from pipeline.backends.kohya.caches import (
    KINDS,
    NO_CACHE,
    SIDECAR,
    UNKNOWN,
    Stale,
    announce,
    cache_problems,
    clear,
    record,
    stale_caches,
)
from pipeline.errors import RunError, UnreadableFile
from pipeline.records import Picture

LATENTS = "cat_0512x0768_sdxl.npz"
TEXT = "cat_te_outputs.npz"
CAT = Picture(Path("/pictures/cat.png"), "a cat", 512, 768, "digest of the cat")
DOG = Picture(Path("/pictures/dog.png"), "a dog", 512, 512, "digest of the dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def cache(folder: Path, name: str, *, key: str = "latents", value: float = 0) -> Path:
    np.savez(folder / name, **{key: np.full((4, 8, 8), value)})  # type: ignore[arg-type]
    return folder / name


def stale(folder: Path, *pictures: Picture, **given: Any) -> dict[str, tuple[str, ...]]:
    """Name -> reasons."""
    told = {"vae": "a VAE", "text_encoders": "CLIP", **given}
    return {each.name: each.reasons for each in stale_caches(pictures or (CAT,), folder=folder, **told)}


def made(folder: Path, *pictures: Picture, **given: Any) -> None:
    """As after a run that made the caches that are there."""
    record(pictures or (CAT,), folder=folder, **{"vae": "a VAE", "text_encoders": "CLIP", **given})


def begun(folder: Path, *pictures: Picture, **given: Any) -> None:
    """As before a run."""
    announce(pictures or (CAT,), folder=folder, **{"vae": "a VAE", "text_encoders": "CLIP", **given})


@pytest.fixture
def cached(folder: Path) -> Path:
    """The caches of one picture, and the side-car."""
    cache(folder, LATENTS)
    cache(folder, TEXT, key="hidden_state1")
    made(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------- finding


def test_caches_that_fit_are_not_told(cached: Path) -> None:
    assert stale(cached) == {}


@pytest.mark.parametrize(
    ("picture", "given", "expected"),
    [
        (replace(CAT, digest="another"), {}, {LATENTS: ("the picture has changed",)}),
        (replace(CAT, caption="a tomcat"), {}, {TEXT: ("the caption has changed",)}),
        (CAT, {"vae": "another VAE"}, {LATENTS: ("made with another VAE or resolution",)}),
        (CAT, {"text_encoders": "T5"}, {TEXT: ("made with other text encoders",)}),
        (
            replace(CAT, digest="another"),
            {"vae": "another VAE"},
            {LATENTS: ("the picture has changed", "made with another VAE or resolution")},
        ),
    ],
)
def test_what_changed_is_told_of_the_caches_that_hang_on_it(
    cached: Path, picture: Picture, given: dict[str, str], expected: dict[str, tuple[str, ...]]
) -> None:
    assert stale(cached, picture, **given) == expected


def test_caches_without_an_entry_are_of_unknown_origin(folder: Path) -> None:
    cache(folder, LATENTS)
    cache(folder, TEXT)
    assert stale(folder) == {LATENTS: (UNKNOWN,), TEXT: (UNKNOWN,)}


def test_a_cache_that_something_else_wrote_since_is_of_unknown_origin(cached: Path) -> None:
    os.utime(cached / LATENTS, ns=(1, 1))
    assert list(stale(cached)) == [LATENTS]
    assert "of unknown origin" in stale(cached)[LATENTS][0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.holds}{kind.suffix}")
def test_every_kind_is_known(folder: Path, kind: caches.Kind) -> None:
    name = f"cat{'_0512x0768' if kind.sized else ''}{kind.suffix}"
    cache(folder, name)
    assert stale(folder) == {name: (UNKNOWN,)}
    for architecture in kind.architectures:
        assert stale(folder, architecture=architecture) == {name: (UNKNOWN,)}
    assert stale(folder, architecture="flux" if "flux" not in kind.architectures else "sd") == {}
    made(folder)
    assert stale(folder) == {}
    changed = replace(CAT, digest="x") if kind.holds == "latents" else replace(CAT, caption="x")
    assert list(stale(folder, changed)) == [name]


@pytest.mark.parametrize(
    "name",
    ["dog_0512x0512_sdxl.npz", "dog_te_outputs.npz", "cat_sdxl.npz", "cat.safetensors", "cat.txt", "mycat_te.npz"],
)
def test_other_files_are_not_looked_at(folder: Path, name: str) -> None:
    cache(folder, "made.npz").rename(folder / name)
    assert stale(folder) == {}


@pytest.mark.parametrize("stem", ["cat_flux", "cat_0512x0512", "a.b", "katze ä", "line\nbreak"])
def test_odd_names_of_pictures(folder: Path, stem: str) -> None:
    cache(folder, f"{stem}_1024x1024_sdxl.npz")
    assert stale(folder, replace(CAT, path=Path(f"/x/{stem}.jpg"))) == {f"{stem}_1024x1024_sdxl.npz": (UNKNOWN,)}
    made(folder, replace(CAT, path=Path(f"/x/{stem}.jpg")))
    assert stale(folder, replace(CAT, path=Path(f"/x/{stem}.jpg"))) == {}


def test_pictures_that_share_a_stem_share_their_caches(folder: Path) -> None:
    twin = replace(CAT, path=Path("/pictures/cat.jpg"), digest="digest of the twin")
    cache(folder, LATENTS)
    made(folder, CAT, twin)
    assert stale(folder, twin, CAT) == {}
    assert list(stale(folder, CAT)) == [LATENTS]


def test_a_plain_npz_that_is_no_cache_is_told_as_that(folder: Path) -> None:
    cache(folder, "cat.npz", key="pose")
    cache(folder, "dog.npz")
    (folder / "cow.npz").write_text("no archive")
    cow = replace(CAT, path=Path("/pictures/cow.png"))
    assert stale(folder, CAT, DOG, cow) == {"cat.npz": (NO_CACHE,), "cow.npz": (NO_CACHE,), "dog.npz": (UNKNOWN,)}
    assert stale(folder, CAT, architecture="flux") == {}


def test_a_folder_with_the_name_of_a_cache_is_none(folder: Path) -> None:
    (folder / TEXT).mkdir()
    assert stale(folder) == {TEXT: (NO_CACHE,)}


def test_of_a_link_the_file_counts_that_it_leads_to(cached: Path, tmp_path: Path) -> None:
    elsewhere = cache(tmp_path, "elsewhere.npz")
    (cached / LATENTS).unlink()
    (cached / LATENTS).symlink_to(elsewhere)
    made(cached)
    assert stale(cached) == {}
    cache(tmp_path, "elsewhere.npz", value=7)
    os.utime(elsewhere, ns=(1, 1))
    assert list(stale(cached)) == [LATENTS]


def test_a_link_that_leads_nowhere_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / LATENTS).symlink_to(tmp_path / "nothing.npz")
    assert stale(folder) == {LATENTS: (UNKNOWN,)}


def test_no_folder_has_no_caches(tmp_path: Path) -> None:
    assert stale(tmp_path / "nowhere") == {}


def test_a_folder_that_can_not_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UnreadableFile, match=r"can't be searched for caches: Permission denied"):
        stale(folder)


def test_many_pictures_cost_little(folder: Path) -> None:
    pictures = [replace(CAT, path=Path(f"/pictures/{number:05}.png"), digest=str(number)) for number in range(10_000)]
    for picture in pictures:
        (folder / f"{picture.path.stem}_0512x0512_sd.npz").touch()
        (folder / f"{picture.path.stem}_te_outputs.npz").touch()
    made(folder, *pictures)
    began = time.process_time()
    assert stale(folder, *pictures) == {}
    assert time.process_time() - began < 5
    assert len(stale(folder, *pictures, vae="another")) == 10_000


# ------------------------------------------------------------------------------------------------------ the side-car


def test_the_side_car_is_whole_and_leaves_nothing_beside_it(cached: Path) -> None:
    assert sorted(path.name for path in cached.iterdir()) == [SIDECAR, LATENTS, TEXT]
    said = json.loads((cached / SIDECAR).read_text())
    status = (cached / LATENTS).stat()
    assert said["files"][LATENTS] == {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "origin": {"picture": CAT.digest, "vae": "a VAE"},
    }
    assert set(said["files"][TEXT]["origin"]) == {"caption", "text_encoders"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "[" * 100_000),
        '{"format": 2, "files": {}, "announced": {}}',
        '{"format": 1, "files": [], "announced": 1}',
        '{"format": 1, "files": {"a": {"size": "x"}}, "announced": {}}',
    ],
)
def test_a_damaged_side_car_knows_nothing(cached: Path, text: str) -> None:
    (cached / SIDECAR).write_text(text)
    assert stale(cached) == {LATENTS: (UNKNOWN,), TEXT: (UNKNOWN,)}
    made(cached)
    assert stale(cached) == {}


def test_what_was_recorded_stays_as_it_was(cached: Path) -> None:
    """A later run with other captions did not make the caches that were there."""
    made(cached, replace(CAT, caption="a tomcat"), vae="another VAE")
    assert stale(cached) == {}


def test_a_cache_that_a_run_wrote_anew_is_the_run_s(cached: Path) -> None:
    cache(cached, LATENTS, value=3)
    os.utime(cached / LATENTS, ns=(5, 5))
    made(cached, vae="another VAE")
    assert stale(cached, vae="another VAE") == {}
    assert list(stale(cached)) == [LATENTS]


def test_entries_of_files_that_are_gone_go(cached: Path) -> None:
    (cached / LATENTS).unlink()
    made(cached)
    assert list(json.loads((cached / SIDECAR).read_text())["files"]) == [TEXT]


def test_a_run_says_nothing_of_the_caches_of_other_architectures(cached: Path) -> None:
    cache(cached, "cat_flux_te.npz")
    made(cached, architecture="sdxl")
    assert stale(cached, architecture="flux") == {"cat_flux_te.npz": (UNKNOWN,)}
    assert stale(cached, architecture="sdxl") == {}


def test_a_folder_that_can_not_be_written_is_told(folder: Path) -> None:
    (folder / f"{SIDECAR}.{os.getpid()}.part").mkdir()
    with pytest.raises(RunError, match="can't be written"):
        made(folder)


# -------------------------------------------------------------------------------------------------------- announcing


def test_the_caches_of_a_run_that_was_killed_are_known(folder: Path) -> None:
    begun(folder)
    cache(folder, LATENTS)
    cache(folder, TEXT)
    assert stale(folder) == {}
    assert stale(folder, replace(CAT, caption="a tomcat")) == {TEXT: ("the caption has changed",)}
    begun(folder)
    assert stale(folder) == {}
    made(folder)
    assert stale(folder) == {}


def test_a_cache_that_was_being_written_is_told(folder: Path) -> None:
    begun(folder)
    whole = cache(folder, LATENTS).read_bytes()
    (folder / LATENTS).write_bytes(whole[:-30])
    assert stale(folder) == {LATENTS: ("cut short",)}
    assert clear(stale_caches([CAT], folder=folder, vae="a VAE", text_encoders="CLIP")) == ()
    assert stale(folder) == {}


def test_an_announcement_says_nothing_of_what_was_there_before(folder: Path) -> None:
    cache(folder, LATENTS)
    begun(folder)
    assert stale(folder) == {LATENTS: (UNKNOWN,)}


def test_a_second_announcement_does_not_change_what_the_first_run_made(folder: Path) -> None:
    begun(folder)
    cache(folder, LATENTS)
    begun(folder, vae="another VAE")
    assert stale(folder) == {}
    assert stale(folder, vae="another VAE") == {LATENTS: ("made with another VAE or resolution",)}


def test_after_the_end_nothing_is_announced_any_more(folder: Path) -> None:
    begun(folder)
    made(folder)
    cache(folder, LATENTS)
    assert stale(folder) == {LATENTS: (UNKNOWN,)}


# ---------------------------------------------------------------------------------------------------------- clearing


def test_only_stale_caches_and_their_entries_are_deleted(cached: Path) -> None:
    cache(cached, "dog_te_outputs.npz")
    (cached / "cat.png").write_bytes(b"a picture")
    assert clear(stale_caches([CAT], folder=cached, vae="another", text_encoders="CLIP")) == ()
    assert sorted(path.name for path in cached.iterdir()) == [SIDECAR, "cat.png", TEXT, "dog_te_outputs.npz"]
    assert list(json.loads((cached / SIDECAR).read_text())["files"]) == [TEXT]
    assert stale(cached, vae="another") == {}


def test_no_side_car_is_made_by_clearing(folder: Path) -> None:
    cache(folder, LATENTS)
    clear(stale_caches([CAT], folder=folder, vae="", text_encoders=""))
    assert list(folder.iterdir()) == []


def test_of_a_link_only_the_link_is_deleted(folder: Path, tmp_path: Path) -> None:
    elsewhere = cache(tmp_path, "elsewhere.npz")
    (folder / LATENTS).symlink_to(elsewhere)
    clear(stale_caches([CAT], folder=folder, vae="", text_encoders=""))
    assert list(folder.iterdir()) == []
    assert elsewhere.exists()


@pytest.mark.parametrize("name", ["../cat_te_outputs.npz", "/cat_te_outputs.npz", "cat.png", "", "a\0_te_outputs.npz"])
def test_what_is_no_cache_in_the_folder_is_refused(cached: Path, name: str) -> None:
    outside = cache(cached.parent, TEXT)
    (cached / "cat.png").touch()
    with pytest.raises(ValueError, match="is no name of a cache"):
        clear([Stale(cached, LATENTS, (UNKNOWN,)), Stale(cached, name, (UNKNOWN,))])
    assert outside.exists()
    assert len(list(cached.iterdir())) == 4


def test_a_file_that_is_no_cache_is_not_deleted(folder: Path) -> None:
    cache(folder, "cat.npz", key="pose")
    cache(folder, TEXT)
    found = stale_caches([CAT], folder=folder, vae="", text_encoders="")
    assert clear(found) == ()
    assert [path.name for path in folder.iterdir()] == ["cat.npz"]


def test_what_can_not_be_deleted_is_told_and_its_entry_kept(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    (problem,) = clear(stale_caches([CAT], folder=cached, vae="another", text_encoders="CLIP"))
    assert f"{LATENTS} can't be deleted: Permission denied" in problem.reason
    assert LATENTS in json.loads((cached / SIDECAR).read_text())["files"]


def test_a_cache_that_is_gone_already_is_no_error(cached: Path) -> None:
    found = stale_caches([CAT], folder=cached, vae="another", text_encoders="CLIP")
    (cached / LATENTS).unlink()
    assert clear(found) == ()


# ----------------------------------------------------------------------------------------------------------- telling


def test_one_problem_names_three_and_counts_all(tmp_path: Path) -> None:
    found = [Stale(tmp_path, f"{name}_te_outputs.npz", ("the caption has changed",)) for name in "abcde"]
    (problem,) = cache_problems([*found, Stale(tmp_path, LATENTS, (UNKNOWN,))])
    assert (problem.key, problem.value, problem.fix) == ("backend.stale_cache", "error", "backend.stale_cache=clear")
    assert problem.reason.startswith("6 caches do not fit this run")
    assert f"{tmp_path / 'c_te_outputs.npz'} (the caption has changed) ... and 3 more" in problem.reason
    assert "d_te_outputs" not in problem.reason
    assert "5 the caption has changed, 1 of unknown origin" in problem.reason


def test_a_single_one_is_told_without_a_count(tmp_path: Path) -> None:
    (problem,) = cache_problems([Stale(tmp_path, TEXT, ("the caption has changed",))])
    assert problem.reason.startswith("1 cache does not fit this run")
    assert "in all" not in problem.reason


def test_files_that_are_no_caches_are_told_also_when_clearing(tmp_path: Path) -> None:
    found = [Stale(tmp_path, "cat.npz", (NO_CACHE,)), Stale(tmp_path, TEXT, (UNKNOWN,))]
    assert len(list(cache_problems(found))) == 2
    (problem,) = cache_problems(found, clearing=True)
    assert "cat.npz" in problem.reason
    assert problem.fix == f"move them out of {tmp_path}"


def test_nothing_stale_is_no_problem() -> None:
    assert list(cache_problems([])) == []


# ------------------------------------------------------------------------------------------------------ the real one


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SD_SCRIPTS_ROOT"), reason="SD_SCRIPTS_ROOT says where sd-scripts is")
def test_a_real_checkout_names_no_other_caches() -> None:
    library = Path(os.environ["SD_SCRIPTS_ROOT"]) / "library"
    sources = [path.read_text(encoding="utf-8") for path in sorted(library.glob("*.py"))]
    named = {name for source in sources for name in re.findall(r"SUFFIX\w* = \"(\S*\.npz)\"", source)}
    assert named == {kind.suffix for kind in KINDS}
