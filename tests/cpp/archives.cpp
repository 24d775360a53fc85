#include "archives.h"

#include <gtest/gtest.h>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>

#include <fstream>
#include <sstream>

namespace ts_infer::testing {
namespace {

/// Finds operators that tests register, too: ts_infer_test.wait(x).
struct TestResolver : torch::jit::NativeResolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(
      const std::string& name, torch::jit::GraphFunction& function,
      const torch::jit::SourceRange& place) override {
    if (name.starts_with("ts_infer_")) return std::make_shared<torch::jit::BuiltinModule>(name);
    return NativeResolver::resolveValue(name, function, place);
  }
};

}  // namespace

torch::jit::Module make_module(const std::string& source) {
  torch::jit::Module module("Sample");
  module.register_parameter("weight", at::full({4, 4}, 0.5), /*is_buffer=*/false);
  module.register_buffer("state", at::zeros({4}));
  module.register_attribute("training", c10::BoolType::get(), false);
  module.define(source, std::make_shared<TestResolver>());
  module.eval();
  return module;
}

std::string save(const torch::jit::Module& module, const std::string& manifest,
                 const std::string& golden) {
  torch::jit::ExtraFilesMap extra;
  if (!golden.empty()) extra["ts_infer/golden.pt"] = golden;
  if (!manifest.empty()) extra["ts_infer/manifest.json"] = manifest;
  std::ostringstream stream;
  module.save(stream, extra);
  return stream.str();
}

std::string write_file(const std::string& name, const std::string& bytes) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::string archive(const std::string& source, const std::string& manifest) {
  return save(make_module(source), manifest);
}

Model load_bytes(const std::string& bytes, const LoadOptions& options) {
  return Model::load(bytes.data(), bytes.size(), options);
}

std::string pickled(const std::string& text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  return 'X' + std::string(reinterpret_cast<const char*>(&size), 4) + text;
}

std::string pickled_list(const std::vector<std::string>& values) {
  std::string pickle = "](";
  for (const std::string& value : values) pickle += value;
  return pickle + 'e';
}

std::string pickled_dict(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string pickle = "}(";
  for (const auto& [key, value] : entries) pickle += pickled(key) + value;
  return pickle + 'u';
}

std::string pickled_tensor(const std::string& key, std::uint8_t elements,
                           const std::vector<std::uint8_t>& shape,
                           const std::vector<std::uint8_t>& strides) {
  const auto number = [](std::uint8_t value) { return 'K' + std::string(1, char(value)); };
  const auto tuple = [&](const std::vector<std::uint8_t>& values) {
    std::string pickle = "(";
    for (const std::uint8_t value : values) pickle += number(value);
    return pickle + 't';
  };
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage") + "ctorch\nFloatStorage\n" +
         pickled(key) + pickled("cpu") + number(elements) + "tQ" + number(0) + tuple(shape) +
         tuple(strides) + "\x89" + "ccollections\nOrderedDict\n)RtR";
}

std::string torch_saved(const std::string& pickle,
                        const std::map<std::string, std::vector<float>>& storages) {
  std::string file;
  caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, std::size_t size) {
    file.append(static_cast<const char*>(data), size);
    return size;
  });
  const std::string whole = "\x80\x02" + pickle + '.';
  writer.writeRecord("data.pkl", whole.data(), whole.size());
  for (const auto& [key, values] : storages) {
    writer.writeRecord("data/" + key, values.data(), values.size() * sizeof(float));
  }
  writer.writeEndOfFile();
  return file;
}

std::string golden_sample(const GoldenVectors& calls) {
  std::map<std::string, std::vector<float>> storages;
  const auto tensor = [&](const std::vector<float>& values) {
    const std::string key = std::to_string(storages.size());
    storages[key] = values;
    const auto size = static_cast<std::uint8_t>(values.size());
    return pickled_tensor(key, size, {size}, {1});
  };
  std::vector<std::string> pickles;
  for (const auto& [input, output] : calls) {
    const std::string inputs = pickled_list({tensor(input)});
    pickles.push_back(
        pickled_dict({{"inputs", inputs}, {"outputs", pickled_list({tensor(output)})}}));
  }
  return torch_saved(pickled_dict({{"calls", pickled_list(pickles)}}), storages);
}

}  // namespace ts_infer::testing
