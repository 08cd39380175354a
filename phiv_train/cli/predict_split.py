"""Answers to the questions of a split, labelled or not, as lines of a file: resumable, shared by ranks, flat in memory.

    predict_split(model, dataset, Path("predictions.jsonl"), settings={...})

    {"id": "test-0000000003", "row": 3, "turn": 0, "images": ["test/a.png"], "question": "What is shown?",
     "prediction": "A cat.", "stopped": true, "answers": ["A cat."]}

Rows are taken in blocks, and a block's answers are a file in `predictions.jsonl.parts/` as soon as they are there. The
same command takes up where a stopped one ended; the output appears when all are answered, and the parts go then. A row
that cannot be asked has `"prediction": null` and why in `error`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phiv_data.storage.dataset import MANIFEST, ConversationDataset
from phiv_data.utils.atomic import TMP_PREFIX, atomic_write, environment_problems, sha256_file
from phiv_data.utils.file_lock import FileLock
from phiv_data.utils.image_options import collect_image_options
from phiv_data.utils.json_files import read_object
from phiv_data.utils.terminal import say
from phiv_schemas import Conversation
from phiv_schemas.errors import EXIT_DATA, EXIT_OK, RecordError, UsageError
from phiv_train.batching.lengths import spread_rows
from phiv_train.checkpoints.base_stamp import stamp_base
from phiv_train.cli.answer import mismatch
from phiv_train.cli.options import PredictOptions
from phiv_train.evaluation.generate import Turns, progress_bar, up_to
from phiv_train.families.base import Encoded
from phiv_train.inference.greedy import Answer
from phiv_train.inference.model import LoadedModel, load_model
from phiv_train.training import distributed, launcher
from phiv_train.training.distributed import process_group

ROWS_PER_BLOCK = 64
SETTINGS = "settings.json"


class Predicted(NamedTuple):
    """Rows whose answers a stopped run had made, and answers that are missing because their rows cannot be asked."""

    found: int
    failed: int


def load(options: PredictOptions) -> LoadedModel:
    """The model that the flags name; a line where its base or its processor are not those of its training."""
    model = load_model(
        options.model,
        adapter=options.adapter,
        family=options.family,
        precision=options.precision,
        device=options.device,
        image_options=collect_image_options(options.image_option, None),
        use_flash_attention=options.use_flash_attention,
    )
    if launcher.rank() == 0 and (line := mismatch(model.source, model.processor)):
        say(f"phiv-predict: {line}", to=sys.stderr)
    return model


def answer_split(options: PredictOptions, dataset: ConversationDataset, output: Path) -> int:
    """Load the model and answer the split, on every rank; the exit code."""
    model, first = load(options), launcher.rank() == 0
    folder = model.source.adapter
    adapter = folder and next(file for file in sorted(folder.glob("adapter_model.*")) if file.suffix != ".json")
    settings = {
        "model": model.source.base,
        "weights": stamp_base(model.source.base),
        "adapter": adapter and sha256_file(adapter),
        "data": sha256_file(dataset.path / MANIFEST),
        "split": options.split,
        "precision": str(model.model.dtype),
        **model.processor.image_options,
    }
    on_gpu = model.model.device.type == "cuda"
    with process_group(on_gpu), progress_bar("predict", disable=None if first else True) as on_rows:
        found, failed = predict_split(
            model,
            dataset,
            output,
            turns=options.turns,
            limit=options.limit,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            settings=settings,
            on_rows=on_rows,
        )
    if first:
        if found:
            say(f"phiv-predict: the answers of {found} rows were there from a run that was stopped", to=sys.stderr)
        say(f"{output}: answers to {dataset.split} of {dataset.place}")
        if failed:
            say(f"phiv-predict: {failed} answers are missing, `error` in their lines says why", to=sys.stderr)
    return EXIT_DATA if failed else EXIT_OK


def predict_split(
    model: LoadedModel,
    dataset: ConversationDataset,
    output: Path,
    *,
    turns: Turns = "last",
    limit: int | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 64,
    settings: Mapping[str, Any],
    on_rows: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Write the answers to `output`, in the order of the rows. `found`: of how many rows a stopped run had made them.

    `settings`: what decides the answers besides. `on_rows(done, total)`: rows of this rank. UsageError where the parts
    beside the output are of other settings, or another process works on them.
    """
    rows = spread_rows(len(dataset), limit).tolist()
    blocks = [rows[i : i + ROWS_PER_BLOCK] for i in range(0, len(rows), ROWS_PER_BLOCK)]
    parts = output.with_name(f"{output.name}.parts")
    files = [parts / f"{number:06d}.jsonl" for number in range(len(blocks))]
    with FileLock(output.with_name(f".{output.name}.lock")) as lock:
        if launcher.rank() == 0:
            if not lock.acquire(shared=False, wait=False):
                raise UsageError("--output", f"another process is writing {str(output)!r}", "Wait for it to end")
            claim(parts, {**settings, "turns": turns, "limit": limit, "max_new_tokens": max_new_tokens})
        distributed.wait()
        mine = list(zip(files, blocks, strict=True))[launcher.rank() :: launcher.world_size()]
        found = done = 0
        for file, block in mine:
            if file.is_file():
                found += len(block)
            else:
                write_lines(file, answer_rows(model, dataset, block, turns, batch_size, max_new_tokens))
            done += len(block)
            if on_rows is not None:
                on_rows(done, sum(len(block) for _, block in mine))
        distributed.wait()
        failed = join(files, output) if launcher.rank() == 0 else 0
        if launcher.rank() == 0:
            lock.path.unlink(missing_ok=True)
    return Predicted(found, failed)


