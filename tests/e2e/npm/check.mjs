// What a user of OpenAI's Node SDK does: `node check.mjs BASE_URL`.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const tools = [
  {
    type: "function",
    function: { name: "get_weather", parameters: { type: "object", properties: {} } },
  },
];
const TEXT = "Hello! How can I help you today?";

const whole = await client.chat.completions.create({ model: "auto", messages });
assert.equal(whole.choices[0].message.content, TEXT);

let text = "";
let last;
for await (const chunk of await client.chat.completions.create({
  model: "auto",
  messages,
  stream: true,
  stream_options: { include_usage: true },
})) {
  text += chunk.choices[0]?.delta?.content ?? "";
  last = chunk;
}
assert.equal(text, TEXT);
assert.ok(last.usage.completion_tokens > 0);

const helper = client.chat.completions.stream({ model: "auto", messages });
assert.equal(await helper.finalContent(), TEXT);

const called = client.chat.completions.stream({
  model: "auto",
  messages: [{ role: "user", content: "the weather" }],
  tools,
});
const [call] = (await called.finalMessage()).tool_calls;
assert.equal(call.function.name, "get_weather");
assert.deepEqual(JSON.parse(call.function.arguments), { location: "Paris" });

const vectors = await client.embeddings.create({ model: "vectors", input: ["a", "b"] });
assert.equal(vectors.data.length, 2);
assert.equal(vectors.data[0].embedding.length, 8);

const cut = client.chat.completions.stream({
  model: "auto",
  messages: [{ role: "user", content: "cut" }],
});
await assert.rejects(cut.finalContent(), OpenAI.APIError);
console.log("6 passed");
