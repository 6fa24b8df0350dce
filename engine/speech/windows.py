"""Where to cut a long sound: at quiet places, so that no word is heard in halves.

Whisper hears 30 s at once. A window ends at the last pause of its last third; where there is none, at the quietest
place, and the next window begins a little earlier, so that the words there are heard whole by one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Seconds.
LONGEST: Final = 30.0
SHORTEST: Final = 20.0
OVERLAP: Final = 2.0
_STEP: Final = 0.02
_PAUSE: Final = 0.2
#: A pause is this much quieter than the window (as a share of its root mean square), or nearly silent.
_QUIETER: Final = 0.1
_FLOOR: Final = 2e-3
#: Below this peak (of 1) there is nothing to hear: -70 dB of full scale.
_SILENT: Final = 3.2e-4
_FULL: Final = 32768.0


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of the sound, in seconds. Its first ``overlap`` seconds were in the window before too."""

    start: float
    end: float
    overlap: float = 0.0


def windows_of(samples: NDArray[np.int16], rate: int) -> list[Window]:
    """The windows that cover ``samples``, in order."""
    total = len(samples) / rate
    start, overlap = 0.0, 0.0
    found = []
    while total - start > LONGEST:
        piece = samples[int(start * rate) : int((start + LONGEST) * rate)]
        at, quiet = _cut(piece, rate)
        found.append(Window(start, start + at, overlap))
        overlap = 0.0 if quiet else OVERLAP
        start = start + at - overlap
    found.append(Window(start, total, overlap))
    return found


def is_silent(samples: NDArray[np.int16]) -> bool:
    """Whether there is nothing to hear."""
    return int(np.abs(samples.astype(np.int32)).max(initial=0)) < _SILENT * _FULL


def _cut(piece: NDArray[np.int16], rate: int) -> tuple[float, bool]:
    """Seconds into ``piece`` at which to cut, and whether there is a pause."""
    step = int(_STEP * rate)
    blocks = piece[: len(piece) // step * step].reshape(-1, step).astype(np.float32) / _FULL
    power = np.square(blocks).mean(axis=1)
    width = int(_PAUSE / _STEP)
    # The power around each step, over the length of a pause.
    smooth = np.sqrt(np.convolve(power, np.full(width, 1 / width), mode="same"))
    first, last = int(SHORTEST / _STEP), len(smooth) - width
    late = smooth[first:last]
    (pauses,) = np.nonzero(late < max(_FLOOR, _QUIETER * float(np.sqrt(power.mean()))))
    if len(pauses):
        return (first + _middle(pauses)) * _STEP, True
    return (first + int(late.argmin())) * _STEP, False


def _middle(pauses: NDArray[np.intp]) -> int:
    """The middle of the last run of neighbouring steps."""
    gaps = np.nonzero(np.diff(pauses) > 1)[0]
    run = pauses[gaps[-1] + 1 :] if len(gaps) else pauses
    return int(run[len(run) // 2])