def join(files: Sequence[Path], output: Path) -> int:
    """Make the output of its parts, and remove them, their settings last; how many answers are missing in it."""
    failed = 0
    with atomic_write(output) as out:
        for file in files:
            for line in file.read_bytes().splitlines(keepends=True):
                failed += json.loads(line)["prediction"] is None
                out.write(line)
    for file in files:
        file.unlink()
    (files[0].parent / SETTINGS).unlink()
    files[0].parent.rmdir()
    return failed


def claim(parts: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of the parts, or take it as a run of the same settings left it; else UsageError."""
    wanted = json.loads(json.dumps(settings, default=str))
    note = parts / SETTINGS
    with environment_problems(parts):
        parts.mkdir(parents=True, exist_ok=True)
        if not note.is_file():
            if others := sorted(path.name for path in parts.iterdir() if not path.name.startswith(TMP_PREFIX)):
                what = f"holds {others[0]} and no {SETTINGS}: these are no parts of this command"
                raise UsageError(str(parts), what, "Move it away, or write to another --output")
            write_lines(note, [wanted])
            return
    before = read_object(note)
    if other := [key for key in before | wanted if before.get(key) != wanted.get(key)]:
        what = f"holds answers of a run with another {other[0]} ({before.get(other[0])})"
        raise UsageError(str(parts), what, "Remove it to start over, or write to another --output")


def write_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON objects as the lines of a file that is there as a whole or not at all."""
    with atomic_write(file) as out:
        out.write("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())


def answer_rows(
    model: LoadedModel,
    dataset: ConversationDataset,
    rows: Sequence[int],
    turns: Turns,
    batch_size: int,
    max_new_tokens: int,
) -> list[dict[str, Any]]:
    """The lines of some rows. Where an earlier turn of a row has no answer, the model's own stands for it."""
    conversations = {row: dataset.conversation(row) for row in rows}
    asked = {row: turns_asked(conversations[row], turns) for row in rows}
    answers: dict[tuple[int, int], Answer] = {}
    failures: dict[int, str] = {}
    for turn in range(1 + max(max(numbers) for numbers in asked.values())):
        samples: dict[int, Encoded] = {}
        for row in rows:
            if row in failures or turn > asked[row][-1]:
                continue
            if turn not in asked[row] and conversations[row].turns[turn].assistant is not None:
                continue  # it has its own answer
            prompt = with_answers(conversations[row], row, turn, answers)
            try:
                images = [image.open() for image in dataset[row].images[: len(prompt.image_paths)]]
                samples[row] = model.encode(prompt, images)
            except RecordError as error:
                failures[row] = str(error)
        order = sorted(samples, key=lambda row: (-len(samples[row]), row))  # memory that holds the first holds all
        for i in range(0, len(order), batch_size):
            batch = order[i : i + batch_size]
            new = model.reply([samples[row] for row in batch], max_new_tokens=max_new_tokens)
            answers |= {(row, turn): answer for row, answer in zip(batch, new, strict=True)}
    return [
        as_line(conversations[row], row, turn, answers.get((row, turn)), failures.get(row))
        for row in rows
        for turn in asked[row]
    ]


def turns_asked(conversation: Conversation, turns: Turns) -> list[int]:
    """The numbers of the turns to answer, ascending."""
    count = len(conversation.turns)
    return {"all": list(range(count)), "first": [0], "last": [count - 1]}[turns]


def with_answers(
    conversation: Conversation, row: int, turn: int, answers: Mapping[tuple[int, int], Answer]
) -> Conversation:
    """The conversation up to a turn; its own earlier answers, and the model's where it has none."""
    earlier = [
        one if one.assistant is not None else one.model_copy(update={"assistant": answers[row, number].text})
        for number, one in enumerate(conversation.turns[:turn])
    ]
    asked = conversation.turns[turn].model_copy(update={"assistant": ""})
    return conversation.model_copy(update={"conversations": (*earlier, asked)})


def as_line(
    conversation: Conversation, row: int, turn: int, answer: Answer | None, failure: str | None
) -> dict[str, Any]:
    """What is written of an answer; `answers` are those that the data accept, where they have any."""
    asked = conversation.turns[turn]
    known = asked.answers or (() if asked.assistant is None else (asked.assistant,))
    line: dict[str, Any] = {"id": conversation.id, "row": row, "turn": turn}
    line |= {"images": list(up_to(conversation, turn).image_paths), "question": asked.user}
    if answer is None:
        line |= {"prediction": None, "error": failure}
    else:
        line |= {"prediction": answer.text, "stopped": answer.stopped}
    return line | ({"answers": list(known)} if known else {})
