#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/kernels.h"
#include "engine/packed_linear.h"

namespace ts_infer {

/// A batch norm with fixed statistics; of each channel.
struct BatchNorm {
  std::optional<at::Tensor> weight, bias;
  at::Tensor mean, variance;
  double epsilon = 0;
};

/// What a convolution over one or two dimensions is made of; lists have a number a dimension.
struct ConvolutionParameters {
  at::Tensor weight;  // [output, channel of a group, y, x], or without y;
                      // transposed: [channel, output of a group, y, x]
  std::optional<at::Tensor> bias;
  std::vector<std::int64_t> stride, padding, dilation;
  std::int64_t groups = 1;
  bool transposed = false;
  std::vector<std::int64_t> output_padding;  // of a transposed one
  std::optional<BatchNorm> norm;             // behind it
  bool only_batches = false;                 // an input of one dimension less is refused
};

struct ConvolutionPrecision {
  bool bfloat16 = false;         // multiply numbers of that, and take them
  bool bfloat16_output = false;  // give them, where nothing is added after the kernel
};

/// What is added to a convolution.
struct Addend {
  at::Tensor tensor;      // as the result or of a shape that broadcasts with it; undefined: nothing
  bool in_place = false;  // the sum keeps the result's shape and dtype, or is refused

  at::Tensor added_to(const at::Tensor& result) const;
};

/// A convolution whose weights are packed once, for images of any size: nothing is set up for a
/// size that is new. Runs on torch's intra-op threads. Calls may come from any thread.
class PackedConvolution {
 public:
  /// Whether there is a kernel for it: without groups, depthwise, or with groups of 4 channels and
  /// outputs or more; transposed without groups.
  static bool takes(const ConvolutionParameters& parameters);

  /// Whether it can: the channels of a group are even in number, or few.
  static bool multiplies_bfloat16(const ConvolutionParameters& parameters);

  PackedConvolution(ConvolutionParameters parameters, const ConvolutionPrecision& precision);

  /// activation(norm(convolution of input) + added). What no kernel is for is computed by torch.
  /// @param input [image, channel, y, x], or without image, or without y
  at::Tensor operator()(const at::Tensor& input, const Addend& added, Activation activation) const;

 private:
  /// A group, or the pixels of a transposed convolution's output that see the same weights: those
  /// at `phase_y` and every stride_y further, and so in x.
  struct Part {
    PackedWeights packed;
    ConvolutionKernel kernel;  // all but what depends on the image
    std::int64_t channel = 0;  // the first of its input
    std::int64_t output = 0;   // its first one
    std::int64_t phase_y = 0;
    std::int64_t phase_x = 0;
  };

  bool plane() const { return parameters_.weight.dim() == 4; }
  std::int64_t channels() const;
  std::int64_t output_size(std::size_t axis, std::int64_t size) const;
  bool takes_type(const at::Tensor& tensor) const;
  bool fits(const at::Tensor& input) const;
  at::Tensor run_own(const at::Tensor& given, const Addend& added, Activation activation) const;
  at::Tensor run_torchs(const at::Tensor& given, const Addend& added, Activation activation) const;
  at::Tensor in_lines(const at::Tensor& planes) const;

  /// Of weights and biases that have the norm in them.
  void pack_groups(const at::Tensor& planes, const std::optional<at::Tensor>& bias);
  void pack_phases(const at::Tensor& planes, const std::optional<at::Tensor>& bias);
  void add(Part part, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

  ConvolutionParameters parameters_;
  ConvolutionPrecision precision_;
  std::vector<std::int64_t> stride_, padding_, dilation_;  // of y and x
  std::vector<Part> parts_;
  at::Tensor zeros_;                    // as many as a kernel reads at a place
  c10::ScalarType type_ = c10::kFloat;  // of what is multiplied
  // With few channels a line of the kernel is multiplied at a time, over an image that is padded in
  // x and has as many channels as this. 0: no.
  std::int64_t line_pixel_ = 0;
};

}  // namespace ts_infer
