#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>

namespace ts_infer {

/// The type that products are computed in, and why it is not the one that was asked for.
struct PrecisionChoice {
  c10::ScalarType type = c10::kFloat;
  std::string reason;  // empty: it is
};

/// @throws ModelLoadError for an unknown name
PrecisionChoice choose_precision(const std::string& requested, c10::Device device,
                                 const std::string& executor);

/// Its value of LoadOptions::precision.
std::string precision_name(c10::ScalarType type);

/// Whether a device computes float32 products in TF32, as torch's switches stand; empty where there
/// is none.
std::string tf32_text(c10::Device device);

/// Has linears, convolutions, matrix products and attention on float32 tensors take them in `type`
/// and give float32; returns how many. Constants are converted now, other tensors in each call. On
/// an accelerator; the host's own kernels convert as they pack.
int lower_products(const std::shared_ptr<torch::jit::Graph>& graph, c10::ScalarType type);

}  // namespace ts_infer
