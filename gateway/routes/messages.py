"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's surface of the same pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from engine.types import Engine, EngineError, Prompt
from gateway.access.principal import Scope
from gateway.errors import from_engine, invalid
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy, Passages
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.anthropic.answers import AnsweredMessage, MessageEvent, TokenCount
from gateway.protocol.anthropic.encode import MessagesEncoder
from gateway.protocol.anthropic.errors import ANTHROPIC
from gateway.protocol.anthropic.request import CountTokensRequest, MessagesRequest, parse_count, parse_messages
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.sampling import RequestBounds
from gateway.rendering import render
from gateway.routing import Route

#: Versions of Anthropic's API whose answers these are. Sampling parameters are taken in both.
VERSIONS: Final = (b"2023-06-01", b"2026-10-21")
_NAMES: Final = {"reasoning_effort": "output_config.effort"}


class MessagesSurface:
    """See :class:`gateway.pipeline.Surface`. Made per request, as its errors carry the request's id."""

    id_prefix = "msg_"
    prompt_param = "messages"
    limit_param = "max_tokens"

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def parse(self, body: bytes, bounds: RequestBounds) -> MessagesRequest:
        """See :func:`gateway.protocol.anthropic.request.parse_messages`."""
        return parse_messages(body, bounds)

    def texts(self, request: MessagesRequest) -> Passages:
        """See :meth:`CountTokensRequest.texts`."""
        return request.texts()

    def images(self, request: MessagesRequest) -> Sequence[ImageReference]:
        """See :meth:`MessagesRequest.images`."""
        return request.images()

    async def prompts(
        self,
        request: MessagesRequest,
        model: str,
        engine: Engine,
        images: Images,
    ) -> Sequence[Prompt]:
        """One prompt: the rendered conversation."""
        return [await render(engine, model, request.conversation(images), _NAMES)]

    def encoder(self, request: MessagesRequest, response_id: str, prompts: Sequence[Prompt]) -> MessagesEncoder:
        """See :class:`gateway.protocol.anthropic.encode.MessagesEncoder`."""
        tokens = sum(len(prompt.token_ids) for prompt in prompts)
        return MessagesEncoder(response_id, request.model, tokens, self._request_id)


def routes(pipeline: Pipeline, engine: Engine) -> list[Route]:
    """The routes of this resource."""

    async def create(exchange: Exchange) -> None:
        check_version(exchange)
        await pipeline.generate(exchange, MessagesSurface(exchange.request_id))

    async def count(exchange: Exchange) -> None:
        check_version(exchange)
        principal = await pipeline.enter(exchange)
        request = await pipeline.read(exchange, parse_count)
        model = pipeline.resolve(exchange, request.model, principal)
        async with (
            pipeline.holding(model) as model,
            pipeline.pictures(exchange, request.images(), model, principal) as images,
        ):
            try:
                prompt = await render(engine, model.id, request.conversation(images), _NAMES)
            except EngineError as error:
                raise from_engine(error, prompt_param="messages") from error
        exchange.respond(200, orjson.dumps({"input_tokens": len(prompt.token_ids)}))

    declared: dict[str, Any] = {"scope": Scope.INFERENCE, "dialect": ANTHROPIC}
    return [
        Route(
            "POST",
            "/v1/messages",
            create,
            "Continue a conversation, as Anthropic's clients ask for it",
            limit_class=LimitClass.GENERATION,
            guard=GuardPolicy.GENERATION,
            runs_model=True,
            request=MessagesRequest,
            response=AnsweredMessage,
            stream=MessageEvent,
            **declared,
        ),
        Route(
            "POST",
            "/v1/messages/count_tokens",
            count,
            "Count the tokens of a conversation",
            limit_class=LimitClass.REQUEST,
            guard=GuardPolicy.NONE,
            request=CountTokensRequest,
            response=TokenCount,
            **declared,
        ),
    ]


def check_version(exchange: Exchange) -> None:
    """Raise :class:`~gateway.errors.ApiError` 400 for a client that expects another version of the API."""
    version = exchange.header(b"anthropic-version")
    if version is not None and version not in VERSIONS:
        known = " and ".join(each.decode() for each in VERSIONS)
        raise invalid(f"Unsupported anthropic-version. Supported are {known}.", code="unsupported_version")
