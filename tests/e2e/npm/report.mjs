// Runs what a client can be asked for against each model, and prints what came of it, as JSON.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const SCENE = JSON.parse(
  readFileSync(new URL("../clients/scene.json", import.meta.url), "utf8"),
);
export const CITIES = Object.keys(SCENE.temperatures);

export async function run(features, models) {
  await Promise.all(
    models.split(",").map(async (model) => {
      for (const [feature, check] of Object.entries(features)) {
        let error = null;
        try {
          await check(model);
        } catch (failure) {
          error = `${failure.name}: ${failure.message}`.slice(0, 1000);
        }
        console.log(JSON.stringify({ model, feature, error }));
      }
    }),
  );
}

export function same(found, expected) {
  assert.deepEqual(
    found,
    expected,
    `${JSON.stringify(found)} instead of ${JSON.stringify(expected)}`,
  );
}

export async function collected(stream) {
  const found = [];
  for await (const event of stream) found.push(event);
  return found;
}
