#include "engine/prepared.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <sstream>
#include <thread>

#include "archives.h"
#include "engine/executor_policy.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using testing::archive;
using testing::make_module;

Model load_with(const std::string& bytes, const char* executor = "prepared", bool optimize = true) {
  LoadOptions options;
  options.executor = executor;
  options.optimize = optimize;
  return Model::load(bytes.data(), bytes.size(), options);
}

Preparation on(c10::DeviceType device) { return {device, PassSelection(LoadOptions())}; }

TEST(PreparedTest, NoExecutorCompilesAnything) {
  torch::jit::Module module = make_module(
      "def helper(self, x):\n    return x * 2\n"
      "def forward(self, x):\n"
      "    if x.sum() > 0:\n        return self.helper(x)\n    return -x\n");
  torch::jit::Function& forward = module.get_method("forward").function();
  const std::vector<torch::jit::Function*> functions =
      module._ivalue()->compilation_unit()->get_functions();
  create_executors(functions, "prepared", c10::kCPU);
  const torch::jit::Code code = prepare(forward, on(c10::kCPU)).code;
  for (const float value : {1.0F, -1.0F}) {
    std::vector<c10::IValue> stack = {module._ivalue(), at::full({2}, value)};
    torch::jit::InterpreterState(code).run(stack);
    EXPECT_EQ(stack.back().toTensor()[0].item<float>(), value > 0 ? 2 : 1);
  }
  for (torch::jit::Function* function : functions) {
    auto& executor = torch::jit::toGraphFunction(*function).get_executor();
    EXPECT_TRUE(executor.getDebugState().execution_plans.empty()) << function->name();
  }
}

TEST(PreparedTest, LeavesTheFunctionsOwnGraphAsItIs) {
  torch::jit::Module module = make_module(
      "def helper(self, x):\n    return x * 2\ndef forward(self, x):\n    return self.helper(x)\n");
  torch::jit::Function& forward = module.get_method("forward").function();
  const std::string before = torch::jit::toGraphFunction(forward).graph()->toString();
  prepare(forward, on(c10::kCPU));
  EXPECT_EQ(torch::jit::toGraphFunction(forward).graph()->toString(), before);
}

TEST(PreparedTest, OwnKernelsAreForTheHost) {
  torch::jit::Module module = make_module(
      "def forward(self, x):\n"
      "    return torch.scaled_dot_product_attention(x, x, x)\n");
  torch::jit::Function& forward = module.get_method("forward").function();
  for (const c10::DeviceType device : {c10::kCPU, c10::kCUDA}) {
    EXPECT_EQ(prepare(forward, on(device)).decisions.size(), device == c10::kCPU ? 1u : 0u);
  }
}

TEST(PreparedTest, ProductsOfAnAcceleratorTakeAnotherType) {
  torch::jit::Module module = make_module(
      "def forward(self, x):\n"
      "    y = torch.linear(x, torch.ones([3, 4]) / 3.0)\n"
      "    return torch.matmul(y, y.t()) + 1e-6, torch.matmul(y.half(), y.half().t())\n");
  torch::jit::Function& forward = module.get_method("forward").function();
  Preparation how = on(c10::kCUDA);
  how.precision = c10::kHalf;
  const PreparedFunction prepared = prepare(forward, how);
  EXPECT_EQ(prepared.lowered_products, 3);
  const at::Tensor x = at::randn({2, 4});
  std::vector<c10::IValue> stack = {module._ivalue(), x};
  torch::jit::InterpreterState(prepared.code).run(stack);  // of the host: the rewriting is the same
  const auto outputs = stack.back().toTupleRef().elements();
  const at::Tensor weight = (at::ones({3, 4}) / 3.0).to(c10::kHalf);
  const at::Tensor y = at::linear(x.to(c10::kHalf), weight).to(c10::kFloat);
  const at::Tensor square = at::matmul(y.to(c10::kHalf), y.to(c10::kHalf).t());
  EXPECT_EQ(outputs[0].toTensor().scalar_type(), c10::kFloat);
  EXPECT_TRUE(at::equal(outputs[0].toTensor(), square.to(c10::kFloat) + 1e-6));
  EXPECT_EQ(outputs[1].toTensor().scalar_type(), c10::kHalf) << "half already";
  EXPECT_TRUE(at::equal(outputs[1].toTensor(), square));
}

