// OpenAI's client for Node as an application uses it: address, key and model are all it is told of Sluice.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, key, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const sampling = { model, temperature: 0 };

const whole = await client.chat.completions.create({ ...sampling, messages, max_tokens: 40 });
const text = whole.choices[0].message.content;
assert.match(text, /Paris/);

const runner = client.chat.completions.stream({ ...sampling, messages, max_tokens: 40 });
assert.equal(await runner.finalContent(), text);

const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const asked = await client.chat.completions
  .stream({ model, messages, tools, tool_choice: "required", max_tokens: 200 })
  .finalMessage();
assert.ok(["Paris", "Rome"].includes(JSON.parse(asked.tool_calls[0].function.arguments).city));

const response = await client.responses.create({ ...sampling, input: messages[0].content, max_output_tokens: 40 });
assert.equal(response.output_text, text);
let streamed = "";
const kinds = [];
for await (const event of client.responses.stream({ ...sampling, input: messages, max_output_tokens: 40 })) {
  kinds.push(event.type);
  if (event.type === "response.output_text.delta") streamed += event.delta;
}
assert.equal(streamed, text);
assert.equal(kinds.at(-1), "response.completed");

await assert.rejects(client.chat.completions.create({ model: "nope", messages }), OpenAI.NotFoundError);
console.log(JSON.stringify({ ok: true }));
