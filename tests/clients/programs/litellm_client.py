"""LiteLLM as a client: address, key and model are all it is told of Sluice."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

url, key, name = sys.argv[1:]
litellm.telemetry = False
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}
where = {"api_base": f"{url}/v1", "api_key": key, "num_retries": 0}

whole = litellm.completion(model=f"openai/{name}", messages=MESSAGES, temperature=0, max_tokens=40, **where)
assert "Paris" in whole.choices[0].message.content, whole
stream = litellm.completion(
    model=f"openai/{name}", messages=MESSAGES, temperature=0, max_tokens=40, stream=True, **where
)
text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
assert text == whole.choices[0].message.content, text

called = litellm.completion(
    model=f"openai/{name}", messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=200, **where
)
arguments = json.loads(called.choices[0].message.tool_calls[0].function.arguments)
assert arguments["city"] in ("Paris", "Rome")

# Anthropic's surface, for models that LiteLLM knows as Anthropic's.
message = litellm.completion(
    model=f"anthropic/{name}", messages=MESSAGES, temperature=0, max_tokens=40, api_base=url, api_key=key, num_retries=0
)
assert message.choices[0].message.content == whole.choices[0].message.content, message

try:
    litellm.completion(model="openai/nope", messages=MESSAGES, **where)
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("an unknown model was answered")

print(json.dumps({"ok": True}))
