#include "engine/kernels.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "engine/vector_math.h"

// The loops below are compiled for each of these, and the processor at hand chooses once.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#include <immintrin.h>
#define TS_INFER_PROCESSORS 1
#define TS_INFER_AVX512BF16 __attribute__((target("arch=x86-64-v4,avx512bf16")))
#define TS_INFER_AVX512 __attribute__((target("arch=x86-64-v4")))
#define TS_INFER_AVX2 __attribute__((target("arch=x86-64-v3")))
#else
#define TS_INFER_PROCESSORS 0
#define TS_INFER_AVX512
#define TS_INFER_AVX2
#endif
#define TS_INFER_NOINLINE __attribute__((noinline))

namespace ts_infer {
namespace {

/// Several activations. Not inlined: it would stand in each of the many forms that a product has.
template <int Lanes>
void activate(Activation activation, Floats<Lanes>* values, int count);

template <int Lanes>
TS_INFER_INLINE void activate_each(Activation activation, Floats<Lanes>* values, int count) {
  for (int i = 0; i < count; ++i) activate<Lanes>(activation, values[i]);
}

template <>
TS_INFER_AVX512 TS_INFER_NOINLINE void activate<16>(Activation activation, Floats<16>* values,
                                                    int count) {
  activate_each<16>(activation, values, count);
}

template <>
TS_INFER_AVX2 TS_INFER_NOINLINE void activate<8>(Activation activation, Floats<8>* values,
                                                 int count) {
  activate_each<8>(activation, values, count);
}

template <>
TS_INFER_NOINLINE void activate<4>(Activation activation, Floats<4>* values, int count) {
  activate_each<4>(activation, values, count);
}

/// One step of `Rows` sequences and of as many units, from `unit`, as a vector has lanes.
template <int Lanes, int Rows, Cell kCell>
TS_INFER_INLINE void step(const RecurrentKernel& s, std::int64_t unit, const float* gates,
                          const float* before, std::int64_t before_row, float* after) {
  using V = Floats<Lanes>;
  constexpr std::int64_t kGates = gates_of(kCell);
  constexpr std::int64_t kWidth = kGates * kBlock;
  const std::int64_t block = unit / kBlock;
  const std::int64_t lane = unit % kBlock;
  V sum[Rows][kGates];
  for (int r = 0; r < Rows; ++r) {
    for (int g = 0; g < kGates; ++g) {
      load(gates + r * s.gates_row + block * kWidth + g * kBlock + lane, sum[r][g]);
    }
  }
  V added[Rows];  // of a GRU: what the input adds to the new gate
  if constexpr (kCell == Cell::kGru) {
    for (int r = 0; r < Rows; ++r) {
      added[r] = sum[r][2];
      load(s.new_bias + unit, sum[r][2]);
    }
  }
  const float* weights = s.weights + block * s.hidden * kWidth + lane;
  for (std::int64_t k = 0; k < s.hidden; ++k, weights += kWidth) {
    V column[kGates];
    for (int g = 0; g < kGates; ++g) load(weights + g * kBlock, column[g]);
    for (int r = 0; r < Rows; ++r) {
      const float h = before[r * before_row + k];
      for (int g = 0; g < kGates; ++g) sum[r][g] += h * column[g];
    }
  }
  const std::int64_t units = std::min<std::int64_t>(Lanes, s.hidden - unit);
  V open[Rows][kGates - 1];  // all gates but the new one
  V fresh[Rows];             // what the new one lets in; of a GRU, once the others are known
  for (int r = 0; r < Rows; ++r) {
    open[r][0] = sum[r][0];
    open[r][1] = sum[r][1];
    if constexpr (kCell == Cell::kLstm) {
      open[r][2] = sum[r][3];
      fresh[r] = sum[r][2];
    }
  }
  activate<Lanes>(Activation::kSigmoid, open[0], Rows * (kGates - 1));
  if constexpr (kCell == Cell::kLstm) {
    activate<Lanes>(Activation::kTanh, fresh, Rows);
    V h[Rows];
    for (int r = 0; r < Rows; ++r) {
      float* cells = s.cells + (r * blocks_of(s.hidden) + block) * kBlock + lane;
      load(cells, h[r]);
      h[r] = open[r][1] * h[r] + open[r][0] * fresh[r];
      store(h[r], cells);
    }
    activate<Lanes>(Activation::kTanh, h, Rows);
    for (int r = 0; r < Rows; ++r) {
      store(h[r] * open[r][2], units, after + r * s.output_row + unit);
    }
  } else {
    for (int r = 0; r < Rows; ++r) fresh[r] = added[r] + open[r][0] * sum[r][2];
    activate<Lanes>(Activation::kTanh, fresh, Rows);
    for (int r = 0; r < Rows; ++r) {
      V h;
      load(before + r * before_row + unit, units, h);
      h = (h - fresh[r]) * open[r][1] + fresh[r];
      store(h, units, after + r * s.output_row + unit);
    }
  }
}

template <int Lanes, int Rows, Cell kCell>
TS_INFER_INLINE void run_rows(const RecurrentKernel& s) {
  const float* before = s.first_output;
  std::int64_t before_row = s.hidden;
  for (std::int64_t i = 0; i < s.steps; ++i) {
    const std::int64_t t = s.reverse ? s.steps - 1 - i : i;
    float* after = s.output + t * s.output_step;
    for (std::int64_t unit = 0; unit < s.hidden; unit += Lanes) {
      step<Lanes, Rows, kCell>(s, unit, s.gates + t * s.gates_step, before, before_row, after);
    }
    before = after;
    before_row = s.output_row;
  }
}

/// The rows of a linear's input, for `multiply`.
struct LinearRows {
  const LinearKernel& l;

