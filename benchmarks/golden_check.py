"""Check phiv's Phi-3.5-vision against a folder of golden data made by the original model code.

    python benchmarks/golden_check.py DIR [--attn eager|sdpa] [--only CASE ...]

One line per case with the largest differences and PASS or FAIL; exit code 1 if any failed. Nothing about a set is
written here: sizes come from its config.json and clip_config.json, cases from its meta.json, ids of the toy tokenizer
from the rule in its README.md. Images go the whole way: PNG -> uint8 crops -> the model's own normalisation.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from phiv_schemas.errors import PhivError
from phiv_train.families import phi3_vision
from phiv_train.families.phi3_vision.image_processing import hd_size, num_image_tokens, weave
from phiv_train.families.phi3_vision.processor import CONTROL_TOKENS

# The suggested limits of the data's README.
PIXELS, FEATURES, LOGITS, LSE, LOSS, GRADIENT = 1e-5, 1e-4, 1e-4, 2e-5, 1e-5, 1e-4
# A parameter whose gradient is below this share of the whole has no meaningful relative error.
SMALL_GRADIENT = 1e-5
REAL_IDS = {"<|endoftext|>": 32000, "<|assistant|>": 32001, "<|system|>": 32006, "<|end|>": 32007}
REAL_IDS |= {"<|user|>": 32010, "<|image|>": 32044}
GROUPS = {
    "vision_tower": "model.vision_embed_tokens.img_processor.",
    "img_projection": "model.vision_embed_tokens.img_projection.",
    "separators": "model.vision_embed_tokens.",
    "embed_tokens": "model.embed_tokens.",
    "decoder_layers": "model.layers.",
    "final_norm": "model.norm.",
    "lm_head": "lm_head.",
}


@dataclass
class Report:
    """What one case measured: the largest difference of each quantity, and what went over its limit."""

    case: str
    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def near(self, what: str, ours: Any, theirs: Any, limit: float) -> None:
        """Record the largest absolute difference; a failure above `limit`, for NaN, or for another shape."""
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            self.failures.append(f"{what} has shape {ours.shape}, expected {theirs.shape}")
            return
        difference = float(np.abs(ours - theirs).max()) if ours.size else 0.0
        self.worst[what] = max(self.worst.get(what, 0.0), difference)
        if not difference <= limit:
            self.failures.append(f"{what} {difference:.2g} > {limit:g}")

    def same(self, what: str, ours: Any, theirs: Any) -> None:
        """Record a failure unless both are equal."""
        self.worst.setdefault(what, 0.0)
        if not np.array_equal(np.asarray(ours), np.asarray(theirs)):
            self.worst[what] = float("nan")
            self.failures.append(f"{what} differ")

    def __str__(self) -> str:
        numbers = "  ".join(f"{k} {v:.1e}" if v else f"{k} =" for k, v in self.worst.items())
        return f"{'FAIL' if self.failures else 'PASS'}  {self.case:28s} {numbers}" + "".join(
            f"\n      {failure}" for failure in self.failures
        )


class GoldenSet:
    """One folder in the golden format."""

    def __init__(self, folder: Path, attn_implementation: str = "eager") -> None:
        self.folder, self.attn = folder, attn_implementation
        self.meta = self.json("meta.json")
        self.cases: dict[str, dict[str, Any]] = self.meta["cases"]
        self.weights = load_file(folder / "weights.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def arrays(self, case: str) -> dict[str, Any]:
        with np.load(self.folder / f"{case}.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}

    def model(self, **overrides: Any) -> Any:
        return phi3_vision.build_model(
            self.json("config.json") | overrides, self.weights, self.json("clip_config.json"), self.attn
        )

    @cached_property
    def shared_model(self) -> Any:
        return self.model()

    @cached_property
    def processor(self) -> Any:
        """The toy tokenizer: a control token is its real id shifted, any other character 3 + (ord mod m)."""
        readme = self.folder / "README.md"
        rule = re.search(r"ord\(ch\) mod (\d+)", readme.read_text()) if readme.is_file() else None
        shift = REAL_IDS["<|endoftext|>"] - self.json("config.json")["pad_token_id"]
        ids = {name: REAL_IDS[name] - shift for name in CONTROL_TOKENS if name in REAL_IDS} | {"<s>": 1}
        return phi3_vision.Processor(ToyTokenizer(int(rule[1]) if rule else 480), ids, rstrip=frozenset())

    def crops(self, case: str) -> tuple[list[Any], list[tuple[int, int]]]:
        """uint8 crops and (height, width) of every image of a case."""
        facts = self.cases[case]
        files = [self.folder / "images" / image["file"] for image in facts["images"]]
        # The original clips 16-bit images at 255; phiv scales them unless asked for this.
        cut = [phi3_vision.hd_crops(Image.open(f), facts["num_crops"], clip_high_depth=True) for f in files]
        return [crops for crops, _ in cut], [size for _, size in cut]

    def pixel_inputs(self, case: str) -> dict[str, Tensor]:
        """The model's image arguments: crops from PNG, or pixel_values from the case's formula."""
        facts, arrays = self.cases[case], self.arrays(case)
        if "images" in facts:
            crops, sizes = self.crops(case)
            return {"crops": torch.from_numpy(np.concatenate(crops)), "image_sizes": torch.tensor(sizes)}
        if "pixel_formula" not in facts:
            return {}
        formula = facts["pixel_formula"]
        if (other := re.fullmatch(r"as (\w+)", formula)) is not None:
            formula = self.cases[other[1]]["pixel_formula"]
        sizes = arrays["image_sizes"].astype(np.int64)
        pixels = pixels_of_formula(formula, sizes, facts.get("num_crops", 4))
        return {"pixel_values": torch.from_numpy(pixels), "image_sizes": torch.from_numpy(sizes)}


@dataclass(frozen=True)
class ToyTokenizer:
    """One id per character."""

    modulus: int

    def encode(self, text: str) -> Sequence[int]:
        return [3 + ord(character) % self.modulus for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 3) for i in ids)


def check(folder: Path, attn_implementation: str = "eager", only: Sequence[str] = ()) -> Iterator[Report]:
    """One report per case of the folder, in its own order. A case nobody knows how to check is a failure."""
    golden = GoldenSet(folder, attn_implementation)
    jobs: dict[str, Callable[[GoldenSet, Report], None]] = {"hd_table": check_hd_table}
    jobs |= {case: checker(golden, case) for case in golden.cases}
    if "extra_image_positions" in golden.meta:
        jobs["extra_image_positions"] = check_extra_positions
    for case, job in jobs.items():
        if only and case not in only:
            continue
        report = Report(case)
        try:
            job(golden, report)
        except Exception as error:  # one broken case must not hide the others
            report.failures.append(f"{type(error).__name__}: {error}")
        yield report


def checker(golden: GoldenSet, case: str) -> Callable[[GoldenSet, Report], None]:
    """How a case is checked, chosen by what its files contain."""
    arrays = golden.arrays(case)
    if "gen_prompt" in arrays:
        return check_rope_switch
    if "prompt_ids" in arrays:
        return check_generate
    if "input_ids" not in arrays:
        return check_images
    return check_model


def check_hd_table(golden: GoldenSet, report: Report) -> None:
    """Sizes, padding and token counts of the table, exactly."""
    for row in golden.json("hd_table.json"):
        asked = row["width"], row["height"], row["num_crops"]
        size = hd_size(*asked)
        if "error" in row:
            report.same("errors", num_image_tokens(*asked), 0)
            continue
        report.same("out", [size.width, size.height], row["out"])
        report.same("resized", [size.resized_width, size.resized_height], row["resized"])
        report.same("padding", [size.left, size.top], row["pad_ltrb"][:2])
        report.same("tokens", num_image_tokens(*asked), row["num_img_tokens"])


def check_images(golden: GoldenSet, report: Report) -> None:
    """The padded bytes, the crops and the normalised floats of every image, in numpy and in the model's torch."""
    arrays, facts = golden.arrays(report.case), golden.cases[report.case]
    crops, sizes = golden.crops(report.case)
    for i, (mine, size, image) in enumerate(zip(crops, sizes, facts["images"], strict=True)):
        padded = weave(mine, size)
        ours = phi3_vision.pixel_values(mine, size)
        torchs, _ = phi3_vision.pixels_from_crops(torch.from_numpy(mine), torch.tensor([size]))
        report.same("u8", hashlib.sha256(padded.tobytes()).hexdigest(), image["hd_u8_sha256"])
        report.same("sizes", size[::-1], image["out_size"])
        report.same("sizes", 1 + len(mine), len(image["crop_mean"]))
        tokens = image.get("num_img_tokens") or facts["num_img_tokens"][i]
        report.same("tokens", num_image_tokens(*image["in_size"], facts["num_crops"]), tokens)
        report.near("pixels", ours.mean((1, 2, 3)), image["crop_mean"], PIXELS)
        if f"pv_sample_{i}" not in arrays:
            continue
        whole = arrays[f"global_sample_{i}"].shape[-1] == ours.shape[-1]
        for pixels in (ours, torchs.numpy()):
            report.near("pixels", pixels[:, :, 2::16, 5::16], arrays[f"pv_sample_{i}"], PIXELS)
            view = pixels[0] if whole else pixels[0][:, 1::4, 2::4]
            report.near("pixels", view, arrays[f"global_sample_{i}"], PIXELS)
    if "image_sizes" in arrays:
        report.same("sizes", sizes, arrays["image_sizes"])


