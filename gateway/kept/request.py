"""One request for a response, from what it continues to what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from engine.types import Engine, Prompt
from gateway.errors import ApiError, invalid, previous_response_not_found
from gateway.exchange import Exchange
from gateway.guardian.check import Passages
from gateway.kept.shelf import Shelf
from gateway.protocol.encode import Choice, Usage
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.response.encode import ResponseEncoder
from gateway.protocol.response.items import Item, read_input
from gateway.protocol.response.request import ResponseRequest, parse_response
from gateway.protocol.sampling import RequestBounds
from gateway.rendering import render


class ResponseSurface:
    """See :class:`gateway.pipeline.Surface`. Made per request: it remembers the earlier turns, and the answer.

    ``shelf`` None: the server keeps no responses.
    """

    id_prefix = "resp_"
    prompt_param = "input"
    limit_param = "max_output_tokens"

    def __init__(self, shelf: Shelf | None, exchange: Exchange) -> None:
        self._shelf = shelf
        self._exchange = exchange
        self._encoder: ResponseEncoder | None = None
        self._items = b""

    def parse(self, body: bytes, bounds: RequestBounds) -> ResponseRequest:
        """See :func:`gateway.protocol.response.request.parse_response`."""
        return parse_response(body, bounds, stores=self._shelf is not None)

    async def recall(self, request: ResponseRequest) -> ResponseRequest:
        """``request`` together with the conversation that it continues. See :data:`gateway.pipeline.Recall`."""
        if request.previous_response_id is None:
            return request
        return request.after(await self._earlier(request.previous_response_id))

    def texts(self, request: ResponseRequest) -> Passages:
        """See :meth:`ResponseRequest.texts`."""
        return request.texts()

    def images(self, request: ResponseRequest) -> Sequence[ImageReference]:
        """See :meth:`ResponseRequest.images`."""
        return request.images()

    async def prompts(
        self,
        request: ResponseRequest,
        model: str,
        engine: Engine,
        images: Images,
    ) -> Sequence[Prompt]:
        """One prompt: the rendered conversation, earlier turns included."""
        if self._stores(request):
            self._items = self._kept_items(request)
        if request.wants_logprobs:
            _require_plain(model, engine)
        names = {"messages": "input", "reasoning_effort": "reasoning.effort"}
        return [await render(engine, model, request.conversation(images), names)]

    def encoder(self, request: ResponseRequest, response_id: str, prompts: Sequence[Prompt]) -> ResponseEncoder:  # noqa: ARG002
        """See :class:`gateway.protocol.response.encode.ResponseEncoder`."""
        store = self._stores(request)
        self._encoder = ResponseEncoder(response_id, request.model, request.echo(), store=store)
        return self._encoder

    async def keep(self, choices: Sequence[Choice], usage: Usage) -> None:
        """Keep the response, if it is to be kept. See :data:`gateway.pipeline.Keep`."""
        encoder, shelf = self._encoder, self._shelf
        assert encoder is not None
        if shelf is None or not encoder.stored:
            return
        encoder.stored = await shelf.keep(self._tenant, encoder.conclude(choices, usage), self._items)

    @property
    def _tenant(self) -> str:
        assert self._exchange.principal is not None
        return self._exchange.principal.tenant

    def _stores(self, request: ResponseRequest) -> bool:
        return self._shelf is not None and request.store is not False

    async def _earlier(self, response_id: str) -> tuple[Item, ...]:
        assert self._shelf is not None
        try:
            kept = await self._shelf.find(self._tenant, response_id)
        except ApiError as error:
            if error.status == 404:
                raise previous_response_not_found() from None
            raise
        return read_input([*orjson.loads(kept.items), *orjson.loads(kept.document)["output"]])

    def _kept_items(self, request: ResponseRequest) -> bytes:
        assert self._shelf is not None
        items = orjson.dumps([item.wire() for item in (*request.earlier, *request.input)])
        if len(items) > self._shelf.max_bytes:
            raise invalid(
                f"The conversation has {len(items)} bytes, more than the {self._shelf.max_bytes} that are kept of one. "
                "Send 'store': false, or less.",
                code="conversation_too_large",
                param="input",
            )
        return items


def _require_plain(model: str, engine: Engine) -> None:
    """Log probabilities are of all tokens: where some are thoughts, which are the text's cannot be told."""
    if any(each.id == model and each.reasoning for each in engine.models()):
        raise invalid(
            "Unsupported parameter: 'include'. This model reasons; log probabilities of its text are not supported.",
            code="unsupported_parameter",
            param="include",
        )
