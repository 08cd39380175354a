"""Coverage-guided fuzzing of how a line is read: `scripts/fuzz [RUNS]`, or `python fuzz/validate_line.py -runs=100000`.

atheris feeds bytes to the oracle of `tests/phiv_data/validation/line_oracle.py`: a record that any JSON reader reads
the same, or errors of one printable line each; and the fast way accepts nothing that pydantic does not. Half of the
inputs are mutated by libFuzzer, half by JSON tokens and values. Flags are libFuzzer's: `-seed=N` repeats a run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "tests" / "phiv_data" / "validation"), str(REPO / "tests" / "phiv_data")]

with atheris.instrument_imports(include=["phiv_data", "phiv_schemas"]):
    from line_mutations import good_line, mutated
    from line_oracle import check_line


def one_input(data: bytes) -> None:
    """Check every line of the input."""
    for raw in data.split(b"\n"):
        if raw.strip():
            check_line(raw)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """By libFuzzer, or as JSON, or a good line again."""
    random = Random(seed)
    kind = random.random()
    if kind < 0.5:
        changed: bytes = atheris.Mutate(data, max_size)
        return changed
    return mutated(good_line(random, 0) if kind > 0.95 else data, random)[:max_size]


def seeds() -> list[bytes]:
    """Lines of the corpus and of the golden files, and some good ones."""
    files = [*(REPO / "tests" / "corpus").glob("*/*/*.jsonl"), *(REPO / "tests" / "golden").glob("*/*.jsonl")]
    return [line for path in files for line in path.read_bytes().split(b"\n") if line] + [
        good_line(Random(i), i) for i in range(20)
    ]


def main() -> None:
    """Check the seeds, then fuzz; inputs that reach new code are kept in the folder given, if one is."""
    for seed in seeds():
        one_input(seed)
    folders = [Path(arg) for arg in sys.argv[1:] if not arg.startswith("-")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
