"""The stage: what a request's images share, what tenants share, and what is said of them afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.errors import ApiError
from gateway.media.build import build_media
from gateway.media.stage import Media
from gateway.protocol.images import ImageReference
from gateway.settings import MediaSettings
from tests.support.gateways import eventually
from tests.support.image_server import ImageServer, image_server
from tests.support.pictures import inline, picture, png

SMALL = picture("PNG", (10, 10))


class Heard:
    def __init__(self) -> None:
        self.of: list[tuple[str, str, int]] = []

    def image_fetched(self, source: str, outcome: str, size: int, seconds: float) -> None:
        assert seconds >= 0
        self.of.append((source, outcome, size))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with image_server("127.0.0.1") as running:
        yield running
        await eventually(lambda: running.open == 0)


def media(server: ImageServer, heard: Heard, **settings: object) -> Media:
    given = {"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [server.port], "image_seconds": 2, **settings}
    return build_media(MediaSettings.model_validate(given), heard)


def reference(server: ImageServer, path: str = "ok.png", detail: str = "auto", number: int = 0) -> ImageReference:
    return ImageReference(f"http://127.0.0.1:{server.port}/{path}", detail, f"images[{number}]")  # type: ignore[arg-type]


async def fault(stage: Media, *references: ImageReference) -> tuple[str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        async with stage.place("tenant"):
            await stage.fetch(references)
    return caught.value.code, caught.value.body.param


async def test_one_url_is_fetched_once(server: ImageServer, heard: Heard) -> None:
    server.image = picture("PNG", (600, 300))
    references = [reference(server), reference(server, detail="low"), reference(server), reference(server, "other.png")]
    images = await media(server, heard).fetch(references)
    assert {key: image.width for key, image in images.items()} == {
            references[0].key: 600, references[1].key: 512, references[3].key: 600,
    }  # fmt: skip
    assert sorted(server.paths()) == ["/ok.png", "/other.png"]
    assert heard.of == [("http", "ok", len(server.image))] * 2


async def test_one_fault_ends_the_others(server: ImageServer, heard: Heard) -> None:
    started = asyncio.get_running_loop().time()
    references = [reference(server, "silent", number=0), reference(server, "status?code=404", number=1)]
    assert await fault(media(server, heard, image_seconds=30), *references) == ("image_fetch_failed", "images[1]")
    assert asyncio.get_running_loop().time() - started < 5
    assert sorted(outcome for _, outcome, _ in heard.of) == ["cancelled", "image_fetch_failed"]


async def test_pixels_of_all_images(server: ImageServer, heard: Heard) -> None:
    stage = media(server, heard, request_pixels=250)
    one, two, three = (ImageReference(inline(picture("PNG", (10, 10), c)), "auto", c) for c in ("red", "green", "blue"))
    assert len(await stage.fetch([one, two])) == 2
    code, _ = await fault(stage, one, two, three)
    assert code == "image_too_large"


async def test_bytes_of_all_images(server: ImageServer, heard: Heard) -> None:
    server.image = SMALL
    stage = media(server, heard, request_bytes=len(SMALL) + 5)
    assert (await fault(stage, reference(server), ImageReference(inline(SMALL))))[0] == "image_too_large"


async def test_seconds_for_all_images(server: ImageServer, heard: Heard) -> None:
    stage = media(server, heard, image_seconds=30, request_seconds=0.3)
    assert await fault(stage, reference(server, "drip")) == ("image_fetch_failed", "images[0]")


async def test_a_tenant_with_slow_images_holds_up_no_other(server: ImageServer, heard: Heard) -> None:
    stage = media(server, heard, requests=3, requests_per_tenant=2, image_seconds=30)
    slow = [asyncio.ensure_future(fault(stage, reference(server, f"silent?{n}"))) for n in range(6)]
    await eventually(lambda: server.open == 2)
    async with stage.place("another"):
        assert len(await stage.fetch([reference(server)])) == 1
    assert server.open == 2
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert not stage._room._of_tenant
    assert stage._room._places._value == 3


async def test_pictures_are_held_only_by_so_many_requests(server: ImageServer, heard: Heard) -> None:
    stage = media(server, heard, requests=1, requests_per_tenant=1)
    async with stage.place("one"):
        second = asyncio.ensure_future(fault(stage, ImageReference(inline(b"x"), param="p")))
        await asyncio.sleep(0.05)
        assert not second.done()
    assert await second == ("invalid_image", "p")


async def test_without_fetching_images_come_inline(server: ImageServer, heard: Heard) -> None:
    stage = media(server, heard, fetch=False)
    assert (await fault(stage, reference(server)))[0] == "url_not_allowed"
    assert len(await stage.fetch([ImageReference(inline(SMALL))])) == 1
    assert server.connections == 0


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, logger="sluice.media"):
        yield caplog


async def test_logs_say_where_but_not_what(server: ImageServer, heard: Heard, lines: pytest.LogCaptureFixture) -> None:
    stage = media(server, heard)
    hidden = reference(server, "secret/path?signature=secret")
    await stage.fetch([hidden, ImageReference(inline(SMALL))])
    await fault(stage, ImageReference("http://user:secret@127.0.0.1?secret#secret", param="p"))
    await fault(stage, ImageReference("secret", param="p"))
    said = [str(record.__dict__) for record in lines.records if record.name == "sluice.media"]
    assert len(said) == 4
    assert not any("secret" in line or "base64" in line for line in said)
    assert f"127.0.0.1:{server.port}" in said[0] + said[1]


async def test_a_bomb_among_others(server: ImageServer, heard: Heard) -> None:
    server.image = png(50_000, 50_000, b"\0" * 1_000_000)
    assert await fault(media(server, heard), reference(server)) == ("image_too_large", "images[0]")
