#include "input_check.h"

#include <c10/util/StringUtil.h>

#include <map>

#include "dtype.h"
#include "messages.h"
#include "reach.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

std::string range(const Dim& dim) {
  if (dim.is_static()) return std::to_string(*dim.min);
  return c10::str(dim.min.value_or(0), " or more",
                  dim.max ? c10::str(" and at most ", *dim.max) : "", " (", dim.name, ")");
}

}  // namespace

InputCheck::InputCheck(const Signature& signature, std::string where)
    : where_(std::move(where)), signature_(signature.to_string()) {
  std::map<std::string, std::vector<Place>> named;
  for (const TensorSpec& input : signature.inputs) {
    names_.push_back(input.name);
    Check check;
    if (input.dtype) check.dtype = to_scalar_type(*input.dtype);
    check.shape = input.shape;
    for (const Dim& dim : input.shape.value_or(std::vector<Dim>())) {
      check.before.push_back(dim.name.empty() ? std::vector<Place>() : named[dim.name]);
      if (!dim.name.empty()) named[dim.name].push_back({checks_.size(), check.before.size() - 1});
    }
    checks_.push_back(std::move(check));
  }
}

void InputCheck::check(const std::vector<c10::IValue>& arguments) const {
  for (std::size_t i = 0; i < arguments.size() && i < checks_.size(); ++i) {
    if (arguments[i].isTensor()) check_tensor(i, arguments);
  }
}

/// Of the first of these places that is an argument's.
std::optional<std::int64_t> InputCheck::size_before(
    const std::vector<Place>& places, const std::vector<c10::IValue>& arguments) const {
  for (const Place& place : places) {
    const c10::IValue& argument = arguments[place.input];
    if (argument.isTensor()) {
      return argument.toTensor().size(static_cast<std::int64_t>(place.dimension));
    }
  }
  return std::nullopt;
}

void InputCheck::check_tensor(std::size_t index, const std::vector<c10::IValue>& arguments) const {
  const Check& check = checks_[index];
  const at::Tensor& tensor = arguments[index].toTensor();
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
    const auto known = size_before(check.before[i], arguments);
    if (known && *known != sizes[i]) {
      fail(names_[index], c10::str("dimension ", i, ": expected ", *known, ", as \"", dim.name,
                                   "\" is elsewhere in this call, got ", sizes[i]));
    }
  }
}

std::string InputCheck::memory_fault(const at::Tensor& tensor) {
  // What has these stands for a tensor, and its memory is elsewhere or nowhere.
  constexpr c10::DispatchKeySet kStandIns({
      c10::DispatchKey::Python,
      c10::DispatchKey::Functionalize,
      c10::DispatchKey::FuncTorchBatched,
      c10::DispatchKey::FuncTorchGradWrapper,
      c10::DispatchKey::Batched,
  });
  if (tensor.key_set().has_any(kStandIns)) {
    return "expected a tensor with memory of its own, got one that stands for another (a fake or "
           "functional tensor, or one inside vmap or grad); give the tensor itself";
  }
  // Sparse, nested and oneDNN's tensors keep theirs elsewhere, where nobody can take it away.
  if (tensor.layout() != c10::kStrided || !tensor.has_storage() || tensor.numel() == 0) return "";
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  const auto last = last_element(sizes, strides, tensor.storage_offset());
  const c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  const std::size_t elements = storage.nbytes() / tensor.itemsize();
  if (last && static_cast<std::uint64_t>(*last) < elements && storage.data() != nullptr) return "";
  return c10::str("expected memory for every element of shape ", shape_string(sizes),
                  " with strides ", shape_string(strides), ", got ", storage.data() ? elements : 0,
                  " elements");
}

void InputCheck::fail(const std::string& what) const {
  throw InputError(where_ + ' ' + what + '\n' + signature_);
}

void InputCheck::fail(const std::string& input, const std::string& what) const {
  fail("input \"" + input + "\": " + what);
}

}  // namespace ts_infer
