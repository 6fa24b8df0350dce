"""A sound file on standard input -> 16-bit mono at 16 kHz on standard output.

``python -m gateway.speech.decoder SECONDS``, in a process of its own, because the libraries below are large, read what
strangers send, and cannot be interrupted. It may take only so much memory and CPU. The status says what went wrong: see
:class:`Verdict`. Formats are found by their first bytes and named to FFmpeg, which otherwise would try hundreds; none
of them may open anything else.
"""

from __future__ import annotations

import os
import re
import resource
import struct
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

RATE: Final = 16_000
SAMPLE_BYTES: Final = 2
MAX_CHANNELS: Final = 8
RATES: Final = range(4_000, 384_001)
CPU_SECONDS: Final = 120
MEMORY_BYTES: Final = 1 << 30

#: FFmpeg's names by what a file begins with. `mp3` has several beginnings; a bare MPEG frame is the last resort.
FORMATS: Final = (
    ("wav", re.compile(rb"(RIFF|RF64)....WAVE", re.DOTALL)),
    ("flac", re.compile(rb"fLaC")),
    ("ogg", re.compile(rb"OggS")),
    ("mov", re.compile(rb"....ftyp", re.DOTALL)),
    ("matroska", re.compile(rb"\x1aE\xdf\xa3")),
    ("aiff", re.compile(rb"FORM....AIF[FC]", re.DOTALL)),
    ("au", re.compile(rb"\.snd")),
    ("mpeg", re.compile(rb"\0\0\x01\xba")),
    ("aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    ("mp3", re.compile(rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")),
)
CODECS: Final = re.compile(r"pcm_.*|adpcm_(ms|ima_wav|g7.*)|flac|alac|aac.*|mp[123].*|vorbis|opus|libopus|libvorbis")
#: Sizes in a WAV header that mean "until the end": whoever wrote it did not know.
_UNKNOWN: Final = range(0x7FFF_0000, 0x1_0000_0000)


class Verdict(IntEnum):
    """Exit statuses."""

    FINE = 0
    INVALID = 3
    UNKNOWN_FORMAT = 4
    TOO_LONG = 5


class Refused(Exception):
    """The sound is not to be used; ``verdict`` says how, the text why."""

    def __init__(self, verdict: Verdict, why: str) -> None:
        super().__init__(why)
        self.verdict = verdict


def format_of(head: bytes) -> str:
    """FFmpeg's name of what begins with ``head``. Raises :class:`Refused`."""
    for name, pattern in FORMATS:
        if pattern.match(head):
            return name
    raise Refused(Verdict.UNKNOWN_FORMAT, "its first bytes are those of no known format")


def check_wav(file: BinaryIO, size: int) -> None:
    """A WAV file holds as many samples as its header says, or its header says that it does not know.

    FFmpeg takes what is there, whatever was promised. Raises :class:`Refused`.
    """
    at = 12
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            if length and length not in _UNKNOWN and at + 8 + length > size:
                raise Refused(Verdict.INVALID, "the file is shorter than its header says")
            return
        at += 8 + length + length % 2
    raise Refused(Verdict.INVALID, "it has no samples")


def decode(file: BinaryIO, max_seconds: float) -> Iterator[bytes]:
    """The samples of ``file`` in pieces. Raises :class:`Refused`, also in the middle."""
    import av

    name = format_of(file.read(16))
    size = file.seek(0, os.SEEK_END)
    if name == "wav":
        check_wav(file, size)
    file.seek(0)
    try:
        with av.open(file, format=name, options={"protocol_whitelist": "none", "format_whitelist": name}) as container:
            yield from _bounded(_samples(container), max_seconds)
    except (av.error.FFmpegError, ValueError) as error:
        raise Refused(Verdict.INVALID, getattr(error, "strerror", None) or "it is damaged") from error


def _bounded(pieces: Iterator[bytes], max_seconds: float) -> Iterator[bytes]:
    room = int(max_seconds * RATE) * SAMPLE_BYTES
    left = room
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise Refused(Verdict.TOO_LONG, "it goes on and on")
        yield piece
    if left == room:
        raise Refused(Verdict.INVALID, "it has no samples")


def _samples(container: Any) -> Iterator[bytes]:
    from av import AudioResampler

    stream = _audio_of(container)
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    floats = stream.codec_context.name.startswith("pcm_f")
    shape: tuple[int, int] | None = None
    for frame in container.decode(stream):
        found = (frame.sample_rate, frame.layout.nb_channels)
        if shape not in (None, found):
            raise Refused(Verdict.INVALID, "its form changes in the middle")
        shape = found
        if floats:
            _check_numbers(frame)
        for piece in resampler.resample(frame):
            yield _bytes_of(piece)
    for piece in resampler.resample(None) if shape else ():
        yield _bytes_of(piece)


def _audio_of(container: Any) -> Any:
    if not container.streams.audio:
        raise Refused(Verdict.INVALID, "there is no sound in it")
    stream = container.streams.audio[0]
    context = stream.codec_context
    if context is None or not CODECS.fullmatch(context.name):
        raise Refused(Verdict.UNKNOWN_FORMAT, "its sound is coded in an unknown way")
    if context.sample_rate not in RATES:
        raise Refused(Verdict.INVALID, f"{context.sample_rate} samples per second are not believed")
    if not 1 <= context.channels <= MAX_CHANNELS:
        raise Refused(Verdict.INVALID, f"it has {context.channels} channels")
    return stream


def _check_numbers(frame: AudioFrame) -> None:
    import numpy

    if not numpy.isfinite(frame.to_ndarray()).all():
        raise Refused(Verdict.INVALID, "some of its samples are no numbers")


def _bytes_of(frame: AudioFrame) -> bytes:
    return bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES]


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Decode; the reason for a refusal is one line on standard error."""
    _confine()
    try:
        with os.fdopen(0, "rb") as file, os.fdopen(1, "wb") as out:
            for piece in decode(file, float(sys.argv[1])):
                out.write(piece)
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        sys.exit(refused.verdict)


if __name__ == "__main__":
    main()
