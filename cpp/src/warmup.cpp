#include "warmup.h"

#include <ATen/ops/arange.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "archive/golden.h"
#include "ivalues.h"
#include "messages.h"
#include "random_inputs.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostCalls = 10;  // at one size
constexpr double kSettledRatio = 1.25;  // a call this near to the fastest is as fast

double elements(const InputShapes& shapes) {
  double sum = 0;
  for (const auto& [name, shape] : shapes) {
    double count = 1;
    for (const std::int64_t size : shape) count *= static_cast<double>(size);
    sum += count;
  }
  return sum;
}

/// Each size half way, by ratio, between those of two calls of the same ranks. Sizes that are equal
/// in both stay equal to each other.
std::optional<InputShapes> between(const InputShapes& large, const InputShapes& small) {
  InputShapes middle = large;
  for (auto& [name, shape] : middle) {
    const auto other = small.find(name);
    if (other == small.end() || other->second.size() != shape.size()) return std::nullopt;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      const double product = static_cast<double>(shape[i]) * static_cast<double>(other->second[i]);
      shape[i] = std::llround(std::sqrt(product));
    }
  }
  return middle;
}

/// The leaves of the golden sample's first call; empty where there is none that can be read.
std::map<std::string, Value> example_of(const Archive& archive,
                                        const std::vector<InputNode>& arguments) {
  std::map<std::string, Value> leaves;
  const InputVisitor visitor = {
      [&](const InputNode& /*node*/, const std::string& name, const c10::IValue& leaf) {
        leaves.emplace(name, from_ivalue(leaf, name));
      },
      [](const std::string& /*name*/, const std::string& /*what*/) {
        // verify() says what does not fit.
      }};
  try {
    const std::vector<GoldenCall> calls = golden_calls(archive);
    if (calls.empty()) return {};
    const std::vector<c10::IValue>& values = calls.front().inputs;
    for (std::size_t i = 0; i < values.size() && i < arguments.size(); ++i) {
      visit_input(arguments[i], values[i], visitor);
    }
    return leaves;
  } catch (const Error&) {
    return {};  // verify() says what is wrong with it
  }
}

/// The values of a tensor in another shape of its rank, repeated where it is larger; nullopt where
/// there are none to repeat.
std::optional<Value> resized(const Tensor& tensor, const std::vector<std::int64_t>& shape) {
  if (tensor.shape() == shape) return Value(tensor);
  if (tensor.shape().size() != shape.size()) return std::nullopt;
  at::Tensor result = to_torch(tensor);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const auto dim = static_cast<std::int64_t>(i);
    if (result.size(dim) == 0) return std::nullopt;
    result = result.index_select(dim, at::arange(shape[i]).remainder(result.size(dim)));
  }
  return Value(from_torch(result));
}

}  // namespace

std::string shapes_text(const InputShapes& shapes) {
  std::vector<std::string> texts;
  for (const auto& [name, shape] : shapes) {
    texts.push_back(name + ' ' + (shape.empty() ? "scalar" : c10::Join("x", shape)));
  }
  return texts.empty() ? "its own size" : join(texts);
}

WarmUp::WarmUp(const LoadOptions& options, const Archive& archive, const std::string& model,
               const Signature& signature, const std::vector<InputNode>& arguments)
    : level_(options.warmup),
      budget_s_(options.warmup_budget_s),
      model_(model),
      signature_(signature),
      arguments_(arguments) {
  if (level_ != "off" && level_ != "fast" && level_ != "full") {
    throw ModelLoadError("warmup: expected off or fast or full, got \"" + level_ + '"');
  }
  if (!(budget_s_ >= 0)) {
    throw ModelLoadError(c10::str("warmup_budget_s: expected seconds, 0 or more, got ", budget_s_));
  }
  if (level_ == "off") {
    reason_ = "asked for";
    return;
  }
  const bool given = !options.warmup_shapes.empty();
  sizes_ = given ? options.warmup_shapes : archive.info().warmup_shapes;
  if (sizes_.empty()) sizes_.emplace_back();
  std::stable_sort(sizes_.begin(), sizes_.end(), [](const auto& left, const auto& right) {
    return elements(left) > elements(right);
  });
  if (level_ == "full") {
    for (std::size_t i = sizes_.size() - 1; i > 0; --i) {
      const auto middle = between(sizes_[i - 1], sizes_[i]);
      if (middle && *middle != sizes_[i - 1] && *middle != sizes_[i]) {
        sizes_.insert(sizes_.begin() + static_cast<std::ptrdiff_t>(i), *middle);
      }
    }
  }
  example_ = example_of(archive, arguments_);
  try {
    leave_out_large(options.warmup_bytes);
    if (sizes_.empty()) {
      reason_ = too_large_;
      return;
    }
    inputs(sizes_.back());
  } catch (const InputError& error) {
    if (given) throw ModelLoadError(std::string("warmup_shapes: ") + error.what());
    reason_ = "sizes are not known; give warmup_shapes";
  }
}

