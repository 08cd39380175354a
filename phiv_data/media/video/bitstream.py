"""What the bytes of a packet prove: it is exactly one frame, and whether decoding may begin with it.

    begins_group = packet_reader("h264", extradata)
    begins_group(packet)      # True for an IDR image; Doubt where the packet is not provably one shown frame

A decoder that begins at such a packet gives every frame that is shown at its time or later as if it had decoded all
before. The reader knows H.264 and HEVC as MP4 and Matroska store them, VP9, AV1, MPEG-4 part 2 and MPEG-2, in
their usual forms; what it does not know is a doubt, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

BeginsGroup = Callable[[bytes], bool]


class Doubt(Exception):
    """Why the frames of a clip cannot be known without decoding all of it; one clause."""


def packet_reader(codec: str, extradata: bytes) -> BeginsGroup:
    """The reader for the packets of a stream in their order. Doubt for a codec or a form of it that is not known.

    Bytes that end too early are a doubt too, of the header here and of a packet when it is read.
    """
    readers: dict[str, Callable[[bytes], BeginsGroup]] = {
        "h264": _h264_reader,
        "hevc": _hevc_reader,
        "vp9": lambda _: _read_vp9,
        "av1": lambda _: _av1_reader(),
        "mpeg4": _mpeg4_reader,
        "mpeg2video": lambda _: _mpeg2_reader(),
    }
    if codec not in readers:
        raise Doubt(f"the codec {codec}")
    try:
        reader = readers[codec](extradata)
    except IndexError as error:
        raise Doubt("a header that ends early") from error

    def begins_group(packet: bytes) -> bool:
        try:
            return reader(packet)
        except IndexError as error:
            raise Doubt("a packet that ends early") from error

    return begins_group


class _Bits:
    """The bits of a header, one after another. IndexError behind the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def bits(self, count: int) -> int:
        """The next bits, as a number."""
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - self._at % 8) & 1
            self._at += 1
        return value

    def golomb(self) -> int:
        """The next Exp-Golomb code, `ue(v)`; a signed one is as long."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)


def _header(unit: bytes) -> _Bits:
    """The bits of a NAL unit without emulation prevention bytes."""
    return _Bits(unit.replace(b"\0\0\3", b"\0\0"))


def _units(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    """The NAL units of a packet, each behind its length (ISO/IEC 14496-15)."""
    at = 0
    while at < len(packet):
        end = at + length_bytes + int.from_bytes(packet[at : at + length_bytes], "big")
        if end > len(packet) or end == at + length_bytes:
            raise Doubt("a unit that is longer than its packet, or empty")
        yield packet[at + length_bytes : end]
        at = end


# H.264 ------------------------------------------------------------------------------------------------------------

_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


def _h264_reader(extradata: bytes) -> BeginsGroup:
    """Frames without fields; an IDR image begins a group. The parameter sets are those of the header (`avcC`)."""
    if extradata[:1] != b"\1" or extradata[5] & 31 != 1:
        raise Doubt("no header with one sequence parameter set")
    sets, at = [], 6
    for count in (1, None):  # one SPS, then as many PPS as the byte before them says
        if count is None:
            count, at = extradata[at], at + 1
        for _ in range(count):
            end = at + 2 + int.from_bytes(extradata[at : at + 2], "big")
            sets.append(extradata[at + 2 : end])
            at = end
    frame_num_bits, order_bits = _h264_sps(sets[0])
    extra_fields = {_h264_pps(pps) for pps in sets[1:]}
    if len(extra_fields) != 1:
        raise Doubt("image parameter sets of two kinds, or none")
    ((has_bottom_order, has_redundant),) = extra_fields
    if has_redundant:
        raise Doubt("redundant images")
    length_bytes = (extradata[4] & 3) + 1

    def begins_group(packet: bytes) -> bool:
        frames, is_idr = 0, False
        for unit in _units(packet, length_bytes):
            kind = unit[0] & 31
            if kind in (7, 8) and unit not in sets:
                raise Doubt("parameter sets inside the stream")
            if kind in (2, 3, 4, 14, 15, 20, 21):
                raise Doubt(f"H.264 units of type {kind}")
            if kind in (1, 5):
                first = bool(unit[1] & 0x80)  # first_mb_in_slice is 0
                frames, is_idr = frames + first, is_idr or kind == 5
                if first and kind == 5 and _h264_drops(unit, frame_num_bits, order_bits, has_bottom_order):
                    raise Doubt("an image that discards those before it")
        _check_one_frame(frames)
        return is_idr

    return begins_group


def _h264_sps(sps: bytes) -> tuple[int, int | None]:
    """Bits of frame_num and of pic_order_cnt_lsb (None where there is none). Doubt for fields and gaps."""
    read = _header(sps[1:])
    profile = read.bits(8)
    read.bits(16)
    read.golomb()
    if profile in _HIGH_PROFILES:
        if read.golomb() == 3:
            raise Doubt("H.264 of 4:4:4")
        read.golomb()
        read.golomb()
        read.bits(1)
        if read.bits(1):
            raise Doubt("scaling matrices of its own")
    frame_num_bits, order_bits = read.golomb() + 4, None
    order_type = read.golomb()
    if order_type == 0:
        order_bits = read.golomb() + 4
    elif order_type == 1:
        raise Doubt("an order of images of type 1")
    read.golomb()
    if read.bits(1):
        raise Doubt("gaps in the numbers of frames are allowed")
    read.golomb()
    read.golomb()
    if not read.bits(1):
        raise Doubt("fields, or frames that may be fields")
    return frame_num_bits, order_bits


def _h264_pps(pps: bytes) -> tuple[int, int]:
    """(bottom_field_pic_order_in_frame_present, redundant_pic_cnt_present)."""
    read = _header(pps[1:])
    read.golomb()
    read.golomb()
    read.bits(1)
    has_bottom_order = read.bits(1)
    if read.golomb():
        raise Doubt("slice groups")
    read.golomb()
    read.golomb()
    read.bits(3)
    for _ in range(3):
        read.golomb()
    read.bits(2)
    return has_bottom_order, read.bits(1)


def _h264_drops(unit: bytes, frame_num_bits: int, order_bits: int | None, has_bottom_order: int) -> bool:
    """no_output_of_prior_pics_flag of the slice of an IDR image."""
    read = _header(unit[1:64])
    for _ in range(3):
        read.golomb()
    read.bits(frame_num_bits)
    read.golomb()
    if order_bits is not None:
        read.bits(order_bits)
        if has_bottom_order:
            read.golomb()
    return bool(read.bits(1))


# HEVC -------------------------------------------------------------------------------------------------------------


def _hevc_reader(extradata: bytes) -> BeginsGroup:
    """IDR and CRA images begin a group; the parameter sets are those of the header (`hvcC`)."""
    if extradata[:1] != b"\1":
        raise Doubt("no header with parameter sets")
    sets, at = [], 23
    for _ in range(extradata[22]):
        count, at = int.from_bytes(extradata[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            end = at + 2 + int.from_bytes(extradata[at : at + 2], "big")
            sets.append(extradata[at + 2 : end])
            at = end
    for pps in (unit for unit in sets if unit[0] >> 1 == 34):
        read = _header(pps[2:])
        read.golomb()
        read.golomb()
        if read.bits(2) & 1:
            raise Doubt("images that may not be shown")
    if sum(unit[0] >> 1 == 33 for unit in sets) != 1:
        raise Doubt("no header with one sequence parameter set")
    length_bytes = (extradata[21] & 3) + 1

    def begins_group(packet: bytes) -> bool:
        frames, begins = 0, False
        for unit in _units(packet, length_bytes):
            kind = unit[0] >> 1
            if (unit[0] & 1) << 5 | unit[1] >> 3:
                raise Doubt("several layers")
            if (32 <= kind <= 34 and unit not in sets) or kind in (36, 37):
                raise Doubt("parameter sets or an end inside the stream")
            if kind < 32:
                frames += unit[2] >> 7  # first_slice_segment_in_pic_flag
                if 16 <= kind <= 18 or (19 <= kind <= 23 and unit[2] & 0x40):
                    raise Doubt("an image that discards those before it, or follows a cut")
                begins = begins or kind in (19, 20, 21)
        _check_one_frame(frames)
        return begins

    return begins_group


# VP9 and AV1 ------------------------------------------------------------------------------------------------------


def _read_vp9(packet: bytes) -> bool:
    """A key frame begins a group; of a superframe exactly one frame is shown."""
    headers = [_vp9_header(frame) for frame in _vp9_frames(packet)]
    _check_one_frame(sum(is_shown for is_shown, _ in headers))
    return headers[0] == (True, True)


def _vp9_frames(packet: bytes) -> Iterator[bytes]:
    """The frames of a superframe (VP9 specification, annex B), or the packet itself."""
    marker = packet[-1]
    count, size_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = 2 + count * size_bytes
    if marker & 0xE0 != 0xC0 or len(packet) < index or packet[-index] != marker:
        yield packet
        return
    at = 0
    for i in range(count):
        start = len(packet) - index + 1 + i * size_bytes
        end = at + int.from_bytes(packet[start : start + size_bytes], "little")
        yield packet[at:end]
        at = end


def _vp9_header(frame: bytes) -> tuple[bool, bool]:
    """(is it shown, is it a key frame)."""
    first = frame[0]
    if first >> 6 != 2:
        raise Doubt("no VP9 frame")
    profile = (first >> 5 & 1) | (first >> 4 & 1) << 1
    flags = first << (5 if profile == 3 else 4) & 0xFF  # show_existing_frame, frame_type, show_frame, ...
    if flags & 0x80:
        return True, False
    return bool(flags & 0x20), not flags & 0x40


def _av1_reader() -> BeginsGroup:
    """A shown key frame behind the sequence header of the first packet begins a group."""
    first: list[bytes] = []

    def begins_group(packet: bytes) -> bool:
        shown, is_key, sequences = 0, False, []
        for kind, payload in _av1_units(packet):
            if kind == 1:
                sequences.append(payload)
            if kind in (3, 6):
                flags = payload[0]  # show_existing_frame, frame_type (2 bits), show_frame
                is_shown = bool(flags & 0x80 or flags & 0x10)
                is_key = is_key or (flags & 0xF0 == 0x10)
                shown += is_shown
        _check_one_frame(shown)
        if not first:
            first.extend(sequences)
            if len(first) != 1 or first[0][0] & 0x18:  # still images have shorter headers
                raise Doubt("no sequence header in front, or one of a still image")
        if any(one != first[0] for one in sequences):
            raise Doubt("a sequence header that changes")
        return is_key and bool(sequences)

    return begins_group


def _av1_units(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each OBU of a temporal unit. Doubt for layers."""
    at = 0
    while at < len(packet):
        head, at = packet[at], at + 1
        if head & 4:
            if packet[at] & 0xF8:
                raise Doubt("several layers")
            at += 1
        size, shift = len(packet) - at, 0
        if head & 2:
            size = 0
            while True:
                byte, at = packet[at], at + 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        yield head >> 3 & 15, packet[at : at + size]
        at += size