  std::int64_t taps() const { return 1; }
  std::int64_t inputs() const { return l.inputs; }
  Numbers<const void> added() const { return {}; }
  std::int64_t output_row() const { return l.output_row; }

  template <int Rows>
  struct Places {
    std::int64_t first;
  };

  template <int Rows>
  TS_INFER_INLINE void locate(std::int64_t row, Places<Rows>& places) const {
    places.first = row;
  }

  template <int Rows>
  TS_INFER_INLINE bool find(const Places<Rows>& places, std::int64_t /*tap*/,
                            const float* (&rows)[Rows]) const {
    for (int r = 0; r < Rows; ++r) rows[r] = l.input + (places.first + r) * l.input_row;
    return true;
  }
};

/// What a convolution multiplies: a row is a pixel of the output, a tap a place of the kernel.
struct ConvolutionRows {
  explicit ConvolutionRows(const ConvolutionKernel& kernel)
      : l(kernel),
        pixel_by_pixel(taps() == 1 && l.stride_y == 1 && l.stride_x == 1 && l.padding_y == 0 &&
                       l.padding_x == 0 && l.height == l.output_height &&
                       l.width == l.output_width) {}

  const ConvolutionKernel& l;
  bool pixel_by_pixel;  // the rows are the input's pixels

  std::int64_t taps() const { return l.kernel_height * l.kernel_width; }
  std::int64_t inputs() const { return l.inputs; }
  Numbers<const void> added() const { return l.added; }
  std::int64_t output_row() const { return l.output_pixel; }

  /// Where rows see the kernel's first place.
  template <int Rows>
  struct Places {
    std::int64_t first;
    std::int64_t y[Rows], x[Rows];
  };

  template <int Rows>
  TS_INFER_INLINE void locate(std::int64_t row, Places<Rows>& places) const {
    places.first = row;
    std::int64_t out_y = row / l.output_width;
    std::int64_t out_x = row % l.output_width;
    for (int r = 0; r < Rows; ++r) {
      places.y[r] = out_y * l.stride_y - l.padding_y;
      places.x[r] = out_x * l.stride_x - l.padding_x;
      if (++out_x == l.output_width) {
        out_x = 0;
        ++out_y;
      }
    }
  }

