"""Evaluation: the same answers however they are batched or shared, and a model left as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_data import ask, make_dataset, mixed_rows, train_tiny
from torch import Tensor

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas.errors import UsageError
from phiv_train.evaluation.generate import (
    EvalResult,
    Prediction,
    Question,
    evaluate,
    find_questions,
    make_batches,
    up_to,
)
from phiv_train.families.base import get_family

HERE = Path(__file__).parent
FAMILY = get_family("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = mixed_rows("train") + mixed_rows("val")
    rows += [("test", (ask("Red", answer="Reddish"), ((), "And now?", None))), ("test", (ask("Blue"),))]
    return make_dataset(tmp_path_factory.mktemp("eval") / "data", rows)


@pytest.fixture(scope="module")
def val(folder: Path) -> ConversationDataset:
    return ConversationDataset(folder, "val")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return train_tiny(ConversationDataset(folder, "train"))


@pytest.fixture(scope="module")
def untrained() -> tuple[Any, Any]:
    """Says anything, and rarely stops: every token counts."""
    return FAMILY.load("tiny:3")


def answers(result: EvalResult) -> list[tuple[int, int, str, bool]]:
    return [(p.question.row, p.question.turn, p.text, p.stopped) for p in result.predictions]


def greedy(model: Any, processor: Any, data: ConversationDataset, question: Question, new_tokens: int) -> str:
    """The answer by the plainest loop: no cache, no padding, no batch."""
    sample = data[question.row]
    dialogue = up_to(sample.conversation, question.turn)
    images = [image.open() for image in sample.images[: len(dialogue.image_paths)]]
    batch = FAMILY.collate([FAMILY.encode(dialogue, images, processor, generation=True)], processor, layout="right")
    ids: Tensor = batch["input_ids"]
    media = {name: batch[name] for name in ("crops", "image_sizes")}
    start = ids.shape[1]
    for _ in range(new_tokens):
        logits = model(ids, **media).logits[0, -1]
        logits[processor.image_id] = -torch.inf  # never generated
        ids = torch.cat([ids, logits.argmax()[None, None]], 1)
    return str(processor.decode(ids[0, start:].tolist()))


def test_a_trained_model_is_right_on_images_dialogues_and_text_alone(trained: Any, val: ConversationDataset) -> None:
    result = evaluate(trained[0], FAMILY, trained[1], val, turns="all", batch_size=4)
    assert result.metrics == {"accuracy": 1.0}
    assert all(p.stopped for p in result.predictions)
    assert [p.question.answer for p in result.predictions] == [p.text for p in result.predictions]


def test_answers_are_those_of_the_plainest_greedy_loop(untrained: Any, val: ConversationDataset) -> None:
    model, processor = untrained
    with torch.no_grad():
        result = evaluate(model, FAMILY, processor, val, turns="all", batch_size=5, max_new_tokens=6)
        expected = [greedy(model, processor, val, p.question, 6) for p in result.predictions]
    assert [p.text for p in result.predictions] == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_changes_nothing(untrained: Any, val: ConversationDataset, batch_size: int) -> None:
    runs = [
        evaluate(untrained[0], FAMILY, untrained[1], val, turns="all", batch_size=size, max_new_tokens=12)
        for size in (4, batch_size)
    ]
    assert answers(runs[0]) == answers(runs[1])


def test_workers_change_nothing_and_rows_are_answered_in_the_order_given(
    trained: Any, val: ConversationDataset
) -> None:
    rows = [7, 2, 2, 9]
    runs = [
        evaluate(trained[0], FAMILY, trained[1], val, rows=rows, batch_size=2, num_workers=workers)
        for workers in (0, 1)
    ]
    assert answers(runs[0]) == answers(runs[1])
    assert [p.question.row for p in runs[0].predictions] == [7, 2, 9]
    assert runs[0].rows == 3


def test_two_processes_answer_every_question_once_and_equally(
    trained: Any, untrained: Any, folder: Path, tmp_path: Path
) -> None:
    """Plain replicas, FSDP2, and an error on one rank that is raised on both."""
    model, processor = untrained
    FAMILY.save(model, processor, tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += [str(HERE.parent / "eval_ranks.py"), str(tmp_path / "model"), str(folder), str(tmp_path)]
    done = subprocess.run(command, check=False, timeout=150, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    val = ConversationDataset(folder, "val")
    alone = evaluate(model, FAMILY, processor, val, turns="all", batch_size=4, max_new_tokens=8)
    assert len(make_batches([p.question for p in alone.predictions], 4)) % 2 == 1  # so that ranks share unevenly
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert found["plain"] == [list(answer) for answer in answers(alone)]
        assert found["sharded"] == found["plain"]
        assert found["metrics"] == alone.metrics
        assert "is made to fail" in found["error"]


def test_longest_prompts_come_first_and_lengths_are_exact(untrained: Any, val: ConversationDataset) -> None:
    processor = untrained[1]
    questions, _ = find_questions(val, FAMILY, processor, range(len(val)), "all")
    batches = make_batches(questions, 4)
    lengths = [question.length for batch in batches for question in batch]
    assert lengths == sorted(lengths, reverse=True)
    for question in questions:
        sample = val[question.row]
        dialogue = up_to(sample.conversation, question.turn)
        images = [image.open() for image in sample.images[: len(dialogue.image_paths)]]
        assert len(FAMILY.encode(dialogue, images, processor, generation=True)) == question.length


@pytest.mark.parametrize(("turns", "asked", "unlabeled"), [("last", 1, 1), ("first", 2, 0), ("all", 2, 1)])
def test_questions_without_an_answer_are_left_out_and_counted(
    trained: Any, folder: Path, turns: Any, asked: int, unlabeled: int
) -> None:
    data = ConversationDataset(folder, "test")
    result = evaluate(trained[0], FAMILY, trained[1], data, turns=turns)
    assert (result.rows, len(result.predictions), result.unlabeled) == (2, asked, unlabeled)
    assert result.score == {"last": 1.0, "first": 0.5, "all": 0.5}[turns]


def test_nothing_labelled_is_an_error_in_one_line(trained: Any, folder: Path) -> None:
    data = ConversationDataset(folder, "test")
    with pytest.raises(
        UsageError, match=r"split 'test' has no question with an answer in the 1 rows chosen\. Evaluate"
    ):
        evaluate(trained[0], FAMILY, trained[1], data, rows=[0])


def test_auto_is_anls_where_several_answers_are_accepted(trained: Any, tmp_path: Path) -> None:
    rows = [("val", (((("Red",), "What is shown?", "Red", "red", "Crimson")),)), ("val", (ask("Blue", answer="Bluu"),))]
    data = ConversationDataset(make_dataset(tmp_path / "data", rows), "val")
    assert evaluate(trained[0], FAMILY, trained[1], data).metrics == {"anls": (1 + 0.75) / 2}
    several = evaluate(trained[0], FAMILY, trained[1], data, metric=("accuracy", "anls_official"))
    assert several.metrics == {"accuracy": 0.5, "anls_official": (1 + 0.75) / 2}
    with pytest.raises(UsageError, match="no metric 'bleu'"):
        evaluate(trained[0], FAMILY, trained[1], data, metric="bleu")


def test_the_model_comes_back_as_it_was(trained: Any, val: ConversationDataset) -> None:
    """Inside a training: some modules in eval mode, checkpointing on, caching off, a blank image for every batch."""
    model, processor = trained
    model.train()
    model.lm_head.eval()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache, model.model.run_vision_on_text = False, True
    before = state(model)
    evaluate(model, FAMILY, processor, val, rows=range(3))
    assert state(model) == before
    model.gradient_checkpointing_disable()
    model.model.run_vision_on_text = False


def state(model: Any) -> Any:
    checkpointing = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
    return (
        [module.training for module in model.modules()],
        checkpointing,
        (model.config.use_cache, model.model.run_vision_on_text, model.generation_config.to_dict()),
        [parameter.requires_grad for parameter in model.parameters()],
        torch.get_rng_state().tolist(),
    )


def test_modes_come_back_after_an_error_too(trained: Any, val: ConversationDataset) -> None:
    model, processor = trained
    model.train()
    with pytest.raises(ZeroDivisionError):
        evaluate(model, FAMILY, processor, val, rows=[0], on_batch=lambda done, total: done // 0)
    assert model.training


def test_a_sampling_checkpoint_is_still_greedy(untrained: Any, val: ConversationDataset) -> None:
    model, processor = untrained
    plain = evaluate(model, FAMILY, processor, val, max_new_tokens=8)
    generation = model.generation_config
    generation.do_sample, generation.temperature, generation.repetition_penalty = True, 9.0, 3.0
    bent = evaluate(model, FAMILY, processor, val, max_new_tokens=8)
    generation.do_sample, generation.temperature, generation.repetition_penalty = None, None, None
    assert answers(bent) == answers(plain)


def test_worst_are_the_wrong_ones_farthest_from_the_truth_first() -> None:
    question = Question(0, 0, "val-0", "Archery", ("Archery",), 9)
    texts = ["Archery", "Arched", "no", "archery.", "Archer"]
    predictions = tuple(Prediction(replace(question, row=i), text, True) for i, text in enumerate(texts))
    result = EvalResult({"accuracy": 0.4}, predictions, 5, 0)
    assert [p.text for p in result.worst()] == ["no", "Arched", "Archer"]
    assert [p.text for p in result.worst(1)] == ["no"]


@pytest.mark.parametrize(
    ("metric", "asked", "is_classification"),
    [
        ("accuracy", ["a", "b", "a"], True),
        ("accuracy", ["a", "b", "c"], False),  # every answer its own
        ("anls", ["a", "b", "a"], False),
    ],
)
def test_a_table_is_made_for_classifications_only(metric: str, asked: list[str], is_classification: bool) -> None:
    predictions = tuple(Prediction(Question(i, 0, f"v-{i}", a, (a,), 9), "a", True) for i, a in enumerate(asked))
    assert (EvalResult({metric: 0.5}, predictions, 3, 0).classes() is not None) is is_classification
