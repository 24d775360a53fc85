#include "engine/packed_linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "engine/threads.h"

namespace ts_infer {
namespace {

/// Outputs, or rows, that a thread takes at least.
constexpr std::int64_t kOutputs = 4 * kBlock;
constexpr std::int64_t kRows = 4 * kRowsAtOnce;

/// Threads share the outputs where there are enough of them, so that each reads its own weights,
/// else the rows.
void run_on_threads(const LinearKernel& whole) {
  const std::int64_t products = whole.rows * whole.inputs * whole.outputs;
  if (!kThreaded || products <= kGrain || at::get_num_threads() == 1) return run(whole);
  if (parts(whole.outputs, kOutputs) >= at::get_num_threads()) {
    const std::int64_t grain = parts(kGrain, whole.rows * whole.inputs * kOutputs);
    at::parallel_for(0, parts(whole.outputs, kOutputs), grain, [&](auto begin, auto end) {
      const std::int64_t first = begin * kOutputs;
      LinearKernel part = whole;
      part.outputs = std::min(whole.outputs, end * kOutputs) - first;
      part.weights += first * whole.inputs;
      part.biases += first;
      part.output += first;
      run(part);
    });
  } else {
    const std::int64_t grain = parts(kGrain, kRows * whole.inputs * whole.outputs);
    at::parallel_for(0, parts(whole.rows, kRows), grain, [&](auto begin, auto end) {
      const std::int64_t first = begin * kRows;
      LinearKernel part = whole;
      part.rows = std::min(whole.rows, end * kRows) - first;
      part.input += first * whole.input_row;
      part.output += first * whole.output_row;
      run(part);
    });
  }
}

}  // namespace

PackedLinear::PackedLinear(const at::Tensor& weight, const std::optional<at::Tensor>& bias)
    : inputs_(weight.size(1)), outputs_(weight.size(0)) {
  const std::int64_t padded = blocks_of(outputs_) * kBlock;
  weights_ = at::zeros({blocks_of(outputs_), inputs_, kBlock});
  for (std::int64_t first = 0; first < outputs_; first += kBlock) {
    const std::int64_t count = std::min(kBlock, outputs_ - first);
    weights_[first / kBlock].narrow(1, 0, count).copy_(weight.narrow(0, first, count).t());
  }
  biases_ = at::zeros({padded});
  if (bias) biases_.narrow(0, 0, outputs_).copy_(*bias);
}

bool PackedLinear::pays(std::int64_t rows) const { return rows <= kRowsAtOnce || many_rows_pay(); }

at::Tensor PackedLinear::operator()(const at::Tensor& input, Activation activation) const {
  const at::Tensor rows = input.contiguous();
  c10::DimVector sizes(rows.sizes());
  sizes.back() = outputs_;
  at::Tensor output = at::empty(sizes, rows.options());
  LinearKernel kernel;
  kernel.rows = rows.numel() / inputs_;
  kernel.inputs = inputs_;
  kernel.outputs = outputs_;
  kernel.activation = activation;
  kernel.weights = weights_.const_data_ptr<float>();
  kernel.biases = biases_.const_data_ptr<float>();
  kernel.input = rows.const_data_ptr<float>();
  kernel.input_row = inputs_;
  kernel.output = output.mutable_data_ptr<float>();
  kernel.output_row = outputs_;
  run_on_threads(kernel);
  return output;
}

}  // namespace ts_infer