  /// What the rows multiply at a place of the kernel; false: they all see zeros there.
  template <int Rows>
  TS_INFER_INLINE bool find(const Places<Rows>& places, std::int64_t tap,
                            const float* (&rows)[Rows]) const {
    if (pixel_by_pixel) {
      for (int r = 0; r < Rows; ++r) rows[r] = l.input + (places.first + r) * l.channels;
      return true;
    }
    const std::int64_t tap_y = tap / l.kernel_width * l.dilation_y;
    const std::int64_t tap_x = tap % l.kernel_width * l.dilation_x;
    bool any = false;
    for (int r = 0; r < Rows; ++r) {
      const std::int64_t y = places.y[r] + tap_y;
      const std::int64_t x = places.x[r] + tap_x;
      const bool inside = y >= 0 && y < l.height && x >= 0 && x < l.width;
      rows[r] = inside ? l.input + (y * l.width + x) * l.channels : l.zeros;
      any = any || inside;
    }
    return any;
  }
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"  // of the builtin, which returns a vector

/// sum += product of one number and a vector of them.
template <bool Bfloat16, typename V>
TS_INFER_INLINE void add_product(float number, const V& column, V& sum) {
  if constexpr (Bfloat16) {
#if TS_INFER_PROCESSORS
    // Two products in each lane. The builtin, since the intrinsic may not stand in a function for
    // any processor, of which this is one until it is part of another.
    typename Vector<16>::Integers pair = {};
    std::int32_t bits;
    std::memcpy(&bits, &number, sizeof(bits));
    pair += bits;
    sum = __builtin_ia32_dpbf16ps_v16sf(sum, reinterpret_cast<__m512bh>(column),
                                        reinterpret_cast<__m512bh>(pair));
#endif
  } else {
    sum += number * column;
  }
}

#pragma GCC diagnostic pop

/// sum += the first `count` numbers.
template <int Lanes>
TS_INFER_INLINE void add(const Numbers<const void>& numbers, std::int64_t count,
                         typename Vector<Lanes>::Floats& sum) {
  Floats<Lanes> added;
  if (numbers.bfloat16) {
    typename Vector<Lanes>::Halves halves;
    load(static_cast<const std::uint16_t*>(numbers.first), count, halves);
    const auto bits = __builtin_convertvector(halves, typename Vector<Lanes>::Integers) << 16;
    std::memcpy(&added, &bits, sizeof(added));
  } else {
    load(static_cast<const float*>(numbers.first), count, added);
  }
  sum += added;
}

/// Writes the first `count` numbers, to the nearest bfloat16 where that is asked for.
template <int Lanes>
TS_INFER_INLINE void store(const typename Vector<Lanes>::Floats& from, std::int64_t count,
                           const Numbers<void>& to) {
  if (!to.bfloat16) return store(from, count, static_cast<float*>(to.first));
  typename Vector<Lanes>::Integers bits;
  std::memcpy(&bits, &from, sizeof(bits));
  const auto rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const auto halves = __builtin_convertvector(from == from ? rounded : (bits >> 16) | 0x40,
                                              typename Vector<Lanes>::Halves);
  store(halves, count, static_cast<std::uint16_t*>(to.first));
}

/// `Rows` rows and `Vectors` vectors of outputs from `first`, a multiple of Lanes. `ahead` are
/// weights that will be needed soon, kBlock for each of a row's inputs, or nullptr.
template <int Lanes, int Rows, int Vectors, bool Bfloat16, typename Kernel, typename Source>
TS_INFER_INLINE void multiply(const Kernel& l, const Source& source, std::int64_t row,
                              std::int64_t first, const float* ahead) {
  using V = Floats<Lanes>;
  const std::int64_t inputs = source.inputs();
  // What is needed at the end comes while the products are computed.
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      const std::int64_t at = (row + r) * source.output_row() + first + v * Lanes;
      __builtin_prefetch(l.output.from(at).first, 1);
      if (source.added().first) __builtin_prefetch(source.added().from(at).first);
    }
  }
  V sum[Rows][Vectors];
  const float* weights[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    const std::int64_t output = first + v * Lanes;
    weights[v] = l.weights + output / kBlock * source.taps() * inputs * kBlock + output % kBlock;
    for (int r = 0; r < Rows; ++r) load(l.biases + output, sum[r][v]);
  }
  typename Source::template Places<Rows> places;
  source.locate(row, places);
  const std::int64_t ahead_step = ahead ? kBlock : 0;
  if (!ahead) ahead = l.weights;
  for (std::int64_t tap = 0; tap < source.taps(); ++tap) {
    const float* input[Rows];
    if (source.find(places, tap, input)) {
      for (std::int64_t k = 0; k < inputs; ++k) {
        __builtin_prefetch(ahead + k * ahead_step, 0, 2);
        for (int v = 0; v < Vectors; ++v) {
          V column;
          load(weights[v] + k * kBlock, column);
          for (int r = 0; r < Rows; ++r) add_product<Bfloat16>(input[r][k], column, sum[r][v]);
        }
      }
    }
    for (int v = 0; v < Vectors; ++v) weights[v] += inputs * kBlock;
    ahead += inputs * ahead_step;
  }
  const auto outputs_of = [&](int v) {
    return std::clamp<std::int64_t>(l.outputs - first - v * Lanes, 0, Lanes);
  };
  const std::int64_t start = row * source.output_row() + first;
  for (int v = 0; v < Vectors && source.added().first; ++v) {
    for (int r = 0; r < Rows; ++r) {
      const std::int64_t at = start + r * source.output_row() + v * Lanes;
      add<Lanes>(source.added().from(at), outputs_of(v), sum[r][v]);
    }
  }
  if (l.activation > Activation::kRelu) {
    // A copy: an address taken would keep the sums themselves in memory.
    V some[Rows * Vectors];
    for (int i = 0; i < Rows * Vectors; ++i) some[i] = sum[i / Vectors][i % Vectors];
    activate<Lanes>(l.activation, some, Rows * Vectors);
    for (int i = 0; i < Rows * Vectors; ++i) sum[i / Vectors][i % Vectors] = some[i];
  }
  for (int v = 0; v < Vectors; ++v) {
    for (int r = 0; r < Rows; ++r) {
      V& y = sum[r][v];
      if (l.activation == Activation::kRelu) y = y < 0.0F ? V{} : y;  // NaN stays NaN
      const std::int64_t at = start + r * source.output_row() + v * Lanes;
      store<Lanes>(y, outputs_of(v), l.output.from(at));
    }
  }
}

/// `Rows` pixels of a depthwise convolution, all channels.
template <int Lanes, int Rows>
TS_INFER_INLINE void multiply_depthwise(const ConvolutionRows& source, std::int64_t row) {
  using V = Floats<Lanes>;
  const ConvolutionKernel& l = source.l;
  const std::int64_t taps = source.taps();
  const float* input[kMostDepthwiseTaps][Rows];
  ConvolutionRows::Places<Rows> places;
  source.locate(row, places);
  for (std::int64_t tap = 0; tap < taps; ++tap) source.find(places, tap, input[tap]);
  for (std::int64_t first = 0; first < l.outputs; first += Lanes) {
    const std::int64_t count = std::min<std::int64_t>(Lanes, l.outputs - first);
    const float* weights = l.weights + first / kBlock * taps * kBlock + first % kBlock;
    V sum[Rows];
    for (int r = 0; r < Rows; ++r) load(l.biases + first, sum[r]);
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      V column;
      load(weights + tap * kBlock, column);
      for (int r = 0; r < Rows; ++r) {
        V x;
        load(input[tap][r] + first, count, x);
        sum[r] += x * column;
      }
    }
    for (int r = 0; r < Rows && l.added.first; ++r) {
      add<Lanes>(l.added.from((row + r) * l.output_pixel + first), count, sum[r]);
    }
    V some[Rows];
    for (int r = 0; r < Rows; ++r) some[r] = sum[r];
    if (l.activation != Activation::kNone) activate<Lanes>(l.activation, some, Rows);
    for (int r = 0; r < Rows; ++r) {
      store<Lanes>(some[r], count, l.output.from((row + r) * l.output_pixel + first));
    }
  }
}