def check_model(golden: GoldenSet, report: Report) -> None:
    """Ids, features, logits, loss and every gradient."""
    arrays, facts, model = golden.arrays(report.case), golden.cases[report.case], golden.shared_model
    if "images" in facts:
        check_images(golden, report)
    if "text" in facts:
        ids = phi3_vision.official_ids(facts["text"], facts["num_img_tokens"], golden.processor)
        report.same("ids", [ids], arrays["input_ids"])
    images = golden.pixel_inputs(report.case)
    names = [n for n in ("input_ids", "labels", "attention_mask", "position_ids") if n in arrays]
    inputs = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in names}
    if images:
        check_features(model, images, arrays, facts, report)
    model.zero_grad()
    out = model(**inputs, **images)
    out.loss.backward()
    report.near("loss", out.loss.item(), facts["loss"], LOSS)
    real = arrays.get("attention_mask", np.ones_like(arrays["input_ids"])).astype(bool)
    check_logits(out.logits.detach(), arrays, real, report)
    check_gradients(model, facts, report)
    if "pixel_values" in images:
        with torch.no_grad():
            padded = model(**inputs, **images, keep_padding_crops=True).logits
        report.near("padding crops run", padded[real], out.logits.detach()[real], LOGITS)


def check_features(
    model: Any, images: dict[str, Tensor], arrays: dict[str, Any], facts: dict[str, Any], report: Report
) -> None:
    """The projector's output, and the CLIP hidden states behind it."""
    seen = []
    hook = model.model.vision_embed_tokens.clip.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        features = model.get_image_features(**images)
    hook.remove()
    report.same("rows", len(features), facts["image_features"]["rows"])
    report.near("features", features[:: facts["image_features"]["stride"]], arrays["image_features"], FEATURES)
    if "clip_hidden_m2_sample" in arrays:
        clip = seen[0][: len(arrays["clip_hidden_m2_sample"]), 1::48]
        report.near("clip", clip, arrays["clip_hidden_m2_sample"], FEATURES)


