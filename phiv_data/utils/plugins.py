"""Plugins by entry point: converters, engines, model families. A broken one is reported, and disturbs no other."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

CONVERTERS = "phiv.converters"
ENGINES = "phiv.engines"
FAMILIES = "phiv.families"


class BrokenPlugin(Exception):
    """A plugin's import fails; the text is one line of what it raised."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """What loaded, by name, and one line for each that did not."""

    loaded: dict[str, Any]
    broken: dict[str, str]


def load_plugins(group: str, name: str | None = None) -> Plugins:
    """Load every entry point of `group`, sorted by name; only those called `name` where it is given."""
    plugins = Plugins({}, {})
    points = entry_points(group=group) if name is None else entry_points(group=group, name=name)
    for point in sorted(points, key=lambda point: point.name):
        try:
            plugins.loaded[point.name] = load_plugin(point)
        except BrokenPlugin as broken:
            plugins.broken[point.name] = f"{point.name} ({point.value}): {broken}"
    return plugins


def load_plugin(point: EntryPoint) -> Any:
    """What an entry point names. BrokenPlugin for whatever its import raises; an exit is no reason to end, too."""
    try:
        return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BrokenPlugin(" ".join(f"{type(error).__name__}: {error}".split())) from error