template <int Lanes>
TS_INFER_INLINE void multiply_depthwise(const ConvolutionKernel& l, std::int64_t begin,
                                        std::int64_t end) {
  const ConvolutionRows source{l};
  std::int64_t row = begin;
  for (; row + kRowsAtOnce <= end; row += kRowsAtOnce) {
    multiply_depthwise<Lanes, kRowsAtOnce>(source, row);
  }
  for (; row < end; ++row) multiply_depthwise<Lanes, 1>(source, row);
}

template <int Lanes, int Vectors, bool Bfloat16, typename Kernel, typename Source>
TS_INFER_INLINE void multiply_rows(const Kernel& l, const Source& source, std::int64_t begin,
                                   std::int64_t end, std::int64_t first) {
  // The sums stay in registers: 24 of 32, or 12 of 16, beside weights and input.
  constexpr int kRows = Vectors * (16 / Lanes) >= 4 ? 6 : 8;
  std::int64_t row = begin;
  // The first rows fetch the weights that come next, while these are multiplied.
  const std::int64_t size = source.taps() * source.inputs() * kBlock;
  std::int64_t block = first / kBlock + std::max(Vectors * Lanes / kBlock, std::int64_t{1});
  const std::int64_t last_block =
      std::min(block + std::max(Vectors * Lanes / kBlock, std::int64_t{1}), blocks_of(l.outputs));
  const auto ahead = [&] { return block < last_block ? l.weights + block++ * size : nullptr; };
  // One row alone takes as long as four: it goes with others.
  for (; end - row >= kRows && end - row != kRows + 1; row += kRows) {
    multiply<Lanes, kRows, Vectors, Bfloat16>(l, source, row, first, ahead());
  }
  if (end - row > 5) {
    multiply<Lanes, 4, Vectors, Bfloat16>(l, source, row, first, ahead());
    row += 4;
  }
  if (end - row == 5) multiply<Lanes, 5, Vectors, Bfloat16>(l, source, row, first, ahead());
  if (end - row == 4) multiply<Lanes, 4, Vectors, Bfloat16>(l, source, row, first, ahead());
  if (end - row == 3) multiply<Lanes, 3, Vectors, Bfloat16>(l, source, row, first, ahead());
  if (end - row == 2) multiply<Lanes, 2, Vectors, Bfloat16>(l, source, row, first, ahead());
  if (end - row == 1) multiply<Lanes, 1, Vectors, Bfloat16>(l, source, row, first, ahead());
}

