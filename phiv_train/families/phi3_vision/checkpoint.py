"""Load and save the official checkpoint layout; every tensor accounted for, or one line that names those that are not.

    model = load("microsoft/Phi-3.5-vision-instruct", dtype="bfloat16", attn_implementation="sdpa")
    save(model, Path("out/final"), processor)            # whole or not there: written beside, then renamed
    model = build_model(config, tensors, clip_config)    # from plain dicts, as they are in the files

The model's parameter names are the official ones, so transformers' own `from_pretrained` and `save_pretrained` do
the work (sharded safetensors, dtype, 4-bit). This adds what they only warn about: missing and unexpected tensors,
wrong shapes, shards that are not there, and an end-of-sequence id the chat template never produces.
"""

from __future__ import annotations

import secrets
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems
from phiv_data.utils.extras import install_hint
from phiv_data.utils.json_files import read_object
from phiv_schemas.errors import EnvironmentProblem, PhivError, UsageError
from phiv_train.families.hub import local_folder
from phiv_train.families.phi3_vision.attention import PACKED_SDPA
from phiv_train.families.phi3_vision.components import components
from phiv_train.families.phi3_vision.config import Phi3VConfig, from_plain
from phiv_train.families.phi3_vision.generation import set_stop_ids
from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration, is_flash

EMBEDDING = "model.embed_tokens.weight"
# The original registers the embedding a second time inside the image embedding; old files may use that name.
EMBEDDING_ALIAS = "model.vision_embed_tokens.wte.weight"
# <|end|> closes every turn of the chat template, <|endoftext|> the conversation. The official generation config
# stops on 2 (</s>), which the template never produces: that is the endless generation people report.
STOP_IDS = (32007, 32000)
# Fully-qualified, so that 4-bit reaches the decoder's linear layers and nothing else.
SKIP_4BIT = ("model.vision_embed_tokens", "model.embed_tokens", "lm_head")
MERGE_HINT = "Save the adapters alone, and merge them into their base with phiv-merge ADAPTER --out FOLDER"
ATTENTION = ("eager", "sdpa", "flash_attention_2")

Shapes = dict[str, tuple[int, ...]]


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    attn_implementation: str = "sdpa",
    quantization: Literal["4bit"] | None = None,
    skip_4bit: Sequence[str] = SKIP_4BIT,
    stop_ids: Sequence[int] | None = None,
    revision: str | None = None,
) -> Phi3VForConditionalGeneration:
    """The model of a folder or hub id, in eval mode. Nothing is initialised at random.

    CLIP layers that never run, which the recipe deletes before it trains adapters, are zeros where a file lacks them.

    `quantization="4bit"` (bitsandbytes NF4) spares the modules `skip_4bit`, fully-qualified, and all below them.
    `stop_ids` end a generated answer; by default <|end|> and <|endoftext|> of the real vocabulary.
    UsageError for a folder or tensors that do not fit; EnvironmentProblem for a missing package or network.
    """
    torch_dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(torch_dtype, torch.dtype):
        raise UsageError("dtype", f"no such torch dtype {dtype!r}", "Use float32, bfloat16 or float16")
    if attn_implementation not in ATTENTION:
        raise UsageError(
            "attn_implementation", f"unknown {attn_implementation!r}", f"Use one of {', '.join(ATTENTION)}"
        )
    if quantization not in (None, "4bit"):
        raise UsageError("quantization", f"unknown {quantization!r}", "Use '4bit', or leave it out")
    check_attention(attn_implementation, torch_dtype)
    folder = local_folder(path, revision)
    config = read_config(folder)
    found = tensor_shapes(folder)
    expected, idle = expected_shapes(config), idle_names(config)
    if lacks_idle := idle.isdisjoint(found):
        expected = {name: shape for name, shape in expected.items() if name not in idle}
    check_tensors(str(folder), expected, with_one_embedding(found))
    model, report = Phi3VForConditionalGeneration.from_pretrained(
        folder,
        config=config,
        dtype=torch_dtype,
        attn_implementation=attention_by_part(attn_implementation),
        quantization_config=None if quantization is None else _make_4bit_config(torch_dtype, skip_4bit),
        key_mapping=None if EMBEDDING in found else {f"^{EMBEDDING_ALIAS}$": EMBEDDING},
        output_loading_info=True,
    )
    assert isinstance(model, Phi3VForConditionalGeneration)
    if lacks_idle:
        with torch.no_grad():
            for name in idle:
                model.get_parameter(name).zero_()
        report["missing_keys"] = set(report["missing_keys"]) - idle
    left = {kind: sorted(map(str, report[kind])) for kind in ("missing_keys", "mismatched_keys") if report[kind]}
    assert not left, f"the headers were complete, and yet transformers reports {left}"
    quantised = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    wrong = [name for name in quantised for spared in skip_4bit if name == spared or name.startswith(f"{spared}.")]
    assert not wrong, f"quantised although they are to be spared: {_some(wrong)}"
    if stop_ids is None and config.vocab_size > max(STOP_IDS):
        stop_ids = STOP_IDS
    if stop_ids is not None:
        set_stop_ids(model, stop_ids)
    return model


