"""What is kept of pictures from one scan to the next, and what of it is believed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.dataset import kept as module
from pipeline.dataset.kept import FILE_NAME, FORGOTTEN_DAYS, RACY_NS, Kept, Stamp, stamp_of
from pipeline.dataset.picture import Look, look_at
from pipeline.dataset.scan import scan
from pipeline.records import Dataset
from pipeline.settings import PROJECT
from tests import given

LATER_NS = 60 * 10**9


def stamped(path: Path, *, after_ns: int = LATER_NS) -> Stamp:
    """As if it was looked at so long after its last change."""
    status = path.stat()
    return stamp_of(status, max(status.st_mtime_ns, status.st_ctime_ns) + after_ns)


def look(path: Path) -> Look:
    found = look_at(path)
    assert isinstance(found, Look)
    return found


def remember(folder: Path, path: Path, stamp: Stamp) -> None:
    with Kept(folder) as kept:
        kept.keep(str(path), stamp, look(path))
        assert kept.trouble is None


def recalled(folder: Path, path: Path, stamp: Stamp | None = None) -> Look | None:
    with Kept(folder) as kept:
        return kept.known([str(path)], [stamp or stamped(path)]).get(str(path))


def scanned(folder: Path, cache_dir: Path) -> Dataset:
    found, problems = scan(given.data(folder), threads=2, cache_dir=cache_dir)
    assert problems == ()
    assert found is not None
    return found


def rows(folder: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / FILE_NAME)
    try:
        return connection.execute("select path, asked_day from picture_1 order by path").fetchall()
    finally:
        connection.close()


# ---------------------------------------------------------------------------------------------------- what is believed


def test_what_is_kept_is_what_was_seen(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "a.png", size=(40, 30))
    remember(tmp_path / "cache", path, stamped(path))
    assert recalled(tmp_path / "cache", path) == look(path)


@pytest.mark.parametrize("change", ["content", "size", "time", "another file", "rights"])
def test_any_change_to_the_file_is_seen(tmp_path: Path, change: str) -> None:
    path = given.picture(tmp_path / "a.bmp")
    before = path.stat()
    remember(tmp_path / "cache", path, stamped(path))
    time.sleep(0.02)  # more than a tick of the system's clock
    if change == "content":  # of equal size, and the time put back: ctime tells
        given.picture(path, seed="another")
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "size":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "time":
        os.utime(path, (1, 1))
    elif change == "another file":
        given.picture(tmp_path / "b.bmp").rename(path)
    else:
        path.chmod(0o600)
    assert recalled(tmp_path / "cache", path) is None


def test_a_file_changed_in_the_tick_that_it_was_looked_at_is_read_again(tmp_path: Path) -> None:
    """Its next content may have the very same size and times."""
    path = given.picture(tmp_path / "a.png")
    remember(tmp_path / "cache", path, stamped(path, after_ns=RACY_NS))
    assert recalled(tmp_path / "cache", path) is None
    remember(tmp_path / "cache", path, stamped(path, after_ns=RACY_NS + 1))
    assert recalled(tmp_path / "cache", path) is not None


def test_a_new_picture_is_not_believed_by_the_scan_itself(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "in" / "a.png")
    scanned(tmp_path / "in", tmp_path / "cache")
    assert rows(tmp_path / "cache") == []
    old = time.time() - 60
    os.utime(path, (old, old))
    scanned(tmp_path / "in", tmp_path / "cache")
    assert rows(tmp_path / "cache") == [], "its ctime is new"


def test_a_second_scan_reads_no_picture_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by what is kept of it: made to say something else, that is what the scan says."""
    path = given.picture(tmp_path / "in" / "a.png")
    remember(tmp_path / "cache", path, stamped(path))
    connection = sqlite3.connect(tmp_path / "cache" / FILE_NAME)
    connection.execute("update picture_1 set width_px = 4321")
    connection.commit()
    connection.close()
    assert scanned(tmp_path / "in", tmp_path / "cache").train[0].width_px == 4321