void WarmUp::leave_out_large(std::uint64_t most_bytes) {
  std::vector<std::string> texts;
  const std::vector<InputShapes> all = sizes_;
  const InputSource source = {model_, signature_, arguments_, all};
  const auto is_large = [&](const InputShapes& shapes) {
    const std::uint64_t bytes = input_bytes(source, shapes);
    if (bytes > most_bytes) texts.push_back(c10::str(shapes_text(shapes), ", ", bytes, " bytes"));
    return bytes > most_bytes;
  };
  sizes_.erase(std::remove_if(sizes_.begin(), sizes_.end(), is_large), sizes_.end());
  if (texts.empty()) return;
  too_large_ = c10::str("inputs of more than ", most_bytes, " bytes: ", join(texts, "; "),
                        "; raise warmup_bytes");
}

std::vector<Value> WarmUp::inputs(const InputShapes& shapes) const {
  std::map<std::string, Value> values;
  for (const auto& [name, example] : example_) {
    const auto shape = shapes.find(name);
    if (!example.is_tensor() || shape == shapes.end()) {
      values.emplace(name, example);
    } else if (auto value = resized(example.as_tensor(), shape->second)) {
      values.emplace(name, *std::move(value));
    }
  }
  // A shape for what is given already would be refused where that is no tensor.
  return random_inputs({model_, signature_, arguments_, sizes_}, shapes, /*seed=*/0, values);
}

void WarmUp::for_each_size(
    const std::function<void(const InputShapes&, const std::vector<Value>&)>& visit) const {
  for (const InputShapes& shapes : sizes_) visit(shapes, inputs(shapes));
}

bool WarmUp::is_settled(std::size_t size, const std::vector<double>& calls_ms) const {
  if (level_ == "fast" && size + 1 < sizes_.size()) {
    return calls_ms.size() >= (size == 0 ? 2 : 1);
  }
  if (calls_ms.size() < 3 || calls_ms.size() >= kMostCalls) return calls_ms.size() >= kMostCalls;
  const double limit = kSettledRatio * *std::min_element(calls_ms.begin(), calls_ms.end());
  return std::all_of(calls_ms.end() - 2, calls_ms.end(), [&](double ms) { return ms <= limit; });
}

c10::IValue WarmUp::rehearsed(const WarmUpCall& call, const std::vector<Value>& args,
                              std::size_t size) const {
  try {
    return call(args);
  } catch (const Error& error) {
    throw ExecutionError(
        c10::str("it fails in its warm-up at ", shapes_text(sizes_[size]), " with inputs ",
                 example_.empty() ? "drawn at random" : "that have the golden sample's values",
                 "; warmup \"off\" leaves that out: ", error.what()));
  }
}

std::vector<LoadStep> WarmUp::run(
    const WarmUpCall& call, const std::function<void(LogLevel, const std::string&)>& log) const {
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto start = Clock::now();
  const auto is_over = [&] { return seconds_since(start) >= budget_s_; };
  std::vector<LoadStep> steps;
  std::vector<std::string> left_out;
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    if (i > 0 && is_over()) {
      left_out.push_back(shapes_text(sizes_[i]));
      continue;
    }
    const std::string at =
        c10::str("warm-up ", i + 1, " of ", sizes_.size(), ", ", shapes_text(sizes_[i]));
    log(LogLevel::kDebug, at);
    const auto step_start = Clock::now();
    LoadStep step{"warm-up", 0, sizes_[i], {}};
    const std::vector<Value> args = inputs(sizes_[i]);
    c10::IValue held;
    do {
      const auto call_start = Clock::now();
      held = rehearsed(call, args, i);
      step.calls_ms.push_back(1e3 * seconds_since(call_start));
    } while (!is_settled(i, step.calls_ms) && !is_over());
    step.ms = 1e3 * seconds_since(step_start);
    log(LogLevel::kInfo,
        c10::str(at, ": ", step.calls_ms.size(), " calls, ", std::llround(step.ms), " ms"));
    steps.push_back(std::move(step));
  }
  if (!too_large_.empty()) {
    log(LogLevel::kWarning, "the warm-up leaves out " + too_large_);
  }
  if (!left_out.empty()) {
    log(LogLevel::kWarning,
        c10::str("the warm-up ended at its budget of ", budget_s_, " s: not run at ",
                 join(left_out, "; "), "; raise warmup_budget_s"));
  }
  return steps;
}

}  // namespace ts_infer
