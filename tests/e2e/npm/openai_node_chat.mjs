// OpenAI's Node SDK on chat completions: `node openai_node_chat.mjs URL KEY MODELS`.
import OpenAI from "openai";
import { CITIES, SCENE, collected, run, same } from "./report.mjs";

const [baseURL, apiKey, models] = process.argv.slice(2);
const { chat } = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, maxRetries: 0 });
const weather = {
  type: "function",
  function: { name: "get_weather", parameters: SCENE.weather_schema, strict: true },
};
const user = (content) => ({ role: "user", content });
const called = ({ tool_calls }) =>
  tool_calls.map(({ function: f }) => [f.name, JSON.parse(f.arguments)]);
const results = ({ tool_calls }) =>
  tool_calls.map((call) => ({
    role: "tool",
    tool_call_id: call.id,
    content: SCENE.temperatures[JSON.parse(call.function.arguments).city],
  }));
const thoughtful = { reasoning_effort: "low", max_tokens: 4000 };

const features = {
  async text(model) {
    const answer = await chat.completions.create({
      model,
      messages: [{ role: "developer", content: "Be brief." }, user(SCENE.ask_story)],
      max_completion_tokens: 500,
    });
    same(answer.choices[0].message.content, SCENE.story);
  },
  async stream(model) {
    const made = chat.completions.stream({ model, messages: [user(SCENE.ask_story)] });
    same(await made.finalContent(), SCENE.story);
  },
  async tools(model) {
    const messages = [user(SCENE.ask_one)];
    const answer = await chat.completions.create({ model, messages, tools: [weather] });
    same(called(answer.choices[0].message), [["get_weather", { city: "Paris" }]]);
    same(answer.choices[0].finish_reason, "tool_calls");
  },
  async parallel_tools(model) {
    const messages = [user(SCENE.ask_both)];
    const made = chat.completions.stream({ model, messages, tools: [weather] });
    const { message, finish_reason } = (await made.finalChatCompletion()).choices[0];
    same(called(message), CITIES.map((city) => ["get_weather", { city }]));
    same(finish_reason, "tool_calls");
  },
  async tool_results(model) {
    const messages = [user(SCENE.ask_both)];
    const made = chat.completions.stream({ model, messages, tools: [weather] });
    const message = await made.finalMessage();
    messages.push(message, ...results(message));
    const answer = await chat.completions.create({ model, messages, tools: [weather] });
    same(answer.choices[0].message.content, SCENE.told);
  },
  async image(model) {
    const url = `data:image/png;base64,${SCENE.image}`;
    const content = [
      { type: "image_url", image_url: { url, detail: "low" } },
      { type: "text", text: "What is this?" },
    ];
    const answer = await chat.completions.create({ model, messages: [user(content)] });
    same(answer.choices[0].message.content, SCENE.seen);
  },
  async structured_output(model) {
    const answer = await chat.completions.parse({
      model,
      messages: [user("A book, please")],
      response_format: {
        type: "json_schema",
        json_schema: { name: "book", schema: SCENE.book_schema, strict: true },
      },
    });
    same(JSON.parse(answer.choices[0].message.content), SCENE.book);
  },
  async reasoning(model) {
    const messages = [user(SCENE.ask_story)];
    const chunks = await collected(
      await chat.completions.create({ model, messages, ...thoughtful, stream: true }),
    );
    const deltas = chunks.map(({ choices }) => choices[0].delta);
    same(deltas.map((delta) => delta.reasoning_content ?? "").join(""), SCENE.thought);
    same(deltas.map((delta) => delta.content ?? "").join(""), SCENE.story);
  },
  async reasoning_kept(model) {
    const asked = { model, ...thoughtful, tools: [weather] };
    const messages = [user(SCENE.ask_both)];
    const first = await chat.completions.create({ ...asked, messages });
    const { message } = first.choices[0];
    messages.push(message, ...results(message));
    const answer = await chat.completions.create({ ...asked, messages });
    same(answer.choices[0].message.content, SCENE.remembered);
  },
  async usage(model) {
    const messages = [user(SCENE.ask_story)];
    const asked = { model, messages, stream: true, stream_options: { include_usage: true } };
    const { usage } = (await collected(await chat.completions.create(asked))).at(-1);
    same([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens], [140, 17, 157]);
    const cached = model.endsWith("ollama") ? 0 : SCENE.usage.cached;
    same(usage.prompt_tokens_details?.cached_tokens ?? 0, cached);
  },
};

await run(features, models);
