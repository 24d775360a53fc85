#pragma once

#include <cstdint>

namespace ts_infer {

// Kernels for a few rows at a time, where a call into a library of matrix products costs more than
// the work. They run on the calling thread, for the processor at hand. All numbers are float32,
// strides are in elements.

/// Weights are packed in blocks of this many outputs, the last one padded with zeros.
constexpr std::int64_t kBlock = 16;

/// Rows that a kernel takes: their sums stay in registers.
constexpr std::int64_t kMaxRows = 4;

constexpr std::int64_t blocks_of(std::int64_t outputs) { return (outputs + kBlock - 1) / kBlock; }

/// A fully connected layer: output = input W + bias, and its positive part where `relu`.
struct LinearKernel {
  std::int64_t rows;  // 1 to kMaxRows
  std::int64_t inputs;
  std::int64_t outputs;
  bool relu;
  const float* weights;  // [block][input][kBlock]
  const float* biases;   // [block][kBlock]
  const float* input;    // [row][input]
  float* output;         // [row][output]
};

void run(const LinearKernel& linear);

/// One direction of one layer of an LSTM, over whole sequences. The order of the gates is input,
/// forget, cell, output.
///
/// i, f, o = sigmoid(gates + W h); g = tanh(gates + W h); c = f c + i g; h = o tanh(c), where
/// tanh and sigmoid differ from the exact ones by no more than 2e-7.
struct LstmKernel {
  std::int64_t rows;   // sequences, 1 to kMaxRows
  std::int64_t steps;  // of each
  std::int64_t hidden;
  bool reverse;  // from the last step to the first

  const float* weights;  // of the hidden state: [block][hidden][gate][kBlock]
  const float* gates;    // what the input adds, biases included: [block][gate][kBlock]
  std::int64_t gates_row, gates_step;

  const float* first_output;  // h_0: [row][hidden]
  float* cells;               // c_0, at the end c_n: [row][block][kBlock]
  float* output;              // h_t: [hidden]
  std::int64_t output_row, output_step;
};

void run(const LstmKernel& lstm);

}  // namespace ts_infer
