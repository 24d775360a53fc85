#include "archive/manifest.h"

#include <nlohmann/json.hpp>

#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

std::optional<std::int64_t> optional_size(const json& value) {
  if (value.is_null()) return std::nullopt;
  return value.get<std::int64_t>();
}

Dim parse_dim(const json& value) {
  Dim dim;
  if (value.is_null()) return dim;
  if (value.is_object()) {
    dim.name = value.at("name").get<std::string>();
    dim.min = optional_size(value.value("min", json()));
    dim.max = optional_size(value.value("max", json()));
  } else {
    dim.min = dim.max = value.get<std::int64_t>();
  }
  return dim;
}

std::vector<TensorSpec> parse_specs(const json& values) {
  std::vector<TensorSpec> specs;
  for (const json& value : values) {
    TensorSpec spec;
    spec.name = value.at("name").get<std::string>();
    spec.type = value.value("type", "Tensor");
    if (value.contains("dtype")) {
      const auto dtype = value.at("dtype").get<std::string>();
      spec.dtype = dtype_from_string(dtype);
      if (!spec.dtype) throw ModelLoadError("its manifest names an unknown dtype, " + dtype);
    }
    if (value.contains("shape") && !value.at("shape").is_null()) {
      spec.shape.emplace();
      for (const json& dim : value.at("shape")) spec.shape->push_back(parse_dim(dim));
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace

Manifest parse_manifest(const std::string& text) {
  try {
    const json root = json::parse(text);
    const int schema = root.at("schema").get<int>();
    if (schema > kSchema) {
      throw ModelLoadError("its manifest has schema " + std::to_string(schema) +
                           ": expected up to " + std::to_string(kSchema) +
                           "; upgrade ts-infer-runtime");
    }
    Manifest manifest;
    manifest.name = root.at("name").get<std::string>();
    manifest.method = root.value("method", "");
    manifest.torch_version = root.value("versions", json::object()).value("torch", "");
    manifest.signature.inputs = parse_specs(root.at("inputs"));
    manifest.signature.outputs = parse_specs(root.value("outputs", json::array()));
    manifest.methods = root.value("methods", std::vector<std::string>());
    for (const json& shapes : root.value("warmup_shapes", json::array())) {
      manifest.warmup_shapes.push_back(
          shapes.get<std::map<std::string, std::vector<std::int64_t>>>());
    }
    return manifest;
  } catch (const json::exception& error) {
    throw ModelLoadError(std::string("its manifest is not of schema 1: ") + error.what() +
                         "; export the model again");
  }
}

}  // namespace ts_infer
