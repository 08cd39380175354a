"""What one tool reads of an export of phiv: run by export_tools.py with the Python of the tool's environment.

    python export_readers.py TOOL FOLDER SPLIT...      prints {"train": [[number of images, text], ...], ...}

The trainers get a toy LLaVA (byte tokens, images of four patches) that is made here: no model is downloaded. What they
give to it is decoded again, so that a row counts as read only if its tokens and images reach the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true", "DISABLE_VERSION_CHECK": "1"}
Rows = list[tuple[int, str]]
ENERGON_PARTS = {"train": "train", "val": "val", "dev": "test"}  # energon has these three
TOKENS_PER_IMAGE = 4 + 1  # four patches and the class token
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
)


def main() -> None:
    tool, folder, *splits = sys.argv[1:]
    read = {
        "datasets": read_datasets,
        "webdataset": read_webdataset,
        "mlcroissant": read_mlcroissant,
        "trl": read_trl,
        "llamafactory": read_llamafactory,
        "ms-swift": read_swift,
        "megatron-energon": read_energon,
        "litdata": read_litdata,
    }[tool]
    rows = {split: read(Path(folder), split) for split in splits}
    sys.stdout.write(json.dumps(rows) + "\n")


def read_datasets(folder: Path, split: str) -> Rows:
    from datasets import load_dataset

    def images_of(row: dict[str, Any]) -> int:
        if "json" in row:
            return sum(value is not None for name, value in row.items() if name[0].isdigit())
        found = row.get("images", row.get("image"))
        return 1 if isinstance(found, str) else len(found or ())

    rows = load_dataset(str(folder), split=split)
    return [(images_of(row), str({k: v for k, v in row.items() if not k[0].isdigit()})) for row in rows]


def read_webdataset(folder: Path, split: str) -> Rows:
    import webdataset

    paths = [str(path) for path in sorted(folder.glob(f"{split}-*.tar"))]
    rows = webdataset.WebDataset(paths, shardshuffle=False).decode("pil")
    return [(sum(hasattr(value, "size") for value in row.values()), str(row["json"])) for row in rows]


def read_mlcroissant(folder: Path, split: str) -> Rows:
    import mlcroissant

    rows = mlcroissant.Dataset(str(folder / "croissant.json")).records(split)
    return [(len(images_in(row[f"{split}/images"])), text_of(row)) for row in rows]


def images_in(value: Any) -> list[Any]:
    return [] if value is None else [one for one in value if one is not None]


def text_of(value: Any) -> str:
    """Every text in nested values."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return "\n".join(map(text_of, value.values()))
    return "\n".join(map(text_of, value)) if isinstance(value, list | tuple) else str(value)


# Trainers -----------------------------------------------------------------------------------------------------------


def read_trl(folder: Path, split: str) -> Rows:
    """One step of SFTTrainer on the split, and what its collator makes of each row."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    processor = toy_processor("<|image|>")  # with LLaVA's own `<image>`, a text with one ends the training
    rows = load_dataset(str(folder), split=split)
    config = SFTConfig(
        output_dir=str(folder.parent / "trl-run"),
        max_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_length=None,
        save_strategy="no",
    )
    trainer = SFTTrainer(toy_model(processor), config, train_dataset=rows, processing_class=processor)
    trainer.train()
    return [decoded(processor, trainer.data_collator([row])["input_ids"][0]) for row in rows]


def read_llamafactory(folder: Path, split: str) -> Rows:
    """The dataset as LLaMA-Factory's supervised stage gives it to the model, with its own template `llava`."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    name = next(n for n in json.loads((folder / "dataset_info.json").read_text()) if n.endswith(f"_{split}"))
    processor = toy_processor("<image>")
    data = DataArguments(
        dataset=name, dataset_dir=str(folder), media_dir=str(folder / "images"), template="llava", cutoff_len=8192
    )
    template = get_template_and_fix_tokenizer(processor.tokenizer, data)
    arguments = Seq2SeqTrainingArguments(output_dir=str(folder.parent / "lf-run"), do_train=True, use_cpu=True)
    model = ModelArguments(model_name_or_path="toy")
    rows = get_dataset(
        template, model, data, arguments, stage="sft", tokenizer=processor.tokenizer, processor=processor
    )["train_dataset"]
    return [decoded(processor, row["input_ids"]) for row in rows]


