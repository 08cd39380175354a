"""Packed sdpa: every sample on its own gives what transformers' sdpa gives under a dense mask, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from phi3v_samples import SWITCH, Toy, gradients, packed, padded, toy, toy_model
from torch import Tensor

import phiv_train.families.phi3_vision.attention as attention
from phiv_train.families.phi3_vision.attention import PACKED_SDPA, packed_sdpa
from phiv_train.families.phi3_vision.checkpoint import load, save

SEGMENTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def model() -> Any:
    return toy_model("sdpa")


def dense(model: Any) -> Any:
    """A twin of `model` on transformers' own sdpa."""
    twin = toy_model("sdpa", model.dtype, sliding_window=model.config.sliding_window)
    twin.load_state_dict(model.state_dict())
    twin.set_attn_implementation("sdpa")
    return twin


def samples(model: Any) -> list[Toy]:
    """Images in front, in between and none; one position; below and above the RoPE switch."""
    return [
        toy(model, [(1, 1)], [5, 9], 1),
        toy(model, [], [1], 2),
        toy(model, [(1, 2), (2, 2)], [2, 3, 9], 3),
        toy(model, [], [SWITCH + 1], 4),
    ]


def run(model: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    out = model(**batch)
    out.loss.backward()
    return out.logits.detach(), gradients(model)


def assert_equal(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-10)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=1e-10, msg=name)


@settings(max_examples=40, deadline=None)
@given(SEGMENTS, st.sampled_from([1, 2]), st.integers(0, 99))
def test_the_function_equals_masked_attention(rows: list[list[int]], groups: int, seed: int) -> None:
    width = max(map(sum, rows))
    rows = [[*lengths, width - sum(lengths)] if sum(lengths) < width else lengths for lengths in rows]
    numbers = torch.tensor([[i for i, n in enumerate(lengths) for _ in range(n)] for lengths in rows])
    mask = (numbers[:, :, None] == numbers[:, None]) & torch.ones(width, width).tril().bool()
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(len(rows), heads, width, 8, generator=generator, dtype=torch.float64)
        for heads in (4, 4 // groups, 4 // groups)
    )
    layer = torch.nn.Module()
    layer.num_key_value_groups = groups
    segments = torch.tensor([0, *(n for lengths in rows for n in lengths)]).cumsum(0).tolist()
    ours, _ = packed_sdpa(layer, q, k, v, None, segments=segments, scaling=0.3)
    theirs, _ = packed_sdpa(layer, q, k, v, mask[:, None], scaling=0.3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert ours.is_contiguous()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_packs_equal_the_dense_mask(model: Any, rows: int, checkpointing: bool) -> None:
    one = packed(samples(model))
    batch = one if rows == 1 else {name: torch.cat([x, x]) for name, x in one.items()}
    expected = run(dense(model), batch)
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    try:
        assert_equal(run(model, batch), expected)
    finally:
        model.eval()
        model.activation_checkpointing_disable()


def test_packs_make_no_mask(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Any] = []
    plain = attention.sdpa_attention_forward

    def noting(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> Any:
        masks.append((q.shape[2], mask))
        return plain(module, q, k, v, mask, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", noting)
    batch = samples(model)
    model(**packed(batch))
    assert masks == [(len(sample), None) for sample in batch] * model.config.num_hidden_layers


def test_a_sliding_window_is_kept() -> None:
    model = toy_model("sdpa", sliding_window=6)
    batch = packed(samples(model))
    slides = run(model, batch)
    assert_equal(slides, run(dense(model), batch))
    assert (slides[0] - toy_model("sdpa")(**batch).logits).abs().max() > 1e-3


@pytest.mark.parametrize("left", [False, True])
def test_padded_rows_take_transformers_path(model: Any, left: bool) -> None:
    batch = padded(samples(model), left=left)
    assert_equal(run(model, batch), run(dense(model), batch))


def test_generation_takes_transformers_path(model: Any) -> None:
    batch = padded(samples(model), left=True)
    del batch["labels"]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(**batch, **options), dense(model).generate(**batch, **options))


def test_bfloat16_packs_equal_single_samples() -> None:
    model = toy_model("sdpa", torch.bfloat16)
    batch = samples(model)
    logits, grads = run(model, packed(batch))
    singles = torch.cat([model(**packed([sample])).logits for sample in batch], dim=1)
    assert model.model.layers[0].self_attn.qkv_proj.weight.grad is None
    assert grads["model.layers.0.self_attn.qkv_proj.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(logits, singles, rtol=0, atol=0.05)  # 3 bits after the point at logits of about 4


def test_the_name_stays_out_of_the_files(tmp_path: Path) -> None:
    model = toy_model("sdpa", torch.float32)
    assert model.config._attn_implementation == PACKED_SDPA
    save(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "transformers")
    for file in tmp_path.rglob("*.json"):
        assert PACKED_SDPA not in file.read_text(encoding="utf-8"), file
    for name in ("ours", "transformers"):
        plain = json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        assert not {key for key in plain if "attn_implementation" in key} - {"_attn_implementation"}
        assert load(tmp_path / name).config._attn_implementation == PACKED_SDPA
        assert type(model).from_pretrained(tmp_path / name).config._attn_implementation == "sdpa"


def test_clip_and_eager_keep_transformers_names() -> None:
    sdpa, eager = toy_model("sdpa").config, toy_model("eager").config
    assert (sdpa._attn_implementation, sdpa.vision_config._attn_implementation) == (PACKED_SDPA, "sdpa")
    assert (eager._attn_implementation, eager.vision_config._attn_implementation) == ("eager", "sdpa")
