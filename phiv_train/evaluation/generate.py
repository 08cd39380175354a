"""`evaluate`: generate a model's answers to the questions of a split, and score them.

    result = evaluate(model, family, processor, ConversationDataset("ucf101", "val"), metric="accuracy", batch_size=8)
    result.metrics                                        # {"accuracy": 0.97}
    write_result(result, Path("out/eval_after.json"))     # report.py: the JSON file and a confusion image

Greedy, batched, longest prompts first (memory that holds the first batch holds them all), padded on the left, and
shared by the ranks of torch.distributed where it is initialised; every rank returns the whole result, in the order
of the rows. In float32 nothing depends on batch size, workers or ranks. In bfloat16 the shape of a batch moves
logits by about 1e-2, which can turn a near tie: compare runs of one batch size and world size there.

The prompt of a turn is the conversation up to it, the true answers of earlier turns included, id for id as in training.
A question without an answer is left out and counted. The model is left as it was: training modes of all modules,
caching, random state; so this can run during training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas import Conversation
from phiv_schemas.errors import PhivError, UsageError
from phiv_train.batching.workers import WorkerLoader
from phiv_train.evaluation.metrics import METRICS, ClassTable, class_table, get_metric, mean_score
from phiv_train.families.base import Family
from phiv_train.inference.greedy import Answer, answer_batch, make_inputs

Turns = Literal["last", "first", "all"]
MAX_CLASSES = 200


@dataclass(frozen=True, slots=True)
class Question:
    """One turn to answer. `answer` is the row's own, `answers` all accepted ones, `length` the prompt's tokens."""

    row: int
    turn: int
    id: str
    answer: str
    answers: tuple[str, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model answered. `stopped` is False where `max_new_tokens` cut it."""

    question: Question
    text: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Mean scores (0..1) by metric, the first the one asked for, and all predictions in the order of the rows.

    `rows`: rows evaluated; `unlabeled`: their questions without an answer, which are in no score.
    """

    metrics: Mapping[str, float]
    predictions: tuple[Prediction, ...]
    rows: int
    unlabeled: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Name of the metric asked for."""
        return next(iter(self.metrics))

    @property
    def score(self) -> float:
        """Its value."""
        return self.metrics[self.metric]

    def scores(self, metric: str) -> list[float]:
        """The score of every prediction."""
        return [METRICS[metric](p.text, p.question.answers) for p in self.predictions]

    def classes(self) -> ClassTable | None:
        """The table of a classification: one answer per question, some answer twice, at most 200 different ones."""
        if not self.metric.startswith("accuracy") or any(len(p.question.answers) > 1 for p in self.predictions):
            return None
        table = class_table([(p.text, p.question.answer) for p in self.predictions])
        return table if len(table.labels) <= min(MAX_CLASSES, len(self.predictions) - 1) else None

    def worst(self, count: int = 10) -> list[Prediction]:
        """Predictions that are not right, the worst first; ties by similarity to an answer, then by row."""
        ranks = list(zip(self.scores(self.metric), self.scores("anls_official"), strict=True))
        order = sorted(range(len(ranks)), key=lambda i: (ranks[i], i))
        return [self.predictions[i] for i in order if ranks[i][0] < 1][:count]


