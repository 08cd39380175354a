"""Groups of rows that share anything, and a fixed position for each: what splits are made of.

groups = JoinedGroups()
groups.join(["page 1", "page 2"])       # some row has both
groups.name("page 2")                   # "page 1": the smallest name of the group
group_position("page 1")                # 0.4217..., of the name alone
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Name = TypeVar("Name", str, int)


def group_position(group: str) -> float:
    """A fixed number in 0 <= x < 1 for a group: the first eight bytes of the sha256 of its name.

    Of rows with one image that name is the image's sha256 (hex), whichever converter reads it.
    """
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(slots=True)
class JoinedGroups(Generic[Name]):
    """Groups of rows that share anything: `join` what each row has, then ask for the `name` of its group.

    Rows that have one thing alone need no `join`.
    """

    parents: dict[Name, Name] = field(default_factory=dict)

    def join(self, names: Sequence[Name]) -> None:
        """Rows that have any of `names` are one group."""
        roots = [self.name(name) for name in names]
        self.parents |= dict.fromkeys(roots, min(roots))

    def name(self, name: Name) -> Name:
        """The smallest name in the group of `name`: it does not depend on the order of the rows."""
        root = name
        while (parent := self.parents.get(root, root)) != root:
            root = parent
        while name != root:
            self.parents[name], name = root, self.parents[name]
        return root
