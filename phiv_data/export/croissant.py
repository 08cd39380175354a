"""Croissant 1.0 metadata of the exported Parquet files (http://mlcommons.org/croissant/1.0).

Each file is a FileObject with its sha256; each split is a FileSet and a RecordSet over it, with the columns of a row as
fields. Properties that phiv was not given (url, creator, datePublished) are left out, not invented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiv_schemas import FileInfo, Manifest

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_TYPES = {"string": "sc:Text", "int32": "sc:Integer", "int64": "sc:Integer", "float64": "sc:Float"}
_TERMS = (
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {term: f"cr:{term}" for term in _TERMS.split()}


def croissant(
    manifest: Manifest, files: dict[str, list[FileInfo]], given: dict[str, str | None], features: dict[str, Any]
) -> dict[str, Any]:
    """The JSON-LD of a dataset whose splits have these Parquet files; `given` holds license, url, creator, date.

    `features` are the columns of the files, as `datasets` describes them.
    """
    license = given["license"] or "unknown"
    facts = {
        "url": given["url"],
        "creator": given["creator"] and {"@type": "Organization", "name": given["creator"]},
        "datePublished": given["date"],
    }
    record_sets = [
        {
            "@type": "cr:RecordSet",
            "@id": split,
            "name": split,
            "description": f"The conversations of {split}.",
            "key": {"@id": f"{split}/id"},
            "field": [_field(split, split, name, (), kind) for name, kind in features.items()],
        }
        for split in files
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": manifest.name,
        "description": f"{manifest.name} as conversations over images. Made by phiv from: {manifest.source}.",
        "conformsTo": CONFORMS_TO,
        "license": f"https://choosealicense.com/licenses/{license}/" if license != "unknown" else license,
        **{name: value for name, value in facts.items() if value},
        "version": "1.0.0",
        "keywords": ["vision-language", "conversations", "phiv"],
        "distribution": [part for split, infos in files.items() for part in _distribution(split, infos)],
        "recordSet": record_sets,
    }


def _distribution(split: str, infos: list[FileInfo]) -> list[dict[str, Any]]:
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": info.path,
            "name": info.path,
            "contentUrl": info.path,
            "contentSize": f"{info.size_bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": info.sha256,
        }
        for info in infos
    ]
    file_set = {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{split}-*-of-*.parquet",
    }
    return [*objects, file_set]


def _field(split: str, parent: str, name: str, above: tuple[str, ...], kind: dict[str, Any]) -> dict[str, Any]:
    """A column, or a key of the records in one (`above`: the column and the keys above it)."""
    repeated = {"repeated": True} if kind["_type"] == "List" else {}
    inner = kind["feature"] if repeated else kind
    path = (*above, name)
    head = {"@type": "cr:Field", "@id": f"{parent}/{name}", "name": f"{parent}/{name}", **repeated}
    if inner.get("_type") == "Value":
        return head | {"dataType": _TYPES[inner["dtype"]], "source": _source(split, path)}
    if inner.get("_type") == "Image":
        return head | {"dataType": "sc:ImageObject", "source": _source(split, (*path, "bytes"))}
    below = [_field(split, f"{parent}/{name}", key, path, value) for key, value in inner.items()]
    return head | {"subField": below}


def _source(split: str, path: tuple[str, ...]) -> dict[str, Any]:
    column, *keys = path
    transform = {"transform": [{"jsonPath": key} for key in keys]} if keys else {}
    return {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}, **transform}
