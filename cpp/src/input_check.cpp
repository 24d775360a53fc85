#include "input_check.h"

#include <c10/util/StringUtil.h>

#include <array>
#include <limits>
#include <map>

#include "dtype.h"
#include "messages.h"
#include "reach.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

constexpr auto kNone = static_cast<std::size_t>(-1);
constexpr std::int64_t kUnset = std::numeric_limits<std::int64_t>::min();

std::string range(const Dim& dim) {
  if (dim.is_static()) return std::to_string(*dim.min);
  return c10::str(
      dim.min.value_or(0), " or more", dim.max ? c10::str(" and at most ", *dim.max) : "",
      dim.factor == 1 ? "" : c10::str(", in steps of ", dim.factor), " (", dim.name, ")");
}

}  // namespace

InputCheck::InputCheck(const Signature& signature, std::vector<InputNode> arguments,
                       std::string where)
    : arguments_(std::move(arguments)),
      where_(std::move(where)),
      signature_(signature.to_string()) {
  std::map<std::string, std::size_t> known;
  const auto add = [&](const InputNode& leaf) {
    Check check;
    if (leaf.leaf.dtype) check.dtype = to_scalar_type(*leaf.leaf.dtype);
    for (const Dim& dim : leaf.leaf.shape.value_or(std::vector<Dim>())) {
      std::size_t name = kNone;
      if (!dim.name.empty()) {
        name = known.emplace(dim.name, known.size()).first->second;
        mentioned_.resize(known.size());
        ++mentioned_[name];
      }
      check.names.push_back(name);
    }
    checks_.push_back(std::move(check));
  };
  for (const InputNode& argument : arguments_) for_each_leaf(argument, add);
}

void InputCheck::check(const std::vector<c10::IValue>& arguments) const {
  std::array<std::int64_t, 16> storage;  // a call with as many named dimensions allocates nothing
  std::pmr::monotonic_buffer_resource memory(storage.data(), sizeof(storage));
  Values values(mentioned_.size(), kUnset, &memory);
  for (std::size_t i = 0; i < arguments.size() && i < arguments_.size(); ++i) {
    const InputNode& node = arguments_[i];
    if (node.kind == InputNode::Kind::kLeaf) {
      if (arguments[i].isTensor()) check_tensor(node, node.name, arguments[i].toTensor(), values);
      continue;
    }
    visit_input(node, arguments[i],
                {[&](const InputNode& leaf, const std::string& name, const c10::IValue& value) {
                   if (value.isTensor()) check_tensor(leaf, name, value.toTensor(), values);
                 },
                 [this](const std::string& name, const std::string& what) { fail(name, what); }});
  }
}

void InputCheck::check_tensor(const InputNode& leaf, const std::string& name,
                              const at::Tensor& tensor, Values& values) const {
  const Check& check = checks_[leaf.index];
  if (!tensor.defined()) fail(name, "expected a tensor with data, got an undefined one");
  if (check.dtype && tensor.scalar_type() != *check.dtype) {
    fail(name, c10::str("dtype: expected ", dtype_string(*check.dtype), ", got ",
                        dtype_string(tensor.scalar_type()), "; convert it first"));
  }
  if (!leaf.leaf.shape) return;
  const std::vector<Dim>& dims = *leaf.leaf.shape;
  const auto shape = tensor.sizes();
  if (shape.size() != dims.size()) {
    fail(name, c10::str("rank: expected ", dims.size(), ", got ", shape.size(), " in shape ",
                        shape_string(shape)));
  }
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const Dim& dim = dims[i];
    const std::optional<std::int64_t> value = dim.value_of(shape[i]);
    if (!value || (dim.min && shape[i] < *dim.min) || (dim.max && shape[i] > *dim.max)) {
      fail(name, c10::str("dimension ", i, ": expected ", range(dim), ", got ", shape[i],
                          " in shape ", shape_string(shape)));
    }
    const std::size_t named = check.names[i];
    // A size that one element alone has is no size of those that the example did not have.
    if (named == kNone || (name != leaf.name && mentioned_[named] == 1)) continue;
    if (values[named] != kUnset && values[named] != *value) {
      fail(name, c10::str("dimension ", i, ": expected ", dim.size_of(values[named]), ", as \"",
                          dim.name, "\" is elsewhere in this call, got ", shape[i]));
    }
    values[named] = *value;
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
