#include "random_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <optional>
#include <random>

#include "messages.h"
#include "model_access.h"
#include "ts_infer/benchmark.h"

namespace ts_infer {
namespace {

using Shape = std::vector<std::int64_t>;
using Shapes = InputShapes;

/// std::normal_distribution differs between standard libraries. Box-Muller on mt19937_64, whose
/// output is specified, gives the same values everywhere, up to the last bits of log and sin.
class Source {
 public:
  /// Each leaf has a stream of its own: its values do not depend on the sizes of the others.
  Source(std::uint64_t seed, std::size_t input) {
    std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                           static_cast<std::uint32_t>(input)};
    generator_.seed(sequence);
  }

  bool bit() { return generator_() >> 63 != 0; }

  double normal() {
    if (spare_) {
      const double value = *spare_;
      spare_.reset();
      return value;
    }
    const double radius = std::sqrt(-2 * std::log1p(-uniform()));
    const double angle = 2 * std::numbers::pi * uniform();
    spare_ = radius * std::sin(angle);
    return radius * std::cos(angle);
  }

 private:
  double uniform() { return static_cast<double>(generator_() >> 11) * 0x1p-53; }  // [0, 1)

  std::mt19937_64 generator_;
  std::optional<double> spare_;
};

std::uint32_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Drops the last `count` bits, rounding to nearest, ties to even.
std::uint32_t round_off(std::uint32_t bits, int count) {
  const std::uint32_t odd = (bits >> count) & 1;
  return (bits + ((1U << (count - 1)) - 1) + odd) >> count;
}

std::uint16_t to_bfloat16(float value) {
  return static_cast<std::uint16_t>(round_off(bits_of(value), 16));
}

/// For the finite values far below 65504 that normal() gives; below 2^-14 it gives zero.
std::uint16_t to_float16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  constexpr std::uint32_t kRebias = (127 - 15) << 23;
  if (magnitude < kRebias + (1U << 23)) return static_cast<std::uint16_t>(sign);
  return static_cast<std::uint16_t>(sign | round_off(magnitude - kRebias, 13));
}

template <typename T, typename Draw>
void fill(const Tensor& tensor, std::int64_t count, Draw draw) {
  T* out = static_cast<T*>(tensor.data_ptr());
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(draw());
}

Tensor draw_tensor(DType dtype, const Shape& shape, Source source) {
  const Tensor tensor = Tensor::empty(dtype, shape);
  const std::int64_t n = tensor.numel();
  const auto bit = [&] { return source.bit(); };
  const auto normal = [&] { return source.normal(); };
  const auto narrow = [&] { return static_cast<float>(source.normal()); };
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
    case DType::kInt8:
      fill<std::uint8_t>(tensor, n, bit);
      break;
    case DType::kInt16:
      fill<std::int16_t>(tensor, n, bit);
      break;
    case DType::kInt32:
      fill<std::int32_t>(tensor, n, bit);
      break;
    case DType::kInt64:
      fill<std::int64_t>(tensor, n, bit);
      break;
    case DType::kFloat16:
      fill<std::uint16_t>(tensor, n, [&] { return to_float16(narrow()); });
      break;
    case DType::kBFloat16:
      fill<std::uint16_t>(tensor, n, [&] { return to_bfloat16(narrow()); });
      break;
    case DType::kFloat32:
      fill<float>(tensor, n, narrow);
      break;
    case DType::kFloat64:
      fill<double>(tensor, n, normal);
      break;
    case DType::kComplex64:
      fill<float>(tensor, 2 * n, narrow);
      break;
    case DType::kComplex128:
      fill<double>(tensor, 2 * n, normal);
      break;
  }
  return tensor;
}

/// What has a shape: an input, or the leaves of one that is a container.
std::vector<const TensorSpec*> leaves_of(const std::vector<InputNode>& arguments) {
  std::vector<const TensorSpec*> leaves;
  for (const InputNode& argument : arguments) {
    for_each_leaf(argument, [&](const InputNode& node) { leaves.push_back(&node.leaf); });
  }
  return leaves;
}

