// Classifies images with an engine by OpenVINO's C++ interface.
#include <openvino/openvino.hpp>

#include <cstdlib>

#include "answer.hpp"

static void classify(const Arguments &asked) {
  ov::Core core;
  const auto model = core.read_model(asked.engine);
  const auto names = names_of(model->get_rt_info<std::string>("framework", "repq.classes"));
  // On CPUs with bfloat16 OpenVINO would compute in it around the integers; no file can say otherwise.
  auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));

  const auto shape = model->input().get_partial_shape();  // [?, height, width, 3]
  const std::size_t height = shape[1].get_length(), width = shape[2].get_length();
  ov::Tensor images(ov::element::u8, {asked.images.size(), height, width, 3});
  auto *place = images.data<std::uint8_t>();
  for (const auto &path : asked.images) {
    const auto image = read_ppm(path, height, width);
    place = std::copy(image.begin(), image.end(), place);
  }

  auto request = compiled.create_infer_request();
  request.set_input_tensor(images);
  request.infer();
  const float *logits = request.get_tensor("logits").data<const float>();
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