# MPEG-4 part 2 and MPEG-2 -----------------------------------------------------------------------------------------


def _start_codes(data: bytes) -> list[bytes]:
    """The units of a packet, each from the byte behind its start code."""
    return data.split(b"\0\0\1")[1:]


def _mpeg4_reader(extradata: bytes) -> BeginsGroup:
    """I images begin a group; one image a packet, its headers those of the container."""
    layers = [unit for unit in _start_codes(extradata) if 0x20 <= unit[0] <= 0x2F]
    if len(layers) != 1:
        raise Doubt("no header with one video object layer")
    time_bits = _mpeg4_time_bits(layers[0])

    def begins_group(packet: bytes) -> bool:
        units = _start_codes(packet)
        if any(unit[0] not in (0xB3, 0xB6) and unit not in extradata for unit in units):
            raise Doubt("headers inside the stream")
        images = [unit for unit in units if unit[0] == 0xB6]
        _check_one_frame(len(images))
        read = _Bits(images[0][1:])
        kind = read.bits(2)
        while read.bits(1):  # modulo_time_base
            pass
        read.bits(1 + time_bits + 1)
        if not read.bits(1):
            raise Doubt("an image that codes nothing")
        return kind == 0

    return begins_group


def _mpeg4_time_bits(layer: bytes) -> int:
    """Bits of vop_time_increment, as the video object layer says."""
    read = _Bits(layer[1:])
    read.bits(9)
    if read.bits(1):
        read.bits(7)
    if read.bits(4) == 15:
        read.bits(16)
    if read.bits(1):
        read.bits(3)
        if read.bits(1):
            read.bits(79)
    if read.bits(2):
        raise Doubt("images that are no rectangles")
    read.bits(1)
    return max(1, (read.bits(16) - 1).bit_length())


