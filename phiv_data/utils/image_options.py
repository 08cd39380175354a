"""Image options of a command line (`--image_option KEY=VALUE`, `--num_crops N`), checked by a model family's own types.

options = collect_image_options(["longest_edge=512"])                 # {"longest_edge": "512"}
parse_image_options(family.name, family.image_options, options)       # {"longest_edge": 512}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from phiv_schemas.errors import UsageError


def collect_image_options(pairs: Sequence[str], num_crops: int | None = None) -> dict[str, str]:
    """The options of `--image_option KEY=VALUE ...`, and of `--num_crops N`, which is num_crops=N.

    >>> collect_image_options(["longest_edge=512"], num_crops=4)
    {'longest_edge': '512', 'num_crops': '4'}
    """
    options: dict[str, str] = {}
    for pair in [*pairs, *([] if num_crops is None else [f"num_crops={num_crops}"])]:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError("--image_option", f"{pair!r} is not KEY=VALUE", "Write it as num_crops=4")
        if options.setdefault(key, value) != value:
            raise UsageError("--image_option", f"{key} is given twice ({options[key]} and {value})", "Give it once")
    return options


def parse_image_options(family: str, model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The image options that are set, as the types of the family's `model`. UsageError for unknown and wrong ones."""
    known = model.model_fields
    for key in options:
        if key not in known:
            hint = f"It has {', '.join(known)}" if known else "It has none"
            raise UsageError(f"--image_option {key}", f"family {family} has no such image option", hint)
    try:
        return model.model_validate(dict(options)).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{first['msg'][:1].lower()}{first['msg'][1:]} (found {first['input']!r})"
        raise UsageError(f"--image_option {key}", what) from error
