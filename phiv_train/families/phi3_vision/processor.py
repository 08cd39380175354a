"""`Processor`: everything that turns a conversation into ids and crops, in one frozen object with a hash.

    processor = Processor.from_folder(Path("Phi-3.5-vision-instruct"), num_crops=16)
    processor.tokenizer.encode("What is it?")    # plain text only: "<|end|>" in it is text, never the control token
    processor.save(Path("checkpoint"))           # the official files again, with this num_crops

It can also be built from parts: `Processor(tokenizer, control_ids, num_crops=4)` takes any object with `encode` and
`decode`, and images may be plain uint8 arrays [H, W, 3] wherever a PIL image may stand.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_data.utils.json_files import parse_object
from phiv_schemas.errors import UsageError
from phiv_train.families.base import ImageOptions
from phiv_train.families.phi3_vision.image_processing import CROP_SIZE
from phiv_train.families.segments import PHI3, ChatRenderer

if TYPE_CHECKING:
    import tokenizers

BOS, USER, ASSISTANT, SYSTEM = "<s>", "<|user|>", "<|assistant|>", "<|system|>"
END, END_OF_TEXT, IMAGE = "<|end|>", "<|endoftext|>", "<|image|>"
CONTROL_TOKENS = (BOS, USER, ASSISTANT, SYSTEM, END, END_OF_TEXT, IMAGE)

HUB_ID = "microsoft/Phi-3.5-vision-instruct"
_TOKENIZER, _PREPROCESSOR = "tokenizer.json", "preprocessor_config.json"
_CONFIG = "tokenizer_config.json"
_OTHER_FILES = (_CONFIG, "special_tokens_map.json", "processor_config.json")
# Part of the hash: raise it when the same conversation would become other ids or other crops.
_RENDERING = 1
_PROBE = (
    "".join(map(chr, range(32, 127))) + "\nWhat is  shown in these images? Żółć, e\u0301 ﬁ Ａ, 你好 🙂\t\r\n1234567890"
)
# The official vocabularies' own: they steer the model, so in a text they stay text. All others were added by somebody
# who wants them in texts, as `<loc_1>`.
_CONTROL = re.compile(
    r"<unk>|</?s>|<\|(endoftext|assistant|system|user|end|image(_\d+)?|placeholder\d+|step|function_\w+|tag|raw"
    r"|continue|calc|/?code|summary|resource|assistant_mask|start|message)\|>"
)


class TextTokenizer(Protocol):
    """Text to ids and back, without control tokens: whatever the text holds, it stays text."""

    def encode(self, text: str) -> Sequence[int]:
        """The ids of one run of text, no BOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that `encode` made."""
        ...


@dataclass(frozen=True)
class Processor:
    """Tokenizer, control tokens and image settings of one checkpoint.

    `control_ids`: at least CONTROL_TOKENS, by name; tokens that users added to a vocabulary are the tokenizer's.
    `rstrip`: those that swallow the white space after them in an official prompt. `grid`: rows (and columns) of
    features per crop. `clip_high_depth`: treat 16-bit images as the original does (clip at 255) and not scale them.
    `files`: the checkpoint's own files, written back by `save`.
    """

    tokenizer: TextTokenizer
    control_ids: Mapping[str, int]
    num_crops: int = 4
    crop_size: int = CROP_SIZE
    grid: int = 12
    clip_high_depth: bool = False
    rstrip: frozenset[str] = frozenset({ASSISTANT})
    files: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if missing := [name for name in CONTROL_TOKENS if name not in self.control_ids]:
            raise UsageError("tokenizer", f"has no {', '.join(missing)}", "Use the model's own tokenizer.json")
        if self.num_crops < 1:
            raise UsageError("num_crops", f"must be at least 1 (found {self.num_crops})", "The model card: 4 or 16")

    @classmethod
    def from_folder(cls, folder: Path, *, num_crops: int | None = None, clip_high_depth: bool = False) -> Processor:
        """The processor of a checkpoint folder. `num_crops` None keeps the folder's own."""
        files = {name: _read(folder / name) for name in (_TOKENIZER, _PREPROCESSOR)}
        files |= {n: _read(folder / n) for n in _OTHER_FILES if (folder / n).is_file()}
        return cls.from_files(files, num_crops, clip_high_depth=clip_high_depth, where=str(folder))

    @classmethod
    def from_files(
        cls,
        files: Mapping[str, str],
        num_crops: int | None = None,
        *,
        clip_high_depth: bool = False,
        where: str = "processor",
    ) -> Processor:
        """The processor from the texts of `tokenizer.json`, `preprocessor_config.json` and any others to keep."""
        spec, settings = (
            parse_object(f"{where}/{name}", files[name], "Fetch the checkpoint again")
            for name in (_TOKENIZER, _PREPROCESSOR)
        )
        config = parse_object(f"{where}/{_CONFIG}", files.get(_CONFIG, "{}"), "Fetch the checkpoint again")
        tokenizer, control_ids, rstrip = _tokenizer(f"{where}/{_TOKENIZER}", spec, config)
        own = f"{where}/{_PREPROCESSOR}"
        return cls(
            tokenizer=tokenizer,
            control_ids=control_ids,
            num_crops=_count(own, settings, "num_crops", 1) if num_crops is None else num_crops,
            crop_size=_count(own, settings, "crop_size", CROP_SIZE),
            grid=math.isqrt(_count(own, settings, "num_img_tokens", 144)),
            clip_high_depth=clip_high_depth,
            rstrip=rstrip,
            files=files,
        )

    def save(self, folder: Path) -> None:
        """Write the tokenizer and preprocessor files, as servers of the official checkpoint expect them."""
        for name, text in self.files.items():
            out, value = text, json.loads(text)
            if "auto_map" in value:  # the original's code files are not in the folder, the hub has them
                pointers = value["auto_map"].items()
                value["auto_map"] = {key: v if "--" in v else f"{HUB_ID}--{v}" for key, v in pointers}
                out = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
            if name == _PREPROCESSOR:
                out = json.dumps(json.loads(out) | {"num_crops": self.num_crops}, indent=2) + "\n"
            with atomic_write(folder / name) as file:
                file.write(out.encode())

    def check_vocabulary(self, rows: int) -> None:
        """UsageError where a token has no row in an embedding of so many."""
        largest = max(*self.control_ids.values(), getattr(self.tokenizer, "largest_id", 0))
        if largest >= rows:
            names = {id_: name for name, id_ in self.control_ids.items()}
            name = names.get(largest) or self.tokenizer.decode([largest])
            what = f"the id {largest} of {name!r} has no row in the model's embedding ({rows} rows)"
            raise UsageError("tokenizer", what, "Resize the embedding (resize_token_embeddings), or remove the token")

    @property
    def image_id(self) -> int:
        """The id every image slot holds."""
        return self.control_ids[IMAGE]

    @property
    def image_options(self) -> ImageOptions:
        """`{"num_crops": 4}`."""
        return {"num_crops": self.num_crops}

    @cached_property
    def renderer(self) -> ChatRenderer:
        """The chat template of Phi-3 with this tokenizer."""
        return ChatRenderer(PHI3, self.control_ids, self.tokenizer.encode)

    @property
    def pad_id(self) -> int:
        """`<|endoftext|>`, as in the original; masks never look at it."""
        return self.control_ids[END_OF_TEXT]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """An answer ends with `<|end|>`; `<|endoftext|>` ends the text."""
        return self.control_ids[END], self.control_ids[END_OF_TEXT]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated `ids` up to the first stop id; other control tokens are left out."""
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return self.tokenizer.decode([token for token in ids[:stop] if token not in self._control_names])

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens by name."""
        parts: list[str] = []
        for name, run in groupby(ids, key=self._control_names.get):
            same = list(run)
            parts.append(self.tokenizer.decode(same) if name is None else name * len(same))
        return "".join(parts)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id alone, control tokens by name."""
        pieces = []
        for id_ in ids:  # a decoder strips the space that begins a text, so decode each behind a copy of itself
            name, once = self._control_names.get(id_), [id_]
            decode = self.tokenizer.decode
            pieces.append(decode(once * 2)[len(decode(once)) :] if name is None else name)
        return pieces

    @cached_property
    def spec_hash(self) -> str:
        """Equal hash, equal arrays for every conversation.

        A tokenizer is its vocabulary and merges and its ids for a probe, however a library's version writes its file.
        One that came without a file has only the last.
        """
        kind = type(self.tokenizer)
        tokenizer = [kind.__qualname__, [int(i) for i in self.tokenizer.encode(_PROBE)]]
        if isinstance(self.tokenizer, PlainTokenizer):
            tokenizer += self.tokenizer.identity
        spec = [_RENDERING, tokenizer, dict(self.control_ids), sorted(self.rstrip), self.num_crops, self.crop_size]
        spec += [self.grid, self.clip_high_depth]
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _control_names(self) -> Mapping[int, str]:
        return {id_: name for name, id_ in self.control_ids.items()}


class PlainTokenizer:
    """A `tokenizer.json` without its control tokens, so that no text can become one; with those that users `added`.

    Loaded by `tokenizers` directly: AutoTokenizer gives other ids for this file when no config.json lies beside it.
    """

    def __init__(self, spec: Mapping[str, Any], added: Sequence[Mapping[str, Any]] = ()) -> None:
        from tokenizers import Tokenizer

        model = dict(spec["model"])
        if added:  # with a place in the vocabulary they get their own ids; else tokenizers numbers them itself
            model["vocab"] = model["vocab"] | {token["content"]: token["id"] for token in added}
        plain = {**spec, "model": model, "added_tokens": list(added), "post_processor": None}
        plain |= {"truncation": None, "padding": None}
        self._tokenizer: tokenizers.Tokenizer = Tokenizer.from_str(json.dumps(plain))
        self._added = {int(token["id"]): str(token["content"]) for token in added}
        self.largest_id = max(self._tokenizer.get_vocab().values())
        merges = [pair.split(" ") if isinstance(pair, str) else list(pair) for pair in model.get("merges", [])]
        self.identity = [model["vocab"], merges, list(added)]
        """What its ids depend on, beside the normalizer: the same for equal files of different versions."""

    def encode(self, text: str) -> Sequence[int]:
        """The ids of one run of text, no BOS."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that `encode` made. Text after an added token was encoded as if it began there."""
        decode = self._tokenizer.decode
        runs = groupby(ids, key=self._added.get)
        return "".join(decode([*run]) if name is None else name * len([*run]) for name, run in runs)