def test_an_edited_caption_is_always_seen(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "in" / "a.png", "a cat")
    remember(tmp_path / "cache", path, stamped(path))
    path.with_suffix(".txt").write_text("a dog")
    assert scanned(tmp_path / "in", tmp_path / "cache").train[0].caption == "a dog"


def test_the_dataset_is_the_same_with_and_without_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RACY_NS", -LATER_NS)  # what is as new as these is believed too
    for i in range(600):  # more than are asked for, and written, at once
        given.picture(tmp_path / "in" / f"{i:03}.png", f"caption {i}")
    first = scanned(tmp_path / "in", tmp_path / "cache")
    assert len(rows(tmp_path / "cache")) == 600
    assert scanned(tmp_path / "in", tmp_path / "cache") == first == scanned(tmp_path / "in", tmp_path / "no")


# ------------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = given.picture(tmp_path / "in" / "a.png")
    (tmp_path / FILE_NAME).write_bytes(content)
    told = scanned(tmp_path / "in", tmp_path).warnings
    assert len(told) == 1
    assert "was damaged" in told[0]
    remember(tmp_path, path, stamped(path))
    assert recalled(tmp_path, path) is not None


def test_a_row_that_nobody_here_has_written_is_not_believed(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "in" / "a.png")
    remember(tmp_path, path, stamped(path))
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("update picture_1 set digest = 'no digest'")
    connection.commit()
    connection.close()
    dataset = scanned(tmp_path / "in", tmp_path)
    assert "was damaged" in dataset.warnings[0]
    assert dataset.train[0].digest == look(path).digest


def test_a_folder_that_can_not_be_made_is_worked_around(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png")
    (tmp_path / "file").write_text("in the way")
    told = scanned(tmp_path / "in", tmp_path / "file" / "cache").warnings
    assert len(told) == 1
    assert "can't be used (Not a directory)" in told[0]


def test_one_that_another_process_does_not_let_go_of_is_worked_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    path = given.picture(tmp_path / "in" / "a.png")
    remember(tmp_path, path, stamped(path))
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("begin exclusive")
    with Kept(tmp_path) as kept:
        kept.keep(str(path), stamped(path), look(path))
    other.execute("rollback")
    other.close()
    assert kept.trouble is not None
    assert "locked" in kept.trouble
    assert recalled(tmp_path, path) is not None


def test_several_processes_scan_at_once(tmp_path: Path) -> None:
    for i in range(60):
        given.picture(tmp_path / "in" / f"{i}.png", f"caption {i}")
    code = f"""
from pathlib import Path
from pipeline.dataset import kept
from pipeline.dataset.scan import scan
from tests import given
kept.RACY_NS, kept.ROWS_A_WRITE = -10**12, 3
dataset, problems = scan(
    given.data(Path({str(tmp_path / "in")!r})),
    threads=2,
    cache_dir=Path({str(tmp_path / "cache")!r}),
)
assert not problems and not dataset.warnings, (problems, dataset.warnings)
print(dataset.digest)
"""
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(told) == 1
    assert len(rows(tmp_path / "cache")) == 60


# ---------------------------------------------------------------------------------------------------- what is forgotten


def aged(folder: Path, days: int) -> None:
    connection = sqlite3.connect(folder / FILE_NAME)
    connection.execute("update picture_1 set asked_day = asked_day - ?", (days,))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("days", "left"), [(FORGOTTEN_DAYS, 1), (FORGOTTEN_DAYS + 1, 0)])
def test_what_nobody_asks_for_is_forgotten_after_a_while(tmp_path: Path, days: int, left: int) -> None:
    path = given.picture(tmp_path / "a.png")
    remember(tmp_path, path, stamped(path))
    aged(tmp_path, days)
    with Kept(tmp_path):
        pass
    assert len(rows(tmp_path)) == left


def test_what_is_asked_for_is_remembered_however_old(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "a.png")
    remember(tmp_path, path, stamped(path))
    aged(tmp_path, FORGOTTEN_DAYS + 1)
    for _ in range(2):
        assert recalled(tmp_path, path) is not None
