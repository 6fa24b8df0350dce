"""A pydantic-ai agent as an application writes it: address, key and model are all it is told of Sluice."""

import asyncio
import json
import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

url, key, name = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
settings = ModelSettings(temperature=0, max_tokens=120)


class City(BaseModel):
    """A city of Europe."""

    name: Literal["Paris", "Rome"]


async def main() -> None:
    for model in (OpenAIChatModel(name, provider=provider), OpenAIResponsesModel(name, provider=provider)):
        plain = Agent(model, model_settings=settings)
        answer = await plain.run("What is the capital of France?")
        assert "Paris" in answer.output, answer
        assert answer.usage.output_tokens > 0
        async with plain.run_stream("What is the capital of France?") as stream:
            assert await stream.get_output() == answer.output
        held = Agent(model, output_type=NativeOutput(City), model_settings=settings)
        assert (await held.run("The capital of Italy?")).output.name in ("Paris", "Rome")
    # Structured output by a tool that must be called.
    called = Agent(OpenAIChatModel(name, provider=provider), output_type=City, model_settings=settings)
    assert (await called.run("The capital of Italy?")).output.name in ("Paris", "Rome")


asyncio.run(main())
print(json.dumps({"ok": True}))
