"""phiv's contract as pydantic models: records, manifest, reports, errors. Needs pydantic only."""

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
from phiv_schemas.report import CODES, Issue, Reject, ValidationReport

__all__ = [
    "CODES",
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
    "ShardError",
    "ShardInfo",
    "SourceError",
    "SplitInfo",
    "Turn",
    "UsageError",
    "ValidationReport",
    "check_image_path",
]
