#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <optional>

#include "engine/kernels.h"

namespace ts_infer {

/// Weights as kernels.h takes them.
struct PackedWeights {
  at::Tensor weights;  // [block][input][kBlock], of bfloat16 [block][pair of inputs][kBlock]
  at::Tensor biases;   // [block][kBlock]
};

/// @param weight   [output, input], float32
/// @param bias     [output], or nothing
/// @param bfloat16 round the weights to it; their inputs are even in number
PackedWeights pack_weights(const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                           bool bfloat16);

/// Calls part(begin, end, first, last) for rows [begin, end) and outputs [first, last), where
/// `first` begins a block, so that all are done once, on torch's intra-op threads where that pays.
void share(std::int64_t rows, std::int64_t outputs, std::int64_t inputs,
           c10::function_ref<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t)> part);

/// A fully connected layer whose weights are packed once, for any number of rows: nothing is set up
/// for a number that is new. Runs on torch's intra-op threads. Calls may come from any thread.
class PackedLinear {
 public:
  /// @param weight   [output, input], float32
  /// @param bias     [output], or nothing
  /// @param bfloat16 multiply numbers of that, where inputs are even in number
  PackedLinear(const at::Tensor& weight, const std::optional<at::Tensor>& bias,
               bool bfloat16 = false);

  std::int64_t inputs() const { return inputs_; }
  std::int64_t outputs() const { return outputs_; }

  /// Whether this is expected to be faster than torch's own product.
  bool pays(std::int64_t rows) const;

  /// @param input [..., input], float32 on the host, with at least one row
  /// @return      [..., output]
  at::Tensor operator()(const at::Tensor& input, Activation activation) const;

 private:
  std::int64_t inputs_;
  std::int64_t outputs_;
  bool bfloat16_;
  PackedWeights packed_;
};

}  // namespace ts_infer
