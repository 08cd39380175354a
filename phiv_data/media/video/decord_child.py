"""The child process of `decord_process`: for each request line, answer with a line and the frames' bytes.

Run as a script in its own process; it imports decord and nothing of phiv.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve requests `{"path", "total", "indices"}`. Frames are sent only where decord counts `total`, too."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    for line in sys.stdin.buffer:
        try:
            answer, payload = _decode(**json.loads(line))
        except Exception as error:  # decord raises its own kinds; the parent turns them into one line
            answer, payload = {"error": " ".join(str(error).split())[:300] or type(error).__name__}, b""
        answers.write(json.dumps(answer | {"size_bytes": len(payload)}).encode() + b"\n" + payload)
        answers.flush()


def _decode(path: str, total: int, indices: list[int]) -> tuple[dict[str, Any], bytes]:
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    if len(reader) != total:
        return {"total": len(reader)}, b""
    frames = reader.get_batch(indices).asnumpy()
    return {"total": total, "shape": list(frames.shape)}, frames.tobytes()


if __name__ == "__main__":
    main()