class Sizes {
 public:
  Sizes(const InputSource& source, const Shapes& given) : source_(source), given_(given) {
    const std::vector<const TensorSpec*> leaves = leaves_of(source.arguments);
    check_names(leaves);
    for (const TensorSpec* input : leaves) {
      const auto shape = given.find(input->name);
      if (shape == given.end() || !input->shape) continue;
      check_rank(*input, shape->second);
      for (std::size_t i = 0; i < shape->second.size(); ++i) {
        const Dim& dim = (*input->shape)[i];
        const std::optional<std::int64_t> value = dim.value_of(shape->second[i]);
        if (!dim.name.empty() && value) values_.emplace(dim.name, *value);
      }
    }
  }

  Shape of(const TensorSpec& input) const {
    const auto given = given_.find(input.name);
    if (given != given_.end()) return given->second;
    const Shape* warm = warmup_shape(input.name);
    if (!input.shape) {
      if (warm) return *warm;
      throw unknown(input);
    }
    Shape shape;
    for (std::size_t i = 0; i < input.shape->size(); ++i) {
      const Dim& dim = (*input.shape)[i];
      const auto named = values_.find(dim.name);
      if (dim.is_static()) {
        shape.push_back(*dim.min);
      } else if (named != values_.end()) {
        shape.push_back(dim.size_of(named->second));
      } else if (warm && warm->size() == input.shape->size()) {
        shape.push_back((*warm)[i]);
      } else if (dim.min) {
        shape.push_back(*dim.min);
      } else {
        throw unknown(input);
      }
    }
    return shape;
  }

 private:
  std::string where() const { return "[random inputs] " + source_.model + ": "; }

  void check_names(const std::vector<const TensorSpec*>& leaves) const {
    std::vector<std::string> names;
    for (const TensorSpec* leaf : leaves) names.push_back(leaf->name);
    for (const auto& [name, shape] : given_) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      throw InputError(where() + "a shape for '" + name + "', which is no input: expected one of " +
                       (names.empty() ? "none" : join(names)) + "\n" +
                       source_.signature.to_string());
    }
  }

  void check_rank(const TensorSpec& input, const Shape& shape) const {
    if (shape.size() == input.shape->size()) return;
    throw InputError(where() + "the shape given for '" + input.name + "': expected " +
                     std::to_string(input.shape->size()) + " dimensions, got " +
                     shape_string(shape) + "; the input is " + input.to_string());
  }

  const Shape* warmup_shape(const std::string& input) const {
    if (source_.warmup_shapes.empty()) return nullptr;
    const auto shape = source_.warmup_shapes.front().find(input);
    return shape == source_.warmup_shapes.front().end() ? nullptr : &shape->second;
  }

  InputError unknown(const TensorSpec& input) const {
    return InputError(where() + "the shape of '" + input.name +
                      "' is not known: expected one in the archive's manifest or in the shapes "
                      "that are given, got neither; give the shape of '" +
                      input.name + "' (ts_infer: --shape " + input.name +
                      "=2x3), or the input itself\n" + source_.signature.to_string());
  }

  const InputSource& source_;
  const Shapes& given_;
  std::map<std::string, std::int64_t> values_;  // of dynamic dimensions
};

bool is_tensor(const TensorSpec& leaf, const Shapes& given) {
  return leaf.type == "Tensor" ||
         (leaf.type == "Optional[Tensor]" && (leaf.shape || given.count(leaf.name) > 0));
}

}  // namespace

std::uint64_t input_bytes(const InputSource& source, const Shapes& shapes) {
  const Sizes sizes(source, shapes);
  double total = 0;
  for (const TensorSpec* leaf : leaves_of(source.arguments)) {
    if (!is_tensor(*leaf, shapes)) continue;
    auto bytes = static_cast<double>(size_of(leaf->dtype.value_or(DType::kFloat32)));
    for (const std::int64_t size : sizes.of(*leaf)) bytes *= static_cast<double>(size);
    total += bytes;
  }
  return total < 0x1p63 ? static_cast<std::uint64_t>(total)
                        : std::numeric_limits<std::uint64_t>::max();
}

