"""The two routes over the stub's ear, with real forms and real decoding."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil
import pytest

from gateway.usage.records import Settled
from tests.conformance.documents import openai_validator
from tests.support.gateways import Live, eventually, running
from tests.support.sounds import RATE, encoded, float_wav, tone, wav_header
from tests.support.stub_engine import StubConfig, StubEngine

SOUND = encoded(tone(5.0))
PATH = "/v1/audio/transcriptions"


async def post(live: Live, file: bytes | None = SOUND, path: str = PATH, **fields: Any) -> httpx.Response:
    files = {} if file is None else {"file": ("a.wav", file)}
    data = {"model": "ear", **fields}
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as client:
        return await client.post(path, data=data, files=files or {"nothing": (None, "")})


def settled(live: Live) -> list[Settled]:
    return [row for row in live.ledger.entries if isinstance(row, Settled)]


def refused(answer: httpx.Response, status: int, param: str | None, code: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), answer.text
    assert error["type"] == "invalid_request_error" or status >= 500


SRT = """1
00:00:00,000 --> 00:00:02,000
Second 0.

2
00:00:02,000 --> 00:00:04,000
Second 2.

3
00:00:04,000 --> 00:00:05,000
Second 4.

"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:02.000
Second 0.

00:00:02.000 --> 00:00:04.000
Second 2.

00:00:04.000 --> 00:00:05.000
Second 4.

