// What Node and the browser share: an engine's metadata, and what its answer means.

/**
 * The metadata of an ONNX file, which onnxruntime's JavaScript interface does not give: the entries of field 14 of the
 * file's outermost protobuf message, each with a key in its field 1 and a value in its field 2.
 *
 * @param {Uint8Array} bytes the whole file
 * @returns {Object<string, string>}
 */
export function metadata(bytes) {
  const said = {};
  for (const [field, entry] of fields(bytes)) {
    if (field !== 14) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    said[new TextDecoder().decode(key)] = new TextDecoder().decode(value);
  }
  return said;
}

/** The fields of a protobuf message: pairs of a number and its bytes; numbers that stand for themselves are left out. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let found = 0;
    for (let place = 1; ; place *= 128) {
      const byte = bytes[at++];
      found += (byte % 128) * place;
      if (byte < 128) return found;
    }
  };
  while (at < bytes.length) {
    const key = number();
    const value = number(); // of a field with bytes their count
    if (key % 8 === 0) continue;
    if (key % 8 !== 2) throw new Error(`no ONNX file: a field of kind ${key % 8}`);
    at += value;
    yield [Math.floor(key / 8), bytes.subarray(at - value, at)];
  }
}

/**
 * A session of either package with what its engine says about itself.
 *
 * @param ort onnxruntime-node or onnxruntime-web
 * @param {Uint8Array} bytes the engine
 */
export async function open(ort, bytes) {
  const said = metadata(bytes);
  const session = await ort.InferenceSession.create(bytes);
  const { size } = JSON.parse(said["repq.preprocess"]);
  const { dtype, layout } = JSON.parse(said["repq.input"] ?? "{}");
  if (dtype !== "uint8" || layout !== "nhwc") throw new Error("the engine takes no bytes: export with --input uint8");
  return {
    size, // height and width in pixels
    classes: JSON.parse(said["repq.classes"]),
    /** The logits of one image, given as its bytes [height, width, 3]. */
    async logits(pixels) {
      const images = new ort.Tensor("uint8", pixels, [1, ...size, 3]);
      return (await session.run({ images })).logits.data;
    },
  };
}

/** The best class and its probability in words. */
export function answer(logits, classes) {
  const best = logits.indexOf(Math.max(...logits));
  const sum = logits.reduce((total, each) => total + Math.exp(each - logits[best]), 0);
  return `${classes[best]}, ${(100 / sum).toFixed(1)} %`;
}
