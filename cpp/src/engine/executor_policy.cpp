#include "engine/executor_policy.h"

#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "messages.h"
#include "ts_infer/error.h"
#include "ts_infer/model.h"

namespace ts_infer {
namespace {

using torch::jit::GraphFunction;

/// Sets the process-wide switches and puts them back.
class ExecutorWindow {
 public:
  explicit ExecutorWindow(const std::string& executor)
      : lock_(mutex()), mode_(torch::jit::getExecutorMode().load()) {
    torch::jit::getExecutorMode() = executor != "legacy";
    if (executor == "profiling-no-fusion") {
      torch::jit::FusionStrategy none = {{torch::jit::FusionBehavior::STATIC, 0}};
      strategy_ = torch::jit::setFusionStrategy(none);
    }
  }

  ~ExecutorWindow() {
    torch::jit::getExecutorMode() = mode_;
    if (!strategy_.empty()) torch::jit::setFusionStrategy(strategy_);
  }

  ExecutorWindow(const ExecutorWindow&) = delete;
  ExecutorWindow& operator=(const ExecutorWindow&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }

  std::lock_guard<std::mutex> lock_;
  bool mode_;
  torch::jit::FusionStrategy strategy_;
};

}  // namespace

std::vector<std::string> executors() {
  return {"prepared", "legacy", "simple", "profiling", "profiling-no-fusion"};
}

ExecutorChoice choose_executor(const std::string& requested, c10::Device device) {
  const std::vector<std::string> known = executors();
  if (std::find(known.begin(), known.end(), requested) == known.end()) {
    throw ModelLoadError("executor: expected " + join(known, " or ") + ", got \"" + requested +
                         '"');
  }
  if (requested == "legacy" && !device.is_cpu() && !device.is_cuda() && !device.is_xpu()) {
    return {"simple", "the legacy executor's fuser knows cpu, cuda and xpu only, not " +
                          c10::DeviceTypeName(device.type(), /*lower_case=*/true)};
  }
  return {requested, ""};
}

void create_executors(const std::vector<torch::jit::Function*>& functions,
                      const std::string& requested, c10::Device device) {
  const std::string executor =
      requested == "prepared" ? choose_executor("legacy", device).executor : requested;
  const ExecutorWindow window(executor);
  for (torch::jit::Function* function : functions) {
    if (!function) continue;  // a method that freezing has removed
    GraphFunction* graph_function = torch::jit::tryToGraphFunction(*function);
    if (!graph_function) continue;
    if (executor != "legacy") {
      graph_function->_set_initial_executor_execution_mode(
          executor == "simple" ? torch::jit::ExecutorExecutionMode::SIMPLE
                               : torch::jit::ExecutorExecutionMode::PROFILING);
    }
    graph_function->get_executor();
  }
}

}  // namespace ts_infer
