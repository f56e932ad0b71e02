"""What is known of pictures from earlier scans, in an SQLite file: only what has changed is read again.

Several processes may use it at once. It is a convenience: where it can't be written, or is damaged, the pictures are
read again, and `trouble` says so.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.picture import Look

FILE_NAME = "pictures.sqlite"
RACY_NS = 2_000_000_000
"""A file that was changed less than this before it was looked at may be changed again without another time on it:
clocks of file systems tick up to two seconds apart (FAT)."""
DAY_SECONDS = 86_400
FORGOTTEN_DAYS = 90
"""What no scan has asked for in so many days is removed, for it is most likely gone."""
TOLD_AGAIN_DAYS = 7
"""How old the day of the last question may grow before it is written anew."""
MOST_FORGOTTEN = 20_000
"""In one scan, so that none takes long."""
BUSY_SECONDS = 5.0
ROWS_A_WRITE = 256
SECONDS_A_WRITE = 2.0

SCHEMA = """
create table if not exists picture_1 (
    path blob primary key, size integer, mtime_ns integer, ctime_ns integer, inode integer, looked_ns integer,
    asked_day integer, digest blob, width_px integer, height_px integer, orientation integer, mode text, alike blob,
    blank integer, animated integer
) without rowid
"""
"""The number in the name is that of what the columns mean; a newer one begins an empty table."""

Row = tuple[Any, ...]
"""As SQLite gives it: a file that others can write may hold anything."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the system says of a file before it is read. All but the last must be equal for what was known to hold."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    looked_ns: int
    """When that was, in nanoseconds since the epoch."""

    @property
    def is_sure(self) -> bool:
        """A later change would have left another time on the file."""
        return max(self.mtime_ns, self.ctime_ns) + RACY_NS < self.looked_ns


def stamp_of(status: os.stat_result, looked_ns: int) -> Stamp:
    inode = status.st_ino if status.st_ino < 2**63 else status.st_ino - 2**64  # SQLite's integers are signed
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode, looked_ns)


class Kept:
    """The open file, or nothing where it can't be used."""

    def __init__(self, folder: Path | None) -> None:
        self.trouble: str | None = None
        """Why it is of no use."""
        self._path = None if folder is None else folder / FILE_NAME
        self._open: sqlite3.Connection | None = None
        self._today = int(time.time() // DAY_SECONDS)
        self._waiting: list[tuple[object, ...]] = []
        self._old: list[tuple[int, bytes]] = []
        self._written_at = time.monotonic()

    def known(self, paths: Sequence[str], stamps: Sequence[Stamp | None]) -> dict[str, Look]:
        """What still holds, of at most some hundred files."""
        found: dict[str, Look] = {}
        with self._careful():
            if self._open is not None:
                wanted = {os.fsencode(path): (path, stamp) for path, stamp in zip(paths, stamps, strict=True) if stamp}
                for row in self._rows(list(wanted)):
                    path, stamp = wanted[row[0]]
                    if row[1:5] == (stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode):
                        found[path] = _look(row)
                        self._asked(row[0], row[6])
        return found

    def keep(self, path: str, stamp: Stamp, look: Look) -> None:
        """Only what is sure: a row that is there is one that may be trusted."""
        if self._open is not None and stamp.is_sure:
            self._waiting.append(_row(path, stamp, look, self._today))
            late = time.monotonic() - self._written_at > SECONDS_A_WRITE
            if len(self._waiting) >= ROWS_A_WRITE or late:
                self._write()

    def __enter__(self) -> Kept:
        if self._path is not None and not self._opened(self._path) and not self._path.exists():
            self._opened(self._path)  # it was damaged, and is gone now
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        with self._careful():
            if self._open is not None:
                self._forget(self._open)
        self._close()

    def _opened(self, path: Path) -> bool:
        with self._careful():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._open.execute("pragma journal_mode=truncate")  # a write-ahead log is none for folders on a network
            self._open.execute("pragma synchronous=normal")
            self._open.execute(SCHEMA)
            self._open.execute("select * from picture_1 limit 1").fetchone()
        return self._open is not None

    def _rows(self, paths: list[bytes]) -> Iterable[Row]:
        assert self._open is not None
        marks = ",".join("?" * len(paths))
        return self._open.execute(f"select * from picture_1 where path in ({marks})", paths)  # noqa: S608

    def _asked(self, path: bytes, day: int) -> None:
        if day + TOLD_AGAIN_DAYS <= self._today:
            self._old.append((self._today, path))

    def _write(self) -> None:
        """In one transaction, so that others wait a moment only."""
        rows, old = self._waiting, self._old
        self._waiting, self._old, self._written_at = [], [], time.monotonic()
        if self._open is None or not (rows or old):
            return
        with self._careful(), self._open:
            self._open.execute("begin immediate")
            marks = ",".join("?" * 15)
            self._open.executemany(f"insert or replace into picture_1 values ({marks})", rows)  # noqa: S608
            self._open.executemany("update picture_1 set asked_day = ? where path = ?", old)

    def _forget(self, connection: sqlite3.Connection) -> None:
        oldest = self._today - FORGOTTEN_DAYS
        gone = "select path from picture_1 where asked_day < ? limit ?"
        if connection.execute(gone, (oldest, 1)).fetchone():
            connection.execute(f"delete from picture_1 where path in ({gone})", (oldest, MOST_FORGOTTEN))  # noqa: S608

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """Goes without it from the first error on; a damaged file is removed, so that the next begins a new one."""
        try:
            yield
        except sqlite3.OperationalError as error:
            self._go_without(f"can't be used ({error})")
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            self._go_without(f"was damaged, and is begun anew ({error})")
            self._remove()
        except OSError as error:
            self._go_without(f"can't be used ({error.strerror or error})")

    def _go_without(self, reason: str) -> None:
        self.trouble = f"{self._path}, which keeps what is known of pictures, {reason}: they are read again"
        self._close()

    def _close(self) -> None:
        with suppress(sqlite3.Error):
            if self._open is not None:
                self._open.close()
        self._open = None

    def _remove(self) -> None:
        for ending in ("", "-journal"):
            with suppress(OSError):
                Path(f"{self._path}{ending}").unlink()


def _row(path: str, stamp: Stamp, look: Look, today: int) -> tuple[object, ...]:
    return (
        *(os.fsencode(path), stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode, stamp.looked_ns, today),
        *(bytes.fromhex(look.digest), look.width_px, look.height_px, look.orientation, look.mode),
        *(look.alike.to_bytes(8, "big"), look.blank, look.animated),
    )


def _look(row: Row) -> Look:
    """Raises TypeError or ValueError for a row that nobody here has written."""
    digest, width_px, height_px, orientation, mode, alike, blank, animated = row[7:]
    if not (isinstance(digest, bytes) and isinstance(alike, bytes) and isinstance(mode, str) and len(digest) == 32):
        raise TypeError("a row of other kinds")
    if not all(isinstance(number, int) and number > 0 for number in (width_px, height_px, orientation)):
        raise ValueError("a row of other numbers")
    seen = int.from_bytes(alike, "big")
    return Look(digest.hex(), width_px, height_px, orientation, mode, seen, bool(blank), bool(animated))
