"""What phiv says about data: issues of a validation, and the inputs a conversion turned down.

Codes are stable: scripts may match on them. The first digit groups them:

    PV0xx  reading the file or the JSON        PV1xx  images
    PV2xx  ids and consistency across records  PV3xx  manifest, shards and other files
    PV4xx  remarks: text worth a second look (severity "warning", never an exit code)
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from phiv_schemas.conversation import Contract

Severity = Literal["error", "warning"]

CODES: dict[str, str] = {
    "PV001": "not-json",
    "PV002": "schema",
    "PV003": "duplicate-key",
    "PV004": "cut-line",
    "PV005": "encoding",
    "PV006": "byte-order-mark",
    "PV007": "unreadable-file",
    "PV101": "missing-image",
    "PV102": "broken-image",
    "PV103": "path-escapes",
    "PV104": "image-bytes-differ",
    "PV105": "image-meta-differs",
    "PV201": "duplicate-id",
    "PV202": "no-rows",
    "PV301": "missing-file",
    "PV302": "changed-file",
    "PV303": "no-manifest",
    "PV304": "bad-manifest",
    "PV305": "broken-shard",
    "PV306": "shard-differs-from-jsonl",
    "PV401": "image-marker-in-text",
    "PV402": "unlisted-file",
    "PV403": "unlabeled",
}


class Issue(Contract):
    """One finding. Its text is the error grammar: `file:line: $.path: what is wrong. What to do.`"""

    code: str = Field(pattern=r"^PV\d{3}$")
    severity: Severity = "error"
    file: str
    line: int | None = Field(default=None, ge=1, description="1-based line, or row of a shard.")
    json_path: str | None = Field(default=None, description="Where in the record: `$.conversations[0].images[3]`.")
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line else "")
        where += f": {self.json_path}" if self.json_path else ""
        text = f"{where}: {self.message}" + (f". {self.hint}" if self.hint else "")
        return " ".join(text.split())


class ValidationReport(Contract):
    """The result of `validate` and of `phiv-validate --format json`."""

    path: str
    rows: int = Field(ge=0)
    images: int = Field(ge=0, description="Distinct images checked.")
    issues: list[Issue] = Field(default_factory=list)
    truncated: bool = Field(default=False, description="True when the list of issues was cut at the limit.")

    @property
    def errors(self) -> list[Issue]:
        """The issues that make the data invalid."""
        return [issue for issue in self.issues if issue.severity == "error"]

    @property
    def ok(self) -> bool:
        """True when there is no error; warnings do not count."""
        return not self.errors

    def counts(self) -> dict[str, int]:
        """Issues by code, sorted."""
        return dict(sorted(Counter(issue.code for issue in self.issues).items()))


class Reject(Contract):
    """One input a conversion turned down: a line of `rejects.jsonl`."""

    id: str = Field(description="The id the row would have had.")
    split: str
    input: str = Field(description="The input, relative to the source's root.")
    code: str = Field(description="Stable reason: `truncated`, `undecodable`, `no-frames`, ...")
    reason: str = Field(description="One line for a person.")
