"""Phi-3.5-vision from transformers' own Phi-3 decoder layers and CLIP tower, under the official tensor names.

    logits = model(input_ids, crops=crops, image_sizes=sizes).logits            # [B, L, vocab] float32
    loss = model(**batch).loss                                                  # batch from the family's collate
    hidden = model(**batch, skip_logits=True).last_hidden_state                 # for a chunked loss: lm_head is yours
    ids = model.generate(input_ids, attention_mask=mask, crops=crops, image_sizes=sizes, max_new_tokens=32)

Rows are either padded (`attention_mask`, one sample each) or packed (no mask, `position_ids` restarting at 0 for
every sample, which then never see each other, on any attention backend). Images are poured into the image
positions of the batch in row-major order, as in the original; an image position holds `config.image_token_id` or
any negative id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3RMSNorm
from transformers.utils import ModelOutput, can_return_tuple

from phiv_schemas.errors import UsageError
from phiv_train.families.base import IGNORE
from phiv_train.families.phi3_vision.attention import PACKED_SDPA
from phiv_train.families.phi3_vision.config import Phi3VConfig
from phiv_train.families.phi3_vision.generation import (
    IMAGE_INPUTS,
    passes_switch,
    repeat_images,
    suppress_image_token,
)
from phiv_train.families.phi3_vision.packing import find_packing, next_token_targets, varlen
from phiv_train.families.phi3_vision.pixels import check_images, crop_grids, pixels_from_crops
from phiv_train.families.phi3_vision.rope import LongRope, is_long
from phiv_train.families.phi3_vision.vision import ClipTower, Grid, Phi3VImageEmbedding, image_positions


@dataclass
class Phi3VOutput(ModelOutput):  # type: ignore[misc]  # transformers is untyped here
    """`loss` scalar if labels were given; `logits` [B, kept, vocab] float32 unless skipped; `cache` if used;
    `last_hidden_state` [B, L, hidden] after the final norm."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None
    last_hidden_state: Tensor | None = None


class Phi3VPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped here
    """What transformers needs to know to load, save, shard and quantise the model."""

    config_class = Phi3VConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _no_split_modules = ("Phi3DecoderLayer", "CLIPEncoderLayer", "CLIPVisionEmbeddings")
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # In the original the embedding is also a child of the image embedding; files may list it under both names.
    _keys_to_ignore_on_load_unexpected = (r"model\.vision_embed_tokens\.wte\.weight",)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Phi3VImageEmbedding):
            init.zeros_(module.glb_GN)
            init.zeros_(module.sub_GN)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. CLIP layers that never run come back frozen: loading makes new parameters of all."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tower in (module for module in model.modules() if isinstance(module, ClipTower)):
            tower.freeze_idle()
        if model.can_generate():
            suppress_image_token(model)
        return loaded


