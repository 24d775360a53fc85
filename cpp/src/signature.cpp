#include "ts_infer/signature.h"

#include "messages.h"

namespace ts_infer {
namespace {

std::string describe(const Dim& dim) {
  if (dim.is_static()) return std::to_string(*dim.min);
  if (!dim.min) return dim.name.empty() ? "?" : dim.name;
  return dim.name + '=' + std::to_string(*dim.min) + ".." +
         (dim.max ? std::to_string(*dim.max) : "");
}

}  // namespace

std::string TensorSpec::to_string() const {
  std::string text = name + ": " + (dtype ? ts_infer::to_string(*dtype) : type);
  if (shape) {
    std::vector<std::string> dims;
    for (const Dim& dim : *shape) dims.push_back(describe(dim));
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
