"""LangChain's ChatOpenAI as an application uses it: address, key and model are all it is told of Sluice."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

url, key, name = sys.argv[1:]


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


class Person(BaseModel):
    """A person."""

    age: int = Field(ge=1, le=99)


model = ChatOpenAI(base_url=f"{url}/v1", api_key=key, model=name, temperature=0, max_tokens=60, max_retries=0)

whole = model.invoke("What is the capital of France?")
assert "Paris" in whole.content, whole
assert whole.usage_metadata["output_tokens"] > 0

chunks = list(model.stream("What is the capital of France?"))
assert "".join(chunk.content for chunk in chunks) == whole.content

asked = model.bind_tools([get_weather], tool_choice="get_weather").invoke("What is the weather in Rome?")
call = asked.tool_calls[0]
assert call["name"] == "get_weather", asked
result = get_weather.invoke(call["args"])
told = model.bind_tools([get_weather]).invoke(
    [
        HumanMessage("What is the weather in Rome?"),
        asked,
        *(ToolMessage(result, tool_call_id=each["id"]) for each in asked.tool_calls),
    ]
)
assert told.content or told.tool_calls, told

streamed = None
for chunk in model.bind_tools([get_weather], tool_choice="get_weather").stream("What is the weather in Rome?"):
    streamed = chunk if streamed is None else streamed + chunk
assert streamed.tool_calls[0]["args"] == call["args"], streamed

person = model.with_structured_output(Person, method="json_schema").invoke("How old is Ann?")
assert 1 <= person.age <= 99

responses = ChatOpenAI(
    base_url=f"{url}/v1", api_key=key, model=name, temperature=0, max_tokens=60, max_retries=0, use_responses_api=True
)
answer = responses.invoke("What is the capital of France?")
assert "Paris" in answer.text, answer
assert "".join(chunk.text for chunk in responses.stream("What is the capital of France?")) == answer.text

print(json.dumps({"ok": True}))
