"""`phiv-convert` with the toy converter, as if that were installed: run as a script, with this folder on PYTHONPATH."""

from __future__ import annotations

import sys

from toy_converter import ToyOptions

from phiv_data.cli import convert
from phiv_data.utils.plugins import CONVERTERS, Plugins, load_plugins


def load_with_toy(group: str, name: str | None = None) -> Plugins:
    return Plugins({"toy": ToyOptions}, {}) if group == CONVERTERS else load_plugins(group, name)


if __name__ == "__main__":
    convert.load_plugins = load_with_toy
    sys.exit(convert.main())