struct Program {
  const char* name;
  const char* source;
};

class PreparedProgramTest : public ::testing::TestWithParam<Program> {};

/// Every executor gives what prepared code gives, on four calls in a row.
TEST_P(PreparedProgramTest, ComputesWhatTorchsExecutorsCompute) {
  const std::string bytes = archive(GetParam().source);
  for (const bool optimize : {true, false}) {
    Model prepared = load_with(bytes, "prepared", optimize);
    Model legacy = load_with(bytes, "legacy", optimize);
    EXPECT_EQ(prepared.info().executor, "prepared");
    for (const float value : {1.0F, -2.0F, 0.5F, 3.0F}) {
      const std::vector<c10::IValue> args = {at::full({4}, value)};
      const c10::IValue ours = call(prepared, "forward", args);
      const c10::IValue torchs = call(legacy, "forward", args);
      std::ostringstream left;
      std::ostringstream right;
      left << ours;
      right << torchs;
      EXPECT_EQ(left.str(), right.str());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Programs, PreparedProgramTest,
    ::testing::Values(
        Program{"Branches",
                "def forward(self, x):\n    if x.sum() > 0:\n        y = x + 1\n"
                "    else:\n        y = x.exp()\n    return y\n"},
        Program{"Loops",
                "def forward(self, x):\n    y = x\n    i = 0\n    while y.sum() < 40 and i < 9:\n"
                "        y = y * 2 + 1\n        i += 1\n    return y, i\n"},
        Program{"InPlace",
                "def forward(self, x):\n    y = x + 1\n    z = y\n    y += 1\n    return y, z\n"},
        Program{"State", "def forward(self, x):\n    self.state += x\n    return self.state * 2\n"},
        Program{"AssignedState",
                "def forward(self, x):\n    self.state = self.state + x\n    return self.state\n"},
        Program{"NestedTypes",
                "def forward(self, x):\n    parts = {'a': [x, x + 1], 'b': [x * 2]}\n"
                "    total = x\n    for name in parts:\n        for part in parts[name]:\n"
                "            total = total + part\n    return total, parts, ('text', 3, 2.5)\n"},
        Program{"Helper",
                "def helper(self, x, n: int):\n    return x * n\n"
                "def forward(self, x):\n    return self.helper(x, 2) + self.helper(x, 3)\n"},
        Program{"Dtypes",
                "def forward(self, x):\n    y = x.double()\n    if y.dtype == x.dtype:\n"
                "        return y\n    return y.long()\n"}),
    [](const auto& info) { return info.param.name; });

TEST(PreparedTest, ErrorsNameTheLineOfTheSource) {
  Model model = load_with(archive("def forward(self, x):\n    y = x + 1\n    return y.view(7)\n"));
  const std::string message =
      testing::message_of<ExecutionError>([&] { model.forward({from_torch(at::ones({4}))}); });
  EXPECT_THAT(message, ::testing::HasSubstr("view"));
  EXPECT_THAT(message, ::testing::HasSubstr("shape '[7]' is invalid"));
  EXPECT_THROW(model.forward({from_torch(at::ones({4}))}), ExecutionError) << "and again";
}

TEST(PreparedTest, ClonesShareCodeAndKeepTheirOwnState) {
  Model model =
      load_with(archive("def forward(self, x):\n    self.state += 1\n    return self.state\n"));
  const auto next = [](Model& from) {
    return from.forward({from_torch(at::ones({4}))})[0].data<float>()[0];
  };
  EXPECT_EQ(next(model), 1);
  Model clone = model.clone();
  EXPECT_EQ(next(model), 2);
  EXPECT_EQ(next(clone), 2);
  EXPECT_EQ(next(clone), 3);
  EXPECT_EQ(next(model), 3);
  EXPECT_EQ(clone.info().executor, "prepared");
}

TEST(PreparedTest, ServesManyThreads) {
  Model model = load_with(archive(
      "def forward(self, x):\n    y = x\n    for i in range(int(x[0])):\n        y = y + 1\n"
      "    return y\n"));
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 50; ++i) {
        const auto value = static_cast<float>((thread + i) % 5);
        const Tensor output = model.forward({from_torch(at::full({4}, value))})[0];
        ASSERT_EQ(output.data<float>()[0], 2 * value);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ts_infer
