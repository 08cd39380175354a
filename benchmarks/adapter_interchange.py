"""Adapters between phiv and other versions of peft, both ways: numbers, not only "it loads".

    python benchmarks/adapter_interchange.py FOLDER      # makes environments there (kept: a second run is quick)

In an environment of its own, with the oldest peft that Microsoft's recipe pins (0.11.1, transformers 4.43) and with the
newest, peft puts phiv's adapter on the base and merges it; and it makes an adapter as the recipe does (targets by
suffix, CLIP's idle last layer deleted) and merges that. phiv then runs both: an adapter, and what peft merged, must
give the same logits and the same greedy answers. transformers' own Phi-3 of each environment answers text as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TORCH = "torch==2.13.0"
ENVIRONMENTS = {
    "oldest": (TORCH, "transformers==4.43.0", "peft==0.11.1", "accelerate==0.30.1", "numpy<2"),
    "newest": (TORCH, "transformers", "peft", "numpy"),
}
LANGUAGE_TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"]
IMAGE_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "img_projection.0", "img_projection.2"]
NEW_TOKENS = 12


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        run_inside(options.folder)
        return
    folder = options.folder.absolute()
    make_ours(folder)
    report("peft", "what", "tensors", "logits differ by", "greedy answers")
    for name, packages in ENVIRONMENTS.items():
        python = make_environment(folder / name, packages)
        subprocess.run([python, __file__, str(folder / name), "--inside"], check=True)
        compare(folder, folder / name)


# -- here: phiv --------------------------------------------------------------------------------------------------------
def make_ours(folder: Path) -> None:
    """The base `tiny` as a checkpoint, and an adapter that phiv-train made on it."""
    from phiv_converters.synthetic.clips import make_synthetic_ucf101
    from phiv_converters.ucf101.options import Ucf101Options
    from phiv_data.convert.engine import convert
    from phiv_train.config import TrainConfig
    from phiv_train.families.base import get_family
    from phiv_train.training.run import train

    if (folder / "run/final").is_dir():
        return
    family = get_family("tiny")
    family.save(*family.load("tiny"), folder / "base")
    source = make_synthetic_ucf101(folder, train=4, val=1, test=1, size=(64, 48))
    convert(Ucf101Options(source=source, num_frames=2), folder / "data", num_workers=1)
    settings: dict[str, Any] = {"batch_size": 6, "learning_rate": 1e-2, "use_lora": True, "lora_rank": 4}
    train(
        TrainConfig(
            data_dir=folder / "data",
            model_name_or_path=str(folder / "base"),
            output_dir=folder / "run",
            eval=False,
            tqdm=False,
            report_to=(),
            device="cpu",
            **settings,
        )
    )


def make_environment(folder: Path, packages: tuple[str, ...]) -> str:
    """The Python of an environment with these packages."""
    python = folder / "env/bin/python"
    if not (folder / "installed").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "safetensors", *packages], check=True)
        (folder / "installed").write_text("\n".join(packages), encoding="utf-8")
    return str(python)


def compare(folder: Path, environment: Path) -> None:
    """Print a line per pair of a model with an adapter and the one that peft merged."""
    from safetensors.torch import load_file

    seen = json.loads((environment / "seen.json").read_text(encoding="utf-8"))
    label = f"{seen['peft']}, transformers {seen['transformers']}"
    pairs = {
        "phiv's adapter, merged by peft": (folder / "run/final", "ours_merged"),
        "the recipe's adapter, loaded by phiv": (environment / "adapter", "theirs_merged"),
        "the same from pytorch_model.bin": (environment / "adapter", "theirs_merged_bin"),
    }
    for what, (adapter, merged) in pairs.items():
        count = len(load_file(adapter / "adapter_model.safetensors"))
        a, b = answers(adapter), answers(environment / merged)
        gap = max(float((x - y).abs().max()) for x, y in zip(a[0], b[0], strict=True))
        report(label, what, count, f"{gap:.1e}", "equal" if a[1] == b[1] else "differ")
    logits, tokens = text_answers(folder / "run/final", seen["prompt"])
    gap = float((logits - load_file(environment / "text.safetensors")["logits"]).abs().max())
    same = "equal" if tokens == seen["tokens"] else "differ"
    report(label, "text, transformers' own Phi-3 with phiv's adapter", "", f"{gap:.1e}", same)


def report(*cells: object) -> None:
    """Print a line of the table."""
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")
    sys.stdout.flush()


def answers(model: Path) -> tuple[list[Any], list[list[int]]]:
    """(logits, greedy ids) of a model or adapter folder for three prompts, of none to two images."""
    import torch
    from PIL import Image

    from phiv_schemas import Conversation, Turn
    from phiv_train.checkpoints.load import load_model
    from phiv_train.checkpoints.resolve import find_source
    from phiv_train.families.base import get_family

    source = find_source(str(model))
    loaded, processor = load_model(source)
    family, logits, ids = get_family(source.family), [], []
    for number in range(3):
        images = [Image.linear_gradient("L").resize((90 + 20 * k, 60)) for k in range(number)]
        turn = Turn(images=[f"{k}.png" for k in range(number)], user="What is shown in these images?", assistant=None)
        row = Conversation(id=f"row-{number}", source="interchange", conversations=[turn])
        batch = family.collate([family.encode(row, images, processor, generation=True)], processor, layout="left")
        inputs = family.generation_inputs(batch)
        with torch.no_grad():
            logits.append(loaded(**inputs).logits)
            made = loaded.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        ids.append(made[0].tolist())
    return logits, ids


def text_answers(model: Path, prompt: list[int]) -> tuple[Any, list[int]]:
    """(logits, greedy ids) of a model or adapter folder for plain ids."""
    import torch

    from phiv_train.checkpoints.load import load_model
    from phiv_train.checkpoints.resolve import find_source

    loaded, _ = load_model(find_source(str(model)))
    ids = torch.tensor([prompt])
    with torch.no_grad():
        made = loaded.generate(ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
        return loaded(ids).logits, made[0].tolist()


# -- in the other environment: torch, peft, transformers, safetensors --------------------------------------------------
def run_inside(folder: Path) -> None:
    """Load phiv's adapter and merge it; make the recipe's and merge it; answer a text with transformers' Phi-3."""
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    base, ours = load_file(folder.parent / "base/model.safetensors"), folder.parent / "run/final"
    merged = peft.PeftModel.from_pretrained(build_modules(base), str(ours)).merge_and_unload()
    write_model(folder, "ours_merged", merged.state_dict())

    last = max(int(name.split("encoder.layers.")[1].split(".")[0]) for name in base if "encoder.layers." in name)
    idle = (f"encoder.layers.{last}.", "post_layernorm.")
    used = {name: tensor for name, tensor in base.items() if not any(part in name for part in idle)}
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=LANGUAGE_TARGETS + IMAGE_TARGETS, init_lora_weights="gaussian"
    )
    torch.manual_seed(1)
    theirs = peft.get_peft_model(build_modules(used), config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    theirs.peft_config["default"].base_model_name_or_path = str(folder.parent / "base")
    theirs.save_pretrained(str(folder / "adapter"))
    tensors = theirs.merge_and_unload().state_dict()
    write_model(folder, "theirs_merged", tensors)
    write_model(folder, "theirs_merged_bin", tensors)
    (folder / "theirs_merged_bin/model.safetensors").unlink()
    torch.save(dict(tensors), folder / "theirs_merged_bin/pytorch_model.bin")

    prompt, logits, tokens = answer_text(folder.parent / "base", base, ours)
    save_file({"logits": logits.contiguous()}, folder / "text.safetensors")
    versions = {"peft": peft.__version__, "transformers": transformers.__version__}
    (folder / "seen.json").write_text(json.dumps({**versions, "prompt": prompt, "tokens": tokens}), encoding="utf-8")


def answer_text(base: Path, tensors: dict[str, Any], adapter: Path) -> tuple[list[int], Any, list[int]]:
    """(prompt, logits, greedy ids) of this transformers' Phi-3, which is the language part, with phiv's adapter."""
    import peft
    import torch
    import transformers
    from transformers import Phi3Config, Phi3ForCausalLM

    plain = json.loads((base / "config.json").read_text(encoding="utf-8"))
    scaling = {**plain["rope_scaling"], "type": "longrope"}  # 4.43 refuses any other key, 5 needs these
    if int(transformers.__version__.split(".")[0]) > 4:
        original = plain["original_max_position_embeddings"]
        scaling |= {"rope_type": "longrope", "original_max_position_embeddings": original}
    keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "pad_token_id",
    ]
    keys += ["num_key_value_heads", "max_position_embeddings", "original_max_position_embeddings", "rope_theta"]
    keys += ["sliding_window", "rms_norm_eps", "bos_token_id", "eos_token_id"]
    config = Phi3Config(**{key: plain[key] for key in keys}, rope_scaling=scaling, attn_implementation="eager")
    model = Phi3ForCausalLM(config).eval()
    own = {name: tensor for name, tensor in tensors.items() if "vision_embed_tokens" not in name}
    model.load_state_dict(own, strict=True)
    prompt = [1, *range(300, 340)]
    wrapped = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    ids = torch.tensor([prompt])
    with torch.no_grad():
        made = wrapped.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
        return prompt, wrapped(input_ids=ids).logits, made[0].tolist()


def build_modules(tensors: dict[str, Any]) -> Any:
    """Modules of the checkpoint's names: linear layers where peft may put adapters, bare parameters elsewhere."""
    from torch import nn

    root = nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = root
        is_linear = last == "weight" and tensor.ndim == 2 and "embed" not in path[-1]
        if last == "bias" and f"{'.'.join(path)}.weight" in tensors and tensors[f"{'.'.join(path)}.weight"].ndim == 2:
            continue  # set with its weight
        for part in path[:-1]:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        leaf = module._modules.setdefault(path[-1], nn.Linear(*tensor.shape[::-1]) if is_linear else nn.Module())
        if not is_linear:
            leaf.register_parameter(last, nn.Parameter(tensor.clone()))
            continue
        leaf.weight.data.copy_(tensor)
        bias = tensors.get(f"{'.'.join(path)}.bias")
        leaf.bias = None if bias is None else nn.Parameter(bias.clone())
    return root


def write_model(folder: Path, name: str, tensors: dict[str, Any]) -> None:
    """A checkpoint folder of merged tensors, with the base's other files."""
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(folder.parent / "base", folder / name, dirs_exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name / "model.safetensors")


if __name__ == "__main__":
    main()
