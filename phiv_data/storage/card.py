"""The dataset card: `README.md` of a converted dataset, with the front matter the Hugging Face hub reads."""

from __future__ import annotations

import json

from phiv_schemas import Manifest


def dataset_card(manifest: Manifest) -> str:
    """Markdown that says what the dataset is, how it was made and how to open it. Deterministic."""
    return "\n".join([_front_matter(manifest), *_about(manifest), *_splits(manifest), *_accounting(manifest), *_use()])


def _front_matter(manifest: Manifest) -> str:
    lines = ["---", f"pretty_name: {manifest.name}", "tags: [phiv, vision-language, conversations]"]
    with_shards = [split.name for split in manifest.splits if split.shards]
    if with_shards:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for name in with_shards:
            lines += [f"  - split: {name}", f"    path: arrow/{name}/*.arrow"]
    return "\n".join([*lines, "---", ""])


def _about(manifest: Manifest) -> list[str]:
    lines = [
        f"# {manifest.name}, as conversations",
        "",
        f"Made by phiv {manifest.versions['phiv']} from: {manifest.source}.",
    ]
    if manifest.synthetic:
        lines += [
            "",
            "**Synthetic data**: every image was drawn by a program. Use it to try things, not to measure.",
        ]
    lines += ["", "The licence of the source dataset applies to its images and texts; phiv adds none."]
    return lines


def _splits(manifest: Manifest) -> list[str]:
    rows = [f"| {s.name} | {s.rows} | {s.num_images} | {len(s.shards)} |" for s in manifest.splits]
    return ["", "| split | rows | images | shards |", "|---|---|---|---|", *rows]


def _accounting(manifest: Manifest) -> list[str]:
    a = manifest.accounting
    rejected = ", ".join(f"{n} {code}" for code, n in a.rejected.items())
    lines = [
        "",
        f"{a.inputs} inputs = {a.written} written + {sum(a.rejected.values())} rejected"
        f"{f' ({rejected})' if rejected else ''} + {a.unlabeled} unlabeled + {a.duplicates} duplicates.",
    ]
    if a.duplicates:
        lines.append(f"{a.duplicates} inputs are given again by the source; see `duplicate_inputs` in `manifest.json`.")
    if a.absent:
        lines.append(f"{a.absent} entries of the official lists have no file in the source.")
    if a.identical:
        lines.append(f"{a.identical} inputs repeat the bytes of another; see `identical_inputs` in `manifest.json`.")
    return [
        *lines,
        "",
        "Options:",
        "",
        "```json",
        json.dumps(manifest.options, indent=1, sort_keys=True),
        "```",
    ]


def _use() -> list[str]:
    return [
        "",
        "```python",
        "from phiv_data import ConversationDataset",
        "",
        'dataset = ConversationDataset(".", "train")',
        "sample = dataset[0]",
        "image = sample.images[0].open()",
        "```",
        "",
    ]
