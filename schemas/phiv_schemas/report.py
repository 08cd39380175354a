"""The models of reports: issues of a validation, and the inputs a conversion rejected.

The codes are those of `phiv_schemas.rules`.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from phiv_schemas.conversation import Contract
from phiv_schemas.rules import CODES, Severity

__all__ = ["CODES", "Issue", "Reject", "Severity", "SplitStats", "Stats", "ValidationReport"]

Counts = dict[str, int]


def _escape_lone_surrogates(value: Any) -> Any:
    """Bytes of a file's name that are no UTF-8 (`\\udcff` in Python) as they are written, which any reader takes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_escape_lone_surrogates)]


class Issue(Contract):
    """One finding. Its text is the error grammar: `file:line: $.path: what is wrong. What to do.`"""

    code: str = Field(pattern=r"^PV\d{3}$")
    severity: Severity = "error"
    file: Text
    line: int | None = Field(default=None, ge=1, description="1-based line, or row of a shard.")
    json_path: str | None = Field(default=None, description="Where in the record: `$.conversations[0].images[3]`.")
    message: Text
    hint: str = ""

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line else "")
        where += f": {self.json_path}" if self.json_path else ""
        text = f"{where}: {self.message}" + (f". {self.hint}" if self.hint else "")
        return " ".join(text.split())


class SplitStats(Contract):
    """What the rows of a split are like: histograms as bin to count, bins in order; empty where nothing was measured.

    Bins are fixed, so the histograms of two halves add up to that of the whole. Lengths of text are in characters.
    """

    rows: int = Field(default=0, ge=0, description="Those that hold a record.")
    images: int = Field(default=0, ge=0, description="Distinct images of these rows that were checked.")
    rows_per_source: Counts = Field(default_factory=dict, description="Empty beyond 1000 sources.")
    images_per_row: Counts = Field(default_factory=dict)
    turns_per_row: Counts = Field(default_factory=dict)
    user_characters: Counts = Field(default_factory=dict, description="Per turn.")
    assistant_characters: Counts = Field(default_factory=dict, description="Per turn that has an answer.")
    tokens_per_row: Counts = Field(
        default_factory=dict,
        description="As the requested model family encodes them; of the prompt where the answer is null.",
    )
    image_width: Counts = Field(default_factory=dict, description="Pixels, of distinct images that were decoded.")
    image_height: Counts = Field(default_factory=dict, description="As image_width.")
    image_format: Counts = Field(default_factory=dict, description="Of distinct images that were decoded.")
    classes: Counts = Field(
        default_factory=dict,
        description="Answers, the most frequent first. Empty where they are free text: longer than 64 characters, or "
        "more than 1000 different ones.",
    )

    @property
    def turns(self) -> int:
        """All turns."""
        return sum(self.user_characters.values())

    @property
    def answered_turns(self) -> int:
        """Those that have an answer."""
        return sum(self.assistant_characters.values())


class Stats(Contract):
    """What the rows are like, by split. A histogram has the same bins in every split, so they compare bin by bin."""

    splits: dict[str, SplitStats] = Field(default_factory=dict)

    def total(self, name: str) -> Counts:
        """A histogram of all splits together. An image of two splits counts twice."""
        found: Counts = {}
        for split in self.splits.values():
            for label, count in getattr(split, name).items():
                found[label] = found.get(label, 0) + count
        return found


def _and_what_follows(schema: dict[str, Any]) -> None:
    """`ok` and `counts` follow from the rest, and are in the file for readers without phiv."""
    counts = {"type": "object", "additionalProperties": {"type": "integer"}, "description": "Findings by code."}
    schema["properties"] |= {
        "ok": {"type": "boolean", "description": "True when no error was found."},
        "counts": counts,
    }


class ValidationReport(Contract):
    """The result of `validate` and of `phiv-validate --format json`."""

    model_config = ConfigDict(json_schema_extra=_and_what_follows)

    schema_version: Literal[1] = Field(default=1, description="Grows when a reader of this file would have to change.")
    path: Text
    rows: int = Field(ge=0)
    images: int = Field(ge=0, description="Distinct images checked.")
    totals: dict[Severity, Counts] = Field(
        default_factory=dict, description="Findings by severity and code, listed or not."
    )
    stats: Stats = Field(default_factory=Stats)
    issues: list[Issue] = Field(
        default_factory=list, description="By file and line; at least the first of every code, as far as they fit."
    )
    not_applied: dict[str, str] = Field(
        default_factory=dict,
        description="Rules that could find nothing in this data, and why: `PV230-PV233` to a reason.",
    )
    truncated: bool = Field(default=False, description="True when the list of issues was cut at the limit.")

    @model_validator(mode="before")
    @classmethod
    def _without_what_follows(cls, value: Any) -> Any:
        """A report as its file has it (see `_and_what_follows`)."""
        return {k: v for k, v in value.items() if k not in ("ok", "counts")} if isinstance(value, dict) else value

    @property
    def errors(self) -> list[Issue]:
        """The listed issues that make the data invalid."""
        return [issue for issue in self.issues if issue.severity == "error"]

    @property
    def ok(self) -> bool:
        """True when there is no error; warnings do not count."""
        return not self.num_errors

    @property
    def num_errors(self) -> int:
        """All errors, listed or not."""
        return max(len(self.errors), sum(self.totals.get("error", {}).values()))

    @property
    def num_warnings(self) -> int:
        """All warnings, listed or not."""
        return max(len(self.issues) - len(self.errors), sum(self.totals.get("warning", {}).values()))

    def counts(self) -> dict[str, int]:
        """Findings by code, sorted, listed or not."""
        listed = Counter(issue.code for issue in self.issues)
        found = Counter[str]()
        for by_code in self.totals.values():
            found.update(by_code)
        return dict(sorted((listed | found).items()))


class Reject(Contract):
    """One input a conversion rejected: a line of `rejects.jsonl`."""

    id: str = Field(description="The id the row would have had.")
    split: str
    input: str = Field(description="The input, relative to the source's root.")
    code: str = Field(description="Stable reason: `truncated`, `undecodable`, `no-frames`, ...")
    reason: str = Field(description="One line for a person.")
