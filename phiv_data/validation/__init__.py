"""`validate(path)`: everything wrong with a converted folder, a jsonl file or shards, in one report.

    >>> report = validate("out")
    >>> report.ok, report.rows, report.images
    (True, 30, 240)
    >>> [str(issue) for issue in report.issues]
    ["ucf101_val.jsonl:17: $.conversations[0].images[3]: no such image 'val/A/v.3.jpg' under images/"]

`deep` (the default) decodes every distinct image in full, and hashes every file; without it only schema, ids,
existence and sizes are checked.

    run.py              `validate`: plan, check, merge, report
    tasks.py            what a piece of work is, and what all pieces share
    inputs/             a kind of piece per module, and the checks of their images
    rules/              what is asked of records, of images, of many rows: `rules/registry.py` lists all
    core/               types of rules, keys of equal things, aggregators, statistics
    imaging/            perceptual hashes, and how far two decodings of an image differ
    partial_result.py   results of pieces, which merge into the report
    provenance/         images compared with what they were made from
"""

from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.run import MAX_ISSUES, OWN_CODE, OnRows, check_arguments, validate

__all__ = ["MAX_ISSUES", "OWN_CODE", "Finding", "OnRows", "RowContext", "check_arguments", "validate"]
