#include "archives.h"

#include <gtest/gtest.h>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <fstream>
#include <sstream>

namespace ts_infer::testing {

torch::jit::Module make_module(const std::string& source) {
  torch::jit::Module module("Sample");
  module.register_parameter("weight", at::full({4, 4}, 0.5), /*is_buffer=*/false);
  module.register_buffer("state", at::zeros({4}));
  module.register_attribute("training", c10::BoolType::get(), false);
  module.define(source);
  module.eval();
  return module;
}

std::string save(const torch::jit::Module& module, const std::string& manifest) {
  torch::jit::ExtraFilesMap extra;
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

}  // namespace ts_infer::testing
