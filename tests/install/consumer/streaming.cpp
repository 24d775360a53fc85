// streaming MODEL AUDIO: a stateful model on chunks of sound (float32, 512 samples each), three
// times: as it was loaded, after reset_states, and by a clone taken halfway through the second.
#include <ts_infer/ts_infer.h>

#include <fstream>
#include <iostream>
#include <vector>

namespace {

constexpr std::int64_t kSamples = 512;

double probability(ts_infer::Model& model, const float* chunk) {
  auto sound = ts_infer::Tensor::empty(ts_infer::DType::kFloat32, {1, kSamples});
  std::copy(chunk, chunk + kSamples, sound.data<float>());
  return double{model.call({sound, 16000}).as_tensor().data<float>()[0]};
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("expected MODEL and AUDIO");
  std::ifstream file(argv[2], std::ios::binary | std::ios::ate);
  std::vector<float> audio(static_cast<std::size_t>(file.tellg()) / sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(audio.data()),
            static_cast<std::streamsize>(audio.size() * sizeof(float)));
  const std::size_t chunks = audio.size() / kSamples;
  const auto chunk = [&](std::size_t i) { return audio.data() + i * kSamples; };

  ts_infer::LoadOptions options;
  options.device = "cpu";
  ts_infer::Model model = ts_infer::Model::load(argv[1], options);
  std::cout.precision(9);
  for (std::size_t i = 0; i < chunks; ++i) std::cout << probability(model, chunk(i)) << ' ';
  std::cout << '\n';

  model.run_method("reset_states");
  for (std::size_t i = 0; i < chunks / 2; ++i) std::cout << probability(model, chunk(i)) << ' ';
  ts_infer::Model clone = model.clone();
  for (std::size_t i = chunks / 2; i < chunks; ++i) {
    std::cout << probability(model, chunk(i)) << ' ';
  }
  std::cout << '\n';
  for (std::size_t i = chunks / 2; i < chunks; ++i) {
    std::cout << probability(clone, chunk(i)) << ' ';
  }
  std::cout << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
