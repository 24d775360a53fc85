#include "device/pinned.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <exception>

namespace ts_infer {
namespace {

/// Asked once: where there is none, an exception in each call would cost more than the copy.
bool backend_has_pinned_memory() {
  static const bool has = [] {
    try {
      at::empty({1}, at::TensorOptions(at::kByte).pinned_memory(true));
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }();
  return has;
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.layout() == c10::kStrided && !tensor.is_nested() && !tensor.is_quantized();
}

}  // namespace

at::Tensor empty_pinned_like(const at::Tensor& tensor) {
  const at::TensorOptions options = tensor.options().device(c10::kCPU);
  if (is_plain(tensor) && backend_has_pinned_memory()) {
    try {
      return at::empty_like(tensor, options.pinned_memory(true));
    } catch (const std::exception&) {
      // Out of it. Ordinary memory makes the copy slower, and no less right.
    }
  }
  return at::empty_like(tensor, options);
}

at::Tensor pinned(const at::Tensor& tensor) {
  if (!is_plain(tensor) || !backend_has_pinned_memory()) return tensor;
  if (tensor.is_pinned() && tensor.is_non_overlapping_and_dense()) return tensor;
  return empty_pinned_like(tensor).copy_(tensor);
}

}  // namespace ts_infer
