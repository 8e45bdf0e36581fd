// Classifies images with an engine by ONNX Runtime's C++ interface.
#include <onnxruntime_cxx_api.h>

#include <cstdlib>

#include "answer.hpp"

static void classify(const Arguments &asked) {
  Ort::Env environment;
  Ort::Session session(environment, asked.engine.c_str(), Ort::SessionOptions{});

  const auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // [-1, height, width, 3]
  Ort::AllocatorWithDefaultOptions allocator;
  const auto classes = session.GetModelMetadata().LookupCustomMetadataMapAllocated("repq.classes", allocator);
  if (!classes) throw std::runtime_error(asked.engine + ": no class names; export with --classes");
  const auto names = names_of(classes.get());

  std::vector<std::uint8_t> pixels;
  for (const auto &path : asked.images) {
    const auto image = read_ppm(path, shape.at(1), shape.at(2));
    pixels.insert(pixels.end(), image.begin(), image.end());
  }
  const std::int64_t batch[] = {static_cast<std::int64_t>(asked.images.size()), shape[1], shape[2], 3};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto images = Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(), batch, 4);

  const char *input = "images", *output = "logits";
  const auto found = session.Run(Ort::RunOptions{}, &input, &images, 1, &output, 1);
  const float *logits = found.front().GetTensorData<float>();
  for (std::size_t each = 0; each < asked.images.size(); ++each)
    say(asked.images[each], logits + each * names.size(), names, asked.whole);
}

int main(int count, char **words) {
  try {
    classify(Arguments(count, words));
  } catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
