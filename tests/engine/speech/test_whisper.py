"""Whisper base on vLLM, over HTTP, on speech that espeak-ng read out: how many words are heard wrong is measured."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.support.gateways import Threaded, threaded
from tests.support.sounds import RATE, encoded, samples_of, spoken, word_error_rate, words

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "whisper-base"
SHORT = "The weather is very nice today. We will walk to the river and eat some bread and cheese."
#: Read out, three quarters of a minute: nothing of it is said twice, so a doubled sentence would be seen.
LONG = """
Our village has a small market on Monday morning. Farmers bring apples, potatoes and fresh bread.
The old church stands on the hill behind the school. Children play football there in the afternoon.
Last winter the snow was so deep that no train could reach us. We stayed at home and told stories by the fire.
My brother works in a hospital in the city. He drives home every Friday evening.
Next summer we want to travel to the sea. My sister has never seen the ocean before.
The doctor says that fresh air is good for my mother. Every day she walks around the lake with her dog.
In autumn the leaves turn red and yellow. The birds fly south before the cold weather comes.
"""
#: Of synthetic English, which Whisper base hears worse than people.
MOST_WRONG = 0.35


@pytest.fixture(scope="module")
def hearing(whisper_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    from gateway.engines import build_engine
    from gateway.settings import load

    def build() -> Any:
        return build_engine(load(flags={"engine": {"max_num_seqs": 4}}), str(whisper_model), MODEL)

    with threaded(build, tmp_path_factory.mktemp("state"), request_timeout=380.0) as gateway:
        yield gateway


@pytest.fixture
def client(hearing: Threaded) -> Iterator[openai.OpenAI]:
    live = hearing.live
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.key, timeout=380, max_retries=0) as made:
        yield made


def test_words_are_heard(client: openai.OpenAI) -> None:
    heard = client.audio.transcriptions.create(model=MODEL, file=("a.wav", spoken(SHORT)))
    assert word_error_rate(SHORT, heard.text) <= MOST_WRONG, heard.text
    assert heard.usage is not None


def test_a_long_sound_is_heard_to_its_end(client: openai.OpenAI) -> None:
    sound = spoken(LONG)
    seconds = len(samples_of(sound)) / RATE
    assert seconds > 35
    heard = client.audio.transcriptions.create(
        model=MODEL, file=("a.wav", sound), response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert word_error_rate(LONG, heard.text) <= MOST_WRONG, heard.text
    assert len(words(heard.text)) <= 1.1 * len(words(LONG))
    assert heard.language == "english"
    assert float(heard.duration) == pytest.approx(seconds, abs=0.1)
    assert heard.segments
    times = [time for segment in heard.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert heard.segments[-1].end > seconds - 5
    assert "".join(segment.text for segment in heard.segments).strip() == heard.text
    assert len(heard.segments) >= 6
    # Where a sentence is said, there it stands: half of the sound is half of the text, more or less.
    middle = sum(len(segment.text) for segment in heard.segments if segment.end < seconds / 2)
    assert 0.3 < middle / len(heard.text) < 0.65


def test_without_a_pause_words_are_neither_lost_nor_doubled(client: openai.OpenAI) -> None:
    """Everything quieter than speech is filled with a hum, so that no window can end in a pause."""
    samples = samples_of(spoken(LONG.replace(".", ",").replace("\n", " "), speed=170)).astype(np.float32)
    samples = samples[np.abs(samples) > 30][: 45 * RATE] if len(samples) < 31 * RATE else samples[: 45 * RATE]
    hum = np.sin(2 * np.pi * 120 * np.arange(len(samples)) / RATE) * 500
    sound = encoded(np.clip(samples + hum, -32768, 32767).astype(np.int16), "flac", "flac")
    heard = client.audio.transcriptions.create(model=MODEL, file=("a.flac", sound), language="en")
    spoken_words = words(heard.text)
    runs = [tuple(spoken_words[at : at + 4]) for at in range(len(spoken_words) - 3)]
    assert len(runs) == len(set(runs)), heard.text
    assert word_error_rate(LONG, heard.text) < 0.6, heard.text  # the end is cut off


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = client.audio.transcriptions.create(model=MODEL, file=("a.wav", spoken(SHORT)), language="en")
    events = list(
        client.audio.transcriptions.create(model=MODEL, file=("a.wav", spoken(SHORT)), language="en", stream=True)
    )
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    (done,) = [event for event in events if event.type == "transcript.text.done"]
    assert "".join(deltas) == done.text == whole.text


def test_silence_and_noise_say_little(client: openai.OpenAI) -> None:
    silence = client.audio.transcriptions.create(model=MODEL, file=("a.wav", encoded(np.zeros(4 * RATE, np.int16))))
    assert silence.text == ""
    noise = (np.random.default_rng(0).standard_normal(4 * RATE) * 300).astype(np.int16)
    heard = client.audio.transcriptions.create(model=MODEL, file=("a.wav", encoded(noise)), language="en")
    assert len(words(heard.text)) <= 5, heard.text


def test_subtitles(client: openai.OpenAI) -> None:
    srt = client.audio.transcriptions.create(
        model=MODEL, file=("a.wav", spoken(SHORT)), language="en", response_format="srt"
    )
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:\d\d,\d{3}\n\S", str(srt))


def test_german_is_found_out_and_translated(client: openai.OpenAI) -> None:
    sound = spoken("Guten Morgen. Das Wasser ist heute sehr kalt und der Himmel ist blau.", "de")
    heard = client.audio.transcriptions.create(model=MODEL, file=("a.wav", sound), response_format="verbose_json")
    assert heard.language == "german"
    assert {"wasser", "kalt"} & set(words(heard.text)), heard.text
    translated = client.audio.translations.create(model=MODEL, file=("a.wav", sound))
    assert {"water", "cold", "morning", "sky", "blue"} & set(words(translated.text)), translated.text


def test_several_at_once_are_each_their_own(client: openai.OpenAI) -> None:
    sayings = ["The cat sleeps in the garden.", "My father drives a red car.", "We eat fish and rice on Sunday."]

    def ask(text: str) -> str:
        return client.audio.transcriptions.create(model=MODEL, file=("a.wav", spoken(text)), language="en").text

    alone = [ask(text) for text in sayings]
    with ThreadPoolExecutor(len(sayings)) as pool:
        together = list(pool.map(ask, sayings))
    for text, one, many in zip(sayings, alone, together, strict=True):
        assert word_error_rate(text, many) <= MOST_WRONG, many
        assert word_error_rate(one, many) <= 0.2, (one, many)


def test_it_does_not_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    assert (caught.value.param, caught.value.code) == ("model", "model_kind_mismatch")
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model=MODEL, file=("a.wav", spoken(SHORT)), language="xx")
    assert caught.value.param == "language"


def test_nothing_is_left_behind(hearing: Threaded) -> None:
    """A caller that gives up in the middle frees everything in the engine."""
    core = hearing.live.engine.core
    sound = spoken(LONG)

    async def leave_in_the_middle() -> None:
        async with httpx.AsyncClient(
            base_url=hearing.live.url, headers=hearing.live.authorization, timeout=120
        ) as caller:
            form = {"data": {"model": MODEL}, "files": {"file": ("a.wav", sound)}}
            asked = asyncio.create_task(caller.post("/v1/audio/transcriptions", **form))  # type: ignore[arg-type]
            while not core.unfinished:
                assert not asked.done(), asked.result().text
                await asyncio.sleep(0.005)
            asked.cancel()
            await asyncio.wait([asked])

    def settled() -> int:
        return sum(getattr(entry, "outcome", None) == "cancelled" for entry in hearing.live.ledger.entries)

    async def at_rest() -> bool:
        for _ in range(300):
            if settled() and core.unfinished == 0 and core.load.running == 0:
                return True
            await asyncio.sleep(0.1)
        return False

    asyncio.run(leave_in_the_middle())
    assert hearing.run(at_rest())
    assert settled() == 1
