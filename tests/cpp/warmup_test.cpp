#include "warmup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <atomic>
#include <thread>

#include "archives.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using testing::load_bytes;
using testing::message_of;

constexpr const char* kWarmUpManifest = R"({
  "schema": 1, "name": "sized", "method": "trace",
  "inputs": [{"name": "x", "type": "Tensor", "dtype": "float32",
              "shape": [{"name": "n", "min": 1, "max": 64}, 4]}],
  "outputs": [{"name": "y", "type": "Tensor"}],
  "warmup_shapes": [{"x": [1, 4]}, {"x": [64, 4]}]
})";

constexpr const char* kDoubling = "def forward(self, x):\n    return x * 2\n";

/// Its state counts the rows that it has seen.
constexpr const char* kCountingCalls =
    "def forward(self, x):\n    self.state += x.size(0)\n    return self.state + x\n";

std::vector<std::vector<std::int64_t>> warmed_up(const Model& model) {
  std::vector<std::vector<std::int64_t>> sizes;
  for (const LoadStep& step : model.info().load_steps) {
    if (step.name == "warm-up") sizes.push_back(step.shapes.at("x"));
  }
  return sizes;
}

using Sizes = std::vector<std::vector<std::int64_t>>;

TEST(WarmUpTest, RunsTheArchivesSizesLargestFirst) {
  const Model model = load_bytes(testing::archive(kDoubling, kWarmUpManifest));
  EXPECT_EQ(warmed_up(model), (Sizes{{64, 4}, {1, 4}}));
  EXPECT_EQ(model.stats().count, 0u);
}

TEST(WarmUpTest, FullRunsSizesBetweenToo) {
  LoadOptions options;
  options.warmup = "full";
  EXPECT_EQ(warmed_up(load_bytes(testing::archive(kDoubling, kWarmUpManifest), options)),
            (Sizes{{64, 4}, {8, 4}, {1, 4}}));
}

TEST(WarmUpTest, CallersSizesComeBeforeTheArchives) {
  LoadOptions options;
  options.warmup_shapes = {{{"x", {3, 4}}}};
  EXPECT_EQ(warmed_up(load_bytes(testing::archive(kDoubling, kWarmUpManifest), options)),
            (Sizes{{3, 4}}));
  // Without a manifest they are all that is known.
  EXPECT_EQ(warmed_up(load_bytes(testing::archive(kDoubling), options)), (Sizes{{3, 4}}));
  options.warmup_shapes = {{{"z", {3, 4}}}};
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(testing::archive(kDoubling), options); }),
              HasSubstr("warmup_shapes: "));
}

TEST(WarmUpTest, NothingIsRunWhereNoSizesAreKnownOrItIsOff) {
  const auto reason = [](const Model& model) {
    EXPECT_TRUE(warmed_up(model).empty());
    for (const std::string& decision : model.info().decisions) {
      if (decision.rfind("not warmed up: ", 0) == 0) return decision.substr(15);
    }
    return std::string();
  };
  EXPECT_EQ(reason(load_bytes(testing::archive(kDoubling))),
            "sizes are not known; give warmup_shapes");
  LoadOptions options;
  options.warmup = "off";
  EXPECT_EQ(reason(load_bytes(testing::archive(kDoubling, kWarmUpManifest), options)), "asked for");
  EXPECT_EQ(reason(load_bytes(testing::archive("def other(self, x):\n    return x\n"))),
            "there is no forward");
}

TEST(WarmUpTest, StateIsWhatItWas) {
  LoadOptions options;
  for (const char* executor : {"prepared", "legacy", "simple", "profiling"}) {
    options.executor = executor;
    Model model = load_bytes(testing::archive(kCountingCalls, kWarmUpManifest), options);
    EXPECT_EQ(warmed_up(model).size(), 2u);
    model.warm_up_this_thread();
    const Tensor output = model.forward({from_torch(at::zeros({2, 4}))})[0];
    EXPECT_EQ(output.data<float>()[0], 2) << executor;
  }
}

TEST(WarmUpTest, RandomGeneratorsAreWhatTheyWere) {
  at::manual_seed(7);
  const float expected = at::rand({1}).item<float>();
  at::manual_seed(7);
  load_bytes(
      testing::archive("def forward(self, x):\n    return x + torch.rand([4])\n", kWarmUpManifest));
  EXPECT_EQ(at::rand({1}).item<float>(), expected);
}