def build_model(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    clip_config: Mapping[str, Any] | None = None,
    attn_implementation: str = "eager",
) -> Phi3VForConditionalGeneration:
    """The model from plain values: the official config.json's dict and tensors by their ORIGINAL names.

    Values are kept (copied), and the dtype where all tensors share it; mixed ones become float32. `clip_config` gives
    the CLIP tower's sizes where they are not ViT-L/14-336. In eval mode. UsageError naming what is missing,
    unexpected or wrongly shaped.
    """
    model_config = from_plain(config, clip_config)
    dtypes = {tensor.dtype for tensor in state_dict.values()}
    check_attention(attn_implementation, *dtypes)
    check_tensors(
        "state_dict",
        expected_shapes(model_config),
        with_one_embedding({name: tuple(tensor.shape) for name, tensor in state_dict.items()}),
    )
    model_config._attn_implementation = attention_by_part(attn_implementation)
    model = Phi3VForConditionalGeneration(model_config)
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(with_one_embedding(dict(state_dict)), strict=True)
    model.eval()
    return model


def save(
    model: nn.Module,
    folder: Path,
    processor: Any = None,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Write weights, config.json, generation_config.json and the processor's files into `folder`, or nothing.

    A folder that is there already keeps its other files; its old weights are replaced as a whole, config.json last:
    a save that is cut there leaves no checkpoint, and the new files in a `.phiv-tmp-` folder. `state_dict`: the
    gathered tensors of a sharded model. UsageError for a model with adapters or 4-bit weights.
    """
    if not isinstance(model, Phi3VForConditionalGeneration):
        found = f"a {type(model).__name__} cannot be saved as a checkpoint"
        raise UsageError("save", found, MERGE_HINT)
    if getattr(model, "is_quantized", False) or getattr(model, "peft_config", None):
        what = "4-bit weights" if getattr(model, "is_quantized", False) else "unmerged adapters"
        raise UsageError("save", f"a model with {what} is not a checkpoint", MERGE_HINT)
    if processor is not None:
        set_stop_ids(model, processor.stop_ids)
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UsageError(str(folder), "is a file", "Pass a folder")
    # Inside the folder, which may be a mount point: a rename across file systems would fail after all the work.
    written = folder / f"{TMP_PREFIX}{secrets.token_hex(8)}"
    with environment_problems(folder):
        written.mkdir(parents=True)
        try:
            model.save_pretrained(written, state_dict=state_dict, max_shard_size=max_shard_size)
            if processor is not None:
                processor.save(written)
        except BaseException:
            shutil.rmtree(written, ignore_errors=True)
            raise
        # The new files take the place of an older checkpoint's, config.json last.
        (folder / "config.json").unlink(missing_ok=True)
        for old in folder.iterdir():
            if old.name.startswith("model") and ".safetensors" in old.name:
                old.unlink()
        for file in sorted(written.iterdir(), key=lambda file: (file.name == "config.json", file.name)):
            file.replace(folder / file.name)
        written.rmdir()


def check_attention(attn_implementation: str, *dtypes: torch.dtype) -> None:
    """EnvironmentProblem where the flash-attn package is missing, UsageError for flash attention in float16."""
    from transformers.utils import is_flash_attn_2_available

    if not is_flash(attn_implementation):
        return
    if torch.float16 in dtypes:
        found = f"{attn_implementation!r} does not work in float16"
        raise UsageError("attn_implementation", found, "Use bfloat16, or sdpa")
    if not is_flash_attn_2_available():
        what = "the flash-attn package or a GPU is missing"
        raise EnvironmentProblem(attn_implementation, what, f"{install_hint('flash')}, or use sdpa")


def attention_by_part(attn_implementation: str) -> str | dict[str, str]:
    """What transformers takes. With an eager decoder CLIP runs sdpa, as in the original: equal to the last digit. For
    sdpa the decoder takes attention.py's, which is the same but for packs."""
    decoder = {"eager": "eager", "sdpa": PACKED_SDPA}.get(attn_implementation)
    return attn_implementation if decoder is None else {"": decoder, "vision_config": "sdpa"}


def read_config(folder: Path) -> Phi3VConfig:
    """The folder's config.json. UsageError when it is missing, broken or of another model type."""
    file = folder / "config.json"
    plain = read_object(file, "Pass a folder with a Phi-3.5-vision checkpoint")
    found = plain.get("model_type")
    if found != Phi3VConfig.model_type:
        what = f"model_type is {found!r}, expected {Phi3VConfig.model_type!r}"
        raise UsageError(str(file), what, "Pass a Phi-3.5-vision checkpoint")
    try:
        return from_plain(plain)
    except PhivError:
        raise
    except Exception as error:  # transformers' strict dataclasses raise many kinds for a wrong value
        raise UsageError(str(file), f"does not describe a model ({error})", "Restore the checkpoint's own") from error


def tensor_shapes(folder: Path) -> Shapes:
    """Names and shapes of all tensors of a checkpoint, from the files' headers alone; of torch's pickles as data."""
    from safetensors import SafetensorError, safe_open

    shapes: Shapes = {}
    for file in _weight_files(folder):
        if file.suffix == ".bin":
            try:
                pickled = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
                shapes |= {name: tuple(tensor.shape) for name, tensor in pickled.items()}
            except Exception as error:  # torch raises many kinds, some with advice to let the file run code
                what = f"does not hold tensors alone, or is not whole ({type(error).__name__})"
                hint = "Save it with safe_serialization=True, or download it again"
                raise UsageError(str(file), what, hint) from error
            continue
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise UsageError(str(file), f"is not a whole safetensors file ({error})", "Download it again") from error
    return shapes


def build_skeleton(config: Phi3VConfig) -> Phi3VForConditionalGeneration:
    """The model on the meta device: names and shapes, no memory is taken."""
    with torch.device("meta"):
        return Phi3VForConditionalGeneration(config)


def expected_shapes(config: Phi3VConfig) -> Shapes:
    """Names and shapes the official layout asks of `config`."""
    return {name: tuple(tensor.shape) for name, tensor in build_skeleton(config).state_dict().items()}


def idle_names(config: Phi3VConfig) -> set[str]:
    """Parameters of the CLIP tower that no forward pass uses."""
    model = build_skeleton(config)
    unused = components(model)["vision"].unused
    return {name for name, _ in model.named_parameters() if name.startswith(unused)}


def with_one_embedding(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """`tensors` with the embedding under its one official name, whichever of the two names it came with."""
    out = dict(tensors)
    if (alias := out.pop(EMBEDDING_ALIAS, None)) is not None:
        shape, other = (tuple(getattr(value, "shape", value)) for value in (out.setdefault(EMBEDDING, alias), alias))
        if shape != other:
            raise UsageError(EMBEDDING, f"differs from {EMBEDDING_ALIAS}, which is the same parameter")
    return out


def check_tensors(where: str, expected: Shapes, found: Shapes) -> None:
    """UsageError with everything that is wrong in one line, when names or shapes differ."""
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = [
        f"{name!r} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{len(names)} tensors {word} ({_some(names)})"
        for names, word in (
            ([repr(n) for n in sorted(missing)], "missing"),
            ([repr(n) for n in sorted(unexpected)], "unexpected"),
            (wrong, "of the wrong shape"),
        )
        if names
    ]
    if problems:
        raise UsageError(where, ", ".join(problems), "Use a complete checkpoint that fits its config.json")


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index, single = folder / f"{name}.index.json", folder / name
        if index.is_file() and single.is_file():
            what = f"holds both {name} and an index of shards, of which one is a leftover"
            raise UsageError(str(folder), what, "Remove the older one")
        if single.is_file():
            return [single]
        if index.is_file():
            try:
                files = sorted(set(read_object(index, "Download it again")["weight_map"].values()))
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(str(index), f"is no index of shards ({error!r})", "Download it again") from error
            if lacking := [file for file in files if not (folder / file).is_file()]:
                what = f"names files that are not there ({_some(lacking)})"
                raise UsageError(str(index), what, "Copy the whole folder")
            return [folder / file for file in files]
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise UsageError(str(folder), f"no model.safetensors or its index (found: {there})", "Pass a whole checkpoint")


def _make_4bit_config(dtype: torch.dtype, skip: Sequence[str]) -> Any:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise EnvironmentProblem("4bit", "the bitsandbytes package is missing", install_hint("qlora"))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(skip),
    )
