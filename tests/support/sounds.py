"""Sounds for tests: tones and silence in many formats, and speech by espeak-ng."""

from __future__ import annotations

import io
import re
import subprocess
from functools import cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 16_000


def tone(seconds: float, *, loud: float = 0.3, rate: int = RATE) -> NDArray[np.int16]:
    at = np.arange(int(seconds * rate)) / rate
    return (np.sin(2 * np.pi * 440 * at) * loud * 32767).astype(np.int16)


def encoded(
    samples: NDArray[np.int16], container: str = "wav", codec: str = "pcm_s16le", rate: int = RATE, layout: str = "mono"
) -> bytes:
    """``samples`` (mono) as a file; every channel of ``layout`` has them."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=48_000 if "opus" in codec else rate, layout=layout)
        channels = av.AudioLayout(layout).nb_channels
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, channels).reshape(1, -1), "s16", layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return out.getvalue()


def float_wav(samples: NDArray[np.float32]) -> bytes:
    data = samples.astype("<f4").tobytes()
    return wav_header(len(data), rate=RATE, bits=32, kind=3) + data


def wav_header(data_bytes: int, *, rate: int = RATE, channels: int = 1, bits: int = 16, kind: int = 1) -> bytes:
    block = channels * bits // 8
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + kind.to_bytes(2, "little") + channels.to_bytes(2, "little")
    head += rate.to_bytes(4, "little") + (rate * block & 0xFFFFFFFF).to_bytes(4, "little")
    head += (block & 0xFFFF).to_bytes(2, "little") + bits.to_bytes(2, "little")
    head += b"data" + data_bytes.to_bytes(4, "little")
    return b"RIFF" + (len(head) + data_bytes & 0xFFFFFFFF).to_bytes(4, "little") + head


@cache
def spoken(text: str, voice: str = "en-us", speed: int = 150) -> bytes:
    """``text`` read out, as a WAV file."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), text]
    return subprocess.run(command, check=True, capture_output=True).stdout


def samples_of(sound: bytes) -> NDArray[np.int16]:
    """16-bit mono at 16 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(io.BytesIO(sound), "r") as file:
        frames = [piece for frame in file.decode(audio=0) for piece in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def words(text: str) -> list[str]:
    return re.sub(r"[^\w\s']", " ", text.casefold()).split()


def word_error_rate(said: str, heard: str) -> float:
    """Edits (words put in, left out or changed) to make ``said`` of ``heard``, per word of ``said``."""
    expected, found = words(said), words(heard)
    row = list(range(len(found) + 1))
    for i, word in enumerate(expected, 1):
        above, row = row, [i]
        for j, other in enumerate(found, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row[-1] / len(expected)
