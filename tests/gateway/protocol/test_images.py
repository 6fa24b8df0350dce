"""Image parts at the wire: what they may hold, where they may stand, how many there may be."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from engine.types import Image
from gateway.errors import ApiError
from gateway.guardian.check import Passage
from gateway.protocol.chat import ChatCompletionRequest, parse_chat
from gateway.protocol.sampling import RequestBounds
from gateway.protocol.tokenize import parse_tokenize

URL = "https://pictures.example/cat.png"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
TEXT = {"type": "text", "text": "What is this?"}


def talk(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts)}]


def parse(messages: list[dict[str, Any]], bounds: RequestBounds | None = None) -> ChatCompletionRequest:
    return parse_chat(orjson.dumps({"model": "m", "messages": messages}), bounds or RequestBounds())


def image(**fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": URL, **fields}}


AT = "messages[0].content[0].image_url"
WRONG = {
    "no value": ({"type": "image_url"}, AT, "missing_required_parameter"),
    "a text": ({"type": "image_url", "image_url": URL}, AT, "invalid_type"),
    "no URL": ({"type": "image_url", "image_url": {}}, f"{AT}.url", "missing_required_parameter"),
    "a number": (image(url=1), f"{AT}.url", "invalid_type"),
    "another detail": (image(detail="huge"), f"{AT}.detail", "invalid_value"),
    "a detail of no type": (image(detail=3), f"{AT}.detail", "invalid_value"),
    "another member": (image(media_type="image/png"), f"{AT}.media_type", "unknown_parameter"),
    "I19 uuid": ({**IMAGE, "uuid": "x"}, "messages[0].content[0].uuid", "unsupported_parameter"),
    "I19 uuid inside": (image(uuid="x"), f"{AT}.uuid", "unknown_parameter"),
    "a text with an image": ({**TEXT, **IMAGE, "type": "text"}, AT, "unknown_parameter"),
}  # fmt: skip


@pytest.mark.parametrize(("part", "param", "code"), WRONG.values(), ids=WRONG)
def test_refuses(part: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(talk(part))
    assert (caught.value.status, caught.value.body.param, caught.value.code) == (400, param, code)


def test_keeps_texts_and_images_in_order() -> None:
    request = parse([{"role": "system", "content": "s"}, *talk(TEXT, IMAGE, image(detail="low"), TEXT)])
    assert [each.param for each in request.images()] == [f"messages[1].content[{n}].image_url.url" for n in (1, 2)]
    assert [each.detail for each in request.images()] == ["auto", "low"]
    assert list(request.texts()) == [Passage("s", "system"), *[Passage("What is this?", "user")] * 2]
    cat, dog = Image(1, 1, b"cat"), Image(1, 1, b"dog")
    said = request.conversation({(URL, "auto"): cat, (URL, "low"): dog}).messages[1]
    assert said.content == ("What is this?", cat, dog, "What is this?")


def test_only_texts_are_one_text() -> None:
    request = parse(talk(TEXT, TEXT))
    assert request.images() == []
    assert request.conversation({}).messages[0].content == "What is this?\nWhat is this?"


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_only_users_send_images(role: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(talk(IMAGE, role=role))
    assert (caught.value.body.param, caught.value.code) == ("messages[0].content", "invalid_value")


def test_so_many_and_no_more() -> None:
    assert len(parse(talk(*[IMAGE] * 16)).images()) == 16
    assert len(parse(talk(*[IMAGE] * 2), RequestBounds(max_images=2)).images()) == 2
    for messages, bounds in ((talk(*[IMAGE] * 17), RequestBounds()), (talk(IMAGE) * 3, RequestBounds(max_images=2))):
        with pytest.raises(ApiError) as caught:
            parse(messages, bounds)
        assert (caught.value.body.param, caught.value.code) == ("messages", "too_many_images")


def test_none_at_all() -> None:
    with pytest.raises(ApiError) as caught:
        parse(talk(IMAGE), RequestBounds(max_images=0))
    assert caught.value.code == "too_many_images"


def test_the_same_for_tokenize() -> None:
    def tokenize(*parts: Any) -> Any:
        return parse_tokenize(orjson.dumps({"model": "m", "messages": talk(*parts)}), RequestBounds())

    assert len(tokenize(IMAGE, TEXT).images()) == 1
    with pytest.raises(ApiError) as caught:
        tokenize(*[IMAGE] * 17)
    assert caught.value.code == "too_many_images"
