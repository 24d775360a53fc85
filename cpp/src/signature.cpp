#include "ts_infer/signature.h"

#include <limits>

#include "messages.h"

namespace ts_infer {

std::int64_t Dim::size_of(std::int64_t value) const {
  std::int64_t size = 0;
  const bool beyond =
      __builtin_mul_overflow(factor, value, &size) || __builtin_add_overflow(size, offset, &size);
  return beyond ? std::numeric_limits<std::int64_t>::max() : size;
}

std::optional<std::int64_t> Dim::value_of(std::int64_t size) const {
  if (factor == 1 && offset == 0) return size;
  std::int64_t rest = 0;
  if (__builtin_sub_overflow(size, offset, &rest) || rest % factor != 0) return std::nullopt;
  return rest / factor;
}

std::string Dim::to_string() const {
  if (is_static()) return std::to_string(*min);
  if (name.empty() && !min) return "?";
  std::string text = factor == 1 ? name : std::to_string(factor) + '*' + name;
  if (offset != 0) text += (offset < 0 ? "" : "+") + std::to_string(offset);
  if (!min) return text;
  return text + '=' + std::to_string(*min) + ".." + (max ? std::to_string(*max) : "");
}

std::string TensorSpec::to_string() const {
  std::string text = name + ": " + (dtype ? ts_infer::to_string(*dtype) : type);
  if (shape) {
    std::vector<std::string> dims;
    for (const Dim& dim : *shape) dims.push_back(dim.to_string());
    text += '[' + join(dims) + ']';
  }
  if (any_length) text += " (any length)";
  if (any_keys) text += " (any keys)";
  if (has_default) text += " (optional)";
  return text;
}

std::string Signature::to_string() const {
  std::string text = "inputs:\n";
  for (const TensorSpec& input : inputs) {
    text += "  " + input.to_string() + '\n';
    for (const TensorSpec& leaf : input.leaves) text += "    " + leaf.to_string() + '\n';
  }
  text += "outputs:\n";
  for (const TensorSpec& output : outputs) text += "  " + output.to_string() + '\n';
  return text;
}

}  // namespace ts_infer
