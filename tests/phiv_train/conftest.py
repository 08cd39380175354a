"""Small converted sets and short runs for the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Toy sizes are slower on several threads, and sums differ in their last digit between numbers of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic demo set, converted: 24 rows to train on and 6 in each other split, of 2 images each."""
    from phiv_converters.synthetic.clips import make_synthetic_ucf101
    from phiv_converters.ucf101.options import Ucf101Options
    from phiv_data.convert.engine import convert

    folder = tmp_path_factory.mktemp("demo")
    source = make_synthetic_ucf101(folder, train=4, val=1, test=1, size=(64, 48))
    convert(Ucf101Options(source=source, num_frames=2), folder / "converted", num_workers=1)
    return folder / "converted"