/// `Vectors` vectors of outputs at a time, and what is left of them in one of fewer.
template <int Lanes, int Vectors, bool Bfloat16, typename Kernel, typename Source>
TS_INFER_INLINE void multiply_all(const Kernel& l, const Source& source, std::int64_t from,
                                  std::int64_t to) {
  // So many rows stay near while all weights pass by: more, and they fall out of the cache; fewer,
  // and the weights are read too often.
  constexpr std::int64_t kChunk = 256;
  // The weights of some outputs are read again for each few rows: they stay in the second cache.
  constexpr std::int64_t kMostWeights = std::int64_t{3} << 16;
  const std::int64_t outputs = blocks_of(l.outputs) * kBlock;
  const bool narrow = source.taps() * source.inputs() * Vectors * Lanes > kMostWeights;
  for (std::int64_t begin = from; begin < to; begin += kChunk) {
    const std::int64_t end = std::min(to, begin + kChunk);
    std::int64_t first = 0;
    for (; !narrow && first + Vectors * Lanes <= outputs; first += Vectors * Lanes) {
      multiply_rows<Lanes, Vectors, Bfloat16>(l, source, begin, end, first);
    }
    constexpr int kFew = Vectors > 2 ? 2 : 1;
    for (; first + kFew * Lanes <= outputs; first += kFew * Lanes) {
      multiply_rows<Lanes, kFew, Bfloat16>(l, source, begin, end, first);
    }
    if (first < outputs) multiply_rows<Lanes, 1, Bfloat16>(l, source, begin, end, first);
  }
}

