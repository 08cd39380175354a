"""Decoding with decord in a child process that can be killed, its frames compared with PyAV's.

decord 0.6 was last changed in 2021. It can hang while holding Python's lock where a header over-reports, and with
packed B-frames it can return other frames than those asked for (1 of 63 real clips tried). So it works in a child
process with a time-out, and a clip is rejected (`decoder-disagrees`) where its frame count or its images are not
PyAV's.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.media.reject import RejectInput
from phiv_data.media.video.frames import Source, VideoFrame, VideoInfo
from phiv_data.utils.extras import install_hint
from phiv_data.utils.signals import held
from phiv_schemas.errors import EnvironmentProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIMEOUT_S = 120.0
TOLERANCE = 8
"""Largest difference of a pixel to PyAV's, in levels of 255. Right frames differ by at most 2, wrong ones by 100s."""

_CHILD = Path(__file__).with_name("decord_child.py")


def redecode(source: Source, info: VideoInfo, frames: list[VideoFrame]) -> list[VideoFrame]:
    """The same frames with decord's pixels. RejectInput where it disagrees, hangs or dies."""
    if info.damage:
        raise RejectInput(_name(source), "decoder-disagrees", f"decord cannot salvage a damaged clip ({info.damage})")
    if isinstance(source, Path):
        return _redecode(source, _name(source), info, frames)
    with tempfile.NamedTemporaryFile(suffix=".video") as copy:
        if isinstance(source, bytes):
            copy.write(source)
        else:
            source.seek(0)
            copy.write(source.read())
        copy.flush()
        return _redecode(Path(copy.name), _name(source), info, frames)


def require_decord() -> None:
    """EnvironmentProblem unless decord is installed."""
    if find_spec("decord") is None:
        raise EnvironmentProblem("--decoder decord", "decord is not installed", install_hint("decord"))


def installed_version() -> str:
    """decord's version; EnvironmentProblem unless it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    require_decord()
    for name in ("decord", "decord2"):  # the fork installs the same module
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def _redecode(path: Path, where: str, info: VideoInfo, frames: list[VideoFrame]) -> list[VideoFrame]:
    import numpy as np

    indices = [frame.index for frame in frames]
    images = _child().ask(path, where, info.decoded, indices, TIMEOUT_S)
    for frame, image in zip(frames, images, strict=True):
        if image.shape != frame.image.shape:
            reason = f"decord's frame {frame.index} is {image.shape[1]}x{image.shape[0]} pixels"
            raise RejectInput(where, "decoder-disagrees", f"{reason}, PyAV's {frame.width}x{frame.height}")
        difference = int(np.abs(image.astype(np.int16) - frame.image).max())
        if difference > TOLERANCE:
            reason = f"decord returns another frame {frame.index} than PyAV (pixels differ by up to {difference})"
            raise RejectInput(where, "decoder-disagrees", reason)
    return [replace(frame, image=image) for frame, image in zip(frames, images, strict=True)]


@cache
def _child() -> _Child:
    child = _Child()
    atexit.register(child.stop)
    return child


class _Child:
    """A process that decodes clip after clip; killed when it takes too long, and started again for the next one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, path: Path, where: str, total: int, indices: list[int], timeout_s: float) -> NDArray[np.uint8]:
        """Frames [n, height, width, 3]. RejectInput where decord counts other than `total`, hangs or dies."""
        import numpy as np

        process = self._start()
        late = threading.Event()

        def expire() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, expire)
        timer.start()
        try:
            answer, payload = _exchange(process, {"path": str(path), "total": total, "indices": indices})
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            if late.is_set():
                raise RejectInput(where, "decoder-timeout", f"decord gave no answer in {timeout_s:g} s") from error
            raise RejectInput(where, "undecodable", "decord crashed") from error
        finally:
            timer.cancel()
        if "error" in answer:
            raise RejectInput(where, "undecodable", f"decord: {answer['error']}")
        if answer["total"] != total:
            reason = f"decord counts {answer['total']} frames, PyAV decodes {total}"
            raise RejectInput(where, "decoder-disagrees", reason)
        return np.frombuffer(payload, np.uint8).reshape(answer["shape"])

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            # -P keeps this folder off the child's path; the script needs nothing of phiv.
            with held():  # a child that Ctrl-C ends would look like a clip that crashes the decoder
                self._process = subprocess.Popen([sys.executable, "-P", str(_CHILD)], **pipes)
        return self._process


def _exchange(process: subprocess.Popen[bytes], request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """One JSON line each way, then `size_bytes` raw bytes. EOFError when the child is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    payload = process.stdout.read(answer.get("size_bytes", 0))
    if len(payload) < answer.get("size_bytes", 0):
        raise EOFError
    return answer, payload


def _name(source: Source) -> str:
    return str(source) if isinstance(source, Path) else "<bytes>"