def check_logits(logits: Tensor, arrays: dict[str, Any], real: Any, report: Report) -> None:
    """The last eight positions in full; logsumexp, argmax and margin of all real ones."""
    last = real[:, -8:]
    report.near("logits", logits[:, -8:].numpy()[last], arrays["logits_last8"][last], LOGITS)
    report.near("lse", logits.logsumexp(-1).numpy()[real], arrays["logits_lse"][real], LSE)
    top = logits.topk(2).values.numpy()
    margin = arrays["logits_top2_margin"]
    report.near("margin", (top[..., 0] - top[..., 1])[real], margin[real], LOGITS)
    clear = real & (margin > 10 * LOGITS)
    report.same("argmax", logits.argmax(-1).numpy()[clear], arrays["logits_argmax"][clear])


def check_gradients(model: Any, facts: dict[str, Any], report: Report) -> None:
    """Norms per tensor and per group, relative. The files hold no gradient vectors, so there is no cosine to take."""
    gradients = {name: p.grad for name, p in model.named_parameters()}
    ours = {name: None if g is None else g.double().norm().item() for name, g in gradients.items()}
    theirs: dict[str, float | None] = facts["grad_norm"]
    report.same("grad names", sorted(ours), sorted(theirs))
    report.same("no grad", sorted(n for n in ours if ours[n] is None), sorted(n for n in theirs if theirs[n] is None))
    total = sum((norm or 0) ** 2 for norm in theirs.values()) ** 0.5
    noise = set(facts["spread"]["small_grad_params"])
    for name, norm in theirs.items():
        if norm is not None and name not in noise and norm > SMALL_GRADIENT * total:
            report.near("grad", (ours[name] or 0) / norm, 1.0, GRADIENT)
    groups: dict[str, float] = {}
    for name, mine in ours.items():
        if mine is not None:
            group = next(g for g, prefix in GROUPS.items() if name.startswith(prefix))
            groups[group] = groups.get(group, 0.0) + mine**2
    report.same("groups", sorted(groups), sorted(facts["grad_norm_group"]))
    for group, norm in facts["grad_norm_group"].items():
        report.near("grad group", groups.get(group, 0.0) ** 0.5 / norm, 1.0, GRADIENT)