template <int Lanes, int Vectors, bool Bfloat16 = false>
TS_INFER_INLINE void run_any(const LinearKernel& l) {
  multiply_all<Lanes, Vectors, Bfloat16>(l, LinearRows{l}, 0, l.rows);
}

/// Pixels of a convolution's output.
struct Pixels {
  const ConvolutionKernel& l;
  std::int64_t begin, end;
};

template <int Lanes, int Vectors, bool Bfloat16 = false>
TS_INFER_INLINE void run_any(const Pixels& pixels) {
  if (pixels.l.depthwise) return multiply_depthwise<Lanes>(pixels.l, pixels.begin, pixels.end);
  multiply_all<Lanes, Vectors, Bfloat16>(pixels.l, ConvolutionRows{pixels.l}, pixels.begin,
                                         pixels.end);
}

template <int Lanes>
TS_INFER_INLINE void run_any(const InterleaveKernel& line) {
  constexpr std::int64_t kSome = 16 * kMostOfPixel;
  const std::int64_t pixels_at_once = kSome / line.output_pixel;
  float numbers[kSome + Lanes] = {};
  for (std::int64_t first = 0; first < line.width; first += pixels_at_once) {
    const std::int64_t pixels = std::min(pixels_at_once, line.width - first);
    for (std::int64_t c = 0; c < line.channels; ++c) {
      const float* from = line.input + c * line.input_channel + first * line.input_x;
      float* to = numbers + c;
      for (std::int64_t x = 0; x < pixels; ++x) to[x * line.output_pixel] = from[x * line.input_x];
    }
    const std::int64_t count = pixels * line.output_pixel;
    for (std::int64_t i = 0; i < count; i += Lanes) {
      Floats<Lanes> some;
      load(numbers + i, some);
      store<Lanes>(some, std::min<std::int64_t>(Lanes, count - i),
                   line.output.from(first * line.output_pixel + i));
    }
  }
}

/// A multiple of Lanes for every processor.
constexpr std::int64_t padded(std::int64_t size) { return blocks_of(size) * kBlock; }

/// Queries whose scores are kept at a time.
constexpr std::int64_t kQueries = 32;

