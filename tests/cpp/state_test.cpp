#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/irparser.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "archives.h"
#include "engine/state_analysis.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using testing::archive;
using ::testing::HasSubstr;

constexpr const char* kStateCounter = R"(
def forward(self, x):
    self.state.add_(1)
    return x + self.state
def reset(self):
    self.state.zero_()
    return 0
)";

constexpr const char* kAssigner = R"(
def forward(self, x):
    self.state = self.state + 1
    return x + self.state
)";

float step(Model& model) {
  const auto outputs = model.forward({from_torch(at::zeros({4}))});
  return outputs[0].data<float>()[0];
}

Model load_state(const std::string& bytes, bool optimize = true) {
  LoadOptions options;
  options.optimize = optimize;
  return Model::load(bytes.data(), bytes.size(), options);
}

TEST(StateTest, StatelessModuleHasNoState) {
  const auto state = analyse_state(testing::make_module(
      "def forward(self, x):\n    y = x + 1\n    y += self.weight\n    return y\n"));
  EXPECT_EQ(state.reason, "");
}

TEST(StateTest, InPlaceWriteToABufferIsFound) {
  const auto state = analyse_state(testing::make_module(kStateCounter));
  EXPECT_THAT(state.reason, HasSubstr("writes to state"));
  EXPECT_THAT(state.attributes, ::testing::ElementsAre("state"));
}

TEST(StateTest, WriteThroughAViewIsFound) {
  const auto state = analyse_state(testing::make_module(
      "def forward(self, x):\n    row = self.weight[0]\n    row.add_(1)\n    return x\n"));
  EXPECT_THAT(state.attributes, ::testing::ElementsAre("weight"));
}

TEST(StateTest, AssignmentIsFound) {
  EXPECT_THAT(analyse_state(testing::make_module(kAssigner)).reason, HasSubstr("assigns state"));
}

TEST(StateTest, StateIsKeptAcrossCallsWithAndWithoutOptimising) {
  for (const char* source : {kStateCounter, kAssigner}) {
    for (const bool optimize : {true, false}) {
      Model model = load_state(archive(source), optimize);
      EXPECT_TRUE(model.info().stateful);
      EXPECT_EQ(step(model), 1);
      EXPECT_EQ(step(model), 2);
    }
  }
}

TEST(StateTest, MethodsSeeTheSameState) {
  Model model = load_state(archive(kStateCounter));
  step(model);
  step(model);
  model.run_method("reset");
  EXPECT_EQ(step(model), 1);
}

TEST(StateTest, CloneStartsFromTheStateOfNowAndGoesItsOwnWay) {
  for (const char* source : {kStateCounter, kAssigner}) {
    for (const bool optimize : {true, false}) {
      Model model = load_state(archive(source), optimize);
      step(model);
      Model copy = model.clone();
      EXPECT_EQ(step(copy), 2);
      EXPECT_EQ(step(copy), 3);
      EXPECT_EQ(step(model), 2);
      EXPECT_EQ(copy.stats().count, 2u);
    }
  }
}

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0;
  std::size_t resident = 0;
  statm >> total >> resident;
  return resident * 4096;
}

TEST(StateTest, CloneSharesTheWeights) {
  constexpr std::size_t kWeightBytes = 16 << 20;
  torch::jit::Module module("Large");
  module.register_parameter("weight", at::ones({kWeightBytes / 4}), false);
  module.register_buffer("state", at::zeros({4}));
  module.define(R"(
def forward(self, x):
    self.state.add_(1)
    return x + self.state + self.weight[0] - 1
)");
  module.eval();
  Model model = load_state(testing::save(module), false);
  std::vector<Model> clones;
  clones.push_back(model.clone());
  const std::size_t before = resident_bytes();
  for (int i = 0; i < 20; ++i) clones.push_back(model.clone());
  EXPECT_LT(resident_bytes() - before, 2 * kWeightBytes);
  EXPECT_EQ(step(clones.back()), 1);
}

TEST(StateTest, WriteIntoAListOfTensorsIsState) {
  torch::jit::Module module("Lists");
  module.register_attribute("history", c10::ListType::ofTensors(),
                            c10::List<at::Tensor>({at::zeros({4})}));
  module.define(
      "def forward(self, x):\n    self.history[0].add_(1)\n    return x + self.history[0]\n");
  module.eval();
  EXPECT_THAT(analyse_state(module).reason, HasSubstr("list"));
  Model model = load_state(testing::save(module));
  EXPECT_EQ(step(model), 1);
  Model copy = model.clone();
  EXPECT_EQ(step(copy), 2);
  EXPECT_EQ(step(model), 2);
}

TEST(StateTest, ConstantThatIsWrittenInPlaceIsState) {
  // What torch.jit.trace leaves of a plain tensor that forward mutates.
  torch::jit::Module module("Traced");
  module.define("def forward(self, x):\n    return x + 1\n");
  auto& function = torch::jit::toGraphFunction(module.get_method("forward").function());
  const auto graph = function.graph();
  torch::jit::Node* add = nullptr;
  for (torch::jit::Node* node : graph->nodes()) {
    if (node->kind() == c10::Symbol::fromQualString("aten::add")) add = node;
  }
  const torch::jit::WithInsertPoint before(add);
  torch::jit::Value* held = graph->insertConstant(at::zeros({4}));
  torch::jit::Value* one = graph->insertConstant(1);
  torch::jit::Value* written =
      graph->insert(c10::Symbol::fromQualString("aten::add_"), {held, one});
  add->replaceInput(1, graph->insert(c10::Symbol::fromQualString("aten::clone"), {written}));
  module.eval();

  const auto state = analyse_state(module);
  EXPECT_THAT(state.reason, HasSubstr("constant"));
  for (const bool optimize : {true, false}) {
    Model model = load_state(testing::save(module), optimize);
    EXPECT_TRUE(model.info().stateful);
    EXPECT_EQ(step(model), 1);
    Model copy = model.clone();
    EXPECT_EQ(step(copy), 2);
    EXPECT_EQ(step(copy), 3);
    EXPECT_EQ(step(model), 2);
  }
}

TEST(StateTest, CallsOfAStatefulModelTakeTurns) {
  Model model = load_state(archive(kStateCounter));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) step(model);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(step(model), 201);
}

TEST(StateTest, OutputsThatAliasTheStateAreCopiedWithinTheTurn) {
  torch::jit::Module module("Accumulator");
  module.register_buffer("state", at::zeros({400000}));
  module.define("def forward(self, x):\n    self.state.add_(x)\n    return self.state\n");
  module.eval();
  Model model = load_state(testing::save(module));
  const Tensor one = from_torch(at::ones({1}));
  std::atomic<int> torn{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        const at::Tensor output = to_torch(model.forward({one})[0]);
        if (!output.eq(output[0]).all().item<bool>()) ++torn;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(torn, 0);
}

}  // namespace
}  // namespace ts_infer
