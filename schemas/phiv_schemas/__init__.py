"""phiv's contract as pydantic models: records, manifest, reports, errors. Needs pydantic only.

Names load on first use: a command line that only needs the errors does not pay 150 ms for pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiv_schemas.conversation import Conversation, Turn, check_image_path
    from phiv_schemas.errors import (
        EnvironmentProblem,
        PhivError,
        RecordError,
        ShardError,
        SourceError,
        UsageError,
    )
    from phiv_schemas.manifest import Accounting, FileInfo, Manifest, ShardInfo, SplitInfo
    from phiv_schemas.media import ImageMeta
    from phiv_schemas.report import Issue, Reject, SplitStats, Stats, ValidationReport
    from phiv_schemas.rules import CODES, RULES, Rule
    from phiv_schemas.sharing import Sharing

_MODULE_OF = {
    "Conversation": "conversation",
    "Turn": "conversation",
    "check_image_path": "conversation",
    "EnvironmentProblem": "errors",
    "PhivError": "errors",
    "RecordError": "errors",
    "ShardError": "errors",
    "SourceError": "errors",
    "UsageError": "errors",
    "Accounting": "manifest",
    "FileInfo": "manifest",
    "Manifest": "manifest",
    "ShardInfo": "manifest",
    "Sharing": "sharing",
    "SplitInfo": "manifest",
    "ImageMeta": "media",
    "CODES": "rules",
    "RULES": "rules",
    "Rule": "rules",
    "Issue": "report",
    "Reject": "report",
    "SplitStats": "report",
    "Stats": "report",
    "ValidationReport": "report",
}

__all__ = [
    "CODES",
    "RULES",
    "Accounting",
    "Conversation",
    "EnvironmentProblem",
    "FileInfo",
    "ImageMeta",
    "Issue",
    "Manifest",
    "PhivError",
    "RecordError",
    "Reject",
    "Rule",
    "ShardError",
    "ShardInfo",
    "Sharing",
    "SourceError",
    "SplitInfo",
    "SplitStats",
    "Stats",
    "Turn",
    "UsageError",
    "ValidationReport",
    "check_image_path",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
