"""What a conversion has seen, on disk and not in memory: which row came first with an id, an image's path, a source.

    >>> with open_seen_index(folder / "seen_index.sqlite") as seen_index:
    ...     seen_index.claim_id("train-0000000000")                       # True: nobody had it
    ...     seen_index.claim("a.png", "5f70...", "train-0000000000")     # None, or the (sha256, row) before it

SQLite keeps a few MB in memory however many rows there are, and its answers are exact. The file is scratch: rewritten,
never synced, removed at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from phiv_schemas import EnvironmentProblem

_SETUP = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -16000;
CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE claims (number INTEGER PRIMARY KEY, name TEXT UNIQUE, value TEXT, row TEXT);
CREATE TABLE sources (sha256 TEXT, name TEXT, PRIMARY KEY (sha256, name)) WITHOUT ROWID;
BEGIN;
"""


@dataclass(slots=True)
class SeenIndex:
    """An open seen_index; `num_claims` are the names claimed so far."""

    _db: sqlite3.Connection
    num_claims: int = 0

    def claim_id(self, row_id: str) -> bool:
        """True when no row had this id."""
        return self._db.execute("INSERT OR IGNORE INTO ids VALUES (?)", (row_id,)).rowcount == 1

    def claim(self, name: str, value: str, row: str) -> tuple[str, str] | None:
        """None when the name (an image's path) is new; else the value and the row that it was first claimed with."""
        insert = "INSERT OR IGNORE INTO claims (name, value, row) VALUES (?, ?, ?)"
        if self._db.execute(insert, (name, value, row)).rowcount == 1:
            self.num_claims += 1
            return None
        found: tuple[str, str] = self._db.execute("SELECT value, row FROM claims WHERE name = ?", (name,)).fetchone()
        return found

    def note_source(self, sha256: str, name: str) -> None:
        """An input with these bytes has this name."""
        self._db.execute("INSERT OR IGNORE INTO sources VALUES (?, ?)", (sha256, name))

    def claims(self) -> Iterator[tuple[str, str]]:
        """(name, value) of every claim, in the order they were made."""
        yield from self._db.execute("SELECT name, value FROM claims ORDER BY number")

    def identical_sources(self) -> list[list[str]]:
        """Groups of names of the same bytes, sorted."""
        several = "SELECT sha256 FROM sources GROUP BY sha256 HAVING count(*) > 1"
        rows = self._db.execute(f"SELECT * FROM sources WHERE sha256 IN ({several}) ORDER BY sha256, name")
        return sorted([name for _, name in group] for _, group in groupby(rows, key=lambda row: row[0]))


@contextmanager
def open_seen_index(path: Path) -> Iterator[SeenIndex]:
    """An empty seen_index at `path`, removed in the end. EnvironmentProblem when the disk is full and the like."""
    try:
        path.unlink(missing_ok=True)
        # nolock: one process, one connection; network file systems are slow or wrong at locks.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True, isolation_level=None)) as db:
            db.executescript(_SETUP)
            yield SeenIndex(db)
    except sqlite3.OperationalError as error:
        raise EnvironmentProblem(str(path), str(error), "Free some space, then run the same command again") from error
    finally:
        path.unlink(missing_ok=True)
