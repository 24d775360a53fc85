#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/instruction_set.h"

namespace ts_infer {

// Kernels that run on the calling thread, for the processor at hand. All numbers are float32,
// strides are in elements. Input and weights of a product may be of bfloat16 instead, where two
// that follow each other take the place of one float32, in sizes and strides too. Sums are float32;
// an output may be rounded to bfloat16. Functions such as tanh are within 4 units in the last place
// (vector_math.h).

/// Weights are packed in blocks of this many outputs, the last one padded with zeros.
constexpr std::int64_t kBlock = 16;

/// Rows whose sums stay in registers together.
constexpr std::int64_t kRowsAtOnce = 4;

constexpr std::int64_t blocks_of(std::int64_t outputs) { return (outputs + kBlock - 1) / kBlock; }

enum class Activation : std::int64_t {
  kNone,
  kRelu,
  kGelu,      // x / 2 (1 + erf(x / sqrt(2)))
  kGeluTanh,  // its approximation by tanh, as torch's
  kSilu,      // x sigmoid(x)
  kSigmoid,
  kTanh,
};

/// The first of some numbers: float32, or bfloat16.
template <typename Void>
struct Numbers {
  Numbers() = default;
  Numbers(Void* numbers, bool are_bfloat16 = false) : first(numbers), bfloat16(are_bfloat16) {}

  Void* first = nullptr;
  bool bfloat16 = false;

  Numbers from(std::int64_t index) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return {static_cast<Byte*>(first) + index * (bfloat16 ? 2 : 4), bfloat16};
  }
};

/// A fully connected layer: output = activation(input W + bias).
struct LinearKernel {
  std::int64_t rows;
  std::int64_t inputs;
  std::int64_t outputs;
  Activation activation;
  const float* weights;  // [block][input][kBlock]
  const float* biases;   // [block][kBlock]
  const float* input;    // [input] of each row
  std::int64_t input_row;
  Numbers<void> output;  // [output] of each row
  std::int64_t output_row;
  bool bfloat16 = false;  // input and weights
};

void run(const LinearKernel& linear, InstructionSet set = instruction_set());

/// The kernel of a depthwise convolution has at most so many places.
constexpr std::int64_t kMostDepthwiseTaps = 64;

/// A convolution over one image whose channels lie together ("channels last"):
/// output = activation(input * W + bias + added).
///
/// In a depthwise one each output sees one channel, that of its own number; `inputs` is 1.
struct ConvolutionKernel {
  std::int64_t height, width, channels;               // of the input
  std::int64_t output_height, output_width, outputs;  // `outputs` channels
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
  std::int64_t inputs;  // at one place of the kernel: `channels`, or those of several pixels
  Activation activation;
  const float* weights;       // [block][y][x][input][kBlock]
  const float* biases;        // [block][kBlock]
  const float* input;         // [y][x][channel]
  const float* zeros;         // [input], what lies outside
  Numbers<const void> added;  // as output, or none
  Numbers<void> output;       // [y][x][output]
  std::int64_t output_pixel;  // from one pixel to the next
  bool bfloat16 = false;      // input, zeros and weights
  bool depthwise = false;     // then not in bfloat16, and `zeros` has all channels
};

/// The pixels [begin, end) of the output, counted line by line.
void run(const ConvolutionKernel& convolution, std::int64_t begin, std::int64_t end,
         InstructionSet set = instruction_set());

/// A line of an image, whose channels are brought together.
struct InterleaveKernel {
  std::int64_t width, channels;
  const float* input;  // [channel][x], by these strides
  std::int64_t input_channel, input_x;
  Numbers<void> output;  // [x][channel]
  std::int64_t
      output_pixel;  // from one pixel to the next, at most kMostOfPixel; zeros beyond channels
};

constexpr std::int64_t kMostOfPixel = 64;

void run(const InterleaveKernel& line, InstructionSet set = instruction_set());

/// One head: output = softmax(scale queries keys^T + mask) values, with zeros for a query whose
/// scores are all -infinity.
struct AttentionKernel {
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t width;        // of a query and of a key
  std::int64_t value_width;  // of a value and of an output
  float scale;
  bool causal;  // a query sees the keys up to its own number

  const float *query, *key, *value;  // [width] of each row
  std::int64_t query_row, key_row, value_row;
  const float* mask;  // [key] of each query, or nullptr
  std::int64_t mask_row;
  float* output;
  std::int64_t output_row;

  float* scratch;  // of scratch_size(attention) numbers
};

std::int64_t scratch_size(const AttentionKernel& attention);
void run(const AttentionKernel& attention, InstructionSet set = instruction_set());

enum class Cell : std::int64_t { kLstm, kGru };

constexpr std::int64_t gates_of(Cell cell) { return cell == Cell::kLstm ? 4 : 3; }

/// One direction of one layer of an LSTM or a GRU, over whole sequences. The order of the gates is
/// input, forget, cell, output, or reset, update, new.
///
/// LSTM: i, f, o = sigmoid(gates + W h); g = tanh(gates + W h); c = f c + i g; h = o tanh(c).
/// GRU: r, z = sigmoid(gates + W h); n = tanh(gates + r (W h + bias)); h = (1 - z) n + z h.
struct RecurrentKernel {
  Cell cell;
  std::int64_t rows;   // sequences, 1 to kRowsAtOnce
  std::int64_t steps;  // of each
  std::int64_t hidden;
  bool reverse;  // from the last step to the first

  const float* weights;   // of the hidden state: [block][hidden][gate][kBlock]
  const float* gates;     // what the input adds, biases included: [block][gate][kBlock]
  const float* new_bias;  // of a GRU: [block][kBlock]
  std::int64_t gates_row, gates_step;

  const float* first_output;  // h_0: [row][hidden]
  float* cells;               // of an LSTM: c_0, at the end c_n: [row][block][kBlock]
  float* output;              // h_t: [hidden]
  std::int64_t output_row, output_step;
};

void run(const RecurrentKernel& recurrent, InstructionSet set = instruction_set());

}  // namespace ts_infer
