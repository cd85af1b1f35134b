// Vercel's AI SDK with one of its providers: `node ai_sdk.mjs PROVIDER URL KEY MODELS`.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { CITIES, SCENE, collected, run, same } from "./report.mjs";

const [provider, url, apiKey, models] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const language = {
  openai_chat: () => createOpenAI({ baseURL, apiKey }).chat,
  openai_responses: () => createOpenAI({ baseURL, apiKey }).responses,
  anthropic: () => createAnthropic({ baseURL, apiKey }),
  openai_compatible: () =>
    createOpenAICompatible({
      baseURL,
      apiKey,
      name: "tollway",
      includeUsage: true,
      supportsStructuredOutputs: true,
    }),
}[provider]();

// The client knows by their names which models reason, and that these do not.
const thoughtful = {
  reasoning: "low",
  providerOptions: { openai: { forceReasoning: true, reasoningSummary: "auto" } },
};
const inputSchema = jsonSchema(SCENE.weather_schema);
const asked = (model, prompt, more) => ({
  model: language(model),
  prompt,
  maxRetries: 0,
  maxOutputTokens: 4000,
  ...more,
});
const weather = { get_weather: tool({ description: "The weather", inputSchema }) };
const working = {
  get_weather: tool({
    description: "The weather",
    inputSchema,
    execute: async ({ city }) => SCENE.temperatures[city],
  }),
};
const called = (calls) => calls.map(({ toolName, input }) => [toolName, input]);

async function streamed(options) {
  let failure;
  const made = streamText({ ...options, onError: ({ error }) => (failure = error) });
  const parts = await collected(made.stream ?? made.fullStream);
  if (failure) throw failure;
  return { made, parts };
}

const features = {
  async text(model) {
    const { text, finishReason } = await generateText(
      asked(model, SCENE.ask_story, { system: "Be brief.", temperature: 0.5 }),
    );
    same([text, finishReason], [SCENE.story, "stop"]);
  },
  async stream(model) {
    const { made } = await streamed(asked(model, SCENE.ask_story));
    same([await made.text, await made.finishReason], [SCENE.story, "stop"]);
  },
  async tools(model) {
    const answer = await generateText(asked(model, SCENE.ask_one, { tools: weather }));
    same(called(answer.toolCalls), [["get_weather", { city: "Paris" }]]);
    same(answer.finishReason, "tool-calls");
  },
  async parallel_tools(model) {
    const { made } = await streamed(asked(model, SCENE.ask_both, { tools: weather }));
    same(called(await made.toolCalls), CITIES.map((city) => ["get_weather", { city }]));
    same(await made.finishReason, "tool-calls");
  },
  async tool_results(model) {
    const more = { tools: working, stopWhen: stepCountIs(3) };
    const whole = await generateText(asked(model, SCENE.ask_both, more));
    same(whole.text, SCENE.told);
    const { made } = await streamed(asked(model, SCENE.ask_both, more));
    same(await made.text, SCENE.told);
  },
  async image(model) {
    const content = [
      { type: "text", text: "What is this?" },
      { type: "file", data: SCENE.image, mediaType: "image/png" },
    ];
    const { text } = await generateText(asked(model, [{ role: "user", content }]));
    same(text, SCENE.seen);
  },
  async structured_output(model) {
    const output = Output.object({ schema: jsonSchema(SCENE.book_schema), name: "book" });
    const answer = await generateText(asked(model, "A book, please", { output }));
    same(answer.output, SCENE.book);
  },
  async reasoning(model) {
    const { made } = await streamed(asked(model, SCENE.ask_story, thoughtful));
    same([await made.reasoningText, await made.text], [SCENE.thought, SCENE.story]);
  },
  async reasoning_kept(model) {
    const more = { tools: working, stopWhen: stepCountIs(3), ...thoughtful };
    const { made } = await streamed(asked(model, SCENE.ask_both, more));
    same(await made.text, SCENE.remembered);
  },
  async usage(model) {
    const { made } = await streamed(asked(model, SCENE.ask_story));
    const whole = await generateText(asked(model, SCENE.ask_story));
    const cached = model.endsWith("ollama") ? 0 : SCENE.usage.cached;
    for (const usage of [await made.usage, whole.usage]) {
      same([usage.inputTokens, usage.outputTokens, usage.totalTokens], [140, 17, 157]);
      same(usage.inputTokenDetails?.cacheReadTokens ?? 0, cached);
    }
  },
};

await run(features, models);
