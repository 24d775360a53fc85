#pragma once

#include <ATen/core/Tensor.h>

namespace ts_infer {

/// A host tensor of the sizes, strides and dtype of `tensor`, its values unset, in pinned memory,
/// which a device copies from and to while the host goes on. In ordinary memory where the backend
/// has no pinned memory, or no more of it.
at::Tensor empty_pinned_like(const at::Tensor& tensor);

/// `tensor`, which is on the host, as a device best reads it: itself where it is pinned, and where
/// it cannot be; else a pinned copy.
at::Tensor pinned(const at::Tensor& tensor);

}  // namespace ts_infer
