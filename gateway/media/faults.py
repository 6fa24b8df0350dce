"""What can be wrong with an image, before anybody knows which field named it."""

from __future__ import annotations

from typing import Final, Literal

from gateway.errors import ApiError, invalid

Code = Literal[
    "invalid_image_url",
    "url_not_allowed",
    "invalid_base64",
    "request_too_large",
    "image_too_large",
    "image_fetch_failed",
    "invalid_image",
]

_TOO_LARGE: Final = 413


class MediaFault(Exception):
    """``reason`` is a sentence for the caller: no address, path or library of this side in it."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code

    def at(self, param: str) -> ApiError:
        """The answer that names the field."""
        message = f"Invalid '{param}': {self}"
        if self.code == "request_too_large":
            return ApiError(_TOO_LARGE, message, code=self.code, param=param)
        return invalid(message, code=self.code, param=param)
