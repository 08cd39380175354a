"""Logits, loss and gradients against a second composition of the model, from transformers' whole Phi-3 and CLIP.

The oracle shares no code with the family: Phi3ForCausalLM with its own rotary tables, CLIPVisionModel's
`hidden_states[-2]`, and the image's rows put together here in plain slices, image by image.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

from phiv_train.families.phi3_vision.checkpoint import build_model
from phiv_train.families.phi3_vision.image_processing import hd_crops, num_image_tokens, pixel_values

VISION = "model.vision_embed_tokens."
SIZES = {
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "num_hidden_layers": 3,
    "intermediate_size": 160,
    "vocab_size": 576,
    "pad_token_id": 512,
}
CLIP_SIZES = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "intermediate_size": 64}
# What transformers' Phi3Config is given of the official file; the rope goes in separately.
PHI3_KEYS = (*SIZES, "max_position_embeddings", "original_max_position_embeddings", "rms_norm_eps")
PHI3_KEYS += ("bos_token_id", "eos_token_id", "sliding_window", "tie_word_embeddings")
GROUPS = (f"{VISION}img_processor.", f"{VISION}img_projection.", f"{VISION}glb_GN", f"{VISION}sub_GN")
GROUPS += ("model.embed_tokens.", "model.layers.0.", "model.layers.1.", "model.layers.2.", "model.norm.", "lm_head.")


class Oracle(nn.Module):
    """The model of `config` (an official config.json) and `clip` (the CLIP tower's config), composed again."""

    def __init__(self, config: dict[str, Any], clip: dict[str, Any]) -> None:
        super().__init__()
        rope = {k: config["rope_scaling"][k] for k in ("short_factor", "long_factor")}
        rope |= {k: config[k] for k in ("rope_theta", "original_max_position_embeddings")}
        keys = {k: config[k] for k in PHI3_KEYS} | {"rope_parameters": rope | {"rope_type": "longrope"}}
        self.language = Phi3ForCausalLM(Phi3Config(**keys, attn_implementation="eager"))
        self.clip = CLIPVisionModel(CLIPVisionConfig(**clip))
        width, hidden = 4 * clip["hidden_size"], config["hidden_size"]
        self.glb_GN = nn.Parameter(torch.empty(1, 1, width))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, width))
        self.img_projection = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by their names in the official checkpoint."""
        return {_official(name): parameter for name, parameter in self.named_parameters()}

    def rows(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """[positions, hidden] of one image: `pixels` [1 + crops, 3, 336, 336], the global view first."""
        x = self.clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].unflatten(1, (24, 24))
        merged = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        columns = width // 336
        lines = [torch.cat(list(merged[1 + i : 1 + i + columns]), 1) for i in range(0, len(merged) - 1, columns)]
        assert len(lines) == height // 336
        return self.img_projection(torch.cat([self._broken(torch.cat(lines)), self.glb_GN[0], self._broken(merged[0])]))

    def _broken(self, grid: Tensor) -> Tensor:
        """[h * (w + 1), width] of a grid [h, w, width], with a separator after every line."""
        return torch.cat([grid, self.sub_GN[0].expand(len(grid), 1, -1)], 1).flatten(0, 1)

    def forward(self, ids: Tensor, images: list[Tensor], sizes: list[tuple[int, int]], labels: Tensor) -> Any:
        """Phi-3's own output (loss, logits); image positions of `ids` are negative."""
        embeds = self.language.model.embed_tokens(ids.clamp(min=0))
        rows = torch.cat([self.rows(p, *size) for p, size in zip(images, sizes, strict=True)])
        embeds = embeds.index_put((ids < 0).nonzero(as_tuple=True), rows)
        return self.language(inputs_embeds=embeds, labels=labels, use_cache=False)


def _official(name: str) -> str:
    head, _, rest = name.partition(".")
    if head == "language":
        return rest
    if head == "clip":
        return f"{VISION}img_processor.vision_model.{rest.removeprefix('vision_model.')}"
    return VISION + name


