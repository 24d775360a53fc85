// What a call costs beyond libtorch: Model::forward against raw Module::forward, both with the
// legacy executor in inference mode, on an MLP 4 -> 64 -> 4. Repetitions of the contestants are
// interleaved at random; the last lines are ratios of their medians of CPU time, which a busy
// machine disturbs less than wall time. input_checks is what of such a call goes into holding its
// inputs against the signature.

#include <benchmark/benchmark.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <map>
#include <sstream>

#include "input_check.h"
#include "ts_infer/torch.h"
#include "ts_infer/ts_infer.h"

namespace {

std::string mlp_archive() {
  torch::jit::Module module("Mlp");
  module.register_parameter("w1", at::randn({64, 4}), false);
  module.register_parameter("b1", at::randn({64}), false);
  module.register_parameter("w2", at::randn({4, 64}), false);
  module.register_parameter("b2", at::randn({4}), false);
  module.register_attribute("training", c10::BoolType::get(), false);
  module.define(R"(
def forward(self, x):
    hidden = torch.relu(torch.linear(x, self.w1, self.b1))
    return torch.linear(hidden, self.w2, self.b2)
)");
  std::ostringstream stream;
  module.save(stream);
  return stream.str();
}

void raw_forward(benchmark::State& state) {
  std::istringstream stream(mlp_archive());
  torch::jit::Module module = torch::jit::load(stream);
  const at::Tensor input = at::randn({1, 4});
  const c10::InferenceMode inference;
  torch::jit::getExecutorMode() = false;
  module.forward({input});
  torch::jit::getExecutorMode() = true;
  for (auto _ : state) benchmark::DoNotOptimize(module.forward({input}));
}

void model_forward(benchmark::State& state, bool optimize) {
  const std::string bytes = mlp_archive();
  ts_infer::LoadOptions options;
  options.optimize = optimize;
  ts_infer::Model model = ts_infer::Model::load(bytes.data(), bytes.size(), options);
  const std::vector<ts_infer::Tensor> inputs = {ts_infer::from_torch(at::randn({1, 4}))};
  for (int i = 0; i < 20; ++i) model.forward(inputs);
  for (auto _ : state) benchmark::DoNotOptimize(model.forward(inputs));
}

void input_checks(benchmark::State& state) {
  ts_infer::Signature signature;
  ts_infer::TensorSpec x;
  x.name = "x";
  x.dtype = ts_infer::DType::kFloat32;
  x.shape = {{.name = "batch", .min = 1, .max = 64}, {.name = "", .min = 4, .max = 4}};
  signature.inputs = {x};
  ts_infer::InputNode argument;
  argument.name = "x";
  argument.leaf = x;
  const ts_infer::InputCheck check(signature, {argument}, "[call] mlp:");
  const std::vector<c10::IValue> inputs = {at::randn({1, 4})};
  for (auto _ : state) {
    check.check(inputs);
    benchmark::DoNotOptimize(ts_infer::InputCheck::memory_fault(inputs[0].toTensor()));
  }
}

BENCHMARK(raw_forward);
BENCHMARK(input_checks);
BENCHMARK_CAPTURE(model_forward, no_optimize, false);
BENCHMARK_CAPTURE(model_forward, default_options, true);

/// Prints what is usual, and keeps the medians.
class MedianReporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.aggregate_name == "median") medians_[run.run_name.str()] = run.GetAdjustedCPUTime();
    }
  }

  void print_ratios() const {
    const auto base = medians_.find("raw_forward");
    if (base == medians_.end()) return;
    for (const auto& [name, median] : medians_) {
      std::printf("%-32s %.3f of raw_forward\n", name.c_str(), median / base->second);
    }
  }

 private:
  std::map<std::string, double> medians_;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments = {
      argv[0], "--benchmark_repetitions=25", "--benchmark_min_time=0.05",
      "--benchmark_enable_random_interleaving=true", "--benchmark_report_aggregates_only=true"};
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  int count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 2;
  at::set_num_threads(1);
  MedianReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  reporter.print_ratios();
  return 0;
}
