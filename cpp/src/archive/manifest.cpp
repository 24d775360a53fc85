#include "archive/manifest.h"

#include <nlohmann/json.hpp>

#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using json = nlohmann::ordered_json;  // the entries of a result's dict stay in their order

constexpr int kDeepestManifest = 100;  // objects and arrays within each other
constexpr int kSchema = 1;

/// get<>() takes floats for integers, those that do not fit too.
std::int64_t integer(const json& value) {
  if (value.is_number_integer()) return value.get<std::int64_t>();
  throw ModelLoadError(std::string("its manifest is not of schema 1: expected an integer, got a ") +
                       value.type_name() + "; export the model again");
}

std::optional<std::int64_t> optional_size(const json& value) {
  if (value.is_null()) return std::nullopt;
  return integer(value);
}

Dim parse_dim(const json& value) {
  Dim dim;
  if (value.is_null()) return dim;
  if (value.is_object()) {
    dim.name = value.at("name").get<std::string>();
    dim.min = optional_size(value.value("min", json()));
    dim.max = optional_size(value.value("max", json()));
    dim.factor = integer(value.value("factor", json(1)));
    dim.offset = integer(value.value("offset", json(0)));
    if (dim.factor < 1) {
      throw ModelLoadError("its manifest is not of schema 1: expected a factor of 1 or more, got " +
                           std::to_string(dim.factor) + "; export the model again");
    }
  } else {
    dim.min = dim.max = integer(value);
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
    spec.has_default = value.value("optional", false);
    spec.leaves = parse_specs(value.value("leaves", json::array()));
    spec.any_length = value.value("any_length", false);
    spec.any_keys = value.value("any_keys", false);
    specs.push_back(std::move(spec));
  }
  return specs;
}

std::vector<ScriptedPart> parse_scripted(const json& values) {
  std::vector<ScriptedPart> parts;
  for (const json& value : values) {
    parts.push_back({value.at("name").get<std::string>(), value.value("reason", "")});
  }
  return parts;
}

Audit parse_audit(const json& value) {
  Audit audit;
  audit.level = value.value("level", "");
  for (const json& probe : value.value("probes", json::array())) {
    audit.probes.push_back({probe.at("name").get<std::string>(), probe.value("outcome", ""),
                            integer(probe.value("runs", json(0))), probe.value("reason", "")});
  }
  audit.allowed = value.value("allowed", std::vector<std::string>());
  return audit;
}

std::vector<NeededLibrary> parse_libraries(const json& values) {
  std::vector<NeededLibrary> libraries;
  for (const json& value : values) {
    libraries.push_back({value.value("file", ""),
                         value.value("operators", std::vector<std::string>()),
                         value.value("classes", std::vector<std::string>())});
  }
  return libraries;
}

std::map<DType, Tolerance> parse_tolerances(const json& value) {
  std::map<DType, Tolerance> tolerances;
  for (const auto& [name, pair] : value.items()) {
    // A dtype of a later version cannot come out of this one's models.
    if (const auto dtype = dtype_from_string(name)) {
      tolerances[*dtype] = {pair.at(0).get<double>(), pair.at(1).get<double>()};
    }
  }
  return tolerances;
}

Golden parse_golden(const json& value) {
  const json tolerance = value.value("tolerance", json::object());
  return {value.at("file").get<std::string>(), static_cast<std::size_t>(integer(value.at("calls"))),
          parse_tolerances(tolerance.value("cpu", json::object())),
          parse_tolerances(tolerance.value("accelerator", json::object()))};
}

ResultStructure parse_result(const json& value) {
  using Kind = ResultStructure::Kind;
  static const std::map<std::string, Kind> kKinds = {
      {"tuple", Kind::kTuple}, {"list", Kind::kList}, {"dict", Kind::kDict}};
  ResultStructure result;
  if (value == "tensor") return result;
  for (const auto& [name, items] : value.get_ref<const json::object_t&>()) {
    const auto kind = kKinds.find(name);
    if (kind == kKinds.end()) {
      throw ModelLoadError("its manifest has a result of an unknown kind, " + name);
    }
    result.kind = kind->second;
    for (const auto& [key, item] : items.items()) {
      result.keys.push_back(key);
      result.items.push_back(parse_result(item));
    }
  }
  return result;
}

}  // namespace

Manifest parse_manifest(const std::string& text) {
  try {
    const json root = json::parse(text, [](int depth, json::parse_event_t, const json&) {
      if (depth > kDeepestManifest) throw ModelLoadError("its manifest nests too deep");
      return true;
    });
    const std::int64_t schema = integer(root.at("schema"));
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
      auto& sizes = manifest.warmup_shapes.emplace_back();
      for (const auto& [name, shape] : shapes.items()) {
        for (const json& size : shape) sizes[name].push_back(integer(size));
      }
    }
    manifest.state = root.value("state", std::vector<std::string>());
    manifest.scripted = parse_scripted(root.value("scripted", json::array()));
    if (const json audit = root.value("audit", json()); !audit.is_null()) {
      manifest.audit = parse_audit(audit);
    }
    manifest.libraries = parse_libraries(root.value("libraries", json::array()));
    if (const json golden = root.value("golden", json()); !golden.is_null()) {
      manifest.golden = parse_golden(golden);
    }
    if (const json compiled = root.value("compiled", json()); !compiled.is_null()) {
      manifest.compiled = {compiled.at("device").get<std::string>(),
                           parse_result(compiled.at("result"))};
    }
    return manifest;
  } catch (const json::exception& error) {
    throw ModelLoadError(std::string("its manifest is not of schema 1: ") + error.what() +
                         "; export the model again");
  }
}

}  // namespace ts_infer
