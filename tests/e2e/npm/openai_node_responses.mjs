// OpenAI's Node SDK on responses: `node openai_node_responses.mjs URL KEY MODELS`.
import OpenAI from "openai";
import { CITIES, SCENE, run, same } from "./report.mjs";

const [baseURL, apiKey, models] = process.argv.slice(2);
const { responses } = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, maxRetries: 0 });
const weather = {
  type: "function",
  name: "get_weather",
  parameters: SCENE.weather_schema,
  strict: true,
};
const thoughtful = { reasoning: { effort: "low" }, max_output_tokens: 4000 };
const story = (model) => ({ model, input: SCENE.ask_story });
const both = (model) => ({ model, input: SCENE.ask_both, tools: [weather] });
const calls = ({ output }) => output.filter(({ type }) => type === "function_call");
const called = (response) =>
  calls(response).map(({ name, arguments: text }) => [name, JSON.parse(text)]);
const results = (response) =>
  calls(response).map(({ call_id, arguments: text }) => ({
    type: "function_call_output",
    call_id,
    output: SCENE.temperatures[JSON.parse(text).city],
  }));
const streamed = (asked) => responses.stream(asked).finalResponse();

const features = {
  async text(model) {
    const answer = await responses.create({ ...story(model), instructions: "Be brief." });
    same([answer.output_text, answer.status], [SCENE.story, "completed"]);
  },
  async stream(model) {
    let text = "";
    const made = responses.stream(story(model));
    for await (const event of made) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    same([text, (await made.finalResponse()).output_text], [SCENE.story, SCENE.story]);
  },
  async tools(model) {
    const answer = await responses.create({ model, input: SCENE.ask_one, tools: [weather] });
    same(called(answer), [["get_weather", { city: "Paris" }]]);
  },
  async parallel_tools(model) {
    same(called(await streamed(both(model))), CITIES.map((city) => ["get_weather", { city }]));
  },
  async tool_results(model) {
    const first = await streamed(both(model));
    const previous_response_id = first.id;
    const asked = { ...both(model), input: results(first), previous_response_id };
    same((await responses.create(asked)).output_text, SCENE.told);
  },
  async image(model) {
    const content = [
      { type: "input_image", image_url: `data:image/png;base64,${SCENE.image}`, detail: "low" },
      { type: "input_text", text: "What is this?" },
    ];
    const answer = await responses.create({ model, input: [{ role: "user", content }] });
    same(answer.output_text, SCENE.seen);
  },
  async structured_output(model) {
    const format = { type: "json_schema", name: "book", schema: SCENE.book_schema, strict: true };
    const answer = await responses.parse({ model, input: "A book, please", text: { format } });
    same(JSON.parse(answer.output_text), SCENE.book);
  },
  async reasoning(model) {
    const answer = await streamed({ ...story(model), ...thoughtful });
    const [thought] = answer.output.filter(({ type }) => type === "reasoning");
    const text = (thought.content ?? thought.summary).map((part) => part.text).join("");
    same([text, answer.output_text], [SCENE.thought, SCENE.story]);
  },
  async reasoning_kept(model) {
    const include = ["reasoning.encrypted_content"];
    const asked = { ...both(model), ...thoughtful, store: false, include };
    const first = await responses.create(asked);
    const user = { role: "user", content: SCENE.ask_both };
    const input = [user, ...first.output, ...results(first)];
    same((await responses.create({ ...asked, input })).output_text, SCENE.remembered);
  },
  async usage(model) {
    const { usage } = await streamed(story(model));
    same([usage.input_tokens, usage.output_tokens, usage.total_tokens], [140, 17, 157]);
    const cached = model.endsWith("ollama") ? 0 : SCENE.usage.cached;
    same(usage.input_tokens_details.cached_tokens, cached);
  },
};

await run(features, models);