def _mpeg2_reader() -> BeginsGroup:
    """I images behind the sequence header of the first packet begin a group; frames only, no fields."""
    first: list[list[bytes]] = []

    def begins_group(packet: bytes) -> bool:
        units = [unit for unit in _start_codes(packet) if not 1 <= unit[0] <= 0xAF]  # without slices
        images = [unit for unit in units if unit[0] == 0]
        kinds = [(unit[0], unit[1] >> 4 if unit[0] == 0xB5 else None) for unit in units]
        sequence = [unit for unit, kind in zip(units, kinds, strict=True) if kind in ((0xB3, None), (0xB5, 1))]
        if any(kind in ((0xB5, 3), (0xB5, 5), (0xB5, 9), (0xB5, 10), (0xB7, None)) for kind in kinds):
            raise Doubt("matrices or layers inside the stream, or its end")
        coding = [unit for unit, kind in zip(units, kinds, strict=True) if kind == (0xB5, 8)]
        if any(unit[3] & 3 != 3 for unit in coding) or len(coding) != 1:
            raise Doubt("fields")
        _check_one_frame(len(images))
        first.extend([sequence] * (not first))
        if sequence and sequence != first[0]:
            raise Doubt("a sequence header that changes")
        return bool(sequence) and images[0][2] >> 3 & 7 == 1

    return begins_group


def _check_one_frame(count: int) -> None:
    if count != 1:
        raise Doubt(f"a packet of {count} frames")
