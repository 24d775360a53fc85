#include <sys/resource.h>
#include <torch/csrc/jit/runtime/logging.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "device/memory.h"
#include "model_access.h"
#include "ts_infer/benchmark.h"

namespace ts_infer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kSteadyCalls = 5;  // of a size
constexpr double kSettled = 0.25;

/// Counts the executors that fallbacks of specialised code build inside a call.
torch::jit::logging::LockingLogger& executor_counter() {
  static auto* const logger = [] {
    auto* const counter = new torch::jit::logging::LockingLogger();  // torch keeps it
    torch::jit::logging::setLogger(counter);
    return counter;
  }();
  return *logger;
}

struct Counts {
  std::uint64_t compiled = 0;
  std::uint64_t page_faults = 0;
  DeviceMemory memory;
};

Counts counts(const Model& model) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const std::int64_t executors = executor_counter().getCounterValue(
      torch::jit::logging::runtime_counters::GRAPH_EXECUTORS_CONSTRUCTED);
  return {ModelAccess::compiled_plans(model) + static_cast<std::uint64_t>(executors),
          static_cast<std::uint64_t>(usage.ru_minflt),
          device_memory(c10::Device(model.info().device)).value_or(DeviceMemory())};
}

double timed_call(Model& model, const std::vector<Value>& args) {
  const auto start = Clock::now();
  const Value result = model.call(args);
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Half way, by ratio, between the extremes of what random_shapes() draws.
InputShapes middle_shapes(const Model& model) {
  const std::vector<InputShapes> drawn = random_shapes(model, 501);
  if (drawn.empty()) return {};
  InputShapes middle = drawn.front();
  for (auto& [name, shape] : middle) {
    for (std::size_t i = 0; i < shape.size(); ++i) {
      std::vector<double> sizes;
      for (const InputShapes& shapes : drawn) {
        sizes.push_back(static_cast<double>(shapes.at(name)[i]));
      }
      shape[i] = std::llround(median(sizes));
    }
  }
  return middle;
}

}  // namespace

ColdStart cold_start(const std::string& path, const LoadOptions& options,
                     const ColdStartOptions& cold) {
  executor_counter();
  Model model = Model::load(path, options);
  if (cold.calls == 0) throw InputError("[cold start] calls: expected 1 or more, got 0");

  std::vector<InputShapes> sizes;
  if (cold.changing_sizes) {
    sizes = random_shapes(model, cold.calls, cold.seed);
    if (sizes.empty()) {
      throw InputError("[cold start] " + model.info().name +
                       ": expected an input with a dynamic dimension, got none; its sizes cannot "
                       "change\n" +
                       model.signature().to_string());
    }
  } else {
    sizes = {cold.shapes.empty() ? middle_shapes(model) : cold.shapes};
  }
  std::vector<std::vector<Value>> inputs;  // drawn before anything is counted
  for (const InputShapes& shapes : sizes) {
    inputs.push_back(random_inputs(model, shapes, cold.seed));
  }

  ColdStart result;
  result.model = model.info();
  for (std::size_t i = 0; i < cold.calls; ++i) {
    const std::size_t size = i % sizes.size();
    ColdCall call;
    call.shapes = sizes[size];
    const Counts before = counts(model);
    call.ms = timed_call(model, inputs[size]);
    const Counts after = counts(model);
    call.compiled = after.compiled - before.compiled;
    call.page_faults = after.page_faults - before.page_faults;
    call.device_allocations = static_cast<std::uint64_t>(after.memory.device_allocations -
                                                         before.memory.device_allocations);
    call.device_bytes = after.memory.reserved - before.memory.reserved;
    result.calls.push_back(std::move(call));
  }

  std::vector<std::vector<double>> again(sizes.size());
  for (std::size_t round = 0; round < kSteadyCalls; ++round) {
    for (std::size_t size = 0; size < sizes.size(); ++size) {
      result.later_ms.push_back(timed_call(model, inputs[size]));
      again[size].push_back(result.later_ms.back());
    }
  }
  std::vector<bool> near;
  for (std::size_t i = 0; i < cold.calls + 2; ++i) {
    const double steady = median(again[i % sizes.size()]);
    const double ms = i < cold.calls ? result.calls[i].ms : result.later_ms[i - cold.calls];
    near.push_back(std::abs(ms - steady) <= kSettled * steady);
  }
  for (std::size_t i = 0; i < cold.calls && result.settled_at == 0; ++i) {
    if (near[i] && near[i + 1] && near[i + 2]) result.settled_at = i + 1;
  }
  result.first_ms = result.calls.front().ms;
  result.steady_ms = median(again.front());
  return result;
}

}  // namespace ts_infer