@torch.no_grad()
def check_rope_switch(golden: GoldenSet, report: Report) -> None:
    """Short and long tables, logits on both sides of the switch, and greedy decoding across it."""
    arrays, facts = golden.arrays(report.case), golden.cases[report.case]
    model = golden.model(**facts["overrides"])
    rope = model.model.rope
    report.near("inv_freq", rope.inv_freq_short, arrays["inv_freq_short"], 1e-7)
    report.near("inv_freq", rope.inv_freq_long, arrays["inv_freq_long"], 1e-7)
    report.near("scaling", rope.scaling, facts["attention_scaling"], 1e-6)
    limit = facts["overrides"]["original_max_position_embeddings"]
    for kind, end in (("short", limit), ("long", limit + 1)):  # the last four positions on either side
        positions, is_long = torch.arange(end - 4, end)[None], torch.tensor([[kind == "long"]])
        for name, ours in zip(("cos", "sin"), rope(positions, is_long, torch.float32), strict=True):
            report.near("cos sin", ours[0], arrays[f"{name}_{kind}"], 1e-6)
    tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))
    for length in facts["lengths"]:
        logits = model(tokens[:, :length]).logits
        report.near("logits", logits[:, -8:], arrays[f"logits_last8_L{length}"], LOGITS)
        report.near("lse", logits.logsumexp(-1), arrays[f"logits_lse_L{length}"], LSE)
        if (fa2 := arrays.get(f"logits_last8_L{length}_fa2rule")) is not None:
            logits = model(tokens[:, :length], rope_long=True).logits
            report.near("fa2rule", logits[:, -8:], fa2, LOGITS)
    prompt, sequence = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("gen_prompt", "gen_sequence"))
    ids, scores = greedy(model, prompt, sequence.shape[1] - prompt.shape[1])
    report.same("generated", ids, sequence)
    report.near("scores", scores, arrays["gen_scores"], LOGITS)


@torch.no_grad()
def check_generate(golden: GoldenSet, report: Report) -> None:
    """Greedy decoding with an image and the cache. The note names the case the image is from."""
    arrays = golden.arrays(report.case)
    case = next(c for c in golden.cases if c in golden.cases[report.case]["note"])
    prompt = torch.from_numpy(arrays["prompt_ids"].astype(np.int64)).reshape(1, -1)
    ids, scores = greedy(golden.shared_model, prompt, arrays["new_tokens"].size, **golden.pixel_inputs(case))
    report.same("generated", ids[0, prompt.shape[1] :], arrays["new_tokens"].reshape(-1))
    report.near("scores", scores, arrays["scores"].reshape(scores.shape), LOGITS)


def check_extra_positions(golden: GoldenSet, report: Report) -> None:
    """More image positions than features: refused, as in the original, but with a sentence."""
    case = next(c for c in golden.cases if "pixel_formula" in golden.cases[c])
    ids = torch.from_numpy(golden.arrays(case)["input_ids"].astype(np.int64))
    try:
        golden.shared_model(torch.cat([ids, ids.new_full((len(ids), 3), -1)], 1), **golden.pixel_inputs(case))
    except PhivError as error:
        report.same("message", "image positions" in str(error), True)
    else:
        report.failures.append("was accepted")


def greedy(model: Any, prompt: Tensor, count: int, **images: Tensor) -> tuple[Tensor, Any]:
    """(ids [1, L], scores [count, vocab]) of `count` greedy tokens, whatever they are."""
    out = model.generate(
        prompt,
        **images,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return out.sequences, torch.cat(out.scores).numpy()


def pixels_of_formula(formula: str, sizes: Any, num_crops: int) -> Any:
    """float32 [n, num_crops + 1, 3, 336, 336] of `float32( expression in x, y, ch, c, i ), ...`."""
    match = re.match(r"float32\((.+?)\),", formula)
    if match is None:
        raise ValueError(f"unknown formula {formula!r}")
    tree = ast.parse(match[1].strip(), mode="eval")
    allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant, ast.operator, ast.unaryop)
    if not all(isinstance(node, (*allowed, ast.expr_context)) for node in ast.walk(tree)):
        raise ValueError(f"unknown formula {formula!r}")
    i, c, ch, y, x = np.ogrid[: len(sizes), : num_crops + 1, :3, :336, :336]
    names = {"sin": np.sin, "cos": np.cos, "i": i, "c": c, "ch": ch, "y": y, "x": x, "__builtins__": {}}
    pixels = eval(compile(tree, "formula", "eval"), names).astype(np.float32)
    for padded, (height, width) in zip(pixels, sizes, strict=True):
        padded[1 + (height // 336) * (width // 336) :] = 0
    return pixels


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a folder of golden data.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attn", choices=["eager", "sdpa"], default="eager")
    parser.add_argument("--only", nargs="*", default=(), help="cases to check")
    options = parser.parse_args(arguments)
    failed = 0
    for report in check(options.folder, options.attn, options.only):
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        failed += bool(report.failures)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
