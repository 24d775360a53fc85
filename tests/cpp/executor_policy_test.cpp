#include "engine/executor_policy.h"

#include <gtest/gtest.h>

#include <ATen/ops/ones.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <thread>

#include "archives.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

constexpr const char* kSource = "def forward(self, x):\n    return x * 2 + 1\n";

/// The legacy executor keeps one plan for each combination of dtypes and ranks; the profiling one
/// keeps exactly one. Two ranks tell them apart.
std::size_t plans_after_two_ranks(torch::jit::Module& module) {
  for (int call = 0; call < 3; ++call) {
    module.forward({at::ones({2})});
    module.forward({at::ones({2, 2})});
  }
  auto& function = torch::jit::toGraphFunction(module.get_method("forward").function());
  return function.get_executor().getDebugState().execution_plans.size();
}

TEST(ExecutorPolicyTest, LegacyExecutorKeepsAPlanForEachRank) {
  torch::jit::Module module = testing::make_module(kSource);
  create_executors({&module.get_method("forward").function()}, "legacy", c10::kCPU);
  EXPECT_EQ(plans_after_two_ranks(module), 2u);
}

TEST(ExecutorPolicyTest, TorchScriptOfTheHostKeepsTorchsDefault) {
  torch::jit::Module before = testing::make_module(kSource);
  const std::string bytes = testing::archive(kSource);
  Model model = Model::load(bytes.data(), bytes.size());
  torch::jit::Module after = testing::make_module(kSource);
  EXPECT_EQ(plans_after_two_ranks(before), 1u);
  EXPECT_EQ(plans_after_two_ranks(after), 1u);
}

TEST(ExecutorPolicyTest, SwitchesArePutBack) {
  const bool mode = torch::jit::getExecutorMode();
  const bool profiling = torch::jit::getProfilingMode();
  const auto strategy = torch::jit::getFusionStrategy();
  const std::string bytes = testing::archive(kSource);
  for (const char* executor :
       {"prepared", "legacy", "simple", "profiling", "profiling-no-fusion"}) {
    LoadOptions options;
    options.executor = executor;
    Model model = Model::load(bytes.data(), bytes.size(), options);
    model.forward({from_torch(at::ones({2}))});
    EXPECT_EQ(torch::jit::getExecutorMode(), mode) << executor;
    EXPECT_EQ(torch::jit::getProfilingMode(), profiling) << executor;
    EXPECT_EQ(torch::jit::getFusionStrategy(), strategy) << executor;
  }
}

TEST(ExecutorPolicyTest, SwitchesThatTheHostSetArePutBackToo) {
  torch::jit::getExecutorMode() = false;
  const std::string bytes = testing::archive(kSource);
  LoadOptions options;
  options.executor = "profiling";
  Model model = Model::load(bytes.data(), bytes.size(), options);
  EXPECT_FALSE(torch::jit::getExecutorMode());
  torch::jit::getExecutorMode() = true;
}

TEST(ExecutorPolicyTest, ModelsLoadedAtOnceEachGetTheirOwn) {
  const std::string bytes = testing::archive(kSource);
  std::vector<std::thread> threads;
  for (const char* executor :
       {"prepared", "legacy", "profiling", "simple", "profiling-no-fusion"}) {
    threads.emplace_back([&, executor] {
      for (int i = 0; i < 10; ++i) {
        LoadOptions options;
        options.executor = executor;
        Model model = Model::load(bytes.data(), bytes.size(), options);
        EXPECT_EQ(model.info().executor, executor);
        EXPECT_EQ(model.forward({from_torch(at::ones({2}))})[0].data<float>()[0], 3.0f);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(torch::jit::getExecutorMode());
}

TEST(ExecutorPolicyTest, LegacyStepsDownOnADeviceItsFuserDoesNotKnow) {
  const ExecutorChoice choice =
      choose_executor("legacy", c10::Device(c10::DeviceType::PrivateUse1, 0));
  EXPECT_EQ(choice.executor, "simple");
  EXPECT_NE(choice.reason.find("privateuseone"), std::string::npos);
  EXPECT_EQ(choose_executor("legacy", c10::Device(c10::kCUDA, 0)).reason, "");
}

}  // namespace
}  // namespace ts_infer
