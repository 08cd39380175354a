"""The images of a row of another tool: files byte for byte, and the frames of videos, each read once."""

from __future__ import annotations

from dataclasses import dataclass, field

from phiv_converters.chat_json.files import find_clip, find_image
from phiv_converters.chat_json.options import ChatJsonOptions
from phiv_converters.clips import JPEG_QUALITY, clip_images, sampling_of
from phiv_data.formats.fields import ParsedTurn
from phiv_data.formats.files import Root, shorten
from phiv_data.formats.text import VideoPart
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import Sampling
from phiv_data.sources.image_index import checked_image
from phiv_data.storage.sample import EncodedImage
from phiv_schemas import Turn


@dataclass(frozen=True, slots=True)
class RowImages:
    """Finds and reads the images of the row `where`. RejectInput, at the row, for one that cannot be used."""

    flags: ChatJsonOptions
    split: str
    where: str
    roots: tuple[Root, ...]
    _read: dict[tuple[str, VideoPart | None], tuple[EncodedImage, ...]] = field(default_factory=dict)

    def turn(self, turn: ParsedTurn) -> tuple[Turn, list[EncodedImage]]:
        """A turn of a record, and its images: where a video stood, its frames stand in the order of time."""
        places = [self._at_place(ref, turn.videos.get(i)) for i, ref in enumerate(turn.images)]
        images = [image for found in places for image in found]
        offsets = turn.image_offsets
        if offsets is not None:
            offsets = tuple(offset for offset, found in zip(offsets, places, strict=True) for _ in found)
        record = Turn(
            images=tuple(image.meta.path for image in images),
            user=turn.user,
            assistant=turn.assistant,
            answers=turn.answers,
            image_offsets=offsets,
        )
        return record, images

    def _at_place(self, ref: str, part: VideoPart | None) -> tuple[EncodedImage, ...]:
        if (ref, part) not in self._read:
            self._read[ref, part] = (self._image(ref),) if part is None else self._frames(ref, part)
        return self._read[ref, part]

    def _image(self, ref: str) -> EncodedImage:
        name, data = find_image(ref, self.roots, self.flags.strip_folders, self.where)
        try:
            return checked_image(f"{self.split}/{name}", data, self.where, source=name)
        except RejectInput as reject:
            raise RejectInput(self.where, reject.code, f"image {shorten(ref)!r}: {reject.reason}") from reject

    def _frames(self, ref: str, part: VideoPart) -> tuple[EncodedImage, ...]:
        """The frames of a part of a video, named by their numbers: rows that show other parts share files."""
        path, name = find_clip(ref, self.roots, self.flags.strip_folders, self.where)
        stem, sampling, check = f"{self.split}/{name}", self._sampling(part), self.flags.check_video
        try:
            return clip_images(path, stem, name, sampling, JPEG_QUALITY, by_index=True, check=check)
        except RejectInput as reject:
            raise RejectInput(self.where, reject.code, f"video {shorten(ref)!r}: {reject.reason}") from reject

    def _sampling(self, part: VideoPart) -> Sampling:
        """What a row asks for itself, else what the flags do."""
        sampling = sampling_of(self.flags.num_frames, self.flags.fps)
        if part.num_frames is not None:
            sampling = Sampling(part.num_frames)
        elif part.fps is not None:
            at_most = None if self.flags.fps is None else self.flags.num_frames
            sampling = sampling_of(part.max_frames or at_most, part.fps)
        return Sampling(sampling.num_frames, sampling.fps, part.start, part.end)
