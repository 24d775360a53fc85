#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "engine/kernels.h"

#define TS_INFER_FORCED __attribute__((always_inline))
#define TS_INFER_INLINE inline TS_INFER_FORCED

// Arithmetic on what one register holds, for the processor that the caller is compiled for. Each
// function is within 4 units in the last place of the exact value over all of float32, down to the
// denormals; NaN stays NaN. They hold with and without fused multiply-adds.

namespace ts_infer {
namespace {

/// What one register of a processor holds.
template <int Lanes>
struct Vector {
  using Floats __attribute__((vector_size(Lanes * sizeof(float)))) = float;
  using Integers __attribute__((vector_size(Lanes * sizeof(float)))) = std::int32_t;
  using Halves __attribute__((vector_size(Lanes * sizeof(float) / 2))) = std::uint16_t;
  using Doubles __attribute__((vector_size(Lanes * sizeof(double)))) = double;
  using Longs __attribute__((vector_size(Lanes * sizeof(double)))) = std::int64_t;
};

template <int Lanes>
using Floats = typename Vector<Lanes>::Floats;

// Vectors are handed over by reference: how they are returned depends on the processor.

template <typename V, typename Number>
TS_INFER_INLINE void load(const Number* from, V& to) {
  std::memcpy(&to, from, sizeof(to));
}

template <typename V, typename Number>
TS_INFER_INLINE void store(const V& from, Number* to) {
  std::memcpy(to, &from, sizeof(from));
}

/// The first `count` numbers, then zeros; all of them is the fast case.
template <typename V, typename Number>
TS_INFER_INLINE void load(const Number* from, std::int64_t count, V& to) {
  if (count * sizeof(Number) == sizeof(V)) return load(from, to);
  V some = {};
  std::memcpy(&some, from, count * sizeof(Number));
  to = some;
}

template <typename V, typename Number>
TS_INFER_INLINE void store(const V& from, std::int64_t count, Number* to) {
  if (count * sizeof(Number) == sizeof(V)) return store(from, to);
  const V some = from;
  std::memcpy(to, &some, count * sizeof(Number));
}

/// Applies `function` to numbers in double precision, half a register at a time.
template <int Lanes, typename Function>
TS_INFER_INLINE void in_double(const typename Vector<Lanes>::Floats& from,
                               const Function& function) {
  constexpr int kHalf = Lanes / 2;
  for (int half = 0; half < 2; ++half) {
    Floats<kHalf> some;
    std::memcpy(&some, reinterpret_cast<const char*>(&from) + half * sizeof(some), sizeof(some));
    function(half, __builtin_convertvector(some, typename Vector<kHalf>::Doubles));
  }
}

template <typename Part, typename V>
TS_INFER_INLINE void put_half(const Part& part, int half, V& to) {
  std::memcpy(reinterpret_cast<char*>(&to) + half * sizeof(part), &part, sizeof(part));
}

/// e^x - 1 of -0.35 <= x <= 0.35, relatively exact; the polynomial is Cephes' expf's.
template <typename V>
TS_INFER_INLINE void small_exponential_minus_1(V& x) {
  V sum = x * 1.9875691500e-4F + 1.3981999507e-3F;
  sum = sum * x + 8.3334519073e-3F;
  sum = sum * x + 4.1665795894e-2F;
  sum = sum * x + 1.6666665459e-1F;
  sum = sum * x + 5.0000001201e-1F;
  x = sum * (x * x) + x;
}

/// e^(x + rest) = (1 + fraction) 2^exponent, for -126 <= x <= 89, which x is cut to.
template <int Lanes>
TS_INFER_INLINE void split_exponential(const typename Vector<Lanes>::Floats& x,
                                       const typename Vector<Lanes>::Floats& rest,
                                       typename Vector<Lanes>::Floats& fraction,
                                       typename Vector<Lanes>::Integers& exponent) {
  using V = Floats<Lanes>;
  const V low = V{} - 126.0F;
  const V high = V{} + 89.0F;
  V within = x < low ? low : x;
  within = within > high ? high : within;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const V rounded = within * 1.44269504F + 12582912.0F;
  const V whole = rounded - 12582912.0F;
  fraction = (within - whole * 0.693359375F) + whole * 2.12194440e-4F + rest;
  small_exponential_minus_1(fraction);
  std::memcpy(&exponent, &rounded, sizeof(exponent));
  exponent -= 0x4B400000;
}

/// For exponents of -126 to 127.
template <int Lanes>
TS_INFER_INLINE void power_of_two(const typename Vector<Lanes>::Integers& exponent,
                                  typename Vector<Lanes>::Floats& power) {
  const typename Vector<Lanes>::Integers bits = (exponent + 127) << 23;
  std::memcpy(&power, &bits, sizeof(power));
}

/// x becomes x 2^exponent, for exponents of -252 to 254. Only the last product may round.
template <int Lanes>
TS_INFER_INLINE void scale(typename Vector<Lanes>::Floats& x,
                           const typename Vector<Lanes>::Integers& exponent) {
  const typename Vector<Lanes>::Integers half = exponent >> 1;
  Floats<Lanes> power;
  power_of_two<Lanes>(half, power);
  x *= power;
  power_of_two<Lanes>(exponent - half, power);
  x *= power;
}

/// x becomes e^x. The method is Cephes' expf.
template <int Lanes>
TS_INFER_INLINE void exponential(typename Vector<Lanes>::Floats& x) {
  using V = Floats<Lanes>;
  V result;
  typename Vector<Lanes>::Integers exponent;
  split_exponential<Lanes>(x, V{}, result, exponent);
  result += 1.0F;
  result = x < -104.0F ? V{} : result;  // zero before it is scaled: a denormal takes long to make
  scale<Lanes>(result, exponent);
  x = result;
}

template <int Lanes>
TS_INFER_INLINE void absolute(typename Vector<Lanes>::Floats& x) {
  typename Vector<Lanes>::Integers bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits &= 0x7FFFFFFF;
  std::memcpy(&x, &bits, sizeof(bits));
}

/// 1 / (1 + e^-x), of whose exponential only numbers below 1 are computed.
template <int Lanes>
TS_INFER_INLINE void sigmoid(typename Vector<Lanes>::Floats& x) {
  using V = Floats<Lanes>;
  V power = x;
  absolute<Lanes>(power);
  power = -power;
  exponential<Lanes>(power);
  x = (x < 0.0F ? power : V{} + 1.0F) / (1.0F + power);
}

/// tanh(a) = m / (m + 2) of m = e^2a - 1, which does not cancel near 0.
template <int Lanes>
TS_INFER_INLINE void hyperbolic_tangent(typename Vector<Lanes>::Floats& x) {
  using V = Floats<Lanes>;
  V twice = x;
  absolute<Lanes>(twice);
  twice += twice;
  twice = twice > 40.0F ? V{} + 40.0F : twice;
  V fraction;
  typename Vector<Lanes>::Integers exponent;
  split_exponential<Lanes>(twice, V{}, fraction, exponent);
  V power;
  power_of_two<Lanes>(exponent, power);
  const V minus_1 = fraction * power + (power - 1.0F);
  const V result = minus_1 / (minus_1 + 2.0F);
  typename Vector<Lanes>::Integers sign;
  typename Vector<Lanes>::Integers bits;
  std::memcpy(&sign, &x, sizeof(sign));
  std::memcpy(&bits, &result, sizeof(bits));
  bits |= sign & std::numeric_limits<std::int32_t>::min();
  std::memcpy(&x, &bits, sizeof(bits));
}

/// x becomes x / (1 + e^-(y + rest)).
template <int Lanes>
TS_INFER_INLINE void gate(typename Vector<Lanes>::Floats& x,
                          const typename Vector<Lanes>::Floats& y,
                          const typename Vector<Lanes>::Floats& rest) {
  using V = Floats<Lanes>;
  V mantissa;
  typename Vector<Lanes>::Integers exponent;
  split_exponential<Lanes>(y < 0.0F ? y : -y, y < 0.0F ? rest : -rest, mantissa, exponent);
  mantissa += 1.0F;
  V power = mantissa;
  scale<Lanes>(power, exponent);
  // Below 0 the product with x comes before what may make a denormal of it.
  V result = (y < 0.0F ? x * mantissa : x) / (1.0F + power);
  exponent = y < 0.0F ? exponent : typename Vector<Lanes>::Integers{};
  result = y < -110.0F ? x * 0.0F : result;  // as torch: -0, and NaN of -infinity
  scale<Lanes>(result, exponent);
  x = result;
}

template <int Lanes>
TS_INFER_INLINE void silu(typename Vector<Lanes>::Floats& x) {
  const Floats<Lanes> y = x;
  gate<Lanes>(x, y, Floats<Lanes>{});
}

/// x / 2 (1 + tanh(u)) is x / (1 + e^-2u), where 2u must be known to more than a float32 holds.
template <int Lanes>
TS_INFER_INLINE void gelu_tanh(typename Vector<Lanes>::Floats& x) {
  using Some = typename Vector<Lanes / 2>::Doubles;
  Floats<Lanes> y = {};
  Floats<Lanes> rest = {};
  in_double<Lanes>(x, [&](int half, const Some& number) TS_INFER_FORCED {
    Some twice = number * (1.5957691216057308 + 0.07135481627260025 * (number * number));
    twice = twice > 200.0 ? Some{} + 200.0 : twice;
    twice = twice < -200.0 ? Some{} - 200.0 : twice;
    const auto high = __builtin_convertvector(twice, Floats<Lanes / 2>);
    const Some low = twice - __builtin_convertvector(high, Some);
    put_half(high, half, y);
    put_half(__builtin_convertvector(low, Floats<Lanes / 2>), half, rest);
  });
  gate<Lanes>(x, y, rest);
}

/// x / 2 (1 + erf(x / sqrt(2))) = max(x, 0) - a / 2 e^(-a^2 / 2) f(a) of a = |x|, where
/// f(a) = e^(a^2 / 2) erfc(a / sqrt(2)) is a polynomial, fitted to 2e-8, in 1 / (1 + 0.3 a /
/// sqrt(2)).
template <int Lanes>
TS_INFER_INLINE void gelu(typename Vector<Lanes>::Floats& x) {
  using Some = typename Vector<Lanes / 2>::Doubles;
  using Bits = typename Vector<Lanes / 2>::Longs;
  Floats<Lanes> result = {};
  in_double<Lanes>(x, [&](int half, const Some& number) TS_INFER_FORCED {
    Some a = number < 0.0 ? -number : number;
    a = a > 15.0 ? Some{} + 15.0 : a;  // beyond, nothing is left of it
    const Some t = 1.0 / (1.0 + 0.3 * 0.70710678118654752 * a);
    Some tail = Some{} + -0.12955616908;
    tail = tail * t + 0.485737801301;
    tail = tail * t - 0.512670908741;
    tail = tail * t + 0.548214141766;
    tail = tail * t - 0.095030181653;
    tail = tail * t + 0.215107947987;
    tail = tail * t + 0.148286108467;
    tail = tail * t + 0.17072382725;
    tail = tail * t + 0.169187413066;
    Some power = -0.5 * a * a;
    const Some rounded = power * 1.4426950408889634 + 6755399441055744.0;
    const Some whole = rounded - 6755399441055744.0;
    power -= whole * 0.69314718055994531;
    small_exponential_minus_1(power);
    Bits bits;
    std::memcpy(&bits, &rounded, sizeof(bits));
    bits = (bits + 1023) << 52;
    Some factor;
    std::memcpy(&factor, &bits, sizeof(factor));
    const Some left = 0.5 * a * t * tail * (1.0 + power) * factor;
    const Some all = (number > 0.0 ? number : number * 0.0) - left;  // NaN of -infinity, as torch
    put_half(__builtin_convertvector(all, Floats<Lanes / 2>), half, result);
  });
  x = result;
}

template <int Lanes>
TS_INFER_INLINE void activate(Activation activation, typename Vector<Lanes>::Floats& x) {
  using V = Floats<Lanes>;
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
      x = x < 0.0F ? V{} : x;  // NaN stays NaN
      return;
    case Activation::kGelu:
      return gelu<Lanes>(x);
    case Activation::kGeluTanh:
      return gelu_tanh<Lanes>(x);
    case Activation::kSilu:
      return silu<Lanes>(x);
    case Activation::kSigmoid:
      return sigmoid<Lanes>(x);
    case Activation::kTanh:
      return hyperbolic_tangent<Lanes>(x);
  }
}

}  // namespace
}  // namespace ts_infer