TEST(WarmUpTest, ModelThatFailsInItFailsInLoad) {
  const std::string bytes = testing::archive(
      "def forward(self, x):\n    assert x.size(0) < 64, \"too many\"\n    return x\n",
      kWarmUpManifest);
  const std::string message = message_of<ModelLoadError>([&] { load_bytes(bytes); });
  EXPECT_THAT(message, HasSubstr("it fails in its warm-up at x 64x4 with inputs drawn at random"));
  EXPECT_THAT(message, HasSubstr("too many"));
  LoadOptions options;
  options.warmup = "off";
  EXPECT_NO_THROW(load_bytes(bytes, options));
}

TEST(WarmUpTest, BudgetEndsItAndSaysWhatIsLeftOut) {
  LoadOptions options;
  options.warmup_budget_s = 0;
  std::vector<std::string> warnings;
  options.on_log = [&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) warnings.push_back(message);
  };
  EXPECT_EQ(warmed_up(load_bytes(testing::archive(kDoubling, kWarmUpManifest), options)),
            (Sizes{{64, 4}}));
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("budget of 0 s: not run at x 1x4")));
}

TEST(WarmUpTest, RefusesOtherLevelsAndBudgets) {
  const std::string bytes = testing::archive(kDoubling);
  LoadOptions options;
  options.warmup = "slow";
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(bytes, options); }),
              HasSubstr("warmup: expected off or fast or full, got \"slow\""));
  options.warmup = "fast";
  options.warmup_budget_s = -1;
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(bytes, options); }),
              HasSubstr("warmup_budget_s: expected seconds, 0 or more, got -1"));
}

TEST(WarmUpTest, TakesTheValuesOfTheGoldenSample) {
  // Repeated along the dimension that grows: 1, 2, 1, 2, …
  const char* const source =
      "def forward(self, x):\n    assert bool((x[0::2] == 1).all() and (x[1::2] == 2).all())\n"
      "    return x\n";
  const char* const manifest = R"({
    "schema": 1, "name": "golden", "method": "trace",
    "inputs": [{"name": "x", "type": "Tensor", "dtype": "float32",
                "shape": [{"name": "n", "min": 1, "max": 9}]}],
    "outputs": [{"name": "y", "type": "Tensor"}],
    "warmup_shapes": [{"x": [9]}, {"x": [1]}],
    "golden": {"file": "ts_infer/golden.pt", "calls": 1,
               "tolerance": {"cpu": {}, "accelerator": {}}}
  })";
  const std::string bytes = testing::save(testing::make_module(source), manifest,
                                          testing::golden_sample({{{1, 2}, {1, 2}}}));
  EXPECT_EQ(warmed_up(load_bytes(bytes)), (Sizes{{9}, {1}}));
}

TEST(WarmUpTest, EveryThreadMayWarmItselfUp) {
  Model model = load_bytes(testing::archive(kDoubling, kWarmUpManifest));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      model.warm_up_this_thread();
      EXPECT_EQ(model.forward({from_torch(at::ones({2, 4}))})[0].data<float>()[0], 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(model.stats().count, 4u);
}

TEST(LoadStepsTest, AddUpToTheLoad) {
  const std::string path =
      testing::write_file("steps.pt", testing::archive(kDoubling, kWarmUpManifest));
  const ModelInfo info = Model::load(path).info();
  std::vector<std::string> names;
  double sum = 0;
  for (const LoadStep& step : info.load_steps) {
    names.push_back(step.name);
    EXPECT_GE(step.ms, 0);
    sum += step.ms;
  }
  EXPECT_THAT(names, ElementsAre("read", "integrity", "deserialise", "optimise", "prepare",
                                 "warm-up", "warm-up"));
  EXPECT_DOUBLE_EQ(info.load_ms, sum);
  EXPECT_EQ(info.load_steps[5].calls_ms.size(), 2u);
  EXPECT_THAT(info.load_steps[6].calls_ms.size(), Gt(2u));
}

}  // namespace
}  // namespace ts_infer
