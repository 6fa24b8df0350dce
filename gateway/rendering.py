"""Rendering for surfaces whose fields have names of their own."""

from __future__ import annotations

from collections.abc import Mapping

from engine.types import Conversation, Engine, Prompt, RequestRejected


async def render(engine: Engine, model: str, conversation: Conversation, names: Mapping[str, str]) -> Prompt:
    """See :meth:`engine.types.Engine.render_chat`, which speaks of chat's fields: ``names`` says what they are called
    here.
    """
    try:
        return await engine.render_chat(model, conversation)
    except RequestRejected as error:
        here = names.get(error.param or "")
        if here is None:
            raise
        message = str(error).replace(f"'{error.param}'", f"'{here}'")
        raise RequestRejected(message, param=here, code=error.code) from error
