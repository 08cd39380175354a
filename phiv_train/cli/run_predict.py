"""What `phiv-predict` does: finds the inputs, loads the model, asks, and prints or writes the answers."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phiv_data.formats.recognise import CLIP_SUFFIXES, IMAGE_SUFFIXES
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.utils.atomic import atomic_write
from phiv_data.utils.outputs import check_output_file
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_DATA, EXIT_OK, RecordError, UsageError
from phiv_train.checkpoints.resolve import find_source
from phiv_train.cli.options import PredictOptions
from phiv_train.training import launcher
from phiv_train.training.quiet import quiet_libraries

if TYPE_CHECKING:
    pass


def predict_inputs(options: PredictOptions) -> int:
    """Answer the question about each input, or about all together. An unusable one is a line on stderr, and exit 1."""
    if launcher.world_size() > 1:
        what = "images are answered by one process"
        raise UsageError("torchrun", what, "Start phiv-predict by itself, or convert the images and pass --data_dir")
    files = find_files(options.inputs, once=not options.together)
    if options.output is not None:
        check_output_file("--output", options.output)
        if any(options.output.resolve() == file.resolve() for file in files):
            raise UsageError("--output", f"{options.output} is one of the images", "Name another file")
    _prepare(options)
    from phiv_train.cli.predict_split import load  # imports torch and transformers

    model = load(options)
    assert options.question is not None
    asked = [files] if options.together else [[file] for file in files]
    lines, unusable = [], 0
    for group in asked:
        names = [os.fsencode(file).decode(errors="backslashreplace") for file in group]
        try:
            answer = model.answer(
                group, options.question, num_frames=options.num_frames, max_new_tokens=options.max_new_tokens
            )
        except (RecordError, UsageError) as error:  # UsageError: a link to nothing
            say(f"phiv-predict: {error}", to=sys.stderr)
            unusable += 1
            continue
        if options.output is None:
            say(answer if len(asked) == 1 else f"{' '.join(names)}: {answer}")
        lines.append({"images": names, "question": options.question, "prediction": answer})
    if options.output is not None and lines:
        with atomic_write(options.output) as out:
            out.write("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
        say(f"{options.output}: {len(lines)} answers")
    if unusable:
        say(f"phiv-predict: {unusable} of {len(asked)} could not be used", to=sys.stderr)
    return EXIT_DATA if unusable else EXIT_OK


def predict_dataset(options: PredictOptions) -> int:
    """Answer the questions of a split into the output file."""
    launcher.check_environment()
    assert options.data_dir is not None
    assert options.output is not None
    dataset = ConversationDataset(options.data_dir, options.split)
    check_output_file("--output", options.output)
    if options.output.resolve().is_relative_to(options.data_dir.resolve()):
        raise UsageError("--output", f"{options.output} is in the dataset", "Name a file elsewhere")
    _prepare(options)
    from phiv_train.cli.predict_split import answer_split  # imports torch and transformers

    return answer_split(options, dataset, options.output)


def find_files(inputs: Sequence[str], *, once: bool = True) -> list[Path]:
    """Images and clips behind names, folders and patterns, each `once`; UsageError naming the first that is nothing.

    Hidden files of a folder are left out.
    """
    found: list[Path] = []
    for word in inputs:
        path = Path(word)
        if path.is_dir():
            media = (*IMAGE_SUFFIXES, *CLIP_SUFFIXES)
            seen = (one for one in path.rglob("*") if not any(part[0] == "." for part in one.relative_to(path).parts))
            inside = sorted(one for one in seen if one.suffix.lower().removeprefix(".") in media)
            if not inside:
                raise UsageError(word, "holds no image and no clip", "Pass a folder of them")
        elif os.path.lexists(path):
            inside = [path]
        else:
            inside = sorted(path for path in map(Path, glob.glob(word, recursive=True)) if path.is_file())  # noqa: PTH207 (absolute patterns too)
            if not inside:
                raise UsageError(word, "no such file, and a pattern that fits none", "Pass images, clips or folders")
        found += inside
    return list(dict.fromkeys(found)) if once else found


def _prepare(options: PredictOptions) -> None:
    """The model is found before anything heavy is imported, and the libraries print nothing of their own."""
    find_source(options.model, adapter=options.adapter, family=options.family)
    quiet_libraries()
