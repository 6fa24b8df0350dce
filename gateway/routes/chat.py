"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.types import Engine, Prompt
from gateway.access.principal import Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy, Passages
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.chat import ChatCompletionRequest, parse_chat
from gateway.protocol.encode import ChatEncoder
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.responses import ChatCompletion, ChatCompletionChunk
from gateway.protocol.sampling import RequestBounds
from gateway.routing import Route


class ChatSurface:
    """See :class:`gateway.pipeline.Surface`."""

    id_prefix = "chatcmpl-"
    prompt_param = "messages"
    limit_param = "max_tokens"

    def parse(self, body: bytes, bounds: RequestBounds) -> ChatCompletionRequest:
        """See :func:`gateway.protocol.chat.parse_chat`."""
        return parse_chat(body, bounds)

    def texts(self, request: ChatCompletionRequest) -> Passages:
        """See :meth:`ChatCompletionRequest.texts`."""
        return request.texts()

    def images(self, request: ChatCompletionRequest) -> Sequence[ImageReference]:
        """See :meth:`ChatCompletionRequest.images`."""
        return request.images()

    async def prompts(
        self, request: ChatCompletionRequest, model: str, engine: Engine, images: Images
    ) -> Sequence[Prompt]:
        """One prompt: the rendered conversation."""
        return [await engine.render_chat(model, request.conversation(images))]

    def encoder(self, request: ChatCompletionRequest, response_id: str, prompts: Sequence[Prompt]) -> ChatEncoder:  # noqa: ARG002
        """See :class:`gateway.protocol.encode.ChatEncoder`."""
        return ChatEncoder(
            response_id,
            int(time.time()),
            request.model,
            include_usage=request.include_usage,
            show_reasoning=request.include_reasoning,
        )


def routes(pipeline: Pipeline) -> list[Route]:
    """The routes of this resource."""
    surface = ChatSurface()

    async def create(exchange: Exchange) -> None:
        await pipeline.generate(exchange, surface)

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            create,
            "Continue a conversation",
            scope=Scope.INFERENCE,
            limit_class=LimitClass.GENERATION,
            guard=GuardPolicy.GENERATION,
            runs_model=True,
            request=ChatCompletionRequest,
            response=ChatCompletion,
            stream=ChatCompletionChunk,
        )
    ]
