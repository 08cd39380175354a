"""Run by torchrun in test_evaluate.py: `eval_ranks.py CHECKPOINT DATA OUT`. Each rank writes what it got."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas.errors import RecordError
from phiv_train.evaluation.generate import EvalResult, evaluate
from phiv_train.families.base import Family, get_family
from phiv_train.families.tiny import Tiny


@dataclasses.dataclass(frozen=True)
class OneRankFails(Tiny):
    """Cannot encode anything on rank 1."""

    def encode(self, conversation: Any, images: Any, processor: Any, *, generation: bool = False) -> Any:
        if dist.get_rank() == 1:
            raise RecordError(conversation.id, "is made to fail")
        return Tiny.encode(self, conversation, images, processor, generation=generation)


def main() -> None:
    checkpoint, data, out = sys.argv[1], ConversationDataset(sys.argv[2], "val"), Path(sys.argv[3])
    torch.set_num_threads(1)
    family = get_family("tiny")
    model, processor = family.load(checkpoint)
    dist.init_process_group("gloo")

    def run(family: Family) -> EvalResult:
        return evaluate(model, family, processor, data, turns="all", batch_size=4, max_new_tokens=8)

    found: dict[str, Any] = {"plain": texts(run(family)), "metrics": dict(run(family).metrics)}
    try:
        run(OneRankFails())
    except RecordError as error:
        found["error"] = str(error)
    shard(model)
    found["sharded"] = texts(run(family))
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def texts(result: EvalResult) -> list[Any]:
    return [[p.question.row, p.question.turn, p.text, p.stopped] for p in result.predictions]


def shard(model: Any) -> None:
    """FSDP2, every decoder layer on its own. The image path runs for every batch, as a trainer has it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.model.run_vision_on_text = True
    assert any(isinstance(parameter, DTensor) for parameter in model.parameters())


if __name__ == "__main__":
    main()
