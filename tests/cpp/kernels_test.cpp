#include "engine/kernels.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

namespace ts_infer {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Every 4,093rd float32, of both signs, the denormals among them.
std::vector<float> some_of_all_floats() {
  std::vector<float> numbers;
  for (std::uint64_t bits = 0; bits <= std::numeric_limits<std::uint32_t>::max(); bits += 4093) {
    const auto low = static_cast<std::uint32_t>(bits);
    float number;
    std::memcpy(&number, &low, sizeof(number));
    if (std::isfinite(number)) numbers.push_back(number);
  }
  return numbers;
}

/// x / (1 + e^-y) without overflow or cancellation.
double gated(double x, double y) {
  return y < 0 ? x * std::exp(y) / (1 + std::exp(y)) : x / (1 + std::exp(-y));
}

double exact_value(Activation activation, double x) {
  switch (activation) {
    case Activation::kSigmoid:
      return gated(1, x);
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSilu:
      return gated(x, x);
    case Activation::kGelu: {
      const double tail = std::abs(x) / 2 * std::erfc(std::abs(x) / std::numbers::sqrt2);
      return x < 0 ? -tail : x - tail;
    }
    case Activation::kGeluTanh:
      return gated(x, 2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x));
    default:
      return x;
  }
}

/// |actual - expected| in units of the last place of `expected`.
double error_in_ulps(float actual, double expected) {
  const float magnitude = std::abs(static_cast<float>(expected));
  const double ulp = std::nextafter(magnitude, kInfinity) - magnitude;
  return std::abs(actual - expected) / ulp;
}

/// activation(x) of each x, by a linear of one input and one output.
std::vector<float> activated(Activation activation, const std::vector<float>& x,
                             InstructionSet set) {
  const std::array<float, kBlock> one = {1};
  const std::array<float, kBlock> zeros = {};
  std::vector<float> y(x.size());
  LinearKernel kernel{};
  kernel.rows = static_cast<std::int64_t>(x.size());
  kernel.inputs = kernel.outputs = kernel.input_row = kernel.output_row = 1;
  kernel.activation = activation;
  kernel.weights = one.data();
  kernel.biases = zeros.data();
  kernel.input = x.data();
  kernel.output = y.data();
  run(kernel, set);
  return y;
}

constexpr Activation kFunctions[] = {Activation::kSigmoid, Activation::kTanh, Activation::kSilu,
                                     Activation::kGelu, Activation::kGeluTanh};

TEST(KernelsTest, ActivationsAreWithinFourUlpsOverAllOfFloat32) {
  const std::vector<float> x = some_of_all_floats();
  for (const InstructionSet set : instruction_sets()) {
    for (const Activation activation : kFunctions) {
      const std::vector<float> y = activated(activation, x, set);
      double worst = 0;
      float at = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double error = error_in_ulps(y[i], exact_value(activation, x[i]));
        if (error <= worst) continue;
        worst = error;
        at = x[i];
      }
      EXPECT_LE(worst, 4) << to_string(set) << ", activation " << static_cast<int>(activation)
                          << ", at " << at;
    }
  }
}

TEST(KernelsTest, ActivationsOfSpecialsAreTorchs) {
  for (const InstructionSet set : instruction_sets()) {
    const auto of = [&](Activation activation, float x) {
      return activated(activation, {x}, set).front();
    };
    for (const Activation activation : kFunctions) {
      EXPECT_TRUE(std::isnan(of(activation, kNaN)));
    }
    EXPECT_EQ(of(Activation::kSigmoid, kInfinity), 1);
    EXPECT_EQ(of(Activation::kSigmoid, -kInfinity), 0);
    EXPECT_EQ(of(Activation::kSigmoid, -1e30F), 0);
    EXPECT_EQ(of(Activation::kTanh, kInfinity), 1);
    EXPECT_EQ(of(Activation::kTanh, -kInfinity), -1);
    for (const Activation activation :
         {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      EXPECT_EQ(of(activation, kInfinity), kInfinity);
      EXPECT_TRUE(std::isnan(of(activation, -kInfinity)));
      EXPECT_EQ(of(activation, -1e30F), 0);
      EXPECT_TRUE(std::signbit(of(activation, -1e30F)));
    }
  }
}

/// One query of width 1, whose scores are the keys; the values are 1 for one key and 0 for others.
TEST(KernelsTest, SoftmaxIsWithinFourUlpsDownToDenormals) {
  const std::vector<float> scores = {0, -1, -0.5F, -20, -87, -100, -103, -104, -1e4F, -kInfinity};
  const auto count = static_cast<std::int64_t>(scores.size());
  double sum = 0;
  for (const float score : scores) sum += std::exp(static_cast<double>(score));
  std::vector<float> values(scores.size() * scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) values[i * scores.size() + i] = 1;
  const float one = 1;
  for (const InstructionSet set : instruction_sets()) {
    std::vector<float> weights(scores.size());
    AttentionKernel kernel{};
    kernel.queries = kernel.width = kernel.query_row = kernel.key_row = 1;
    kernel.keys = kernel.value_width = kernel.value_row = kernel.output_row = count;
    kernel.scale = 1;
    kernel.query = &one;
    kernel.key = scores.data();
    kernel.value = values.data();
    kernel.output = weights.data();
    std::vector<float> scratch(scratch_size(kernel));
    kernel.scratch = scratch.data();
    run(kernel, set);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double exact = std::exp(static_cast<double>(scores[i])) / sum;
      EXPECT_LE(error_in_ulps(weights[i], exact), 4) << to_string(set) << ", score " << scores[i];
    }
  }
}

}  // namespace
}  // namespace ts_infer
