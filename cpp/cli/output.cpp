#include "output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>

#include "machine.h"
#include "ts_infer/error.h"

namespace ts_infer::cli {
namespace {

constexpr std::int64_t kShownValues = 6;
constexpr std::int64_t kJsonValues = 64;

/// Columns that a terminal gives UTF-8 text, for the characters used here.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

double from_float16(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const double fraction = (bits & 0x3ff) / 1024.0;
  double value = std::ldexp(1 + fraction, exponent - 15);
  if (exponent == 0) value = std::ldexp(fraction, -14);
  if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -value : value;
}

double from_bfloat16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

/// The element at `index` of a contiguous host tensor.
Value element(const Tensor& host, std::int64_t index) {
  const void* data = host.data_ptr();
  const auto at = [&](const auto* typed) { return typed[index]; };
  switch (host.dtype()) {
    case DType::kBool:
      return at(static_cast<const std::uint8_t*>(data)) != 0;
    case DType::kUInt8:
      return std::int64_t{at(static_cast<const std::uint8_t*>(data))};
    case DType::kInt8:
      return std::int64_t{at(static_cast<const std::int8_t*>(data))};
    case DType::kInt16:
      return std::int64_t{at(static_cast<const std::int16_t*>(data))};
    case DType::kInt32:
      return std::int64_t{at(static_cast<const std::int32_t*>(data))};
    case DType::kInt64:
      return at(static_cast<const std::int64_t*>(data));
    case DType::kFloat16:
      return from_float16(at(static_cast<const std::uint16_t*>(data)));
    case DType::kBFloat16:
      return from_bfloat16(at(static_cast<const std::uint16_t*>(data)));
    case DType::kFloat32:
      return double{at(static_cast<const float*>(data))};
    case DType::kFloat64:
      return at(static_cast<const double*>(data));
    case DType::kComplex64:
      return std::complex<double>(at(static_cast<const std::complex<float>*>(data)));
    case DType::kComplex128:
      return at(static_cast<const std::complex<double>*>(data));
  }
  return {};
}

Json scalar_json(const Value& value) {
  if (value.is_bool()) return value.as_bool();
  if (value.is_int()) return value.as_int();
  if (value.is_string()) return value.as_string();
  if (value.is_complex()) return {value.as_complex().real(), value.as_complex().imag()};
  // JSON has no word for these.
  if (value.is_double() && !std::isfinite(value.as_double())) return number(value.as_double());
  if (value.is_double()) return value.as_double();
  return nullptr;
}

Json dim_json(const Dim& dim) {
  if (dim.is_static()) return *dim.min;
  if (dim.name.empty() && !dim.min && !dim.max) return nullptr;
  return {{"name", dim.name},
          {"min", dim.min ? Json(*dim.min) : Json()},
          {"max", dim.max ? Json(*dim.max) : Json()}};
}

Json specs_json(const std::vector<TensorSpec>& specs) {
  Json all = Json::array();
  for (const TensorSpec& spec : specs) {
    Json shape;
    if (spec.shape) {
      shape = Json::array();
      for (const Dim& dim : *spec.shape) shape.push_back(dim_json(dim));
    }
    all.push_back({{"name", spec.name},
                   {"type", spec.type},
                   {"dtype", spec.dtype ? Json(to_string(*spec.dtype)) : Json()},
                   {"shape", shape},
                   {"has_default", spec.has_default}});
    if (spec.leaves.empty()) continue;
    all.back().update({{"leaves", specs_json(spec.leaves)},
                       {"any_length", spec.any_length},
                       {"any_keys", spec.any_keys}});
  }
  return all;
}

/// "2026-11-30T12:00:00Z"
std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace

Table::Table(std::vector<std::pair<std::string, Align>> columns) {
  std::vector<std::string> titles;
  for (auto& [title, align] : columns) {
    titles.push_back(std::move(title));
    aligns_.push_back(align);
  }
  rows_.push_back(std::move(titles));
}

void Table::add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

std::string Table::to_string() const {
  std::vector<std::size_t> widths(aligns_.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - width_of(row[i]), ' ');
      if (i > 0) line += "  ";
      line += aligns_[i] == Align::kRight ? padding + row[i] : row[i] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

LiveLine::LiveLine(bool is_wanted) : is_on_(is_wanted && isatty(STDERR_FILENO) == 1) {}

LiveLine::~LiveLine() {
  if (is_on_) std::cerr << "\r\x1b[K";
}

void LiveLine::show(const std::string& text) {
  if (!is_on_) return;
  // A line that wraps could not be written over.
  winsize size = {};
  const bool is_known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  std::cerr << "\r\x1b[K" + text.substr(0, (is_known ? size.ws_col : 80) - 1) << std::flush;
}

std::string fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> sizes;
  for (const std::int64_t size : shape) sizes.push_back(std::to_string(size));
  return sizes.empty() ? "scalar" : join(sizes, "x");
}

std::string values_text(const Tensor& tensor) {
  const Tensor host = tensor.to_host();
  const std::int64_t count = host.numel();
  const bool is_cut = count > kShownValues;
  std::vector<std::string> shown;
  for (std::int64_t i = 0; i < (is_cut ? kShownValues - 2 : count); ++i) {
    shown.push_back(value_text(element(host, i)));
  }
  if (is_cut) shown.insert(shown.end(), {"…", value_text(element(host, count - 1))});
  return '[' + join(shown, ", ") + ']';
}

std::string bytes_text(std::uint64_t bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(units)) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.*f %s", unit == 0 ? 0 : 1, value, units[unit]);
  return text;
}

std::string join(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i > 0 ? separator : "") + parts[i];
  return text;
}

