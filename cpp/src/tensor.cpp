#include "ts_infer/tensor.h"

#include <ATen/DLConvertor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>

#include "device/device.h"
#include "dtype.h"
#include "messages.h"
#include "reach.h"
#include "tensor_access.h"
#include "ts_infer/error.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using detail::TensorAccess;

struct DTypeInfo {
  DType dtype;
  const char* name;
  c10::ScalarType scalar_type;
  std::size_t size;
};

constexpr std::array<DTypeInfo, 12> kDTypes = {{
    {DType::kBool, "bool", c10::ScalarType::Bool, 1},
    {DType::kUInt8, "uint8", c10::ScalarType::Byte, 1},
    {DType::kInt8, "int8", c10::ScalarType::Char, 1},
    {DType::kInt16, "int16", c10::ScalarType::Short, 2},
    {DType::kInt32, "int32", c10::ScalarType::Int, 4},
    {DType::kInt64, "int64", c10::ScalarType::Long, 8},
    {DType::kFloat16, "float16", c10::ScalarType::Half, 2},
    {DType::kBFloat16, "bfloat16", c10::ScalarType::BFloat16, 2},
    {DType::kFloat32, "float32", c10::ScalarType::Float, 4},
    {DType::kFloat64, "float64", c10::ScalarType::Double, 8},
    {DType::kComplex64, "complex64", c10::ScalarType::ComplexFloat, 8},
    {DType::kComplex128, "complex128", c10::ScalarType::ComplexDouble, 16},
}};

const DTypeInfo& info_of(DType dtype) { return kDTypes.at(static_cast<std::size_t>(dtype)); }

/// Elements of a shape; an InputError for negative sizes and for more bytes than can be addressed.
std::int64_t checked_numel(const std::vector<std::int64_t>& shape, std::size_t element_size) {
  std::int64_t bytes = static_cast<std::int64_t>(element_size);
  bool is_empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) {
      throw InputError(c10::str("[tensor] shape ", shape_string(shape),
                                ": expected sizes of 0 or more, got ", size));
    }
    is_empty = is_empty || size == 0;
    // Strides count a size of 0 as 1.
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) {
      throw InputError(c10::str("[tensor] shape ", shape_string(shape),
                                ": expected fewer than 2^63 bytes; check the sizes"));
    }
  }
  return is_empty ? 0 : bytes / static_cast<std::int64_t>(element_size);
}

const c10::TensorImpl& impl_of(const Tensor& tensor) {
  const c10::TensorImpl* impl = TensorAccess::impl(tensor);
  if (!impl) throw InputError("[tensor] expected a tensor with data, got an undefined one");
  return *impl;
}

}  // namespace

c10::ScalarType to_scalar_type(DType dtype) { return info_of(dtype).scalar_type; }

std::optional<DType> from_scalar_type(c10::ScalarType type) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.scalar_type == type) return info.dtype;
  }
  return std::nullopt;
}

const char* to_string(DType dtype) { return info_of(dtype).name; }

std::optional<DType> dtype_from_string(const std::string& name) {
  for (const DTypeInfo& info : kDTypes) {
    if (name == info.name) return info.dtype;
  }
  return std::nullopt;
}

std::size_t size_of(DType dtype) { return info_of(dtype).size; }

Tensor::Tensor(const Tensor& other) noexcept : impl_(other.impl_) {
  if (impl_) c10::raw::intrusive_ptr::incref(static_cast<c10::TensorImpl*>(impl_));
}

Tensor::~Tensor() {
  if (impl_) c10::raw::intrusive_ptr::decref(static_cast<c10::TensorImpl*>(impl_));
}

Tensor Tensor::from_blob(void* data, DType dtype, const std::vector<std::int64_t>& shape,
                         const std::vector<std::int64_t>& strides, const std::string& device,
                         std::function<void()> deleter) {
  const std::int64_t numel = checked_numel(shape, size_of(dtype));
  if (!data && numel > 0) {
    throw InputError(
        c10::str("[tensor] shape ", shape_string(shape), ": expected a pointer to data, got null"));
  }
  if (!strides.empty()) {
    if (strides.size() != shape.size()) {
      throw InputError(c10::str("[tensor] strides ", shape_string(strides), ": expected ",
                                shape.size(), " strides for shape ", shape_string(shape)));
    }
    // torch addresses from the first element on, and cannot step backwards.
    if (!is_addressable(shape, strides, size_of(dtype))) {
      throw InputError(c10::str("[tensor] strides ", shape_string(strides),
                                ": expected strides of 0 or more that stay in memory"));
    }
  }
  const c10::Device where = resolve_device<InputError>("[tensor]", device);
  const auto options = at::TensorOptions().dtype(to_scalar_type(dtype)).device(where);
  const c10::InferenceMode ordinary(false);
  at::TensorMaker maker = at::for_blob(data, shape);
  maker.options(options).target_device(where);
  if (!strides.empty()) maker.strides(c10::IntArrayRef(strides));
  if (deleter) maker.deleter([release = std::move(deleter)](void*) { release(); });
  return TensorAccess::from_torch(maker.make_tensor());
}

