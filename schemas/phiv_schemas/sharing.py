"""`Sharing`: what the splits of a dataset share on purpose, and which of its images must stay in one split.

A converter declares it, the manifest keeps it, and validation reads it for its leakage rules. A plain dataclass:
`phiv-convert --help` loads every converter, and must not load pydantic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

Shared = Literal["images", "similar"]


@dataclass(frozen=True)
class Sharing:
    r"""What a dataset declares about its images.

    >>> Sharing(group="source video", group_pattern=r"v_(\w+_g\d\d)_c\d\d\.")
    Sharing(group='source video', group_pattern='v_(\\w+_g\\d\\d)_c\\d\\d\\.', shares=())

    `group`           what a group of images is, in a word or two of at most 16 ASCII characters; "": there are none
    `group_pattern`   a regular expression, searched in an image path; its first group names the group of the image.
                      Upper and lower case are one. An image it does not match has no group
    `shares`          what is in several splits on purpose: "images" (the same images, and similar ones) or "similar"
                      (images that only look the same, such as the pages of one form)

    Raises ValueError, with what is wrong.
    """

    group: str = ""
    group_pattern: str = ""
    shares: tuple[Shared, ...] = ()

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.group.isascii() or not (self.group + "x").isprintable() or len(self.group) > 16:
            raise ValueError(f"group must be at most 16 printable ASCII characters (found {self.group!r})")
        if bool(self.group) != bool(self.group_pattern):
            raise ValueError("group and group_pattern go together: what a group is, and where a path names it")
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise ValueError(f"group_pattern is not a regular expression ({error})") from error
        if self.group_pattern and not groups:
            raise ValueError(f"group_pattern has no group in parentheses (found {self.group_pattern!r})")
        if unknown := [one for one in self.shares if one not in get_args(Shared)]:
            raise ValueError(f"shares must be of {', '.join(get_args(Shared))} (found {unknown[0]!r})")
