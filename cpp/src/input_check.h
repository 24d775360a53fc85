#pragma once

#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

#include "ts_infer/signature.h"

namespace ts_infer {

/// Holds the arguments of a call against a signature, before the model sees them.
class InputCheck {
 public:
  /// `where` starts every message: "[call] name:".
  InputCheck(const Signature& signature, std::string where);

  /// Dtypes, ranks, sizes, ranges, and equal sizes for equal dim names.
  /// @throws InputError that quotes the signature.
  void check(const std::vector<c10::IValue>& arguments) const;

  /// That torch could read every element: the tensor has memory of its own, as far as its sizes and
  /// strides reach. Else what is wrong with it: "expected …, got …"; "" where nothing is.
  static std::string memory_fault(const at::Tensor& tensor);

  /// Ends with the signature what is wrong with the arguments as a whole, or with one by name.
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail(const std::string& input, const std::string& what) const;

 private:
  struct Place {
    std::size_t input, dimension;
  };

  struct Check {
    std::optional<c10::ScalarType> dtype;
    std::optional<std::vector<Dim>> shape;
    std::vector<std::vector<Place>> before;  // where each dimension's name stands before it
  };

  void check_tensor(std::size_t index, const std::vector<c10::IValue>& arguments) const;
  std::optional<std::int64_t> size_before(const std::vector<Place>& places,
                                          const std::vector<c10::IValue>& arguments) const;

  std::vector<std::string> names_;
  std::vector<Check> checks_;
  std::string where_;
  std::string signature_;
};

}  // namespace ts_infer
