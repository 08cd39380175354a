"""A seen-index: which row came first with an id, an image's path, a source file. On disk, not in memory.

    >>> with open_seen_index(folder / "seen_index.sqlite") as seen_index:
    ...     seen_index.register_id("train-0000000000")                       # True: no row had it
    ...     seen_index.register("a.png", "5f70...", "train-0000000000")     # None, or the (sha256, row) before it

SQLite keeps a few MB in memory however many rows there are, and its answers are exact. The file is temporary: never
synced, and removed at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from phiv_schemas.errors import EnvironmentProblem

_SETUP = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -16000;
CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE names (number INTEGER PRIMARY KEY, name TEXT UNIQUE, value TEXT, row TEXT);
CREATE TABLE sources (sha256 TEXT, name TEXT, PRIMARY KEY (sha256, name)) WITHOUT ROWID;
BEGIN;
"""


@dataclass(slots=True)
class SeenIndex:
    """An open index; `num_registered` names are in it so far. For one thread at a time."""

    _db: sqlite3.Connection
    num_registered: int = 0

    def register_id(self, row_id: str | bytes) -> bool:
        """True when no row had this id."""
        return self._db.execute("INSERT OR IGNORE INTO ids VALUES (?)", (row_id,)).rowcount == 1

    def register(self, name: str, value: str, row: str) -> tuple[str, str] | None:
        """None when the name (an image's path) is new; else the value and the row that it was first registered with."""
        insert = "INSERT OR IGNORE INTO names (name, value, row) VALUES (?, ?, ?)"
        if self._db.execute(insert, (name, value, row)).rowcount == 1:
            self.num_registered += 1
            return None
        found: tuple[str, str] = self._db.execute("SELECT value, row FROM names WHERE name = ?", (name,)).fetchone()
        return found

    def add_source(self, sha256: str, name: str) -> None:
        """An input with these bytes has this name."""
        self._db.execute("INSERT OR IGNORE INTO sources VALUES (?, ?)", (sha256, name))

    def registered(self) -> Iterator[tuple[str, str]]:
        """(name, value) of every registered name, in the order of registration."""
        yield from self._db.execute("SELECT name, value FROM names ORDER BY number")

    def identical_sources(self) -> list[list[str]]:
        """Groups of names of the same bytes, sorted."""
        several = "SELECT sha256 FROM sources GROUP BY sha256 HAVING count(*) > 1"
        rows = self._db.execute(f"SELECT * FROM sources WHERE sha256 IN ({several}) ORDER BY sha256, name")
        return sorted([name for _, name in group] for _, group in groupby(rows, key=lambda row: row[0]))


@contextmanager
def open_seen_index(path: Path | None = None) -> Iterator[SeenIndex]:
    """An empty index at `path`, removed in the end; without one in a temporary file that SQLite makes when needed.

    EnvironmentProblem when the disk is full and the like.
    """
    try:
        if path is not None:
            path.unlink(missing_ok=True)
        # nolock: one process, one connection; network file systems are slow or wrong at locks.
        address = f"{path.absolute().as_uri()}?nolock=1" if path is not None else ""
        # An iterator may be read by another thread than made it (prefetching), though by one at a time.
        with closing(sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)) as db:
            db.executescript(_SETUP)
            yield SeenIndex(db)
    except sqlite3.OperationalError as error:
        hint = "Free some space, then run the same command again" if path else "Free some space, or set SQLITE_TMPDIR"
        raise EnvironmentProblem(str(path or "temporary files"), str(error), hint) from error
    finally:
        if path is not None:
            path.unlink(missing_ok=True)