@dataclass(frozen=True)
class Run:
    """What both models gave for one sample: logits, loss, gradients by official name."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def configs(golden: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The golden configurations at sizes the golden data does not have, with random RoPE factors."""
    config, clip = (json.loads((golden / name).read_text()) for name in ("config.json", "clip_config.json"))
    config["img_processor"]["image_dim_out"] = CLIP_SIZES["hidden_size"]
    random = np.random.default_rng(5)
    for key, spread in (("short_factor", 8), ("long_factor", 60)):
        config["rope_scaling"][key] = (1 + spread * np.sort(random.random(8))).tolist()
    return config | SIZES, clip | CLIP_SIZES


def fill(model: nn.Module) -> None:
    """Random values of a size that keeps every layer at work: no parameter may be without effect."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data.copy_(("weight" in name) + 0.1 * noise)
        else:
            parameter.data.copy_(noise * 0.8 / math.sqrt(parameter.shape[-1]))


def run(model: nn.Module, names: dict[str, nn.Parameter], *args: Any, **inputs: Any) -> Run:
    out = model(*args, **inputs)
    out.loss.backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in names.items()}
    return Run(out.logits.detach(), out.loss.detach(), found)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def both(request: pytest.FixtureRequest, shared: Path) -> tuple[Run, Run]:
    """(the family's, the oracle's) on one row of text with a wide and a tall image, in float32."""
    config, clip = configs(shared / "golden")
    oracle = Oracle(config, clip).eval()
    fill(oracle)
    model = build_model(config, {n: p.detach() for n, p in oracle.named().items()}, clip, request.param)
    random = np.random.default_rng(0)
    shapes = ((150, 700, 4), (500, 230, 6))  # height, width, num_crops
    cut = [hd_crops(random.integers(0, 256, (h, w, 3), dtype=np.uint8), n) for h, w, n in shapes]
    sizes = [size for _, size in cut]
    first, second = (int(num_image_tokens(w, h, n)) for h, w, n in shapes)
    text = random.integers(3, 576, 20).tolist()
    ids = torch.tensor([[1, 5, 7, *[-1] * first, 1, 575, *[-2] * second, *text]])
    labels = ids.masked_fill(ids < 0, -100)
    labels[:, 0] = -100
    crops = torch.from_numpy(np.concatenate([crops for crops, _ in cut]))
    images = [torch.from_numpy(pixel_values(*image)) for image in cut]
    ours = run(model, dict(model.named_parameters()), ids, labels=labels, crops=crops, image_sizes=torch.tensor(sizes))
    return ours, run(oracle, oracle.named(), ids, images, sizes, labels)


def test_logits_and_loss_are_those_of_the_oracle(both: tuple[Run, Run]) -> None:
    ours, oracle = both
    torch.testing.assert_close(ours.logits, oracle.logits, rtol=0, atol=2e-4)
    torch.testing.assert_close(ours.loss, oracle.loss, rtol=0, atol=1e-5)


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_of_every_group_point_where_the_oracle_s_do(both: tuple[Run, Run], group: str) -> None:
    a, b = (torch.cat([g.flatten() for n, g in r.gradients.items() if n.startswith(group)]).double() for r in both)
    assert a.norm() > 0
    assert torch.nn.functional.cosine_similarity(a, b, 0) >= 0.9999
    torch.testing.assert_close(a.norm(), b.norm(), rtol=1e-3, atol=0)


def test_the_groups_are_all_parameters_and_idle_ones_are_idle_in_both(both: tuple[Run, Run]) -> None:
    ours, oracle = both
    assert ours.gradients.keys() == oracle.gradients.keys()
    assert all(sum(name.startswith(group) for group in GROUPS) == 1 for name in ours.gradients)
    idle = [{n for n, g in r.gradients.items() if not g.any()} for r in both]
    assert idle[0] == idle[1]
    assert all("layers.3." in n or "post_layernorm" in n for n in idle[0])