/// Turns a query's scores into weights; they are written up to padded(keys), with zeros.
template <int Lanes>
TS_INFER_INLINE void softmax(const AttentionKernel& a, std::int64_t query, float* scores) {
  using V = Floats<Lanes>;
  const std::int64_t keys = a.causal ? std::min(a.keys, query + 1) : a.keys;
  const float* mask = a.mask ? a.mask + query * a.mask_row : nullptr;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::fill(scores + keys, scores + padded(a.keys), -kInfinity);
  // A loop of its own: rounded before the mask is added, as torch does it. Beside a mask of -10000,
  // one rounding in place of two would be seen in the weights.
  for (std::int64_t k = 0; k < keys; k += Lanes) {
    V x;
    load(scores + k, x);
    x *= a.scale;
    store(x, scores + k);
  }
  V highest = V{} - kInfinity;
  for (std::int64_t k = 0; k < keys; k += Lanes) {
    V x;
    load(scores + k, x);
    if (mask) {
      V added;
      load(mask + k, std::min<std::int64_t>(Lanes, keys - k), added);
      x += added;
      store(x, scores + k);
    }
    highest = highest < x ? x : highest;
  }
  float top = highest[0];
  for (int lane = 1; lane < Lanes; ++lane) top = std::max(top, highest[lane]);
  if (top == -kInfinity) {
    const bool nan = std::any_of(scores, scores + keys, [](float x) { return x != x; });
    const float weight = nan ? std::numeric_limits<float>::quiet_NaN() : 0.0F;
    return std::fill(scores, scores + padded(a.keys), weight);
  }
  V total = {};
  for (std::int64_t k = 0; k < padded(a.keys); k += Lanes) {
    V x;
    load(scores + k, x);
    x -= top;
    exponential<Lanes>(x);
    total += x;
    store(x, scores + k);
  }
  float sum = 0;
  for (int lane = 0; lane < Lanes; ++lane) sum += total[lane];
  const float inverse = 1.0F / sum;
  for (std::int64_t k = 0; k < padded(a.keys); k += Lanes) {
    V x;
    load(scores + k, x);
    x *= inverse;
    store(x, scores + k);
  }
}

template <int Lanes, int Vectors>
TS_INFER_INLINE void run_any(const AttentionKernel& a) {
  // Keys and values as the weights of linears: [block of keys][width][kBlock] and
  // [block of a value][key][kBlock].
  float* keys = a.scratch;
  float* values = keys + padded(a.keys) * a.width;
  float* zeros = values + padded(a.value_width) * a.keys;
  float* scores = zeros + std::max(padded(a.keys), padded(a.value_width));
  for (std::int64_t first = 0; first < a.keys; first += kBlock) {
    float* block = keys + first * a.width;
    const std::int64_t count = std::min(kBlock, a.keys - first);
    for (std::int64_t k = 0; k < kBlock; ++k) {
      const float* from = a.key + (first + std::min(k, count - 1)) * a.key_row;
      for (std::int64_t i = 0; i < a.width; ++i) block[i * kBlock + k] = from[i];
    }
  }
  for (std::int64_t first = 0; first < a.value_width; first += kBlock) {
    float* block = values + first * a.keys;
    const std::int64_t count = std::min(kBlock, a.value_width - first);
    for (std::int64_t k = 0; k < a.keys; ++k) {
      const float* from = a.value + k * a.value_row + first;
      std::copy(from, from + count, block + k * kBlock);
      std::fill(block + k * kBlock + count, block + (k + 1) * kBlock, 0.0F);
    }
  }
  std::fill(zeros, scores, 0.0F);
  for (std::int64_t first = 0; first < a.queries; first += kQueries) {
    const std::int64_t rows = std::min(kQueries, a.queries - first);
    LinearKernel product = {rows,
                            a.width,
                            padded(a.keys),
                            Activation::kNone,
                            keys,
                            zeros,
                            a.query + first * a.query_row,
                            a.query_row,
                            scores,
                            padded(a.keys)};
    run_any<Lanes, Vectors>(product);
    for (std::int64_t row = 0; row < rows; ++row) {
      softmax<Lanes>(a, first + row, scores + row * padded(a.keys));
    }
    product = {rows,
               a.keys,
               a.value_width,
               Activation::kNone,
               values,
               zeros,
               scores,
               padded(a.keys),
               a.output + first * a.output_row,
               a.output_row};
    run_any<Lanes, Vectors>(product);
  }
}

template <int Lanes, Cell kCell>
TS_INFER_INLINE void run_cells(const RecurrentKernel& recurrent) {
  static_assert(kRowsAtOnce == 4);
  switch (recurrent.rows) {
    case 1:
      return run_rows<Lanes, 1, kCell>(recurrent);
    case 2:
      return run_rows<Lanes, 2, kCell>(recurrent);
    case 3:
      return run_rows<Lanes, 3, kCell>(recurrent);
    default:
      return run_rows<Lanes, 4, kCell>(recurrent);
  }
}

