"""The validation rules as a table: code, name, severity, what it means, what to do.

    >>> RULES["PV101"]
    Rule(code='PV101', name='missing-image', severity='error', summary='an image that a row names is not there', ...)

Codes are stable: scripts may match on them. The first digit groups them:

    PV0xx  reading the file or the JSON        PV1xx  images
    PV2xx  ids and consistency across records  PV3xx  manifest, shards and other files
    PV4xx  remarks (severity "warning")
    PV5xx  rows in external chat formats
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `severity` is the usual one, which a finding may override. `hint` is what to do in general."""

    code: str
    name: str
    severity: Severity
    summary: str
    hint: str


_CONVERT = "Run the same phiv-convert command with --overwrite"

RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule("PV001", "invalid-json", "error", "a line is not a JSON object", "Write one whole record per line"),
        Rule("PV002", "schema", "error", "a record breaks the format", "See schemas/README.md for the format"),
        Rule("PV003", "duplicate-key", "error", "a JSON object has a key twice", "Keep one"),
        Rule("PV004", "truncated-line", "error", "the last line of a file is cut off", "Copy or write the file again"),
        Rule("PV005", "encoding", "error", "text that is not valid UTF-8 or Unicode", "Save the file as UTF-8"),
        Rule("PV006", "byte-order-mark", "warning", "the file begins with a byte order mark", "Save as plain UTF-8"),
        Rule("PV007", "unreadable-file", "error", "a file is there but cannot be read", "Check permissions and disk"),
        Rule("PV101", "missing-image", "error", "an image that a row names is not there", "Copy it, or drop the row"),
        Rule("PV102", "broken-image", "error", "an image does not decode in full", "Fetch it again, or drop the row"),
        Rule("PV103", "path-traversal", "error", "an image path leads out of images/", "Copy the image below images/"),
        Rule("PV104", "image-checksum-mismatch", "error", "an image is not the one that was converted", _CONVERT),
        Rule("PV105", "image-metadata-mismatch", "error", "a shard's metadata of an image is wrong", _CONVERT),
        Rule("PV110", "extension-mismatch", "warning", "an image is not of the format its suffix names", "Rename it"),
        Rule("PV111", "image-too-large", "error", "an image has too many pixels to be read", "Scale it down"),
        Rule(
            "PV112", "image-too-small", "warning", "an image is a few pixels wide, or a strip", "Check it; drop the row"
        ),
        Rule("PV113", "decompression-bomb", "error", "a file claims more pixels than any image has", "Drop it"),
        Rule(
            "PV114",
            "exif-orientation",
            "warning",
            "an image is stored rotated or mirrored",
            "Rotate the pixels, drop the tag",
        ),
        Rule("PV115", "animated-image", "warning", "only the first frame or page of an image is used", "Extract it"),
        Rule(
            "PV116",
            "lossy-rgb-conversion",
            "warning",
            "an image loses information in RGB",
            "Convert it the way you want it",
        ),
        Rule("PV117", "repeated-image", "warning", "a turn shows the same image twice", "Name it once"),
        Rule("PV201", "duplicate-id", "error", "two records have one id", "Number the records again"),
        Rule("PV202", "empty-dataset", "error", "a file or dataset has no rows", "Check what was converted"),
        Rule("PV203", "duplicate-content", "warning", "two rows show, ask and answer the same", "Drop one"),
        Rule("PV210", "empty-user", "warning", "a turn asks nothing", "Write a question or an instruction"),
        Rule("PV211", "empty-answer", "error", "an answer is empty", "Write it, use null, or drop the row"),
        Rule("PV212", "surrounding-whitespace", "warning", "whitespace before or after a text", "Strip it"),
        Rule("PV214", "conflicting-answers", "warning", "one question, two answers", "Check the images; keep one"),
        Rule(
            "PV215",
            "role-marker-in-text",
            "warning",
            "text contains role names, as a chat template writes them",
            "Split it into turns",
        ),
        Rule("PV220", "control-token", "warning", "text contains a control token of a model", "Remove or rewrite it"),
        Rule("PV221", "mojibake", "warning", "UTF-8 that was decoded as another encoding", "Read the source as UTF-8"),
        Rule("PV222", "control-character", "warning", "text contains a control character", "Remove it"),
        Rule("PV223", "invisible-unicode", "warning", "text contains an invisible character", "Remove it"),
        Rule("PV224", "not-nfc", "warning", "letters that are not composed (Unicode NFC)", "Normalize texts to NFC"),
        Rule("PV225", "replacement-character", "warning", "text that was lost in decoding", "Decode the source again"),
        Rule(
            "PV230", "class-imbalance", "warning", "a class is rare beside another", "Reweight or resample the classes"
        ),
        Rule("PV231", "class-unseen-in-train", "warning", "a class is not in train", "Move rows, or drop the class"),
        Rule("PV232", "class-missing-in-split", "warning", "a split lacks a class", "Stratify the splits by class"),
        Rule(
            "PV233", "class-spelling-variant", "warning", "an answer is a class in another spelling", "Use one spelling"
        ),
        Rule("PV240", "duplicate-image-across-splits", "warning", "an image is in two splits", "Leave it out of one"),
        Rule(
            "PV241",
            "near-duplicate-across-splits",
            "warning",
            "an image looks like one of another split",
            "Compare both; keep one",
        ),
        Rule(
            "PV242",
            "duplicate-question-across-splits",
            "warning",
            "two splits ask the same of the same images",
            "Drop one row",
        ),
        Rule(
            "PV243", "group-across-splits", "warning", "images of one group are in two splits", "Split by whole groups"
        ),
        Rule(
            "PV244",
            "near-duplicate-in-split",
            "warning",
            "two rows of a split ask the same of images that look the same",
            "Compare both; keep one",
        ),
        Rule("PV250", "over-token-budget", "error", "a row is longer than the budget", "Use fewer images or less text"),
        Rule(
            "PV251",
            "unknown-length",
            "warning",
            "a row's length in tokens cannot be computed",
            "See what its images lack",
        ),
        Rule("PV301", "missing-file", "error", "a file of the dataset is not there", _CONVERT),
        Rule("PV302", "checksum-mismatch", "error", "a file's size or sha256 is not the manifest's", _CONVERT),
        Rule(
            "PV303",
            "missing-manifest",
            "error",
            "the conversion is unfinished, or not phiv's",
            "Run phiv-convert again",
        ),
        Rule("PV304", "invalid-manifest", "error", "the manifest is broken or does not add up", _CONVERT),
        Rule("PV305", "broken-shard", "error", "a shard is cut, damaged or not phiv's", _CONVERT),
        Rule("PV306", "shard-differs-from-jsonl", "error", "a shard's row is not the jsonl's record", _CONVERT),
        Rule("PV310", "provenance-mismatch", "error", "an image is not what its source gives", _CONVERT),
        Rule("PV311", "source-missing", "error", "a source file is not there", "Pass the folder that was converted"),
        Rule("PV312", "source-changed", "error", "a source file is not the one converted", "Find the file as it was"),
        Rule("PV313", "source-unchecked", "warning", "images could not be compared with their source", "See its page"),
        Rule(
            "PV314",
            "reencoded-frame",
            "warning",
            "a frame has its clip's pixels, encoded in other bytes",
            "See its page",
        ),
        Rule("PV401", "image-marker-in-text", "warning", "text contains what looks like an image marker", "Remove it"),
        Rule("PV402", "unlisted-file", "error", "a file that is not part of the dataset", "Remove it"),
        Rule("PV403", "unlabeled", "warning", "rows without an answer cannot be trained on", "Leave them to inference"),
        Rule("PV404", "unnamed-row", "warning", "rows have no id or source", "--fix gives them one"),
        Rule(
            "PV501",
            "marker-count-mismatch",
            "error",
            "there are not as many markers as images",
            "Put one for each image",
        ),
        Rule("PV502", "invalid-dialogue", "error", "roles are unknown or do not take turns", "User, then assistant"),
        Rule("PV503", "external-schema", "error", "a row is not of its format", "See docs/interchange.md"),
        Rule("PV504", "unsupported-row", "warning", "a row that phiv has no fields for", "It is not checked further"),
        Rule("PV505", "remote-image", "warning", "images are URLs, and not checked", "Download them to check"),
    )
}

CODES: dict[str, str] = {code: rule.name for code, rule in RULES.items()}
"""Code to name."""