"""
TEXT = "Second 0. Second 2. Second 4."
SEGMENTS: dict[str, Any] = {"timestamp_granularities[]": "segment"}
SEGMENT = {
    "id": 1,
    "seek": 0,
    "start": 2.0,
    "end": 4.0,
    "text": " Second 2.",
    "tokens": [1, 2],
    "temperature": 0.5,
    "avg_logprob": -0.25,
    "compression_ratio": 0.75,
    "no_speech_prob": 0.01,
}


@pytest.mark.parametrize(("form", "body"), [("text", TEXT + "\n"), ("srt", SRT), ("vtt", VTT)])
async def test_plain_formats(live: Live, form: str, body: str) -> None:
    answer = await post(live, response_format=form)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == body


async def test_json_and_the_account(live: Live) -> None:
    answer = await post(live)
    assert answer.headers["content-type"] == "application/json"
    usage = {"type": "tokens", "input_tokens": 254, "output_tokens": 9, "total_tokens": 263}
    assert answer.json() == {"text": TEXT, "usage": usage}
    await eventually(lambda: len(settled(live)) == 1)
    (row,) = settled(live)
    assert (row.outcome, row.prompt_tokens, row.completion_tokens, row.model) == ("completed", 254, 9, "ear")
    assert row.route == PATH


async def test_verbose_json(live: Live) -> None:
    answer = await post(live, response_format="verbose_json", temperature="0.5", language="de", **SEGMENTS)
    body = answer.json()
    assert {name: body[name] for name in ("task", "language", "duration", "text")} == {
        "task": "transcribe",
        "language": "german",
        "duration": 5.0,
        "text": TEXT,
    }
    assert body["usage"] == {"type": "duration", "seconds": 5}
    assert len(body["segments"]) == 3
    assert body["segments"][1] == SEGMENT


async def test_a_translation(live: Live) -> None:
    answer = await post(live, path="/v1/audio/translations", response_format="verbose_json", prompt="Names: Ada.")
    assert answer.json()["task"] == "translate"
    (asked,) = live.engine.speech.asked
    assert (asked.task, asked.language, asked.prompt) == ("translate", None, "Names: Ada.")
    refused(await post(live, path="/v1/audio/translations", language="de"), 400, "language", "unknown_parameter")


async def test_openais_document_describes_the_answers(live: Live) -> None:
    validate = openai_validator()
    for way, kind in ((PATH, "Transcription"), ("/v1/audio/translations", "Translation")):
        validate(f"Create{kind}ResponseJson", (await post(live, path=way)).json())
        verbose = (await post(live, path=way, response_format="verbose_json")).json()
        validate(f"Create{kind}ResponseVerboseJson", verbose)
        assert len(verbose["segments"]) == 3
    streamed = (await post(live, stream="true")).text.strip().split("\n\n")[:-1]
    *deltas, done = [orjson.loads(event.removeprefix("data: ")) for event in streamed]
    for delta in deltas:
        validate("TranscriptTextDeltaEvent", delta)
    validate("TranscriptTextDoneEvent", done)


async def test_a_stream(live: Live) -> None:
    answer = await post(live, stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = [line.removeprefix("data: ") for line in answer.text.strip().split("\n\n")]
    assert done == "[DONE]"
    *deltas, last = map(orjson.loads, events)
    assert [delta["type"] for delta in deltas] == ["transcript.text.delta"] * 3
    assert "".join(delta["delta"] for delta in deltas) == TEXT
    usage = {"type": "tokens", "input_tokens": 254, "output_tokens": 9, "total_tokens": 263}
    assert last == {"type": "transcript.text.done", "text": TEXT, "usage": usage}


FORMATS = [
    ("wav", "pcm_s16le"),
    ("wav", "pcm_s24le"),
    ("wav", "pcm_f32le"),
    ("flac", "flac"),
    ("ogg", "libopus"),
    ("webm", "libopus"),
    ("mp3", "libmp3lame"),
    ("mp4", "aac"),
    ("adts", "aac"),
]


@pytest.mark.parametrize(("container", "codec"), FORMATS, ids=lambda value: value)
async def test_every_format_is_decoded(live: Live, container: str, codec: str) -> None:
    answer = await post(live, encoded(tone(3.0), container, codec, rate=44_100 if "pcm" in codec else 48_000))
    assert answer.status_code == 200, answer.text
    (asked,) = live.engine.speech.asked
    decoded = np.frombuffer(asked.sound.samples, np.int16)
    rate = 44_100 if "pcm" in codec else 48_000
    assert len(decoded) == pytest.approx(len(tone(3.0)) * RATE / rate, abs=0.15 * RATE)
    spectrum = np.abs(np.fft.rfft(decoded[2000:10_000].astype(float)))
    pitch = np.argmax(spectrum) * RATE / 8000
    assert pitch == pytest.approx(440 * rate / RATE, rel=0.02)


async def test_channels_are_mixed(live: Live) -> None:
    await post(live, encoded(tone(1.0), layout="stereo"))
    (asked,) = live.engine.speech.asked
    assert asked.sound.seconds == pytest.approx(1.0)


NAN = np.full(RATE, np.nan, dtype=np.float32)
FLAC = encoded(np.zeros(RATE, np.int16), "flac", "flac")
BAD_SOUNDS = {
    "empty": (b"", "invalid_audio"),
    "no sound": (b"just some text, and more of it", "invalid_audio"),
    "a playlist": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "invalid_audio"),
    "a concat script": (b"ffconcat version 1.0\nfile /etc/passwd\n", "invalid_audio"),
    "no samples": (wav_header(0), "invalid_audio"),
    "no samples in flac": (FLAC[:60], "invalid_audio"),
    "cut off wav": (SOUND[: len(SOUND) // 2], "invalid_audio"),
    "cut off flac": (encoded(tone(2.0), "flac", "flac")[:-700], "invalid_audio"),
    "192 channels": (wav_header(RATE, channels=192) + bytes(RATE), "invalid_audio"),
    "no channels": (wav_header(RATE, channels=0) + bytes(RATE), "invalid_audio"),
    "a forged rate": (wav_header(RATE, rate=1) + bytes(RATE), "invalid_audio"),
    "a huge rate": (wav_header(RATE, rate=2**31) + bytes(RATE), "invalid_audio"),
    "more frames than there are": (wav_header(1 << 24) + bytes(RATE), "invalid_audio"),
    "no numbers": (float_wav(NAN), "invalid_audio"),
    "infinite": (float_wav(np.full(RATE, np.inf, dtype=np.float32)), "invalid_audio"),
    "too long": (encoded(np.zeros(21 * RATE, np.int16)), "audio_too_long"),
}


@pytest.mark.parametrize("name", BAD_SOUNDS)
async def test_bad_sounds(live: Live, name: str) -> None:
    sound, code = BAD_SOUNDS[name]
    refused(await post(live, sound), 400, "file", code)
    assert live.engine.speech.asked == []
    assert settled(live) == []


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("ogg", "libopus")])
async def test_a_bomb_leaves_memory_flat(live: Live, container: str, codec: str) -> None:
    bomb = encoded(np.zeros(900 * RATE, np.int16), container, codec)
    assert len(bomb) < 700_000  # of 29 MB
    refused(await post(live, bomb), 400, "file", "audio_too_long")
    before = psutil.Process().memory_info().rss
    for _ in range(2):
        refused(await post(live, bomb), 400, "file", "audio_too_long")
    assert psutil.Process().memory_info().rss - before < 8 << 20


async def test_forms_that_are_none(live: Live) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    bodies = {
        b"multipart/form-data": part,
        b"multipart/form-data; boundary=x": part,
        b'multipart/form-data; boundary="x"': part * 10_000 + b"--x--",
    }
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization) as client:
        for content_type, body in bodies.items():
            answer = await client.post(PATH, content=body[:60_000], headers={b"content-type": content_type})
            refused(answer, 400, "file", "invalid_multipart")


async def test_a_wav_of_unknown_length_is_taken(live: Live) -> None:
    """Programs that write to a pipe cannot know: they promise the most there can be."""
    endless = wav_header(0x7FFFF000) + tone(1.0).tobytes()
    assert (await post(live, endless)).status_code == 200


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model", "missing_required_parameter"),
    ({"language": "english"}, "language", "invalid_value"),
    ({"language": "xx"}, "language", "invalid_value"),
    ({"response_format": "xml"}, "response_format", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_value"),
    ({"temperature": "1.5"}, "temperature", "decimal_above_max_value"),
    ({"temperature": "nan"}, "temperature", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream": "true", "response_format": "srt"}, "response_format", "invalid_value"),
    ({"prompt": "x" * 8193}, "prompt", "string_above_max_length"),
    ({"prompt": ["a", "b"]}, "prompt", "duplicate_key"),
    (
        {"timestamp_granularities[]": "word", "response_format": "verbose_json"},
        "timestamp_granularities[][0]",
        "unsupported_parameter",
    ),
    ({"timestamp_granularities[]": "segment"}, "timestamp_granularities[]", "invalid_value"),
    ({"include[]": "logprobs"}, "include[]", "unsupported_parameter"),
    ({"chunking_strategy": '{"type": "server_vad"}'}, "chunking_strategy", "unsupported_parameter"),
    ({"seed": "1"}, "seed", "unsupported_parameter"),
    ({"nonsense": "1"}, "nonsense", "unknown_parameter"),
    ({"model": "stub"}, "model", "model_kind_mismatch"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD_FIELDS, ids=lambda value: str(value)[:40])
async def test_bad_fields(live: Live, fields: dict[str, Any], param: str, code: str) -> None:
    refused(await post(live, **fields), 400, param, code)


async def test_what_is_neutral_is_let_through(live: Live) -> None:
    assert (await post(live, chunking_strategy="auto", language="", prompt="")).status_code == 200


async def test_the_file_is_missing(live: Live) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization) as client:
        answer = await client.post(PATH, files={"model": (None, "ear")})
    refused(answer, 400, "file", "missing_required_parameter")


async def test_a_model_nobody_knows(live: Live) -> None:
    refused(await post(live, model="whisper-9"), 404, "model", "model_not_found")


async def test_too_large_a_file(live: Live) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {live.key}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer
    refused(await post(live, SOUND + bytes((4 << 20) + 1 - len(SOUND))), 413, None, "request_too_large")


async def test_json_is_the_wrong_medium(live: Live) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization) as client:
        refused(await client.post(PATH, json={"model": "ear"}), 415, None, "unsupported_media_type")


async def test_without_a_model_that_transcribes(tmp_path: Path) -> None:
    async with running(StubEngine(), tmp_path) as live:
        answer = await post(live)
    refused(answer, 501, None, "not_configured")


async def test_without_a_key(live: Live) -> None:
    async with httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.post(PATH, data={"model": "ear"}, files={"file": SOUND[:1000]})
    assert answer.status_code == 401


async def test_a_client_that_hangs_up_frees_the_engine(live: Live) -> None:
    live.engine.speech.delay = 30.0
    asking = asyncio.ensure_future(post(live))
    await eventually(lambda: live.engine.speech.running == 1)
    asking.cancel()
    await eventually(lambda: live.engine.speech.running == 0)
    await eventually(lambda: len(settled(live)) == 1)
    assert settled(live)[0].outcome == "cancelled"


async def test_the_deadline(live: Live) -> None:
    live.engine.speech.delay = 30.0
    headers = {**live.authorization, "X-Request-Deadline-Ms": "8000"}
    async with httpx.AsyncClient(base_url=live.url, headers=headers, timeout=60) as client:
        answer = await client.post(PATH, data={"model": "ear"}, files={"file": SOUND})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_timeout")
    assert live.engine.speech.running == 0


async def test_more_sounds_than_there_is_room_for(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(speech_model="ear"))
    async with running(engine, tmp_path, speech={"max_spool_bytes": 1 << 20, "max_seconds": 60.0}) as live:
        answer = await post(live)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_overloaded")
    assert "retry-after" in answer.headers


GUARDED = {
    "evaluators": [{"kind": "rules", "patterns": {"planted": "Second 2"}, "secrets": False, "pii": False}],
    "policy": {"output": True},
}


@pytest.mark.parametrize("form", ["json", "srt", "verbose_json"])
async def test_the_guard_reads_what_was_heard(tmp_path: Path, form: str) -> None:
    engine = StubEngine(StubConfig(speech_model="ear"))
    async with running(engine, tmp_path, guard=GUARDED) as live:
        answer = await post(live, response_format=form)
        assert (await post(live, encoded(tone(1.0)))).json()["text"] == "Second 0."
    refused(answer, 400, None, "content_policy_violation")
    assert "Second" not in answer.text


async def test_the_guard_cuts_a_stream(tmp_path: Path) -> None:
    engine = StubEngine(StubConfig(speech_model="ear"))
    async with running(engine, tmp_path, guard=GUARDED) as live:
        answer = await post(live, stream="true")
    assert "Second 2" not in answer.text
    assert "content_policy_violation" in answer.text
    assert "[DONE]" not in answer.text
    assert "transcript.text.done" not in answer.text


async def test_the_guard_reads_the_prompt(tmp_path: Path) -> None:
    async with running(StubEngine(StubConfig(speech_model="ear")), tmp_path, guard=GUARDED) as live:
        refused(await post(live, prompt="Second 2, again"), 400, "prompt", "content_policy_violation")


async def test_the_guard_takes_out_what_was_heard(tmp_path: Path) -> None:
    policy = {"policy": {"output": True, "action": "redact"}}
    async with running(StubEngine(StubConfig(speech_model="ear")), tmp_path, guard={**GUARDED, **policy}) as live:
        answer = await post(live, response_format="verbose_json")
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert "Second 2" not in answer.text
    assert body["text"].startswith("Second 0.")
    assert [segment["text"].strip() for segment in body["segments"]] == [body["text"]]
    assert (body["segments"][0]["start"], body["segments"][0]["end"]) == (0.0, 5.0)
