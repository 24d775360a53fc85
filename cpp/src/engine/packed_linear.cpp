#include "engine/packed_linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "engine/threads.h"

namespace ts_infer {
namespace {

/// Outputs, or rows, that a thread takes at least.
constexpr std::int64_t kOutputs = 4 * kBlock;
constexpr std::int64_t kRows = 4 * kRowsAtOnce;

}  // namespace

PackedWeights pack_weights(const at::Tensor& given, const std::optional<at::Tensor>& bias,
                           bool bfloat16) {
  const at::Tensor weight =
      bfloat16 ? given.to(at::kBFloat16).contiguous().view(at::kFloat) : given;
  const std::int64_t outputs = weight.size(0);
  PackedWeights packed = {at::zeros({blocks_of(outputs), weight.size(1), kBlock}),
                          at::zeros({blocks_of(outputs) * kBlock})};
  for (std::int64_t first = 0; first < outputs; first += kBlock) {
    const std::int64_t count = std::min(kBlock, outputs - first);
    packed.weights[first / kBlock].narrow(1, 0, count).copy_(weight.narrow(0, first, count).t());
  }
  if (bias) packed.biases.narrow(0, 0, outputs).copy_(*bias);
  return packed;
}

void share(std::int64_t rows, std::int64_t outputs, std::int64_t inputs,
           c10::function_ref<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t)> part) {
  if (!kThreaded || rows * inputs * outputs <= kGrain || at::get_num_threads() == 1) {
    return part(0, rows, 0, outputs);
  }
  // Each thread reads its share of what is larger, weights or input, and all of the other.
  if (outputs >= rows) {
    const std::int64_t grain = parts(kGrain, rows * inputs * kOutputs);
    at::parallel_for(0, parts(outputs, kOutputs), grain, [&](auto begin, auto end) {
      part(0, rows, begin * kOutputs, std::min(outputs, end * kOutputs));
    });
  } else {
    const std::int64_t grain = parts(kGrain, kRows * inputs * outputs);
    at::parallel_for(0, parts(rows, kRows), grain, [&](auto begin, auto end) {
      part(begin * kRows, std::min(rows, end * kRows), 0, outputs);
    });
  }
}

PackedLinear::PackedLinear(const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                           bool bfloat16)
    : inputs_(weight.size(1)),
      outputs_(weight.size(0)),
      bfloat16_(bfloat16 && inputs_ % 2 == 0),
      packed_(pack_weights(weight, bias, bfloat16_)) {}

bool PackedLinear::pays(std::int64_t rows) const { return rows <= kRowsAtOnce || many_rows_pay(); }

at::Tensor PackedLinear::operator()(const at::Tensor& input, Activation activation) const {
  const at::Tensor rows = bfloat16_ ? input.contiguous().to(at::kBFloat16) : input.contiguous();
  c10::DimVector sizes(input.sizes());
  sizes.back() = outputs_;
  at::Tensor output = at::empty(sizes, input.options());
  LinearKernel kernel;
  kernel.rows = rows.numel() / inputs_;
  kernel.inputs = bfloat16_ ? inputs_ / 2 : inputs_;
  kernel.bfloat16 = bfloat16_;
  kernel.outputs = outputs_;
  kernel.activation = activation;
  kernel.weights = packed_.weights.const_data_ptr<float>();
  kernel.biases = packed_.biases.const_data_ptr<float>();
  kernel.input = static_cast<const float*>(rows.const_data_ptr());
  kernel.input_row = kernel.inputs;
  kernel.output = output.mutable_data_ptr();
  kernel.output_row = outputs_;
  share(kernel.rows, outputs_, kernel.inputs,
        [&](std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) {
          LinearKernel part = kernel;
          part.rows = end - begin;
          part.outputs = last - first;
          part.weights += first * kernel.inputs;
          part.biases += first;
          part.input += begin * part.input_row;
          part.output = kernel.output.from(begin * part.output_row + first);
          run(part);
        });
  return output;
}

}  // namespace ts_infer