std::vector<Value> leaves_of(const Value& value) {
  if (!value.is_list() && !value.is_tuple() && !value.is_dict()) return {value};
  std::vector<Value> leaves;
  const auto add = [&](const Value& item) {
    for (Value& leaf : leaves_of(item)) leaves.push_back(std::move(leaf));
  };
  if (value.is_dict()) {
    for (const auto& [key, item] : value.as_dict()) add(item);
  } else {
    for (const Value& item : value.is_list() ? value.as_list() : value.as_tuple().values) add(item);
  }
  return leaves;
}

std::vector<Output> named_outputs(const Value& result, const Signature& signature) {
  const std::vector<Value> leaves = leaves_of(result);
  const auto& specs = signature.outputs;
  const bool has_names =
      specs.size() == leaves.size() &&
      std::none_of(specs.begin(), specs.end(), [](const TensorSpec& s) { return s.name.empty(); });
  std::vector<Output> outputs;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    outputs.push_back({has_names ? specs[i].name : "output_" + std::to_string(i), leaves[i]});
  }
  return outputs;
}

std::string value_text(const Value& value) {
  if (value.is_tensor()) return values_text(value.as_tensor());
  if (value.is_bool()) return value.as_bool() ? "true" : "false";
  if (value.is_int()) return std::to_string(value.as_int());
  if (value.is_double()) return number(value.as_double());
  if (value.is_string())
    return Json(value.as_string()).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (value.is_complex()) {
    const std::string imaginary = number(value.as_complex().imag());
    return number(value.as_complex().real()) + (imaginary.front() == '-' ? "" : "+") + imaginary +
           'j';
  }
  return value.type_name();
}

std::string type_text(const Value& value) {
  return value.is_tensor() ? to_string(value.as_tensor().dtype()) : value.type_name();
}

Json signature_json(const Signature& signature) {
  return {{"inputs", specs_json(signature.inputs)}, {"outputs", specs_json(signature.outputs)}};
}

Json model_json(const ModelInfo& info) {
  Json steps = Json::array();
  for (const LoadStep& step : info.load_steps) {
    steps.push_back({{"name", step.name}, {"ms", step.ms}});
    if (step.calls_ms.empty()) continue;
    steps.back().update({{"shapes", step.shapes}, {"calls_ms", step.calls_ms}});
  }
  return {{"name", info.name},
          {"path", info.path},
          {"device", info.device},
          {"executor", info.executor},
          {"decisions", info.decisions},
          {"stateful", info.stateful},
          {"optimized", info.optimized},
          {"grad", info.grad},
          {"precision", info.precision},
          {"precision_error", info.precision_error ? Json(*info.precision_error) : Json()},
          {"load_ms", info.load_ms},
          {"load_steps", steps}};
}

Json model_json(const Model& model) {
  Json json = model_json(model.info());
  json["signature"] = signature_json(model.signature());
  return json;
}

Json value_json(const Value& value) {
  if (!value.is_tensor()) return {{"type", value.type_name()}, {"value", scalar_json(value)}};
  const Tensor& tensor = value.as_tensor();
  Json json = {{"type", "tensor"}, {"dtype", to_string(tensor.dtype())}, {"shape", tensor.shape()}};
  if (tensor.numel() <= kJsonValues) {
    const Tensor host = tensor.to_host();
    json["values"] = Json::array();
    for (std::int64_t i = 0; i < host.numel(); ++i) {
      json["values"].push_back(scalar_json(element(host, i)));
    }
  }
  return json;
}

bool prints_text(const std::string& json_path) { return json_path != "-"; }

void write_json(const std::string& path, const std::string& command, const Json& document,
                int intra_op_threads) {
  if (path.empty()) return;
  const int threads = intra_op_threads > 0 ? intra_op_threads : default_intra_op_threads();
  Json full = {{"schema", 1},
               {"command", command},
               {"date", utc_now()},
               {"machine", machine_json()},
               {"versions", versions_json()},
               {"threads", threads}};
  full.update(document);
  const std::string text = full.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
  if (path == "-") {
    std::cout << text;
    return;
  }
  std::ofstream out(path, std::ios::trunc);
  out << text;
  out.close();
  if (!out) {
    throw Error("[output] " + path + ": it cannot be written: " + std::strerror(errno) +
                "; check the folder and the space on the disk");
  }
}

}  // namespace ts_infer::cli
