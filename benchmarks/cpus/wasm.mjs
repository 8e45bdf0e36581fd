// Runs the ONNX file of a folder by onnxruntime-web's WebAssembly: node wasm.mjs FOLDER PACKAGES. wasm.py writes FOLDER.
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, packages] = process.argv.slice(2);
const ort = await import(pathToFileURL(join(packages, "onnxruntime-web/dist/ort.wasm.min.mjs")));
ort.env.wasm.numThreads = 1;
const job = JSON.parse(await readFile(join(folder, "job.json")));
const session = await ort.InferenceSession.create(await readFile(join(folder, job.model)), {
  graphOptimizationLevel: job.optimize ? "all" : "disabled",
});
const feeds = {};
const kinds = { float32: Float32Array, uint8: Uint8Array, int8: Int8Array };
for (const { name, type, shape, file } of job.feeds) {
  const bytes = await readFile(join(folder, file));
  feeds[name] = new ort.Tensor(type, new kinds[type](new Uint8Array(bytes).buffer), shape);
}
const found = await session.run(feeds, job.names);
for (const [index, name] of job.names.entries()) {
  const { data } = found[name];
  await writeFile(join(folder, `out${index}.bin`), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
