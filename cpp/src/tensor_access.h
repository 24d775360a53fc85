#pragma once

#include <ATen/core/TensorBody.h>
#include <ATen/dlpack.h>

#include <utility>

#include "ts_infer/tensor.h"

namespace ts_infer::detail {

/// The one place that knows that a Tensor holds a reference to a c10::TensorImpl.
struct TensorAccess {
  static c10::TensorImpl* impl(const Tensor& tensor) {
    return static_cast<c10::TensorImpl*>(tensor.impl_);
  }

  static at::Tensor to_torch(const Tensor& tensor) {
    if (!tensor.impl_) return {};
    return at::Tensor(
        c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(impl(tensor)));
  }

  static Tensor from_torch(at::Tensor tensor) {
    Tensor result;
    if (tensor.defined()) result.impl_ = tensor.unsafeReleaseTensorImpl();
    return result;
  }
};

/// What torch does not look at, or ends the process for. @throws InputError
TS_INFER_API void check_dlpack(const DLTensor& tensor);

}  // namespace ts_infer::detail
