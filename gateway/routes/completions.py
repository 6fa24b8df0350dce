"""POST /v1/completions (legacy)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.types import Engine, Prompt
from gateway.access.principal import Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy, Passage, Passages, TokenPassage
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.completions import CompletionRequest, parse_completion
from gateway.protocol.encode import CompletionEncoder
from gateway.protocol.images import ImageReference, Images
from gateway.protocol.responses import Completion
from gateway.protocol.sampling import RequestBounds
from gateway.routing import Route


class CompletionSurface:
    """See :class:`gateway.pipeline.Surface`."""

    id_prefix = "cmpl-"
    prompt_param = "prompt"
    limit_param = "max_tokens"

    def parse(self, body: bytes, bounds: RequestBounds) -> CompletionRequest:
        """See :func:`gateway.protocol.completions.parse_completion`."""
        return parse_completion(body, bounds)

    def texts(self, request: CompletionRequest) -> Passages:
        """Every prompt, also those that came as token ids."""
        return [
            Passage(prompt, "user") if isinstance(prompt, str) else TokenPassage(prompt) for prompt in request.prompts
        ]

    def images(self, request: CompletionRequest) -> Sequence[ImageReference]:  # noqa: ARG002
        """None: a plain text names none."""
        return ()

    async def prompts(
        self,
        request: CompletionRequest,
        model: str,
        engine: Engine,
        images: Images,  # noqa: ARG002
    ) -> Sequence[Prompt]:
        """One prompt per entry, token ids as they are; their text only where it is echoed."""
        return [await self._prompt(request, prompt, model, engine) for prompt in request.prompts]

    async def _prompt(self, request: CompletionRequest, prompt: str | list[int], model: str, engine: Engine) -> Prompt:
        if isinstance(prompt, str):
            return await engine.tokenize(model, prompt, keep_text=request.echo)
        text = await engine.detokenize(model, prompt) if request.echo else None
        return Prompt(prompt, text)

    def encoder(self, request: CompletionRequest, response_id: str, prompts: Sequence[Prompt]) -> CompletionEncoder:
        """See :class:`gateway.protocol.encode.CompletionEncoder`."""
        echo = [prompt.text or "" for prompt in prompts for _ in range(request.n)] if request.echo else None
        return CompletionEncoder(
            response_id, int(time.time()), request.model, include_usage=request.include_usage, echo=echo
        )


def routes(pipeline: Pipeline) -> list[Route]:
    """The routes of this resource."""
    surface = CompletionSurface()

    async def create(exchange: Exchange) -> None:
        await pipeline.generate(exchange, surface)

    return [
        Route(
            "POST",
            "/v1/completions",
            create,
            "Continue a text",
            scope=Scope.INFERENCE,
            limit_class=LimitClass.GENERATION,
            guard=GuardPolicy.GENERATION,
            runs_model=True,
            request=CompletionRequest,
            response=Completion,
            stream=Completion,
        )
    ]
