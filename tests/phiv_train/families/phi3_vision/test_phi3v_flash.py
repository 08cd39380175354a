"""flash-attn needs a GPU; its contract, written out in torch, stands in for it, so that the wiring is tested."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from phi3v_samples import SWITCH, Toy, gradients, packed, padded, toy, toy_model
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool) -> Tensor:
    """[Lq, heads, d] for one sequence; causal is aligned to the end of the keys, as in flash-attn 2.1 and later."""
    length, keys = len(q), len(k)
    mask = torch.ones(length, keys, dtype=torch.bool).tril(keys - length) if causal else None
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=softmax_scale)
    return out[0].transpose(0, 1)


def varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """flash_attn_varlen_func: attention within each [start, end) of the flattened rows."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert int(cu_seqlens_q.diff().max()) == max_seqlen_q
    assert int(cu_seqlens_k.diff().max()) == max_seqlen_k
    queries, keys = (torch.split(x, c.diff().tolist()) for x, c in ((q, cu_seqlens_q), (k, cu_seqlens_k)))
    values = torch.split(v, cu_seqlens_k.diff().tolist())
    return torch.cat([attend(*part, softmax_scale, causal) for part in zip(queries, keys, values, strict=True)])


def dense(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    """flash_attn_func."""
    return torch.stack([attend(*row, softmax_scale, causal) for row in zip(q, k, v, strict=True)])


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The same toy model twice: flash attention (of this file), and sdpa."""
    from transformers import modeling_flash_attention_utils as flash

    functions = (dense, varlen, None, flash._pad_input, flash._unpad_input)
    process = flash._lazy_define_process_function(varlen)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_: (functions, (process, process)))
    fast, plain = toy_model("sdpa"), toy_model("sdpa")
    fast.config._attn_implementation = {"": "flash_attention_2", "vision_config": "flash_attention_2"}
    return fast, plain


def samples(model: Any) -> list[Toy]:
    """Below and above the RoPE switch, with and without images."""
    return [
        toy(model, [(1, 1)], [5, 6], 1),
        toy(model, [], [SWITCH + 1], 2),
        toy(model, [(1, 2), (2, 2)], [2, 3, 9], 4),
        toy(model, [], [7], 5),
    ]


@pytest.mark.parametrize("rows", [1, 2])
def test_packs_become_cu_seqlens(models: tuple[Any, Any], rows: int) -> None:
    one = packed(samples(models[0]))
    batch = one if rows == 1 else {name: torch.cat([x, x]) for name, x in one.items()}
    results = []
    for model in models:
        out = model(**batch)
        out.loss.backward()
        results.append((out.logits, gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(results[0][1][name], gradient, rtol=0, atol=1e-6, msg=name)


def test_left_padded_rows_generate_across_the_switch(models: tuple[Any, Any]) -> None:
    crossing = toy(models[0], [(1, 1)], [3, SWITCH - 3 - 13 - 5], 3)
    batch = padded([*samples(models[0]), crossing], left=True)
    del batch["labels"]
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    fast, plain = (model.generate(**batch, **options) for model in models)
    assert torch.equal(fast, plain)
