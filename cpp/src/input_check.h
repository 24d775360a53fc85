#pragma once

#include <ATen/core/ivalue.h>

#include <memory_resource>
#include <string>
#include <vector>

#include "input_nodes.h"
#include "ts_infer/signature.h"

namespace ts_infer {

/// Holds the arguments of a call against a signature, before the model sees them.
class InputCheck {
 public:
  /// `where` starts every message: "[call] name:".
  InputCheck(const Signature& signature, std::vector<InputNode> arguments, std::string where);

  /// Dtypes, ranks, sizes, ranges, equal sizes for equal dim names, elements and keys.
  /// @throws InputError that quotes the signature.
  void check(const std::vector<c10::IValue>& arguments) const;

  /// That torch could read every element: the tensor has memory of its own, as far as its sizes and
  /// strides reach. Else what is wrong with it: "expected …, got …"; "" where nothing is.
  static std::string memory_fault(const at::Tensor& tensor);

  /// Ends with the signature what is wrong with the arguments as a whole, or with one by name.
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail(const std::string& input, const std::string& what) const;

 private:
  /// Of each named dimension: its value in this call, kUnset where it is not known yet.
  using Values = std::pmr::vector<std::int64_t>;

  struct Check {
    std::optional<c10::ScalarType> dtype;
    std::vector<std::size_t> names;  // of each dimension, in Values; kNone without one
  };

  void check_tensor(const InputNode& leaf, const std::string& name, const at::Tensor& tensor,
                    Values& values) const;

  std::vector<InputNode> arguments_;
  std::vector<Check> checks_;           // of each leaf
  std::vector<std::size_t> mentioned_;  // of each named dimension: how often
  std::string where_;
  std::string signature_;
};

}  // namespace ts_infer
