#include "engine/kernels.h"

#include <algorithm>
#include <cstring>

// The loops below are compiled for each of these, and the processor at hand chooses once.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define TS_INFER_EACH_PROCESSOR \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TS_INFER_EACH_PROCESSOR
#endif
#define TS_INFER_INLINE inline __attribute__((always_inline))

namespace ts_infer {
namespace {

using Floats = float __attribute__((vector_size(kBlock * sizeof(float))));
using Integers = std::int32_t __attribute__((vector_size(kBlock * sizeof(float))));

constexpr std::int64_t kGates = 4;

TS_INFER_INLINE void load(const float* from, Floats& to) { std::memcpy(&to, from, sizeof(to)); }

/// x becomes e^x, to 2 units in the last place; the method and the polynomial are Cephes' expf.
TS_INFER_INLINE void exponential(Floats& x) {
  const Floats low = Floats{} - 87.0F;
  const Floats high = Floats{} + 88.0F;
  x = x < low ? low : x;
  x = x > high ? high : x;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const Floats rounded = x * 1.44269504F + 12582912.0F;
  const Floats whole = rounded - 12582912.0F;
  const Floats rest = (x - whole * 0.693359375F) + whole * 2.12194440e-4F;
  Floats sum = rest * 1.9875691500e-4F + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  sum = sum * rest * rest + rest + 1.0F;
  Integers bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  bits = (bits << 23) + (127 << 23);
  Floats power;
  std::memcpy(&power, &bits, sizeof(power));
  x = sum * power;
}

TS_INFER_INLINE void sigmoid(Floats& x) {
  x = -x;
  exponential(x);
  x = 1.0F / (1.0F + x);
}

TS_INFER_INLINE void hyperbolic_tangent(Floats& x) {
  x = 2.0F * x;
  exponential(x);
  x = 1.0F - 2.0F / (1.0F + x);
}

/// One step of `Rows` sequences and one block of units.
template <int Rows>
TS_INFER_INLINE void step(const LstmKernel& s, std::int64_t block, const float* gates,
                          const float* before, std::int64_t before_row, float* after) {
  constexpr std::int64_t kWidth = kGates * kBlock;
  Floats sum[Rows][kGates];
  for (int r = 0; r < Rows; ++r) {
    for (int g = 0; g < kGates; ++g) {
      load(gates + r * s.gates_row + block * kWidth + g * kBlock, sum[r][g]);
    }
  }
  const float* weights = s.weights + block * s.hidden * kWidth;
  for (std::int64_t k = 0; k < s.hidden; ++k, weights += kWidth) {
    Floats column[kGates];
    for (int g = 0; g < kGates; ++g) load(weights + g * kBlock, column[g]);
    for (int r = 0; r < Rows; ++r) {
      const float h = before[r * before_row + k];
      for (int g = 0; g < kGates; ++g) sum[r][g] += h * column[g];
    }
  }
  const std::int64_t first = block * kBlock;
  const std::int64_t units = std::min(kBlock, s.hidden - first);
  for (int r = 0; r < Rows; ++r) {
    float* cells = s.cells + (r * blocks_of(s.hidden) + block) * kBlock;
    Floats c;
    load(cells, c);
    sigmoid(sum[r][0]);
    sigmoid(sum[r][1]);
    hyperbolic_tangent(sum[r][2]);
    sigmoid(sum[r][3]);
    c = sum[r][1] * c + sum[r][0] * sum[r][2];
    std::memcpy(cells, &c, sizeof(c));
    hyperbolic_tangent(c);
    c *= sum[r][3];
    std::memcpy(after + r * s.output_row + first, &c, units * sizeof(float));
  }
}

template <int Rows>
TS_INFER_INLINE void run_rows(const LstmKernel& s) {
  const float* before = s.first_output;
  std::int64_t before_row = s.hidden;
  for (std::int64_t i = 0; i < s.steps; ++i) {
    const std::int64_t t = s.reverse ? s.steps - 1 - i : i;
    float* after = s.output + t * s.output_step;
    for (std::int64_t block = 0; block < blocks_of(s.hidden); ++block) {
      step<Rows>(s, block, s.gates + t * s.gates_step, before, before_row, after);
    }
    before = after;
    before_row = s.output_row;
  }
}

/// `Blocks` blocks of outputs.
template <int Rows, int Blocks>
TS_INFER_INLINE void multiply(const LinearKernel& l, std::int64_t block) {
  Floats sum[Rows][Blocks];
  const float* weights[Blocks];
  for (int b = 0; b < Blocks; ++b) {
    weights[b] = l.weights + (block + b) * l.inputs * kBlock;
    for (int r = 0; r < Rows; ++r) load(l.biases + (block + b) * kBlock, sum[r][b]);
  }
  for (std::int64_t k = 0; k < l.inputs; ++k) {
    for (int b = 0; b < Blocks; ++b) {
      Floats column;
      load(weights[b] + k * kBlock, column);
      for (int r = 0; r < Rows; ++r) sum[r][b] += l.input[r * l.inputs + k] * column;
    }
  }
  for (int b = 0; b < Blocks; ++b) {
    const std::int64_t first = (block + b) * kBlock;
    const std::int64_t outputs = std::min(kBlock, l.outputs - first);
    for (int r = 0; r < Rows; ++r) {
      Floats& y = sum[r][b];
      if (l.relu) y = y < 0.0F ? Floats{} : y;  // NaN stays NaN
      std::memcpy(l.output + r * l.outputs + first, &y, outputs * sizeof(float));
    }
  }
}

template <int Rows>
TS_INFER_INLINE void run_rows(const LinearKernel& linear) {
  std::int64_t block = 0;
  for (; block + 4 <= blocks_of(linear.outputs); block += 4) multiply<Rows, 4>(linear, block);
  for (; block < blocks_of(linear.outputs); ++block) multiply<Rows, 1>(linear, block);
}

template <typename Kernel>
TS_INFER_INLINE void run_any(const Kernel& kernel) {
  static_assert(kMaxRows == 4);
  switch (kernel.rows) {
    case 1:
      return run_rows<1>(kernel);
    case 2:
      return run_rows<2>(kernel);
    case 3:
      return run_rows<3>(kernel);
    default:
      return run_rows<4>(kernel);
  }
}

}  // namespace

TS_INFER_EACH_PROCESSOR void run(const LinearKernel& linear) { run_any(linear); }

TS_INFER_EACH_PROCESSOR void run(const LstmKernel& lstm) { run_any(lstm); }

}  // namespace ts_infer
