"""One word for one thing: the words that docs/glossary.md rules out are in no Python file, no page and no --help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
COMMANDS = sorted(p.name for p in entry_points(group="console_scripts") if p.value.startswith("phiv_"))
GLOSSARY = "docs/glossary.md"

# File, or folder with a slash at its end -> words it may have (all: "*"), and why.
EXCEPTIONS: dict[str, tuple[str, str]] = {
    GLOSSARY: ("*", "the list itself"),
    "tests/corpus/": ("*", "data and their expected reports"),
    "tests/golden/": ("*", "data and their expected reports"),
    "CHANGELOG.md": ("*", "quotes names as they were in earlier versions"),
    "tests/test_words.py": ("*", "tests of the list"),
    "tests/cases/": ("*", "names of published cases"),
    "phiv_train/families/tiny.py": ("picture", "a word of the toy tokenizer: its ids are those of trained models"),
}

# Pattern of text that may be anywhere -> why. Removed before the search.
QUOTED = {
    r"\bfrom scratch\b": "plain English",
}


def banned_words() -> dict[str, str]:
    """Each word of the glossary's second table, to the word in its place."""
    _, table = (REPO / GLOSSARY).read_text(encoding="utf-8").split("| not | but |\n|---|---|\n")
    rows = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|"))
    return {word: better for words, better in rows for word in words.split(", ")}


BANNED = banned_words()
PATTERN = re.compile(
    "|".join(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])" for word in BANNED).replace(r"\ ", r"\s+"),
    re.IGNORECASE,
)


def find_banned(text: str, allowed: str = "") -> Iterator[str]:
    """`line: word -> better word` of each banned word in a text; parts of a name (`old_ledger`) are words too."""
    for quoted in QUOTED:
        text = re.sub(quoted, " ", text)
    for match in PATTERN.finditer(text):
        word = " ".join(match[0].lower().split())
        if word not in allowed.split(", "):
            yield f"{text.count(chr(10), 0, match.start()) + 1}: {word} -> {BANNED[word]}"


def tracked_files() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.splitlines() if (REPO / name).is_file()]


def words_allowed_in(name: str) -> str:
    found = [words for prefix, (words, _) in EXCEPTIONS.items() if name == prefix or name.startswith(prefix)]
    return ", ".join(found)


def test_the_list_is_read_whole_and_finds_words_in_names_and_over_line_ends() -> None:
    assert len(BANNED) > 30
    assert list(find_banned("a_Picture_of\nthings to be\n    had")) == [
        "1: picture -> image, images",
        "2: to be had -> available",
    ]
    assert list(find_banned("depicture pictured lawful outlaw seamless noticed")) == []


def test_every_exception_is_needed() -> None:
    names = tracked_files()
    for prefix, (words, reason) in EXCEPTIONS.items():
        text = "\n".join((REPO / name).read_text("utf-8", "replace") for name in names if name.startswith(prefix))
        assert reason
        assert words == "*" or all(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in words.split(", ")), prefix


def test_no_python_file_and_no_page_has_a_banned_word() -> None:
    found = []
    for name in tracked_files():
        if (allowed := words_allowed_in(name)) != "*":
            text = (REPO / name).read_text(encoding="utf-8", errors="replace")
            found += [f"{name}:{line}" for line in find_banned(text, allowed)]
    assert not found, f"{len(found)} banned words (see {GLOSSARY}):\n" + "\n".join(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_text_has_a_banned_word(command: str) -> None:
    text = help_of(command)
    subcommands = re.search(r"\{([a-z0-9_,-]+)\}", text) if command in ("phiv-convert", "phiv-export") else None
    texts = {command: text}
    for name in subcommands[1].split(",") if subcommands else ():
        texts[f"{command} {name}"] = help_of(command, name)
    assert all("usage:" in text for text in texts.values())
    assert command not in ("phiv-convert", "phiv-export") or len(texts) > 5
    found = [f"{name} --help:{line}" for name, text in texts.items() for line in find_banned(text)]
    assert not found, "\n".join(found)


def help_of(command: str, *args: str) -> str:
    (point,) = entry_points(group="console_scripts", name=command)
    argv = [command, *args, "--help"]
    code = f"import sys; sys.argv = {argv!r}; from {point.value.split(':')[0]} import main; main()"
    wide = os.environ | {"COLUMNS": "240"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=wide, check=False).stdout