template <int Lanes>
TS_INFER_INLINE void run_any(const RecurrentKernel& recurrent) {
  if (recurrent.cell == Cell::kLstm) return run_cells<Lanes, Cell::kLstm>(recurrent);
  run_cells<Lanes, Cell::kGru>(recurrent);
}

TS_INFER_AVX512 void run_avx512(const LinearKernel& linear) { run_any<16, 4>(linear); }
TS_INFER_AVX512 void run_avx512(const Pixels& pixels) { run_any<16, 4>(pixels); }
TS_INFER_AVX512 void run_avx512(const AttentionKernel& attention) { run_any<16, 4>(attention); }
TS_INFER_AVX512 void run_avx512(const RecurrentKernel& recurrent) { run_any<16>(recurrent); }
TS_INFER_AVX512 void run_avx512(const InterleaveKernel& line) { run_any<16>(line); }
#if TS_INFER_PROCESSORS
TS_INFER_AVX512BF16 void run_bfloat16(const LinearKernel& linear) { run_any<16, 4, true>(linear); }
TS_INFER_AVX512BF16 void run_bfloat16(const Pixels& pixels) { run_any<16, 4, true>(pixels); }
#endif
TS_INFER_AVX2 void run_avx2(const LinearKernel& linear) { run_any<8, 2>(linear); }
TS_INFER_AVX2 void run_avx2(const Pixels& pixels) { run_any<8, 2>(pixels); }
TS_INFER_AVX2 void run_avx2(const AttentionKernel& attention) { run_any<8, 2>(attention); }
TS_INFER_AVX2 void run_avx2(const RecurrentKernel& recurrent) { run_any<8>(recurrent); }
TS_INFER_AVX2 void run_avx2(const InterleaveKernel& line) { run_any<8>(line); }
void run_here(const LinearKernel& linear) { run_any<4, 2>(linear); }
void run_here(const Pixels& pixels) { run_any<4, 2>(pixels); }
void run_here(const AttentionKernel& attention) { run_any<4, 2>(attention); }
void run_here(const RecurrentKernel& recurrent) { run_any<4>(recurrent); }
void run_here(const InterleaveKernel& line) { run_any<4>(line); }

template <typename Kernel>
void run_on(InstructionSet set, const Kernel& kernel) {
  switch (set) {
    case InstructionSet::kAvx512:
    case InstructionSet::kAvx512Bfloat16:
      return run_avx512(kernel);
    case InstructionSet::kAvx2:
      return run_avx2(kernel);
    case InstructionSet::kPortable:
      return run_here(kernel);
  }
}

}  // namespace

void run(const LinearKernel& linear, InstructionSet set) {
#if TS_INFER_PROCESSORS
  if (linear.bfloat16) return run_bfloat16(linear);
#endif
  run_on(set, linear);
}

void run(const ConvolutionKernel& convolution, std::int64_t begin, std::int64_t end,
         InstructionSet set) {
  const Pixels pixels = {convolution, begin, end};
#if TS_INFER_PROCESSORS
  if (convolution.bfloat16) return run_bfloat16(pixels);
#endif
  run_on(set, pixels);
}

std::int64_t scratch_size(const AttentionKernel& a) {
  return padded(a.keys) * (a.width + kQueries) + padded(a.value_width) * a.keys +
         std::max(padded(a.keys), padded(a.value_width));
}

void run(const AttentionKernel& attention, InstructionSet set) { run_on(set, attention); }

void run(const RecurrentKernel& recurrent, InstructionSet set) { run_on(set, recurrent); }

void run(const InterleaveKernel& line, InstructionSet set) { run_on(set, line); }

}  // namespace ts_infer
