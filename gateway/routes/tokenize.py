"""POST /v1/tokenize and /v1/detokenize: what the model would be given, without asking it."""

from __future__ import annotations

from typing import Any

import orjson

from engine.types import Engine, EngineError, Prompt
from gateway.access.principal import Scope
from gateway.errors import from_engine
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.chat import conversation_of
from gateway.protocol.images import Images
from gateway.protocol.tokenize import (
    DetokenizeRequest,
    Text,
    TokenizeRequest,
    Tokens,
    parse_detokenize,
    parse_tokenize,
)
from gateway.routing import Route


def routes(pipeline: Pipeline, engine: Engine) -> list[Route]:
    """The routes of this resource."""

    async def tokenize(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        request = await pipeline.read(exchange, parse_tokenize)
        model = pipeline.resolve(exchange, request.model, principal)
        async with pipeline.holding(model) as model:
            try:
                async with pipeline.pictures(exchange, request.images(), model, principal) as images:
                    ids = (await _prompt(engine, model.id, request, images)).token_ids
                strings = await engine.token_strings(model.id, ids) if request.return_token_strs else None
            except EngineError as error:
                raise from_engine(error, prompt_param="messages" if request.messages else "prompt") from error
        answer = {"count": len(ids), "max_model_len": model.context_length, "tokens": ids, "token_strs": strings}
        exchange.respond(200, orjson.dumps(answer))

    async def detokenize(exchange: Exchange) -> None:
        principal = await pipeline.enter(exchange)
        request = await pipeline.read(exchange, parse_detokenize)
        model = pipeline.resolve(exchange, request.model, principal)
        async with pipeline.holding(model):
            try:
                text = await engine.detokenize(model.id, request.tokens)
            except EngineError as error:
                raise from_engine(error, prompt_param="tokens") from error
        exchange.respond(200, orjson.dumps({"prompt": text}))

    declared: dict[str, Any] = {
        "scope": Scope.INFERENCE,
        "limit_class": LimitClass.REQUEST,
        "guard": GuardPolicy.NONE,
    }
    return [
        Route(
            "POST",
            "/v1/tokenize",
            tokenize,
            "Turn a text or a conversation into token ids",
            request=TokenizeRequest,
            response=Tokens,
            **declared,
        ),
        Route(
            "POST",
            "/v1/detokenize",
            detokenize,
            "Turn token ids into text",
            request=DetokenizeRequest,
            response=Text,
            **declared,
        ),
    ]


async def _prompt(engine: Engine, model: str, request: TokenizeRequest, images: Images) -> Prompt:
    if request.messages:
        return await engine.render_chat(model, conversation_of(request.messages, images, request.tool_use()))
    return await engine.tokenize(model, request.prompt or "", add_special_tokens=request.add_special_tokens)
