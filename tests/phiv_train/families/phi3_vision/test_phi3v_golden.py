"""The original's golden data, reproduced; the same script checks any other set of the format."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

REPO = Path(__file__).resolve().parents[4]
TEXT = ["d_text", "d_text_batch_leftpad_pos", "d_text_batch_leftpad_nopos", "d_text_batch_rightpad"]
IMAGES = ["a_single", "b_two", "f_synth", "g_batch_images", "i_swapped_ids"]
OTHERS = ["hd_table", "h_modes", "j_rope_switch", "k_generate", "extra_image_positions"]
LONG = ["c_frames8", "e_doc16"]


@pytest.fixture(scope="module")
def golden_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_check", REPO / "benchmarks" / "golden_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their own module up while the script runs
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def failures(check: ModuleType, folder: Path, attn: str, *cases: str) -> list[str]:
    reports = list(check.check(folder, attn, cases))
    assert [r.case for r in reports] == [c for c in all_cases(folder) if c in cases]
    assert all(r.worst for r in reports), "a case compared nothing"
    return [str(r) for r in reports if r.failures]


def all_cases(folder: Path) -> list[str]:
    cases = json.loads((folder / "meta.json").read_text())["cases"]
    return ["hd_table", *cases, "extra_image_positions"]


def test_every_case_of_the_set_is_checked_below(shared: Path) -> None:
    assert sorted(all_cases(shared / "golden")) == sorted(TEXT + IMAGES + OTHERS + LONG)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_golden(golden_check: ModuleType, shared: Path, attn: str) -> None:
    assert not failures(golden_check, shared / "golden", attn, *TEXT, *IMAGES, *OTHERS)


def test_golden_long(golden_check: ModuleType, shared: Path) -> None:
    assert not failures(golden_check, shared / "golden", "sdpa", *LONG)


def test_the_check_detects_a_wrong_weight(
    golden_check: ModuleType, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = golden_check.load_file

    def swapped(path: Path) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = honest(path)
        name = "model.layers.0.mlp.gate_up_proj.weight"
        weights[name] = weights[name].roll(len(weights[name]) // 2, 0)
        return weights

    monkeypatch.setattr(golden_check, "load_file", swapped)
    (report,) = golden_check.check(shared / "golden", "eager", ["d_text"])
    assert {line.split()[0] for line in report.failures} >= {"loss", "logits", "lse", "grad"}
    assert golden_check.main([str(shared / "golden"), "--only", "d_text"]) == 1
