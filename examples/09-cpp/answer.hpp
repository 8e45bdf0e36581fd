// What both programs share: reading an image, reading the names of the classes, saying the answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

// The bytes [height, width, 3] of a binary PPM file, which has to be of the model's size.
inline std::vector<std::uint8_t> read_ppm(const std::string &path, std::size_t height, std::size_t width) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  std::size_t found_width = 0, found_height = 0, most = 0;
  file >> kind >> found_width >> found_height >> most;
  file.get();
  if (!file || kind != "P6" || most != 255) throw std::runtime_error(path + ": not a binary PPM file of 8 bits");
  if (found_height != height || found_width != width)
    throw std::runtime_error(path + ": expected " + std::to_string(width) + " x " + std::to_string(height) + " pixels");
  std::vector<std::uint8_t> pixels(height * width * 3);
  file.read(reinterpret_cast<char *>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  if (!file) throw std::runtime_error(path + ": truncated");
  return pixels;
}

// The strings of a JSON list of plain names, as in "repq.classes"; names with escapes want a JSON library.
inline std::vector<std::string> names_of(const std::string &json) {
  std::vector<std::string> names;
  for (auto from = json.find('"'); from != std::string::npos;) {
    const auto to = json.find('"', from + 1);
    if (to == std::string::npos) break;
    names.push_back(json.substr(from + 1, to - from - 1));
    from = json.find('"', to + 1);
  }
  return names;
}

// One line: the best class and its probability, or with `whole` all logits, so that each float can be read back.
inline void say(const std::string &path, const float *logits, const std::vector<std::string> &names, bool whole) {
  const auto best = std::max_element(logits, logits + names.size()) - logits;
  std::cout << path << ": ";
  if (whole) {
    std::cout << std::setprecision(std::numeric_limits<float>::max_digits10);
    for (std::size_t each = 0; each < names.size(); ++each) std::cout << logits[each] << ' ';
  } else {
    double sum = 0;
    for (std::size_t each = 0; each < names.size(); ++each) sum += std::exp(logits[each] - logits[best]);
    std::cout << names[best] << ", " << std::fixed << std::setprecision(1) << 100 / sum << " %";
  }
  std::cout << '\n';
}

// What is on the command line: ENGINE [--logits] IMAGE...
struct Arguments {
  std::string engine;
  std::vector<std::string> images;
  bool whole = false;

  Arguments(int count, char **words) {
    for (int each = 1; each < count; ++each) {
      const std::string word = words[each];
      if (word == "--logits")
        whole = true;
      else if (engine.empty())
        engine = word;
      else
        images.push_back(word);
    }
    if (images.empty()) throw std::runtime_error("expected: ENGINE [--logits] IMAGE.ppm...");
  }
};
