// Anthropic's Node SDK on messages: `node anthropic_node.mjs URL KEY MODELS`.
import Anthropic from "@anthropic-ai/sdk";
import { CITIES, SCENE, run, same } from "./report.mjs";

const [baseURL, apiKey, models] = process.argv.slice(2);
const { messages } = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const weather = { name: "get_weather", input_schema: SCENE.weather_schema };
const user = (content) => ({ role: "user", content });
const story = (model) => ({ model, max_tokens: 500, messages: [user(SCENE.ask_story)] });
const thoughtful = { thinking: { type: "enabled", budget_tokens: 2000 }, max_tokens: 4000 };
const text = ({ content }) => content.map((block) => block.text ?? "").join("");
const calls = ({ content }) => content.filter(({ type }) => type === "tool_use");
const called = (message) => calls(message).map(({ name, input }) => [name, input]);

async function loop(model, more) {
  const asked = { model, max_tokens: 500, tools: [weather], ...more };
  const turns = [user(SCENE.ask_both)];
  const first = await messages.stream({ ...asked, messages: turns }).finalMessage();
  const results = calls(first).map(({ id, input }) => ({
    type: "tool_result",
    tool_use_id: id,
    content: [{ type: "text", text: SCENE.temperatures[input.city] }],
  }));
  turns.push({ role: "assistant", content: first.content }, user(results));
  return text(await messages.create({ ...asked, messages: turns }));
}

const features = {
  async text(model) {
    const answer = await messages.create({ ...story(model), system: "Be brief.", top_p: 0.9 });
    same([text(answer), answer.stop_reason], [SCENE.story, "end_turn"]);
  },
  async stream(model) {
    same(await messages.stream(story(model)).finalText(), SCENE.story);
  },
  async tools(model) {
    const asked = { model, max_tokens: 500, messages: [user(SCENE.ask_one)], tools: [weather] };
    const answer = await messages.create(asked);
    same(called(answer), [["get_weather", { city: "Paris" }]]);
    same(answer.stop_reason, "tool_use");
  },
  async parallel_tools(model) {
    const asked = { model, max_tokens: 500, messages: [user(SCENE.ask_both)], tools: [weather] };
    const answer = await messages.stream(asked).finalMessage();
    same(called(answer), CITIES.map((city) => ["get_weather", { city }]));
    same(answer.stop_reason, "tool_use");
  },
  async tool_results(model) {
    same(await loop(model), SCENE.told);
  },
  async image(model) {
    const source = { type: "base64", media_type: "image/png", data: SCENE.image };
    const content = [{ type: "text", text: "What is this?" }, { type: "image", source }];
    same(text(await messages.create({ ...story(model), messages: [user(content)] })), SCENE.seen);
  },
  async structured_output(model) {
    const output_config = { format: { type: "json_schema", schema: SCENE.book_schema } };
    same(JSON.parse(text(await messages.create({ ...story(model), output_config }))), SCENE.book);
  },
  async reasoning(model) {
    const made = messages.stream({ ...story(model), ...thoughtful });
    const { content } = await made.finalMessage();
    same([content[0].thinking, content[1].text], [SCENE.thought, SCENE.story]);
  },
  async reasoning_kept(model) {
    same(await loop(model, thoughtful), SCENE.remembered);
  },
  async usage(model) {
    const { usage } = await messages.stream(story(model)).finalMessage();
    const cached = model.endsWith("ollama") ? 0 : SCENE.usage.cached;
    const { input_tokens, cache_read_input_tokens: read, cache_creation_input_tokens: made } = usage;
    same([input_tokens + (read ?? 0) + (made ?? 0), usage.output_tokens], [140, 17]);
    same(read ?? 0, cached);
  },
};

await run(features, models);
