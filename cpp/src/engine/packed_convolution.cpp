#include "engine/packed_convolution.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/pass.h"
#include "engine/threads.h"

namespace ts_infer {
namespace {

constexpr std::int64_t kLeastOfGroup = 4;

/// Of y and x.
std::vector<std::int64_t> pair(const std::vector<std::int64_t>& list, std::int64_t for_line) {
  return {list.size() == 2 ? list[0] : for_line, list.back()};
}

bool is_depthwise(const ConvolutionParameters& p) {
  return !p.transposed && p.groups > 1 && p.weight.size(0) == p.groups && p.weight.size(1) == 1;
}

/// Whether a line of its kernel is multiplied at a time: it is as short as a pixel of many
/// channels.
bool takes_lines(const ConvolutionParameters& p) {
  const std::int64_t width = p.weight.size(-1);
  return !p.transposed && p.groups == 1 && width > 1 && p.dilation.back() == 1 &&
         width * p.weight.size(1) <= kMostOfPixel;
}

/// Places of a transposed kernel, along one axis, that reach the output's pixels of a phase: those
/// at `first` and every `step` further see the input's pixels at `offset`, `offset - before`, …
/// from the pixel's number within the phase on.
struct Phase {
  std::int64_t first = 0, step = 1, count = 0, offset = 0, before = 0;
};

Phase phase_of(std::int64_t phase, std::int64_t kernel, std::int64_t stride, std::int64_t padding,
               std::int64_t dilation) {
  Phase result;
  result.step = stride / std::gcd(stride, dilation);
  result.before = result.step * dilation / stride;
  const auto reaches = [&](std::int64_t place) {
    return (phase + padding - place * dilation) % stride == 0;
  };
  while (result.first < kernel && !reaches(result.first)) ++result.first;
  if (result.first >= kernel) return result;
  result.count = parts(kernel - result.first, result.step);
  result.offset = (phase + padding - result.first * dilation) / stride;
  return result;
}

bool is_bfloat16(const at::Tensor& tensor) { return tensor.scalar_type() == at::kBFloat16; }

/// What a norm multiplies each output by, and its bias then.
std::pair<at::Tensor, at::Tensor> factors(const BatchNorm& norm,
                                          const std::optional<at::Tensor>& bias) {
  const auto in_double = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
  at::Tensor factor = (in_double(norm.variance) + norm.epsilon).rsqrt();
  if (norm.weight) factor = factor * in_double(*norm.weight);
  at::Tensor shift = -in_double(norm.mean);
  if (bias) shift = shift + in_double(*bias);
  shift = shift * factor;
  if (norm.bias) shift = shift + in_double(*norm.bias);
  return {factor, shift.to(at::kFloat)};
}

void run_images(ConvolutionKernel kernel, const at::Tensor& input, std::int64_t channel,
                const at::Tensor& addend, at::Tensor& output, std::int64_t first_output) {
  const std::int64_t pixels = kernel.output_height * kernel.output_width;
  const std::int64_t image = kernel.height * kernel.width * kernel.channels;
  const std::int64_t taps = kernel.kernel_height * kernel.kernel_width * kernel.inputs;
  for (std::int64_t i = 0; i < input.size(0); ++i) {
    kernel.input = static_cast<const float*>(input.const_data_ptr()) + i * image + channel;
    const std::int64_t at = i * pixels * kernel.output_pixel + first_output;
    kernel.output = Numbers<void>(output.mutable_data_ptr(), is_bfloat16(output)).from(at);
    if (addend.defined()) {
      kernel.added = Numbers(addend.const_data_ptr(), is_bfloat16(addend)).from(at);
    }
    if (kernel.depthwise) {
      // Pixels are shared, channels are not.
      share(pixels, 1, taps * kernel.outputs,
            [&](std::int64_t begin, std::int64_t end, std::int64_t, std::int64_t) {
              run(kernel, begin, end);
            });
      continue;
    }
    share(pixels, kernel.outputs, taps,
          [&](std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) {
            ConvolutionKernel part = kernel;
            part.outputs = last - first;
            part.weights += first * taps;
            part.biases += first;
            part.output = kernel.output.from(first);
            if (kernel.added.first) part.added = kernel.added.from(first);
            run(part, begin, end);
          });
  }
}

}  // namespace

bool PackedConvolution::takes(const ConvolutionParameters& p) {
  // What cannot be right at all is torch's to refuse.
  const auto all_at_least = [](const std::vector<std::int64_t>& list, std::int64_t least) {
    return std::all_of(list.begin(), list.end(), [&](std::int64_t n) { return n >= least; });
  };
  if (p.groups < 1 || !all_at_least(p.stride, 1) || !all_at_least(p.dilation, 1) ||
      !all_at_least(p.padding, 0) || !all_at_least(p.output_padding, 0) ||
      p.weight.size(0) % p.groups != 0) {
    return false;
  }
  const std::int64_t outputs = p.transposed ? p.weight.size(1) * p.groups : p.weight.size(0);
  if (p.bias && p.bias->sizes() != at::IntArrayRef(outputs)) return false;
  for (std::size_t axis = 0; p.transposed && axis < p.stride.size(); ++axis) {
    if (p.output_padding[axis] >= std::max(p.stride[axis], p.dilation[axis])) return false;
  }
  if (p.groups == 1) return true;
  if (p.transposed) return false;
  if (is_depthwise(p)) return p.weight.numel() / p.groups <= kMostDepthwiseTaps;
  return p.weight.size(1) >= kLeastOfGroup && p.weight.size(0) / p.groups >= kLeastOfGroup;
}

bool PackedConvolution::multiplies_bfloat16(const ConvolutionParameters& p) {
  return takes_lines(p) || p.weight.size(p.transposed ? 0 : 1) % 2 == 0;
}

PackedConvolution::PackedConvolution(ConvolutionParameters parameters,
                                     const ConvolutionPrecision& precision)
    : parameters_(std::move(parameters)),
      precision_(precision),
      stride_(pair(parameters_.stride, 1)),
      padding_(pair(parameters_.padding, 0)),
      dilation_(pair(parameters_.dilation, 1)) {
  if (precision_.bfloat16 && multiplies_bfloat16(parameters_)) type_ = at::kBFloat16;
  at::Tensor planes = plane() ? parameters_.weight : parameters_.weight.unsqueeze(2);
  std::optional<at::Tensor> bias = parameters_.bias;
  if (parameters_.norm) {
    const auto [factor, shift] = factors(*parameters_.norm, bias);
    std::vector<std::int64_t> sizes(4, 1);
    sizes[parameters_.transposed ? 1 : 0] = -1;
    planes = (planes.to(at::kDouble) * factor.reshape(sizes)).to(at::kFloat);
    bias = shift;
  }
  if (type_ == at::kBFloat16 && planes.size(parameters_.transposed ? 0 : 1) % 2 != 0) {
    planes = at::constant_pad_nd(planes, {0, 0, 0, 0, 0, 1});
  }
  if (parameters_.transposed) {
    pack_phases(planes, bias);
  } else {
    pack_groups(planes, bias);
  }
}

std::int64_t PackedConvolution::channels() const {
  return parameters_.transposed ? parameters_.weight.size(0)
                                : parameters_.weight.size(1) * parameters_.groups;
}

void PackedConvolution::add(Part part, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
  part.packed = pack_weights(weight, bias, part.kernel.bfloat16);
  part.kernel.weights = part.packed.weights.const_data_ptr<float>();
  part.kernel.biases = part.packed.biases.const_data_ptr<float>();
  part.kernel.zeros = zeros_.const_data_ptr<float>();
  parts_.push_back(std::move(part));
}

void PackedConvolution::pack_groups(const at::Tensor& planes,
                                    const std::optional<at::Tensor>& bias) {
  const std::int64_t width = planes.size(3);
  ConvolutionKernel kernel{};
  kernel.bfloat16 = type_ == at::kBFloat16;
  kernel.depthwise = is_depthwise(parameters_);
  kernel.channels = planes.size(1) * parameters_.groups / (kernel.bfloat16 ? 2 : 1);
  kernel.output_pixel = planes.size(0);
  kernel.kernel_height = planes.size(2);
  kernel.kernel_width = width;
  kernel.stride_y = stride_[0];
  kernel.stride_x = stride_[1];
  kernel.padding_y = padding_[0];
  kernel.padding_x = padding_[1];
  kernel.dilation_y = dilation_[0];
  kernel.dilation_x = dilation_[1];
  kernel.inputs = kernel.channels / parameters_.groups;
  if (kernel.depthwise) {
    kernel.outputs = planes.size(0);
    zeros_ = at::zeros({kernel.channels});
    // As the weights of so many outputs with one input a place: [block][place][kBlock].
    return add({{}, kernel}, planes.flatten(1), bias);
  }
  if (takes_lines(parameters_)) {
    line_pixel_ = planes.size(1);
    kernel.kernel_width = 1;
    kernel.padding_x = 0;
    kernel.inputs *= width;
  }
  kernel.outputs = planes.size(0) / parameters_.groups;
  zeros_ = at::zeros({kernel.inputs});
  for (std::int64_t group = 0; group < parameters_.groups; ++group) {
    Part part;
    part.kernel = kernel;
    part.channel = group * kernel.inputs;
    part.output = group * kernel.outputs;
    const at::Tensor weight = planes.narrow(0, part.output, kernel.outputs).permute({0, 2, 3, 1});
    add(std::move(part), weight.reshape({kernel.outputs, -1}),
        bias ? std::optional(bias->narrow(0, group * kernel.outputs, kernel.outputs)) : bias);
  }
}

void PackedConvolution::pack_phases(const at::Tensor& planes,
                                    const std::optional<at::Tensor>& bias) {
  ConvolutionKernel kernel{};
  kernel.bfloat16 = type_ == at::kBFloat16;
  kernel.channels = kernel.inputs = channels() / (kernel.bfloat16 ? 2 : 1);
  kernel.outputs = kernel.output_pixel = planes.size(1);
  kernel.stride_y = kernel.stride_x = 1;
  zeros_ = at::zeros({kernel.inputs});
  for (std::int64_t y = 0; y < stride_[0]; ++y) {
    const Phase down = phase_of(y, planes.size(2), stride_[0], padding_[0], dilation_[0]);
    for (std::int64_t x = 0; x < stride_[1]; ++x) {
      const Phase across = phase_of(x, planes.size(3), stride_[1], padding_[1], dilation_[1]);
      Part part;
      part.kernel = kernel;
      part.phase_y = y;
      part.phase_x = x;
      part.kernel.kernel_height = down.count;
      part.kernel.kernel_width = across.count;
      part.kernel.padding_y = -down.offset;
      part.kernel.padding_x = -across.offset;
      part.kernel.dilation_y = -down.before;
      part.kernel.dilation_x = -across.before;
      const at::Tensor weight = planes.slice(2, down.first, std::nullopt, down.step)
                                    .slice(3, across.first, std::nullopt, across.step);
      add(std::move(part),
          weight.permute({1, 2, 3, 0}).reshape({planes.size(1), weight.numel() / planes.size(1)}),
          bias);
    }
  }
}

std::int64_t PackedConvolution::output_size(std::size_t axis, std::int64_t size) const {
  const std::int64_t kernel =
      plane() || axis == 1 ? parameters_.weight.size(plane() ? axis + 2 : 2) : 1;
  const std::int64_t reach = dilation_[axis] * (kernel - 1);
  if (parameters_.transposed) {
    const std::int64_t more = pair(parameters_.output_padding, 0)[axis];
    return std::max<std::int64_t>(
        0, (size - 1) * stride_[axis] - 2 * padding_[axis] + reach + more + 1);
  }
  const std::int64_t last = size + 2 * padding_[axis] - reach - 1;
  return last < 0 ? 0 : last / stride_[axis] + 1;
}

bool PackedConvolution::takes_type(const at::Tensor& tensor) const {
  if (is_float_on_host(tensor)) return true;
  return precision_.bfloat16 && tensor.defined() && tensor.device().is_cpu() && is_bfloat16(tensor);
}

bool PackedConvolution::fits(const at::Tensor& input) const {
  // What cannot be right at all is torch's to refuse.
  if (!takes_type(input) || input.dim() != parameters_.weight.dim()) return false;
  if (input.size(1) != channels() || input.numel() == 0 || !many_rows_pay()) return false;
  return output_size(0, plane() ? input.size(2) : 1) > 0 && output_size(1, input.size(-1)) > 0;
}

at::Tensor Addend::added_to(const at::Tensor& result) const {
  if (!tensor.defined()) return result;
  return in_place ? at::Tensor(result).add_(tensor) : at::add(result, tensor);
}

at::Tensor PackedConvolution::operator()(const at::Tensor& input, const Addend& added,
                                         Activation activation) const {
  return fits(input) ? run_own(input, added, activation) : run_torchs(input, added, activation);
}

at::Tensor PackedConvolution::run_own(const at::Tensor& given, const Addend& added,
                                      Activation activation) const {
  const auto last = at::MemoryFormat::ChannelsLast;
  const at::Tensor planes = plane() ? given : given.unsqueeze(2);
  const at::Tensor input = line_pixel_ > 0 ? in_lines(planes) : planes.contiguous(last).to(type_);
  const std::int64_t outputs = parts_.front().kernel.output_pixel;
  const std::int64_t height = output_size(0, planes.size(2));
  const std::int64_t width = output_size(1, planes.size(3));
  const c10::DimVector sizes = {input.size(0), outputs, height, width};
  const bool in_phases = parameters_.transposed && (stride_[0] > 1 || stride_[1] > 1);
  at::Tensor addend;
  if (added.tensor.defined() && added.tensor.dim() == given.dim() && !in_phases &&
      takes_type(added.tensor)) {
    const at::Tensor all = plane() ? added.tensor : added.tensor.unsqueeze(2);
    if (all.sizes() == sizes) addend = all.contiguous(last);
  }
  const bool later = added.tensor.defined() && !addend.defined();
  const at::ScalarType type = precision_.bfloat16_output && !later ? at::kBFloat16 : at::kFloat;
  // The same memory, where both layouts are one: torch then takes it for its own.
  const bool is_both = outputs == 1 || height * width == 1;
  at::Tensor output = at::empty(sizes, given.options().dtype(type).memory_format(
                                           is_both ? at::MemoryFormat::Contiguous : last));
  const at::Tensor result = plane() ? output : output.squeeze(2);
  for (const Part& part : parts_) {
    ConvolutionKernel kernel = part.kernel;
    kernel.activation = later ? Activation::kNone : activation;
    kernel.height = input.size(2);
    kernel.width = input.size(3);
    at::Tensor pixels = output;
    if (in_phases) {
      pixels = output.slice(2, part.phase_y, std::nullopt, stride_[0])
                   .slice(3, part.phase_x, std::nullopt, stride_[1]);
      if (pixels.numel() == 0) continue;
    }
    kernel.output_height = pixels.size(2);
    kernel.output_width = pixels.size(3);
    at::Tensor target =
        in_phases ? at::empty(pixels.sizes(), output.options().memory_format(last)) : output;
    run_images(kernel, input, part.channel, addend, target, part.output);
    if (in_phases) pixels.copy_(target);
  }
  return later ? activate(added.added_to(result), activation) : result;
}

/// Channels last, with zeros on both sides of each line, and for channels that are there to make
/// their number even.
at::Tensor PackedConvolution::in_lines(const at::Tensor& planes) const {
  const at::Tensor numbers = planes.to(at::kFloat);
  const std::int64_t height = planes.size(2);
  const std::int64_t width = planes.size(3);
  const std::int64_t side = padding_[1];
  at::Tensor image =
      at::empty({planes.size(0), line_pixel_, height, width + 2 * side},
                planes.options().dtype(type_).memory_format(at::MemoryFormat::ChannelsLast));
  image.narrow(3, 0, side).zero_();
  image.narrow(3, side + width, side).zero_();
  InterleaveKernel line{};
  line.width = width;
  line.channels = planes.size(1);
  line.input_channel = numbers.stride(1);
  line.input_x = numbers.stride(3);
  line.output_pixel = line_pixel_;
  const float* const input = numbers.const_data_ptr<float>();
  const Numbers<void> output(image.mutable_data_ptr(), is_bfloat16(image));
  share(planes.size(0) * height, 1, width * line_pixel_,
        [&](std::int64_t begin, std::int64_t end, std::int64_t, std::int64_t) {
          InterleaveKernel part = line;
          for (std::int64_t row = begin; row < end; ++row) {
            part.input =
                input + row / height * numbers.stride(0) + row % height * numbers.stride(2);
            part.output = output.from((row * (width + 2 * side) + side) * line_pixel_);
            run(part);
          }
        });
  return image;
}

at::Tensor PackedConvolution::run_torchs(const at::Tensor& given, const Addend& added,
                                         Activation activation) const {
  const ConvolutionParameters& p = parameters_;
  const at::Tensor input = takes_type(given) ? given.to(at::kFloat) : given;
  at::Tensor output;
  if (p.only_batches) {
    output = at::convolution(input, p.weight, p.bias, p.stride, p.padding, p.dilation, p.transposed,
                             p.output_padding, p.groups);
  } else if (p.transposed) {
    output = plane() ? at::conv_transpose2d(input, p.weight, p.bias, p.stride, p.padding,
                                            p.output_padding, p.groups, p.dilation)
                     : at::conv_transpose1d(input, p.weight, p.bias, p.stride, p.padding,
                                            p.output_padding, p.groups, p.dilation);
  } else {
    output = plane()
                 ? at::conv2d(input, p.weight, p.bias, p.stride, p.padding, p.dilation, p.groups)
                 : at::conv1d(input, p.weight, p.bias, p.stride, p.padding, p.dilation, p.groups);
  }
  if (p.norm) {
    output = at::batch_norm(output, p.norm->weight, p.norm->bias, p.norm->mean, p.norm->variance,
                            /*training=*/false, /*momentum=*/0.0, p.norm->epsilon,
                            /*cudnn_enabled=*/false);
  }
  return activate(added.added_to(output), activation);
}

}  // namespace ts_infer