def _read(path: Path) -> str:
    with environment_problems(path):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(str(path), f"is not UTF-8 ({error})", "Fetch the checkpoint again") from error
        except FileNotFoundError as error:
            hint = "Pass the folder of a whole checkpoint"
            raise UsageError(str(path.parent), f"has no {path.name}", hint) from error


def _tokenizer(
    where: str, spec: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[PlainTokenizer, dict[str, int], frozenset[str]]:
    """(tokenizer, ids of its control tokens by name, those that strip on their right).

    A token may be in tokenizer.json, or in tokenizer_config.json alone (`added_tokens_decoder`).
    """
    try:
        tokens = {str(token["content"]): dict(token) for token in spec.get("added_tokens", [])}
        for id_, token in config.get("added_tokens_decoder", {}).items():
            tokens.setdefault(str(token["content"]), {**token, "id": int(id_)})
        control = {name: int(token["id"]) for name, token in tokens.items() if _CONTROL.fullmatch(name)}
        added = sorted((token for name, token in tokens.items() if name not in control), key=lambda token: token["id"])
        rstrip = frozenset(name for name in control if tokens[name]["rstrip"])
        names = {id_: name for name, id_ in [*spec["model"]["vocab"].items(), *control.items()]}
        for token in added:
            if (other := names.setdefault(token["id"], token["content"])) != token["content"]:
                what = f"gives the id {token['id']} to {other!r} and {token['content']!r}"
                raise UsageError(where, what, "Give the added token an id of its own")
        return PlainTokenizer(spec, added), control, rstrip
    except (ImportError, UsageError):
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise UsageError(where, f"is not a tokenizer ({error!r})", "Fetch the checkpoint again") from error


def _count(where: str, settings: Mapping[str, Any], key: str, default: int) -> int:
    value = settings.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(where, f"{key} is {value!r}, not a whole number from 1", "Fetch the checkpoint again")
    return value
