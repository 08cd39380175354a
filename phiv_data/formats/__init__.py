"""External chat formats, parsed and rendered: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL (OpenAI messages).

    row = FORMATS["llava"].parse(record, where="train.json:7")   # a dict in, turns and image references out
    record = FORMATS["llava"].render(conversation)               # a dict to dump as JSON
    FORMATS["llava"].losses(conversation)                        # ("answers",): what the format cannot carry of it

    text      text with `<image>` markers to user text and image offsets, and back
    fields    the keys of a row, and which of them phiv has no place for
    content   a message's content: text with markers, or a list of parts
    dialogue  messages to turns: roles alternate, markers agree with images
    llava, sharegpt, swift, trl   one module a format

Pure mappings: no files, no images. `parse(render(c))` is `c` except for `losses(c)`, and `render(parse(r))` is the
canonical form of `r`, which parses to the same. `docs/interchange.md` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from phiv_data.formats import llava, sharegpt, swift, trl
from phiv_data.formats.fields import ParsedRow
from phiv_schemas import Conversation


class Format(NamedTuple):
    """The functions of a format: `parse(record, where)`, with options of the format's own by keyword, and back."""

    parse: Callable[..., ParsedRow]
    render: Callable[[Conversation], dict[str, Any]]
    losses: Callable[[Conversation], tuple[str, ...]]


FORMATS: dict[str, Format] = {
    "llava": Format(llava.parse, llava.render, llava.losses),
    "sharegpt": Format(sharegpt.parse, sharegpt.render, sharegpt.losses),
    "swift": Format(swift.parse, swift.render, swift.losses),
    "trl": Format(trl.parse, trl.render, trl.losses),
}

LOSSES: dict[str, str] = {
    "answers": "the list of accepted answers (`assistant` is kept: one answer a turn)",
    "empty_system": "keeps an empty system prompt, for which LLaMA-Factory takes its template's default one",
    "image_offsets": "`image_offsets` of images at the very front of the text (they come back as images before it)",
    "image_token": "keeps `<image>` as text, which ends the training where it is the image token (LLaVA, SmolVLM)",
    "image_places": "keeps where in its turn an image stands; LLaVA itself moves `<image>` to the front",
    "literal_marker": r"`<image>`, `<video>`, `<audio>` or `<img>` as text (written `<\image>`: else it means one)",
    "many_images": "keeps all images of a row, of which LLaVA itself opens one (LLaVA-NeXT opens all)",
    "system": "keeps the system prompt as `system_prompt`, which LLaVA does not read (lmms-finetune does)",
    "unanswered_turns": "turns after the first one without an answer (user and assistant alternate)",
}
"""What each code of `losses` means: the end of "the format cannot hold ...", or of "the format keeps ..."."""

__all__ = ["FORMATS", "LOSSES", "Format", "ParsedRow"]