class Phi3VModel(Phi3VPreTrainedModel):
    """Embeddings, image path, decoder and final norm.

    `run_vision_on_text`: when a batch has no image, run one blank image times zero, so that every rank of a
    sharded or DDP run does the same collectives. Off by default; `Family.run_vision_on_text` sets it.
    """

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_dropout = nn.Dropout(config.embd_pdrop)
        self.vision_embed_tokens = Phi3VImageEmbedding(config)
        self.layers = nn.ModuleList(Phi3DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Phi3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = LongRope(config)
        self.gradient_checkpointing = False
        self.run_vision_on_text = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixels: Tensor | None = None,
        grids: Sequence[Grid] = (),
        rope_long: Tensor | bool | None = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, Cache | None, Tensor | None]:
        """`(hidden [B, L, D], cache, starts)`; `starts` bool [B, L] marks the samples of packed rows, else None."""
        embeds = inputs_embeds
        if embeds is None:
            if input_ids is None:
                raise UsageError("forward", "neither input_ids nor inputs_embeds is given")
            embeds = self.embed(input_ids, pixels, grids)
        device, attention = embeds.device.type, self.config._attn_implementation
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeds.dtype
        if is_flash(attention) and dtype == torch.float16:  # it gives NaN with this model (known from the recipe)
            raise UsageError("attn_implementation", f"{attention!r} does not work in float16", "Use bfloat16, or sdpa")
        past = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + embeds.shape[1], device=embeds.device)[None]
        position_ids = position_ids.expand(embeds.shape[0], -1)
        starts = find_packing(position_ids, attention_mask, past)
        if starts is not None and (use_cache or cache is not None):
            # With a cache transformers builds a plain causal mask, and samples would see their neighbours.
            raise UsageError("use_cache", "packed rows cannot be cached", "Generate from padded rows")
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if rope_long is None:
            rope_long = is_long(attention_mask, starts, past + embeds.shape[1], self.config)
        cos_sin = self.rope(position_ids, rope_long, embeds.dtype)
        mask, flash = self._attention(embeds, attention_mask, position_ids, cache, starts)
        for layer in self.layers:
            embeds = layer(embeds, attention_mask=mask, cache=cache, position_embeddings=cos_sin, **flash)
        return self.norm(embeds), cache, starts

    def embed(self, input_ids: Tensor, pixels: Tensor | None, grids: Sequence[Grid]) -> Tensor:
        """[B, L, hidden]: token embeddings with the images' rows at the image positions, in row-major order."""
        is_image = image_positions(input_ids, self.config)
        embeds: Tensor = self.embed_tokens(input_ids.masked_fill(is_image, 0))
        rows = None if pixels is None else self.vision_embed_tokens(pixels, grids).to(embeds.dtype)
        slots, found = int(is_image.sum()), 0 if rows is None else len(rows)
        if slots != found:
            images = f"{len(grids)} images of {[f'{r}x{c}' for r, c in grids]} crops give {found} rows"
            hint = "An image of r x c crops of g x g features takes (r*c+1)*g*g + 1 + (r+1)*g positions (g = 12)"
            raise UsageError("input_ids", f"{slots} image positions, but {images}", hint)
        if rows is not None:
            embeds = embeds.masked_scatter(is_image[..., None], rows)
        elif self.run_vision_on_text:
            side = self.config.vision_config.image_size
            blank = torch.zeros(2, 3, side, side, device=embeds.device)
            embeds = embeds + (self.vision_embed_tokens(blank, [(1, 1)]) * 0).sum().to(embeds.dtype)
        dropped: Tensor = self.embed_dropout(embeds)
        return dropped

    def _attention(
        self,
        embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        cache: Cache | None,
        starts: Tensor | None,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """The mask of the decoder layers and what flash attention, or attention.py, takes in its place for packs."""
        if starts is not None and is_flash(self.config._attn_implementation):
            return None, varlen(starts).kwargs()
        window = self.config.sliding_window
        slides = window is not None and window < self.config.max_position_embeddings
        if starts is not None and self.config._attn_implementation == PACKED_SDPA and not slides:
            return None, {"segments": varlen(starts).cu_seqlens.tolist()}
        make_mask = create_sliding_window_causal_mask if slides else create_causal_mask
        # transformers isolates packed samples when it sees the positions, no mask and no cache.
        positions = None if starts is None else position_ids
        return make_mask(self.config, embeds, attention_mask, cache=cache, position_ids=positions), {}


class Phi3VForConditionalGeneration(Phi3VPreTrainedModel, GenerationMixin):  # type: ignore[misc]  # untyped
    """Phi-3.5-vision with its language head. Parameter names are the official checkpoint's."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        suppress_image_token(self)

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers is untyped here
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        crops: Tensor | None = None,
        image_sizes: Tensor | None = None,
        pixel_values: Tensor | None = None,
        rope_long: Tensor | bool | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool = False,
        keep_padding_crops: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Phi3VOutput:
        """One pass. B rows, L positions, C real crops, N images of the whole batch in row-major order.

        `input_ids`, `labels`, `position_ids` int64 [B, L]; `attention_mask` [B, past + L], 1 at real positions.
        `crops` uint8 [C, 336, 336, 3] and `image_sizes` int64 [N, 2] (height, width after padding), or the
        original's `pixel_values` float [N, num_crops + 1, 3, 336, 336]; of the latter only the real crops are run,
        unless `keep_padding_crops` (same result, the original's cost).
        `rope_long`: long factors yes or no, for all, per row [B] or per position [B, L]; by default each sample's
        own length decides (see rope.py).
        `labels`: the loss is the mean cross entropy of the next token over all labels that are not -100, or their
        sum divided by `num_items_in_batch`. `skip_logits`: neither head nor loss. `logits_to_keep`: the last
        positions (int) or those indexed (tensor), without labels.
        """
        if output_attentions or output_hidden_states:
            raise UsageError("forward", "attentions and hidden states of single layers are not collected")
        pixels, grids = as_pixels(crops, image_sizes, pixel_values, keep_padding_crops, input_ids)
        hidden, cache, starts = self.model(
            input_ids, attention_mask, position_ids, cache, inputs_embeds, pixels, grids, rope_long, use_cache
        )
        out = Phi3VOutput(cache=cache, last_hidden_state=hidden)
        if not skip_logits:
            logits = self.lm_head(slice_logits_to_keep(hidden, logits_to_keep))
            out.logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if labels is not None and out.logits is not None:
            if out.logits.shape[1] != labels.shape[1]:
                raise UsageError("logits_to_keep", "cannot be combined with labels", "Use skip_logits")
            out.loss = causal_lm_loss(out.logits, next_token_targets(labels, starts), num_items_in_batch)
        return out

    def get_image_features(
        self, crops: Tensor | None = None, image_sizes: Tensor | None = None, pixel_values: Tensor | None = None
    ) -> Tensor:
        """[rows, hidden] of all images, one after another, as they enter the decoder."""
        pixels, grids = as_pixels(crops, image_sizes, pixel_values)
        if pixels is None:
            return self.lm_head.weight.new_zeros(0, self.config.hidden_size)
        rows: Tensor = self.model.vision_embed_tokens(pixels, grids)
        return rows

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, cache: Cache | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """One step of `generate`; starts over, images included, when a row passes the RoPE switch."""
        images = {name: kwargs.pop(name, None) for name in IMAGE_INPUTS}
        if cache is not None and kwargs.get("rope_long") is None:
            limit = self.config.original_max_position_embeddings
            if passes_switch(input_ids.shape[1], cache.get_seq_length(), attention_mask, limit):
                cache, kwargs["next_sequence_length"] = None, None
        inputs = super().prepare_inputs_for_generation(input_ids, cache=cache, attention_mask=attention_mask, **kwargs)
        if cache is None or cache.get_seq_length() == 0:
            inputs |= images
        return dict(inputs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """transformers repeats every tensor row by row; images are repeated with the row they belong to."""
        images = {name: kwargs.pop(name) for name in IMAGE_INPUTS if kwargs.get(name) is not None}
        if images and expand_size > 1:
            images = repeat_images(images, input_ids, self.config, expand_size)
        ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return ids, kwargs | images


def as_pixels(
    crops: Tensor | None,
    image_sizes: Tensor | None,
    pixel_values: Tensor | None,
    keep_padding: bool = False,
    like: Tensor | None = None,
) -> tuple[Tensor | None, list[Grid]]:
    """`(pixels, grids)` for the image path from either form of input; `(None, [])` without images.

    UsageError where dtype, shape or number of them is not what `forward` describes.
    """
    check_images(crops, image_sizes, pixel_values)
    if image_sizes is None or len(image_sizes) == 0:
        if (crops is not None and len(crops)) or (pixel_values is not None and len(pixel_values)):
            raise UsageError("image_sizes", "missing, but there are crops", "Pass [N, 2] (height, width)")
        return None, []
    pixels = crops if crops is not None else pixel_values
    if pixels is None:
        raise UsageError("image_sizes", f"{len(image_sizes)} images, but no crops", "Pass crops")
    grids = crop_grids(image_sizes, pixels.shape[-2])
    if crops is not None:
        return pixels_from_crops(crops if like is None else crops.to(like.device), image_sizes)[0], grids
    needed = max(rows * columns for rows, columns in grids) + 1
    if len(pixels) != len(grids) or pixels.shape[1] < needed:
        found = f"is {list(pixels.shape)}, expected [{len(grids)}, at least {needed}, 3, side, side]"
        raise UsageError("pixel_values", found)
    if keep_padding:
        return pixels, grids
    return torch.cat([p[: 1 + r * c] for p, (r, c) in zip(pixels, grids, strict=True)]), grids


def causal_lm_loss(logits: Tensor, targets: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Cross entropy of `logits` [B, L, V] against `targets` [B, L]: mean over targets that are not -100 (0 if there
    is none), or the sum over `num_items`."""
    total = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten().to(logits.device), ignore_index=IGNORE, reduction="sum"
    )
    return total / ((targets != IGNORE).sum().clamp(min=1) if num_items is None else num_items)


def is_flash(attn_implementation: str) -> bool:
    """True for the flash-attention backends of transformers."""
    return "flash" in attn_implementation
