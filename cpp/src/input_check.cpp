#include "input_check.h"

#include <c10/util/StringUtil.h>

#include <algorithm>

#include "dtype.h"
#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

constexpr std::int64_t kUnset = -1;

std::string range(const Dim& dim) {
  if (dim.is_static()) return std::to_string(*dim.min);
  return c10::str(dim.min.value_or(0), " or more",
                  dim.max ? c10::str(" and at most ", *dim.max) : "", " (", dim.name, ")");
}

}  // namespace

InputCheck::InputCheck(const Signature& signature, std::string where)
    : where_(std::move(where)), signature_(signature.to_string()) {
  for (const TensorSpec& input : signature.inputs) {
    names_.push_back(input.name);
    Check check;
    if (input.dtype) check.dtype = to_scalar_type(*input.dtype);
    check.shape = input.shape;
    for (const Dim& dim : input.shape.value_or(std::vector<Dim>())) {
      int id = -1;
      if (!dim.name.empty()) {
        const auto known = std::find(dim_names_.begin(), dim_names_.end(), dim.name);
        id = static_cast<int>(known - dim_names_.begin());
        if (known == dim_names_.end()) dim_names_.push_back(dim.name);
      }
      check.dim_ids.push_back(id);
    }
    checks_.push_back(std::move(check));
  }
}

void InputCheck::check(const std::vector<c10::IValue>& arguments) const {
  std::vector<std::int64_t> named_sizes(dim_names_.size(), kUnset);
  for (std::size_t i = 0; i < arguments.size() && i < checks_.size(); ++i) {
    if (arguments[i].isTensor()) check_tensor(i, arguments[i].toTensor(), named_sizes);
  }
}

void InputCheck::check_tensor(std::size_t index, const at::Tensor& tensor,
                              std::vector<std::int64_t>& named_sizes) const {
  const Check& check = checks_[index];
  if (!tensor.defined()) fail(names_[index], "expected a tensor with data, got an undefined one");
  if (check.dtype && tensor.scalar_type() != *check.dtype) {
    fail(names_[index], c10::str("dtype: expected ", dtype_string(*check.dtype), ", got ",
                                 dtype_string(tensor.scalar_type()), "; convert it first"));
  }
  if (!check.shape) return;
  const std::vector<Dim>& dims = *check.shape;
  const auto sizes = tensor.sizes();
  if (sizes.size() != dims.size()) {
    fail(names_[index], c10::str("rank: expected ", dims.size(), ", got ", sizes.size(),
                                 " in shape ", shape_string(sizes)));
  }
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const Dim& dim = dims[i];
    if ((dim.min && sizes[i] < *dim.min) || (dim.max && sizes[i] > *dim.max)) {
      fail(names_[index], c10::str("dimension ", i, ": expected ", range(dim), ", got ", sizes[i],
                                   " in shape ", shape_string(sizes)));
    }
    if (check.dim_ids[i] < 0) continue;
    std::int64_t& known = named_sizes[static_cast<std::size_t>(check.dim_ids[i])];
    if (known != kUnset && known != sizes[i]) {
      fail(names_[index], c10::str("dimension ", i, ": expected ", known, ", as \"", dim.name,
                                   "\" is elsewhere in this call, got ", sizes[i]));
    }
    known = sizes[i];
  }
}

void InputCheck::fail(const std::string& what) const {
  throw InputError(where_ + ' ' + what + '\n' + signature_);
}

void InputCheck::fail(const std::string& input, const std::string& what) const {
  fail("input \"" + input + "\": " + what);
}

}  // namespace ts_infer
