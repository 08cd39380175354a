"""The model beyond the golden data: mixed batches, generation, frozen vision, collectives, clear errors."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from phi3v_samples import SIDE, SWITCH, Toy, gradients, images, packed, padded, toy, toy_model
from torch import Tensor

from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.families.phi3_vision.checkpoint import check_attention
from phiv_train.families.phi3_vision.config import Phi3VConfig
from phiv_train.families.phi3_vision.generation import passes_switch


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> Any:
    return toy_model(request.param, torch.float32)


@pytest.fixture
def plain() -> Any:
    return toy_model("sdpa", torch.float32)


def answer(model: Any, samples: list[Toy], count: int = 12, **options: Any) -> Tensor:
    """The new tokens [rows, count] of a left-padded batch."""
    batch = padded(samples, left=True)
    del batch["labels"]
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(**batch, max_new_tokens=count, **options)[:, batch["input_ids"].shape[1] :]


def prompts(model: Any) -> list[Toy]:
    """Text only; several images; an image in a later turn; one row crosses the RoPE switch while generating."""
    crossing = toy(model, [(1, 1)], [3, SWITCH - 3 - 13 - 5], 3)
    assert len(crossing) == SWITCH - 5
    return [
        toy(model, [], [6], 1),
        toy(model, [(1, 2), (1, 1)], [2, 3, 4], 2),
        crossing,
        toy(model, [(2, 2)], [30, 9], 4),
    ]


def test_left_padded_batch_generates_what_each_row_does_alone(model: Any) -> None:
    samples = prompts(model)
    assert len(samples[-1]) > SWITCH
    together = answer(model, samples)
    for row, sample in zip(together, samples, strict=True):
        assert torch.equal(row, answer(model, [sample])[0])


def test_the_cache_changes_nothing_across_the_switch(model: Any) -> None:
    for sample in prompts(model):
        assert torch.equal(answer(model, [sample]), answer(model, [sample], use_cache=False))


def test_the_switch_recomputes_with_long_factors_and_images(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bool]] = []
    honest = type(plain).forward

    @functools.wraps(honest)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((kwargs["input_ids"].shape[1], kwargs.get("crops") is not None))
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(type(plain), "forward", watched)
    answer(plain, [prompts(plain)[2]])
    sizes = [size for size, _ in calls]
    assert sizes == [SWITCH - 5, 1, 1, 1, 1, 1, SWITCH + 1, 1, 1, 1, 1, 1]
    assert [with_images for _, with_images in calls] == [size > 1 for size in sizes]


def test_the_image_id_is_never_generated(plain: Any, tmp_path: Path) -> None:
    prompt, image = torch.tensor([[5, 6]]), plain.config.image_token_id
    plain.save_pretrained(tmp_path)
    for model in (plain, type(plain).from_pretrained(tmp_path)):
        with torch.no_grad():
            hidden = model(prompt, skip_logits=True).last_hidden_state[0, -1]
            model.lm_head.weight.zero_()
            model.lm_head.weight[image] = hidden
            assert model(prompt).logits[0, -1].argmax() == image
        assert image not in model.generate(prompt, max_new_tokens=3, do_sample=False, eos_token_id=None)


@pytest.mark.parametrize(
    ("total", "past", "mask", "passes"),
    [
        (49, 48, None, True),
        (48, 47, None, False),
        (50, 49, None, False),
        (60, 40, None, True),
        (49, 0, None, False),
        (60, 59, [[0] * 11 + [1] * 49, [1] * 60], True),
        (60, 59, [[0] * 12 + [1] * 48, [1] * 60], False),
    ],
)
def test_passes_switch(total: int, past: int, mask: Any, passes: bool) -> None:
    assert passes_switch(total, past, None if mask is None else torch.tensor(mask), SWITCH) is passes


def test_beams_and_several_answers_keep_each_rows_images(plain: Any) -> None:
    samples = prompts(plain)
    together = answer(plain, samples, 6, num_beams=2)
    for row, sample in zip(together, samples, strict=True):
        assert torch.equal(row, answer(plain, [sample], 6, num_beams=2)[0])
    torch.manual_seed(0)
    several = answer(plain, samples, 6, num_return_sequences=3, do_sample=True, top_k=1)
    assert torch.equal(several, answer(plain, samples, 6).repeat_interleave(3, 0))


def test_original_pixel_values_equal_crops_with_or_without_padding(plain: Any) -> None:
    samples = prompts(plain)
    batch = padded(samples)
    with torch.no_grad():
        expected = plain(**batch).logits
        sizes = batch["image_sizes"]
        from phiv_train.families.phi3_vision.pixels import pixels_from_crops

        pixels, counts = pixels_from_crops(batch.pop("crops"), sizes)
        padded_pixels = torch.zeros(len(sizes), 6, 3, SIDE, SIDE)
        for row, part in zip(padded_pixels, torch.split(pixels, counts), strict=True):
            row[: len(part)] = part
        for keep in (False, True):
            logits = plain(**batch, pixel_values=padded_pixels, keep_padding_crops=keep).logits
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_negative_ids_are_image_positions_too(plain: Any) -> None:
    batch = packed([prompts(plain)[1]])
    with torch.no_grad():
        expected = plain(**batch).logits
        ids = batch["input_ids"]
        batch["input_ids"] = torch.where(ids == plain.config.image_token_id, torch.tensor(-1), ids)
        assert torch.equal(plain(**batch).logits, expected)


def test_only_real_crops_go_through_the_tower(plain: Any) -> None:
    seen: list[int] = []
    plain.model.vision_embed_tokens.clip.register_forward_hook(lambda *call: seen.append(len(call[2])))
    plain(**padded(prompts(plain)))
    assert seen == [(1 + 2) + (1 + 1) + (1 + 1) + (1 + 4)]


def test_hidden_states_and_head_give_the_same_loss(plain: Any) -> None:
    from phiv_train.families.phi3_vision.packing import find_packing, next_token_targets

    batch = packed(prompts(plain))
    out = plain(**batch)
    skipped = plain(**batch, skip_logits=True)
    assert skipped.logits is None
    assert skipped.loss is None
    starts = find_packing(batch["position_ids"], None)
    targets = next_token_targets(batch["labels"], starts)
    supervised = targets != -100
    logits = plain.lm_head(skipped.last_hidden_state[supervised])
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets[supervised]), out.loss)
    kept = plain(**{k: v for k, v in batch.items() if k != "labels"}, logits_to_keep=3).logits
    torch.testing.assert_close(kept, out.logits[:, -3:])


def test_loss_without_any_label_is_zero_not_nan(plain: Any) -> None:
    ids = torch.randint(3, 300, (1, 9))
    loss = plain(ids, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(g.abs().max() == 0 for g in gradients(plain).values())


def test_idle_clip_layers_get_no_gradient_and_are_frozen(plain: Any) -> None:
    plain(**packed(prompts(plain))).loss.backward()
    without = {name for name, p in plain.named_parameters() if p.grad is None}
    assert without == {name for name, p in plain.named_parameters() if not p.requires_grad}
    assert {name.split("vision_model.")[1].split(".")[0] for name in without} == {"encoder", "post_layernorm"}
    assert all(".layers.2." in name or "post_layernorm" in name for name in without)
    gradients(plain)


def test_frozen_vision_builds_no_graph(plain: Any) -> None:
    tower = plain.model.vision_embed_tokens.clip
    graphs: list[tuple[bool, bool]] = []
    inside: list[bool] = []
    tower.embeddings.register_forward_hook(lambda *_: inside.append(torch.is_grad_enabled()))
    tower.register_forward_hook(lambda *call: graphs.append((call[2].requires_grad, inside.pop())))
    batch = packed(prompts(plain))
    plain(**batch).loss.backward()
    trained = gradients(plain)
    tower.requires_grad_(False)
    plain(**batch).loss.backward()
    frozen = gradients(plain)
    assert graphs == [(True, True), (False, False)]
    assert frozen.keys() == {name for name in trained if "img_processor" not in name}
    for name, gradient in frozen.items():
        torch.testing.assert_close(gradient, trained[name], rtol=0, atol=0)


def test_batches_without_images_can_run_the_tower_for_the_other_ranks(plain: Any) -> None:
    batch = packed([toy(plain, [], [9], 1), toy(plain, [], [5], 2)])
    honest = plain(**batch)
    honest.loss.backward()
    text_only = gradients(plain)
    assert not any("vision" in name for name in text_only)
    plain.model.run_vision_on_text = True
    out = plain(**batch)
    out.loss.backward()
    everything = gradients(plain)
    assert torch.equal(out.logits, honest.logits)
    assert everything.keys() == {name for name, p in plain.named_parameters() if p.requires_grad}
    assert all(everything[name].abs().max() == 0 for name in everything.keys() - text_only.keys())


def test_ddp_needs_no_search_for_unused_parameters(plain: Any, tmp_path: Path) -> None:
    from torch import distributed

    text, mixed = packed([toy(plain, [], [9], 1)]), packed(prompts(plain))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(plain)
        for batch in (mixed, mixed):
            wrapped(**batch).loss.backward()
        wrapped(**text).loss.backward()
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            wrapped(**text)
        plain.model.run_vision_on_text = True
        wrapped = torch.nn.parallel.DistributedDataParallel(plain)
        for batch in (text, mixed, text):
            wrapped(**batch).loss.backward()
    finally:
        distributed.destroy_process_group()


def test_training_with_checkpointing_uses_the_non_reentrant_kind(plain: Any) -> None:
    plain.activation_checkpointing_enable()
    layer = plain.model.layers[0]
    assert layer.gradient_checkpointing
    assert layer._gradient_checkpointing_func.keywords["use_reentrant"] is False


def test_more_image_positions_than_rows_name_both_numbers(plain: Any) -> None:
    batch = packed([prompts(plain)[1]])
    batch["input_ids"][0, 0] = plain.config.image_token_id
    message = r"^input_ids: 31 image positions, but 2 images of \['1x2', '1x1'\] crops give 30 rows\. An image"
    with pytest.raises(UsageError, match=message):
        plain(**batch)


def test_images_that_do_not_fit_are_named(plain: Any) -> None:
    sample = prompts(plain)[1]
    batch = packed([sample])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"crops": sample.crops[:-1]}, "crops: 2 crops, but image_sizes ask for 3"),
        ({"image_sizes": None}, "image_sizes: missing, but there are crops"),
        ({"crops": None}, "image_sizes: 2 images, but no crops"),
        ({"image_sizes": sample.sizes + 1}, r"image_sizes\[0\]: 57x113 is not a multiple of 56"),
        ({"crops": None, "pixel_values": torch.zeros(2, 2, 3, SIDE, SIDE)}, r"pixel_values: is \[2, 2, 3, 56, 56\]"),
        ({"crops": None, "image_sizes": None}, "image positions, but 0 images"),
        ({"crops": sample.crops / 255}, r"crops: is float32 \[3, 56, 56, 3\], expected uint8 \[C, S, S, 3\]"),
        ({"crops": sample.crops.permute(0, 3, 1, 2)}, r"crops: is uint8 \[3, 3, 56, 56\], expected uint8"),
        ({"crops": sample.crops[0]}, r"crops: is uint8 \[56, 56, 3\], expected uint8"),
        ({"crops": sample.crops[..., :1]}, r"crops: is uint8 \[3, 56, 56, 1\], expected uint8"),
        ({"crops": sample.crops.long(), "image_sizes": None}, "crops: is int64"),
        ({"pixel_values": torch.zeros(2, 3, 3, SIDE, SIDE)}, "crops: given together with pixel_values"),
        (
            {"crops": None, "pixel_values": torch.zeros(2, 3, 3, SIDE, SIDE, dtype=torch.uint8)},
            r"pixel_values: is uint8 \[2, 3, 3, 56, 56\], expected floats \[N, crops, 3, S, S\]",
        ),
        ({"crops": None, "pixel_values": torch.zeros(2, 3, SIDE, SIDE)}, r"pixel_values: is float32 \[2, 3, 56, 56\]"),
        ({"image_sizes": sample.sizes.flatten()}, r"image_sizes: is int64 \[4\], expected integers \[N, 2\]"),
        ({"image_sizes": sample.sizes.repeat(1, 2)}, r"image_sizes: is int64 \[2, 4\], expected integers \[N, 2\]"),
        ({"image_sizes": sample.sizes.float()}, r"image_sizes: is float32 \[2, 2\], expected integers \[N, 2\]"),
        ({"output_attentions": True}, "not collected"),
        ({"logits_to_keep": 2}, "cannot be combined with labels"),
    ]
    for change, message in cases:
        with pytest.raises(UsageError, match=message):
            plain(**batch | change)


def test_flash_attention_in_float16_is_refused() -> None:
    with pytest.raises(UsageError, match="does not work in float16"):
        check_attention("flash_attention_2", torch.float16)
    model = toy_model("sdpa", torch.float16)
    model.config._attn_implementation = {"": "flash_attention_2", "vision_config": "sdpa"}
    with pytest.raises(UsageError, match="Use bfloat16"):
        model(torch.tensor([[3, 4, 5]]))


def test_flash_attention_that_is_not_installed_is_one_line() -> None:
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed")
    with pytest.raises(EnvironmentProblem, match="flash_attention_2: the flash-attn package or a GPU is missing"):
        check_attention("flash_attention_2", torch.bfloat16)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"embd_layer": {"hd_transform_order": "glb_sub"}}, "hd_transform_order is 'glb_sub'"),
        ({"img_processor": {"image_dim_out": 7}}, "image_dim_out is 7, the CLIP tower's hidden_size 1024"),
        ({"img_processor": {"num_img_tokens": 9}}, "num_img_tokens is 9, the CLIP tower gives 144"),
        ({"img_processor": {"type_feature": "cls_patch"}}, "type_feature is 'cls_patch', only 'patch' is"),
        ({"img_processor": {"name": "siglip"}}, "name is 'siglip', only 'clip_vision_model' is"),
        ({"img_processor": {"layer_idx": 25}}, "layer_idx is 25, the CLIP tower has -25 to 24"),
        ({"img_processor": {"layer_idx": -26}}, "layer_idx is -26, the CLIP tower has -25 to 24"),
        ({"img_processor": {"layer_idx": "last"}}, "layer_idx is 'last', the CLIP tower has -25 to 24"),
        ({"hidden_size": 100}, "hidden_size is 100, not an even multiple of num_attention_heads 32"),
        ({"hidden_size": 96}, "hidden_size is 96, not an even multiple of num_attention_heads 32"),
        ({"num_key_value_heads": 5}, "num_attention_heads is 32, not a multiple of num_key_value_heads 5"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, only 1.0 is implemented"),
    ],
)
def test_another_image_path_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Phi3VConfig(**keys)


def longrope(**keys: Any) -> dict[str, Any]:
    return {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48} | keys


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"type": "linear", "factor": 2.0}, "type is 'linear', only default, longrope, su are implemented"),
        ({"rope_type": "dynamic", "factor": 2.0}, "type is 'dynamic'"),
        ({"rope_type": "llama3", "factor": 2.0}, "type is 'llama3'"),
        (longrope(type="yarn"), "type is 'yarn'"),
        (longrope(type=None), "type is None"),
        (longrope(type=["su"]), r"type is \['su'\]"),
        (longrope(short_factor=[1.0]), r"short_factor has 1 entries, expected 48 \(head_dim / 2\)"),
        (longrope(long_factor=[1.0] * 49), r"long_factor has 49 entries, expected 48 \(head_dim / 2\)"),
        (longrope(long_factor=2.0), "long_factor is no list of positive numbers"),
        (longrope(long_factor=["2"] * 48), "long_factor is no list of positive numbers"),
        (longrope(short_factor=[0] * 48), "short_factor is no list of positive numbers"),
        ({"type": "su", "short_factor": [1.0] * 48}, "long_factor is no list of positive numbers"),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_rope_that_would_be_ignored_or_broadcast_is_refused(key: str, rope: Any, message: str) -> None:
    with pytest.raises(UsageError, match=r"^config\.json: rope_scaling.*" + message):
        Phi3VConfig(**{key: rope})


def test_a_rope_that_is_no_object_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^config\.json: rope_scaling is 'su', not an object"):
        Phi3VConfig(rope_scaling="su")


def test_su_longrope_and_none_are_ropes() -> None:
    for kind in ("su", "longrope"):
        assert Phi3VConfig(rope_scaling=longrope(type=kind)).rope_parameters["rope_type"] == "longrope"
    for rope in (None, {}, {"type": "default"}):
        assert Phi3VConfig(rope_scaling=rope).rope_parameters["rope_type"] == "default"


def test_bfloat16_stays_near_float32(plain: Any) -> None:
    batch = packed(prompts(plain))
    with torch.no_grad():
        exact = plain(**batch)
        half = plain.to(torch.bfloat16)(**batch)
    assert half.logits.dtype == torch.float32
    assert (half.logits - exact.logits).abs().mean() < 0.03
    assert abs(half.loss - exact.loss) < 0.05


def test_images_of_a_row_are_given_in_order(plain: Any) -> None:
    one, other = toy(plain, [(1, 1)], [4, 4], 1), toy(plain, [(1, 1)], [4, 4], 2)
    with torch.no_grad():
        right = plain(**packed([one, other])).logits
        swapped = plain(**packed([one, other]) | images([other, one])).logits
    assert (right - swapped).abs().max() > 1e-3
