"""Tries grammars out in processes that can be killed, with the same library and vocabulary as the engine's.

This process loads the library once and forks for each plan; a child that uses up its time is killed, and nothing is
lost. Protocol on the standard streams: messages of JSON behind their length (4 bytes, big endian). First in: the
vocabulary, as xgrammar serialises it, and the limit in seconds. Then plans go in and verdicts come out, one at a time.
The process ends when its input does.

Checked against xgrammar 0.2.8 and vllm/v1/structured_output/backend_xgrammar.py of 0.32.0, whose calls are repeated.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

#: Tokens that are tried out on each of some paths through a grammar.
STEPS: Final = 32
PATHS: Final = 2
#: Longest that one token may take, in seconds of CPU: every stream of the engine waits for it.
MAX_STEP: Final = 0.1
MEMORY: Final = 2 * 1024**3
#: A busy machine gives a child a part of its time only.
WALL_FACTOR: Final = 4.0

#: See prctl(2). While the library loads nobody reads the input, whose end would tell the same.
PR_SET_PDEATHSIG: Final = 1

TOO_COMPLEX: Final = {"code": "schema_too_complex", "hint": "it takes too long to make a grammar of it."}


def main() -> None:
    """Serve until the input ends, or the process that started this one does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(5)
    first = _read(sys.stdin.buffer)
    if first is None:
        return
    trial = GrammarTrial(first["vocabulary"])
    _write(sys.stdout.buffer, {"ready": True})
    while (plan := _read(sys.stdin.buffer)) is not None:
        _write(sys.stdout.buffer, in_a_child(trial, plan["kind"], plan["text"], first["limit"]))


def in_a_child(trial: GrammarTrial, kind: str, text: str, limit: float) -> dict[str, Any]:
    """``trial``'s verdict, or that it took more than ``limit`` seconds of CPU or too much memory."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(source)
            # Its default action ends the process; unlike RLIMIT_CPU it knows parts of seconds.
            signal.setitimer(signal.ITIMER_PROF, limit)
            _bound_memory()
            os.write(target, json.dumps(trial.verdict(kind, text)).encode())
        finally:
            os._exit(0)
    os.close(target)
    answered, _, _ = select.select([source], [], [], limit * WALL_FACTOR)
    answer = os.read(source, 65536) if answered else b""
    os.close(source)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return json.loads(answer) if answer else TOO_COMPLEX


class GrammarTrial:
    """``vocabulary``: an ``xgrammar.TokenizerInfo`` as JSON."""

    def __init__(self, vocabulary: str) -> None:
        import numpy
        import xgrammar

        self._numpy: Any = numpy
        self._xgrammar: Any = xgrammar
        self._vocabulary = xgrammar.TokenizerInfo.deserialize_json(vocabulary)
        self._compiler = xgrammar.GrammarCompiler(self._vocabulary, max_threads=1, cache_enabled=False)
        self._single = {token for token, text in enumerate(self._vocabulary.decoded_vocab) if len(text) == 1}

    def verdict(self, kind: str, text: str) -> dict[str, Any]:
        """``{"seconds": ...}``, or ``{"code": ..., "hint": ...}`` for what the engine must not see."""
        started = time.process_time()
        try:
            compiled = self._compiled(kind, text)
        except Exception as error:  # noqa: BLE001 - whatever the library thinks of it, the caller is told
            return {"code": "invalid", "hint": _first_line(error)}
        seconds = time.process_time() - started
        for path in range(PATHS):
            refusal = self._try(compiled, random.Random(path), single=path == 0)  # noqa: S311 - the same at every try
            if refusal is not None:
                return refusal
        return {"seconds": seconds}

    def _compiled(self, kind: str, text: str) -> Any:
        match kind:
            case "json":
                return self._compiler.compile_json_schema(text, any_whitespace=False, separators=(",", ":"))
            case "regex":
                return self._compiler.compile_regex(text)
            case "grammar":
                return self._compiler.compile_grammar(text)
            case _:
                return self._compiler.compile_structural_tag(text)

    def _try(self, compiled: Any, chance: random.Random, *, single: bool) -> dict[str, Any] | None:
        """Walk one path as an engine would; None if nothing is wrong with it."""
        matcher = self._xgrammar.GrammarMatcher(compiled)
        mask = self._xgrammar.allocate_token_bitmask(1, self._vocabulary.vocab_size)
        for _ in range(STEPS):
            started = time.process_time()
            matcher.fill_next_token_bitmask(mask)
            allowed = self._allowed(mask)
            if not allowed:
                return {"code": "unsatisfiable_schema", "hint": "there is a dead end, where nothing is allowed."}
            short = [token for token in allowed if token in self._single] if single else []
            matcher.accept_token(chance.choice(short or allowed))
            if time.process_time() - started > MAX_STEP:
                return {"code": "schema_too_complex", "hint": "it takes too long to follow, token by token."}
            if matcher.is_terminated():
                return None
        return None

    def _allowed(self, mask: Any) -> Sequence[int]:
        bits = self._numpy.unpackbits(mask[0].numpy().view(self._numpy.uint8), bitorder="little")
        return [int(token) for token in bits[: self._vocabulary.vocab_size].nonzero()[0]]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # "[12:00:00] /path/file.cc:12: what is wrong" tells nothing to a caller but its end.
    return lines[0].rsplit(".cc:", 1)[-1].lstrip("0123456789: ")[:200]


def _bound_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _read(stream: BinaryIO) -> Any:
    head = stream.read(4)
    return json.loads(stream.read(int.from_bytes(head, "big"))) if len(head) == 4 else None


def _write(stream: BinaryIO, message: object) -> None:
    body = json.dumps(message).encode()
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


if __name__ == "__main__":
    main()