def read_swift(folder: Path, split: str) -> Rows:
    """The rows as ms-swift's loader and template inputs have them."""
    from swift.dataset import load_dataset
    from swift.template import StdTemplateInputs

    (file,) = folder.glob(f"{split}.json*")
    os.environ["ROOT_IMAGE_DIR"] = str(folder / "images")
    rows, _ = load_dataset([str(file)], split_dataset_ratio=0.0, shuffle=False)
    found = []
    for row in rows:
        inputs = StdTemplateInputs.from_dict(row)
        images = sum(text_of(message["content"]).count("<image>") for message in inputs.messages)
        assert images == len(inputs.images), (images, inputs.images)
        found.append((images, text_of([inputs.system or "", inputs.messages])))
    return found


def decoded(processor: Any, ids: Any) -> tuple[int, str]:
    ids = list(map(int, ids))
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    text = processor.tokenizer.decode([i for i in ids if i != image])
    return ids.count(image) // TOKENS_PER_IMAGE, text


def toy_processor(image_token: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    try:
        from transformers import CLIPImageProcessorPil as ImageProcessor
    except ImportError:
        from transformers import CLIPImageProcessor as ImageProcessor
    words = ["<pad>", "<s>", "</s>", image_token, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bpe = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[image_token],
    )
    size = {"height": 28, "width": 28}
    return LlavaProcessor(
        ImageProcessor(size=size, crop_size=size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        image_token=image_token,
        chat_template=CHAT.replace("IMAGE", image_token),
        num_additional_image_tokens=1,
    )


def toy_model(processor: Any) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=28, patch_size=14, projection_dim=16),
        text_config=LlamaConfig(**small, vocab_size=len(processor.tokenizer), num_key_value_heads=2),
        image_token_index=processor.tokenizer.convert_tokens_to_ids(processor.image_token),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config)


# Streaming ----------------------------------------------------------------------------------------------------------


def read_energon(folder: Path, split: str) -> Rows:
    """By a cooker, after `energon prepare`, which writes .nv-meta into the export."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_val_dataset,
        stateless,
    )

    @dataclass
    class Row(Sample):
        images: int
        text: str

    @stateless
    def cook(sample: dict[str, Any]) -> Row:
        images = sum(name[0].isdigit() and value is not None for name, value in sample.items())
        return Row(**basic_sample_keys(sample), images=images, text=str(sample["json"]))

    class Encoder(DefaultTaskEncoder):
        cookers = [Cooker(cook)]  # noqa: RUF012  energon reads it from the class

    if not (folder / ".nv-meta").exists():
        parts = [word for part in ENERGON_PARTS.items() for word in ("--split-parts", f"{part[1]}:{part[0]}-.*")]
        energon = [str(Path(sys.executable).with_name("energon")), "prepare", "--non-interactive", *parts]
        subprocess.run([*energon, "--sample-type", "CrudeWebdataset", folder], check=True, stdout=sys.stderr)
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    rows = get_val_dataset(
        str(folder), split_part=ENERGON_PARTS[split], worker_config=config, batch_size=None, task_encoder=Encoder()
    )
    return [(row.images, row.text) for row in get_loader(rows)]


def read_litdata(folder: Path, split: str) -> Rows:
    from litdata import StreamingDataset, index_parquet_dataset
    from litdata.streaming.item_loader import ParquetLoader

    here = Path(tempfile.mkdtemp(prefix=f"litdata-{split}-"))
    for path in sorted((folder / "data").glob(f"{split}-*.parquet")):
        (here / path.name).symlink_to(path)
    index_parquet_dataset(str(here))
    rows: Iterator[Any] = iter(StreamingDataset(str(here), item_loader=ParquetLoader(), shuffle=False))
    return [(len(images_in(row["images"])), text_of({k: v for k, v in row.items() if k != "images"})) for row in rows]


if __name__ == "__main__":
    main()
