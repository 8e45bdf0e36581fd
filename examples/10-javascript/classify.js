// Classifies PNG files of the model's size in Node: node classify.js ENGINE [--logits] IMAGE.png...
process.env.ORT_DISABLE_TELEMETRY ??= "1"; // read when the library is loaded

import { readFile } from "node:fs/promises";
import { PNG } from "pngjs";
import { answer, open } from "./engine.js";

const ort = await import("onnxruntime-node");

const [path, ...words] = process.argv.slice(2);
const engine = await open(ort, await readFile(path));
for (const image of words.filter((word) => word !== "--logits")) {
  const { height, width, data } = PNG.sync.read(await readFile(image)); // red, green, blue and opacity
  if (`${[height, width]}` !== `${engine.size}`) throw new Error(`${image}: expected ${engine.size} pixels`);
  const pixels = data.filter((_, index) => index % 4 < 3);
  const logits = await engine.logits(new Uint8Array(pixels));
  console.log(`${image}: ${words.includes("--logits") ? logits.join(" ") : answer(logits, engine.classes)}`);
}
