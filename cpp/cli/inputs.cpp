#include "inputs.h"

#include <algorithm>
#include <charconv>
#include <iostream>
#include <optional>

#include "npy.h"
#include "ts_infer/benchmark.h"
#include "ts_infer/error.h"

namespace ts_infer::cli {
namespace {

using Shape = std::vector<std::int64_t>;

struct Given {
  Value value;
  std::string source;  // the file, or the value as it was written
};

std::pair<std::string, std::string> split(const std::string& text) {
  const std::size_t equals = text.find('=');
  return {text.substr(0, equals), text.substr(equals + 1)};
}

template <typename T>
std::optional<T> parse(std::string_view text) {
  T value = {};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "" for no dimensions; nullopt when it is no shape.
std::optional<Shape> parse_shape(std::string_view text) {
  Shape shape;
  while (!text.empty()) {
    const std::size_t x = std::min(text.find('x'), text.size());
    const auto size = parse<std::int64_t>(text.substr(0, x));
    if (!size || *size < 0 || x + 1 == text.size()) return std::nullopt;
    shape.push_back(*size);
    text.remove_prefix(std::min(x + 1, text.size()));
  }
  return shape;
}

std::string without_optional(const std::string& type) {
  const std::string prefix = "Optional[";
  if (type.rfind(prefix, 0) != 0 || type.back() != ']') return type;
  return type.substr(prefix.size(), type.size() - prefix.size() - 1);
}

/// The one element of a tensor as the number that `type` asks for.
Value to_number(const std::string& type, const Tensor& tensor, const InputError& mismatch) {
  if (tensor.numel() != 1) throw mismatch;
  const DType dtype = tensor.dtype();
  if (type == "bool" && dtype == DType::kBool) return *tensor.data<bool>();
  if (dtype == DType::kInt32 && type != "bool") return std::int64_t{*tensor.data<std::int32_t>()};
  if (dtype == DType::kInt64 && type != "bool") return *tensor.data<std::int64_t>();
  if (dtype == DType::kFloat32 && type == "float") return double{*tensor.data<float>()};
  if (dtype == DType::kFloat64 && type == "float") return *tensor.data<double>();
  throw mismatch;
}

Value read_input(const std::string& model, const TensorSpec& spec, const std::string& text) {
  const std::string type = without_optional(spec.type);
  if (type == "str") return text;
  if (type == "int") {
    if (const auto value = parse<std::int64_t>(text)) return *value;
  } else if (type == "float") {
    if (const auto value = parse<double>(text)) return *value;
  } else if (type == "bool") {
    if (text == "true" || text == "True") return true;
    if (text == "false" || text == "False") return false;
  }
  const Tensor tensor = read_npy(text);
  if (type != "int" && type != "float" && type != "bool") return tensor;
  const Value value = to_number(
      type, tensor,
      InputError("[input] " + model + ": '" + spec.name + "': expected one value of type " + type +
                 ", got " + to_string(tensor.dtype()) + " of shape " + shape_text(tensor.shape()) +
                 " from " + text + "; write the value itself: --input " + spec.name + "=VALUE"));
  if (type == "float" && value.is_int()) return static_cast<double>(value.as_int());
  return value;
}

/// What can be given: an input, or the leaves of one that is a container.
std::vector<const TensorSpec*> specs_of(const TensorSpec& input) {
  if (input.leaves.empty()) return {&input};
  std::vector<const TensorSpec*> specs;
  for (const TensorSpec& leaf : input.leaves) specs.push_back(&leaf);
  return specs;
}

const TensorSpec& find_input(const Model& model, const std::string& name) {
  std::vector<std::string> names;
  for (const TensorSpec& input : model.signature().inputs) {
    for (const TensorSpec* leaf : specs_of(input)) {
      if (leaf->name == name) return *leaf;
      names.push_back(leaf->name);
    }
  }
  throw InputError("[input] " + model.info().name + ": no input '" + name + "': expected one of " +
                   (names.empty() ? "none" : join(names, ", ")) + "\n" +
                   model.signature().to_string());
}

std::map<std::string, Given> read_inputs(const Model& model, const InputArguments& arguments) {
  std::map<std::string, Given> given;
  for (const std::string& text : arguments.inputs) {
    const auto [name, source] = split(text);
    const TensorSpec& spec = find_input(model, name);
    const bool is_new =
        given.emplace(name, Given{read_input(model.info().name, spec, source), source}).second;
    if (!is_new) {
      throw InputError("[input] " + model.info().name + ": '" + name +
                       "' is given twice: expected one --input for it");
    }
  }
  return given;
}

/// Shapes asked for, and those of the tensors that are given: sizes that other inputs share.
std::map<std::string, Shape> known_shapes(const Model& model, const InputArguments& arguments,
                                          const std::map<std::string, Given>& given) {
  std::map<std::string, Shape> shapes;
  for (const std::string& text : arguments.shapes) {
    const auto [name, sizes] = split(text);
    find_input(model, name);
    if (given.count(name) > 0) {
      throw InputError("[input] " + model.info().name + ": '" + name +
                       "' has an --input and a --shape: expected one of them");
    }
    shapes[name] = *parse_shape(sizes);
  }
  for (const auto& [name, input] : given) {
    if (input.value.is_tensor()) shapes[name] = input.value.as_tensor().shape();
  }
  return shapes;
}

bool is_given(const TensorSpec& input, const std::map<std::string, Given>& given) {
  const std::vector<const TensorSpec*> leaves = specs_of(input);
  return std::any_of(leaves.begin(), leaves.end(),
                     [&](const TensorSpec* leaf) { return given.count(leaf->name) > 0; });
}

/// Of each leaf that `value` has. The keys of a dict that need not be there are where they have a
/// value or a shape.
std::vector<Output> named_leaves(const TensorSpec& input, const Value& value,
                                 const std::map<std::string, Shape>& shapes,
                                 const std::map<std::string, Given>& given) {
  if (input.leaves.empty()) return {{input.name, value}};
  std::vector<Output> named;
  std::vector<Value> values = leaves_of(value);
  auto next = values.begin();
  for (const TensorSpec& leaf : input.leaves) {
    if (leaf.has_default && given.count(leaf.name) == 0 && shapes.count(leaf.name) == 0) continue;
    named.push_back({leaf.name, std::move(*next++)});
  }
  return named;
}

Json describe(const std::string& name, const Value& value, const std::string& source) {
  Json json = {{"name", name}};
  json.update(value_json(value));
  json.erase("values");
  json["source"] = source;
  return json;
}

}  // namespace

std::string check_input(const std::string& text) {
  const std::size_t equals = text.find('=');
  const bool is_good = equals != std::string::npos && equals > 0 && equals + 1 < text.size();
  return is_good ? "" : "expected NAME=FILE.npy, got '" + text + "'";
}

std::string check_shape(const std::string& text) {
  const std::size_t equals = text.find('=');
  const bool is_good =
      equals != std::string::npos && equals > 0 && parse_shape(text.substr(equals + 1));
  return is_good ? "" : "expected NAME=1x3x224x224, got '" + text + "'";
}

InputShapes parse_shapes(const std::vector<std::string>& texts) {
  InputShapes shapes;
  for (const std::string& text : texts) {
    const auto [name, sizes] = split(text);
    shapes[name] = *parse_shape(sizes);
  }
  return shapes;
}

Inputs gather_inputs(const Model& model, const InputArguments& arguments) {
  const Signature& signature = model.signature();
  const std::map<std::string, Given> given = read_inputs(model, arguments);
  const auto shapes = known_shapes(model, arguments, given);
  bool needs_random = !arguments.shapes.empty();
  for (const TensorSpec& input : signature.inputs) {
    // A container is put together there, of what is given and what is drawn.
    needs_random |= given.count(input.name) == 0 && (!input.has_default || is_given(input, given));
  }
  std::vector<Value> random;
  if (needs_random) {
    std::map<std::string, Value> values;
    for (const auto& [name, input] : given) values.emplace(name, input.value);
    random = random_inputs(model, shapes, arguments.seed, values);
  }

  Inputs inputs;
  inputs.description = Json::array();
  bool has_gap = false;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    const auto found = given.find(spec.name);
    if (found == given.end() && i >= random.size()) {
      has_gap = true;
      continue;
    }
    Value value = found != given.end() ? found->second.value : random[i];
    for (const auto& [name, leaf] : named_leaves(spec, value, shapes, given)) {
      const auto source = given.find(name);
      if (source == given.end()) {
        std::cerr << "ts_infer: input " << name << " is random: " << type_text(leaf) << ' '
                  << shape_text(leaf.as_tensor().shape()) << ", seed " << arguments.seed << '\n';
      }
      inputs.description.push_back(
          describe(name, leaf, source == given.end() ? "random" : source->second.source));
    }
    if (has_gap) {
      inputs.kwargs.emplace(spec.name, std::move(value));
    } else {
      inputs.args.push_back(std::move(value));
    }
  }
  return inputs;
}

Inputs gather_positional_inputs(const Model& model, const InputArguments& arguments) {
  Inputs inputs = gather_inputs(model, arguments);
  if (!inputs.kwargs.empty()) {
    throw InputError("[input] " + model.info().name + ": '" + inputs.kwargs.begin()->first +
                     "' comes after an input that is left out: expected every input before it; "
                     "give them too\n" +
                     model.signature().to_string());
  }
  return inputs;
}

}  // namespace ts_infer::cli