std::vector<Shapes> random_shapes(const Model& model, std::size_t count, std::uint64_t seed) {
  const auto& warmup = ModelAccess::archive(model).warmup_shapes;
  // By name: the range of each dynamic dimension's value.
  std::map<std::string, std::pair<double, double>> ranges;
  const std::vector<const TensorSpec*> leaves = leaves_of(ModelAccess::inputs(model));
  for (const TensorSpec* input : leaves) {
    for (std::size_t i = 0; input->shape && i < input->shape->size(); ++i) {
      const Dim& dim = (*input->shape)[i];
      if (dim.name.empty()) continue;
      const auto value = [&dim](std::int64_t size) {
        return (static_cast<double>(size) - static_cast<double>(dim.offset)) /
               static_cast<double>(dim.factor);
      };
      const double low = std::max(value(dim.min.value_or(1)), 1.0);
      double high = value(dim.max.value_or(0));
      for (const Shapes& shapes : warmup) {
        const auto shape = shapes.find(input->name);
        if (dim.max || shape == shapes.end() || i >= shape->second.size()) continue;
        high = std::max(high, value(shape->second[i]));
      }
      const auto known = ranges.emplace(dim.name, std::pair(low, std::max(low, high)));
      auto& range = known.first->second;
      range = {std::max(range.first, low), std::min(range.second, std::max(low, high))};
    }
  }
  if (ranges.empty()) return {};
  std::vector<Shapes> calls(count);
  std::mt19937_64 generator(seed);
  for (Shapes& shapes : calls) {
    std::map<std::string, std::int64_t> values;
    for (const auto& [name, range] : ranges) {
      const double fraction = static_cast<double>(generator() >> 11) * 0x1p-53;
      values[name] = std::llround(range.first * std::pow(range.second / range.first, fraction));
    }
    for (const TensorSpec* input : leaves) {
      if (!input->shape) continue;
      Shape shape;
      for (const Dim& dim : *input->shape) {
        shape.push_back(dim.name.empty() ? dim.min.value_or(1) : dim.size_of(values.at(dim.name)));
      }
      shapes.emplace(input->name, std::move(shape));
    }
  }
  return calls;
}

std::vector<Value> random_inputs(const Model& model, const Shapes& shapes, std::uint64_t seed,
                                 const std::map<std::string, Value>& given) {
  return random_inputs({model.info().name, model.signature(), ModelAccess::inputs(model),
                        ModelAccess::archive(model).warmup_shapes},
                       shapes, seed, given);
}

std::vector<Value> random_inputs(const InputSource& source, const Shapes& shapes,
                                 std::uint64_t seed, const std::map<std::string, Value>& given) {
  const Signature& signature = source.signature;
  const Sizes sizes(source, shapes);
  const std::string where = "[random inputs] " + source.model + ": ";
  const auto is_mentioned = [&](const InputNode& argument) {
    bool found = given.count(argument.name) > 0;
    for_each_leaf(argument, [&](const InputNode& node) {
      found |= shapes.count(node.name) > 0 || given.count(node.name) > 0;
    });
    return found;
  };
  const auto draw = [&](const InputNode& node) -> std::optional<Value> {
    const TensorSpec& leaf = node.leaf;
    if (const auto value = given.find(leaf.name); value != given.end()) return value->second;
    if (node.is_optional && shapes.count(leaf.name) == 0) return std::nullopt;
    if (!is_tensor(leaf, shapes)) {
      throw InputError(where + "'" + leaf.name + "' cannot be drawn: expected a Tensor, got " +
                       leaf.type + "; give '" + leaf.name + "' itself\n" + signature.to_string());
    }
    return draw_tensor(leaf.dtype.value_or(DType::kFloat32), sizes.of(leaf),
                       Source(seed, node.index));
  };
  std::vector<Value> values;
  const TensorSpec* left_out = nullptr;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& input = signature.inputs[i];
    const InputNode& argument = source.arguments[i];
    if (input.has_default && !is_mentioned(argument)) {
      if (!left_out) left_out = &input;
      continue;
    }
    std::optional<Value> value = given.count(input.name) > 0 ? std::optional(given.at(input.name))
                                                             : build_input(argument, draw);
    if (left_out) {
      throw InputError(where + "'" + input.name + "' comes after '" + left_out->name +
                       "', which is left out: expected a shape for '" + left_out->name +
                       "' too, got none");
    }
    values.push_back(*std::move(value));
  }
  return values;
}

}  // namespace ts_infer