Tensor Tensor::empty(DType dtype, const std::vector<std::int64_t>& shape) {
  checked_numel(shape, size_of(dtype));
  const c10::InferenceMode ordinary(false);
  try {
    return TensorAccess::from_torch(
        at::empty(shape, at::TensorOptions().dtype(to_scalar_type(dtype))));
  } catch (const std::exception& error) {
    throw ExecutionError(
        c10::str("[tensor] shape ", shape_string(shape), ": ", clean_message(error)));
  }
}

void detail::check_dlpack(const DLTensor& tensor) {
  const auto fail = [](const std::string& what) {
    throw InputError("[tensor] from_dlpack: expected " + what);
  };
  if (tensor.ndim < 0 || (tensor.ndim > 0 && !tensor.shape)) {
    fail(c10::str("a shape, got ", tensor.ndim, " dimensions at ", tensor.shape));
  }
  const std::vector<std::int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  const std::size_t element_size = std::max(tensor.dtype.bits / 8, 1);
  const std::int64_t numel = checked_numel(shape, element_size);
  if (numel > 0 && !tensor.data) fail("a pointer to data, got null");
  if (!tensor.strides) return;
  const c10::IntArrayRef strides(tensor.strides, shape.size());
  if (!is_addressable(shape, strides, element_size)) {
    fail("strides of 0 or more that stay in memory, got " + shape_string(strides) +
         "; make a copy");
  }
}

Tensor Tensor::from_dlpack(DLManagedTensor* managed) {
  if (!managed) throw InputError("[tensor] from_dlpack: expected a DLPack tensor, got null");
  detail::check_dlpack(managed->dl_tensor);
  try {
    const c10::InferenceMode ordinary(false);
    return ts_infer::from_torch(at::fromDLPack(managed));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw InputError(c10::str("[tensor] from_dlpack: ", clean_message(error)));
  }
}

DLManagedTensor* Tensor::to_dlpack() const {
  impl_of(*this);
  try {
    return at::toDLPack(TensorAccess::to_torch(*this));
  } catch (const std::exception& error) {
    throw InputError(c10::str("[tensor] to_dlpack: ", clean_message(error)));
  }
}

DType Tensor::dtype() const {
  // from_torch() let no other type in.
  return *from_scalar_type(c10::typeMetaToScalarType(impl_of(*this).dtype()));
}

std::vector<std::int64_t> Tensor::shape() const { return impl_of(*this).sizes().vec(); }

std::vector<std::int64_t> Tensor::strides() const { return impl_of(*this).strides().vec(); }

std::string Tensor::device() const { return impl_of(*this).device().str(); }

std::int64_t Tensor::dim() const { return impl_of(*this).dim(); }

std::int64_t Tensor::size(std::int64_t axis) const {
  const c10::TensorImpl& impl = impl_of(*this);
  if (axis < 0 || axis >= impl.dim()) {
    throw InputError(
        c10::str("[tensor] size: expected an axis from 0 to ", impl.dim() - 1, ", got ", axis));
  }
  return impl.size(axis);
}

std::int64_t Tensor::numel() const { return impl_of(*this).numel(); }

std::size_t Tensor::nbytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype()); }

bool Tensor::is_contiguous() const { return impl_of(*this).is_contiguous(); }

void* Tensor::data_ptr() const {
  impl_of(*this);
  return TensorAccess::to_torch(*this).data_ptr();
}

Tensor Tensor::to_host() const {
  impl_of(*this);
  const at::Tensor tensor = TensorAccess::to_torch(*this);
  if (tensor.is_cpu() && tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) {
    return *this;
  }
  try {
    const c10::InferenceMode ordinary(false);
    return TensorAccess::from_torch(tensor.cpu().contiguous().resolve_conj().resolve_neg());
  } catch (const std::exception& error) {
    throw ExecutionError(c10::str("[tensor] to_host: ", clean_message(error)));
  }
}

void Tensor::check_count(std::size_t count, const std::vector<std::int64_t>& shape) {
  const std::int64_t expected = checked_numel(shape, 1);
  if (static_cast<std::size_t>(expected) != count) {
    throw InputError(c10::str("[tensor] shape ", shape_string(shape), ": expected ", expected,
                              " elements, got ", count));
  }
}

void Tensor::check_dtype(DType expected) const {
  if (dtype() != expected) {
    throw InputError(c10::str("[tensor] data: expected ", ts_infer::to_string(dtype()),
                              ", the tensor's dtype, got ", ts_infer::to_string(expected)));
  }
}

at::Tensor to_torch(const Tensor& tensor) { return TensorAccess::to_torch(tensor); }

Tensor from_torch(at::Tensor tensor) {
  if (tensor.defined()) {
    if (tensor.layout() != c10::kStrided || tensor.is_quantized()) {
      const bool is_quantized = tensor.is_quantized();
      throw InputError(
          c10::str("[tensor] ", is_quantized ? "dtype " : "layout ",
                   is_quantized ? dtype_string(tensor.scalar_type()) : c10::str(tensor.layout()),
                   ": expected a dense tensor; call ", is_quantized ? "dequantize" : "to_dense",
                   "() first"));
    }
    if (!from_scalar_type(tensor.scalar_type())) {
      throw InputError(c10::str("[tensor] dtype ", tensor.scalar_type(),
                                ": expected bool, an integer, a float or a complex type that "
                                "DLPack knows; cast it first"));
    }
    if (tensor.is_meta()) throw InputError("[tensor] device meta: expected a tensor with values");
  }
  return TensorAccess::from_torch(std::move(tensor));
}

}  // namespace ts_infer
