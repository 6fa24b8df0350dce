"""Image parts of messages: what they may hold, and what is kept of them until their images are fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.types import Image
from gateway.errors import invalid
from gateway.protocol import refused, strictjson
from gateway.protocol.validation import missing, not_one_of, wrong_type

#: ``low``: the model sees the image at most 512 pixels wide and high. The others: as large as it came.
Detail = Literal["auto", "low", "high"]
DETAILS: Final[tuple[Detail, ...]] = ("auto", "low", "high")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image that a request names. ``param`` is the wire path of its URL, for errors."""

    url: str
    detail: Detail = "auto"
    param: str = ""

    @property
    def key(self) -> tuple[str, Detail]:
        """Equal for references to the same picture."""
        return self.url, self.detail


#: The fetched images of a request, by :attr:`ImageReference.key`.
Images = Mapping[tuple[str, Detail], Image]


class ImageUrl(BaseModel):
    """Where the image is."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        description="A `data:` URL with a base64 PNG, JPEG, WebP or GIF, or an http(s) URL that the server may fetch."
    )
    detail: Detail = Field("auto", description="`low`: seen at most 512 pixels wide and high.")


class ImagePart(BaseModel):
    """An image; only in messages of users, and for models that see."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url"] = Field(description="The kind of the part.")
    image_url: ImageUrl = Field(description="The image.")


_URL_FIELDS: Final = frozenset(ImageUrl.model_fields)


def read_image_url(value: object, at: str) -> ImageReference:
    """The reference in the value of an ``image_url`` field; ``at`` leads to it from the content.

    Raises what a validator raises, with the path of the fault.
    """
    if value is None:
        raise missing().within(at)
    if not isinstance(value, dict):
        raise wrong_type("an object", value).within(at)
    for name, problem in refused.foreign(value, _URL_FIELDS, {}):
        raise problem.within(f"{at}.{strictjson.json_path([name])}")
    url = value.get("url")
    if url is None:
        raise missing().within(f"{at}.url")
    if not isinstance(url, str):
        raise wrong_type("a string", url).within(f"{at}.url")
    return ImageReference(url, read_detail(value.get("detail"), f"{at}.detail"), f"{at}.url")


def read_detail(value: object, at: str) -> Detail:
    """How closely to look; absent: ``auto``. Raises what a validator raises."""
    if value is None:
        return "auto"
    for detail in DETAILS:
        if value == detail:
            return detail
    raise not_one_of(value, "'auto', 'low' or 'high'").within(at)


def check_images(images: Sequence[ImageReference], limit: int, param: str) -> None:
    """Raise :class:`~gateway.errors.ApiError` 400 for more than ``limit``; ``param`` is the field they are all in."""
    if len(images) > limit:
        raise invalid(
            f"Invalid '{param}': too many images. Expected at most {limit} in one request, but got {len(images)}.",
            code="too_many_images",
            param=param,
        )
