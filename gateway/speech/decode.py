"""Runs :mod:`gateway.speech.decoder` for one upload: off the event loop, bounded, killed with its caller."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from gateway.errors import ApiError, internal, invalid
from gateway.speech.decoder import RATE, SAMPLE_BYTES, Verdict
from gateway.speech.spool import Spool, SpoolBudget

log = logging.getLogger("sluice.speech")

_MAX_REASON: int = 200


class Decoding:
    """Decodes uploads, so many at once. ``max_seconds`` bounds the sound, ``timeout`` the work on it, in seconds."""

    def __init__(self, budget: SpoolBudget, *, at_once: int, max_seconds: float, timeout: float) -> None:
        self._budget = budget
        self._turns = asyncio.Semaphore(at_once)
        self.max_seconds = max_seconds
        self._timeout = timeout

    async def decode(self, upload: Spool) -> Spool:
        """The upload's samples, 16-bit mono at 16 kHz, in a spool that the caller closes.

        Raises :class:`ApiError` 400 ``invalid_audio`` or ``audio_too_long``.
        """
        sound = Spool(self._budget, "sound")
        try:
            async with self._turns:
                sound.reserve(int(self.max_seconds * RATE) * SAMPLE_BYTES)
                await self._run(upload.fd, sound.fd)
            sound.settle()
        except BaseException:
            sound.close()
            raise
        return sound

    async def _run(self, source: int, target: int) -> None:
        os.lseek(source, 0, os.SEEK_SET)
        # -P: not whatever is called `gateway` in the directory in which somebody started us.
        command = (sys.executable, "-P", "-m", "gateway.speech.decoder", repr(self.max_seconds))
        child = await asyncio.create_subprocess_exec(
            *command, stdin=source, stdout=target, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(self._timeout):
                _, errors = await child.communicate()
        except TimeoutError:
            raise _invalid("it takes too long to decode") from None
        finally:
            if child.returncode is None:
                child.kill()
                await asyncio.shield(child.wait())
        self._judge(child.returncode or 0, errors.decode("utf-8", "replace").strip())

    def _judge(self, status: int, errors: str) -> None:
        reason = errors.rpartition("\n")[2][:_MAX_REASON]
        match status:
            case Verdict.FINE:
                return
            case Verdict.TOO_LONG:
                raise _too_long(self.max_seconds)
            case Verdict.INVALID | Verdict.UNKNOWN_FORMAT:
                raise _invalid(reason)
        # It ran into one of its bounds, or the library fell over: the sound is at fault, and we want to know.
        log.warning("decoding ended with status %d: %s", status, reason)
        if status == 1 and "MemoryError" not in errors:
            raise internal()
        raise _invalid("it cannot be decoded within the bounds of this server")


def _too_long(limit: float) -> ApiError:
    return invalid(f"The sound is longer than {limit:g} seconds.", code="audio_too_long", param="file")


def _invalid(reason: str) -> ApiError:
    formats = "flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, wav or webm"
    return invalid(
        f"The file is no sound that can be used: {reason}. Send {formats}.", code="invalid_audio", param="file"
    )