def evaluate(
    model: Any,
    family: Family,
    processor: Any,
    dataset: ConversationDataset,
    *,
    rows: Sequence[int] | None = None,
    metric: str | Sequence[str] = "auto",
    turns: Turns = "last",
    batch_size: int = 8,
    max_new_tokens: int = 64,
    num_workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Generate an answer for every labelled question of `rows` (default: all) and score it.

    `metric`: one name or several of `metrics.METRICS`, or "auto": anls where a question lists several accepted
    answers, else accuracy. `turns`: which turns of a conversation are asked. `batch_size`: prompts per forward pass and
    rank. `on_batch(done, total)`: this rank's questions so far.

    UsageError when nothing is labelled or a metric is unknown. What fails on one rank is raised on all of them.
    """
    rows = range(len(dataset)) if rows is None else list(dict.fromkeys(rows))
    questions, unlabeled = find_questions(dataset, family, processor, rows, turns)
    if not questions:
        found = f"split {dataset.split!r} has no question with an answer in the {len(rows)} rows chosen"
        hint = "Evaluate a split with answers (--split, in phiv-train --eval_split); phiv-predict answers those without"
        raise UsageError(dataset.place, found, hint)
    auto = "anls" if any(len(q.answers) > 1 for q in questions) else "accuracy"
    asked = [metric] if isinstance(metric, str) else metric
    names = list(dict.fromkeys(auto if name == "auto" else name for name in asked))
    for name in names:
        get_metric(name)
    # This rank's share. Parameters that are spread over ranks (FSDP2) need them to run forward passes together: then
    # every rank has equally many batches, the first one being done twice where needed.
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    batches, (rank, world) = make_batches(questions, batch_size), _rank_and_world()
    mine = batches[rank::world]
    if sharded and len(mine) < -(-len(batches) // world):
        mine += batches[:1]
    prompts = Prompts(dataset, family, processor, mine)
    answers = _from_all_ranks(lambda: _generate(model, prompts, max_new_tokens, num_workers, sharded, on_batch))
    predictions = tuple(Prediction(q, *answers[q.row, q.turn]) for q in questions)
    settings = {"split": dataset.split, "turns": turns, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    pairs = [(p.text, p.question.answers) for p in predictions]
    means = {name: mean_score(name, pairs) for name in names}
    return EvalResult(means, predictions, len(rows), unlabeled, settings)


@contextmanager
def progress_bar(label: str, *, disable: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """`on_batch` that moves a bar on stderr. `disable`: None shows it on a terminal only."""
    from tqdm import tqdm

    with tqdm(unit=" questions", desc=label, disable=disable, leave=False, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def find_questions(
    dataset: ConversationDataset, family: Family, processor: Any, rows: Sequence[int], turns: Turns
) -> tuple[list[Question], int]:
    """The labelled questions of `rows`, in order, and how many have no answer. No image is opened."""
    questions: list[Question] = []
    unlabeled = 0
    for row in rows:
        conversation = dataset.conversation(row)
        sizes = dataset.sizes_of(row)
        count = len(conversation.turns)
        for number in {"all": range(count), "first": [0], "last": [count - 1]}[turns]:
            turn = conversation.turns[number]
            if turn.assistant is None:
                unlabeled += 1
                continue
            asked = up_to(conversation, number)
            length = family.measure(asked, sizes[: len(asked.image_paths)], processor, generation=True).tokens
            answers = turn.answers or (turn.assistant,)
            questions.append(Question(row, number, conversation.id, turn.assistant, answers, length))
    return questions, unlabeled


def up_to(conversation: Conversation, turn: int) -> Conversation:
    """The conversation that ends with turn number `turn`."""
    return conversation.model_copy(update={"conversations": conversation.turns[: turn + 1]})


def make_batches(questions: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """All questions, the longest first, in batches: the same on every rank."""
    ordered = sorted(questions, key=lambda q: (-q.length, q.row, q.turn))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


class Prompts(Dataset[dict[str, Tensor]]):
    """Batches of encoded prompts, one per item; made in a worker."""

    def __init__(
        self, dataset: ConversationDataset, family: Family, processor: Any, batches: list[list[Question]]
    ) -> None:
        self.dataset, self.family, self.processor, self.batches = dataset, family, processor, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        samples = []
        for question in self.batches[index]:
            sample = self.dataset[question.row]
            conversation = up_to(sample.conversation, question.turn)
            images = [image.open() for image in sample.images[: len(conversation.image_paths)]]
            samples.append(self.family.encode(conversation, images, self.processor, generation=True))
        return make_inputs(self.family, self.processor, samples)


Answers = dict[tuple[int, int], Answer]
"""By (row, turn)."""


def _generate(
    model: Any,
    prompts: Prompts,
    max_new_tokens: int,
    num_workers: int,
    sharded: bool,
    on_batch: Callable[[int, int], None] | None,
) -> Answers:
    processor, device = prompts.processor, next(model.parameters()).device
    total = sum(map(len, prompts.batches))
    answers: Answers = {}
    loader = WorkerLoader(
        prompts,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own, so that the random state of training stays
    )
    with eval_mode(model, prompts.family, run_vision=sharded):
        for questions, batch in zip(prompts.batches, loader, strict=True):
            inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            new = answer_batch(model, processor, inputs, max_new_tokens=max_new_tokens, synced_gpus=sharded)
            answers |= {(asked.row, asked.turn): answer for asked, answer in zip(questions, new, strict=True)}
            if on_batch is not None:
                on_batch(len(answers), total)
    return answers


@contextmanager
def eval_mode(model: Any, family: Family, *, run_vision: bool = False) -> Iterator[None]:
    """Eval mode for all modules, and back to each module's own mode. Checkpointing has no effect meanwhile.

    Training may run the image path for batches without images; here only with `run_vision`, else every
    generated token would pay for it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    on_text = family.run_vision_on_text(model, False)
    family.run_vision_on_text(model, on_text and run_vision)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        family.run_vision_on_text(model, on_text)


def _from_all_ranks(work: Callable[[], Answers]) -> Answers:
    """The union of all ranks' answers. A rank's error is raised on every rank, so that none waits forever."""
    rank, world = _rank_and_world()
    if world == 1:
        return work()
    mine: Answers = {}
    error: Exception | None = None
    try:
        mine = work()
    except Exception as problem:  # of any kind: the other ranks must get it
        error = problem
    shared = error if isinstance(error, PhivError) or error is None else RuntimeError(f"on rank {rank}: {error!r}")
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, (mine, shared))
    if error is not None:
        raise error
    for _, trouble in everyone:
        if trouble is not None:
            raise trouble
    return {key: answer for answers, _ in everyone for key, answer in answers.items()}


def _rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
