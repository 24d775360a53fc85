#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>

#include <chrono>
#include <optional>
#include <thread>

#include "archives.h"
#include "device_testing.h"
#include "fake_memory.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using ::testing::Contains;
using testing::current_stream;
using testing::fake_device;
using ::testing::HasSubstr;
using testing::Hold;
using testing::kLinear;
using testing::kSum;
using testing::message_of;
using testing::new_stream;
using testing::on_device;
using testing::on_host;
using testing::on_stream;
using testing::values;
using testing::work_so_far;

/// Ten operators, so that a replay shows in the count of work.
constexpr const char* kLong = R"(
def forward(self, x):
    for i in range(10):
        x = torch.matmul(x, self.weight) + 1
    return x
)";

class DeviceGraphsTest : public testing::DeviceFixture {
 protected:
  static LoadOptions options(const std::vector<std::int64_t>& rows = {8, 2}) {
    LoadOptions options;
    options.device = fake_device().str();
    options.graphs = true;
    for (const std::int64_t count : rows) options.warmup_shapes.push_back({{"x", {count, 4}}});
    return options;
  }

  /// What the same model gives without graphs, on the host.
  static std::vector<float> expected(const char* source, const Tensor& input) {
    LoadOptions plain;
    plain.device = "cpu";
    return values(testing::load(source, plain).forward({input})[0]);
  }
};

TEST_F(DeviceGraphsTest, ReplaysEachDeclaredSizeWithTheInputsOfTheCall) {
  Model model = testing::load(kLong, options());
  EXPECT_THAT(model.info().decisions, Contains("graphs: calls recorded at 2 sizes"));
  for (const std::int64_t rows : {8, 2, 8}) {
    for (const double value : {1.0, -3.0}) {
      const Tensor input = on_host({rows, 4}, value);
      EXPECT_EQ(values(model.forward({input})[0]), expected(kLong, input));
    }
  }
}

TEST_F(DeviceGraphsTest, AReplayIsOnePieceOfWork) {
  Model model = testing::load(kLong, options());
  LoadOptions plain = options();
  plain.graphs = false;
  Model without = testing::load(kLong, plain);
  const auto work_of = [](Model& of) {
    const Tensor input = on_device({8, 4});
    const std::size_t before = work_so_far(current_stream());
    of.forward({input});
    return work_so_far(current_stream()) - before;
  };
  EXPECT_EQ(work_of(model), 3u) << "the input, the replay, the output";
  EXPECT_GE(work_of(without), 20u);
}

TEST_F(DeviceGraphsTest, OtherSizesAndDtypesRunAsWithoutGraphs) {
  Model model = testing::load(kLong, options());
  const Tensor input = on_host({5, 4}, 2);
  EXPECT_EQ(values(model.forward({input})[0]), expected(kLong, input));
  EXPECT_THROW(model.forward({from_torch(at::ones({8, 4}, at::kDouble))}), ExecutionError);
}

TEST_F(DeviceGraphsTest, OutputsOutliveLaterCallsAndTheModel) {
  std::optional<Model> model = testing::load(kLong, options());
  const Tensor input = on_device({8, 4}, 1);
  const Tensor other = on_device({8, 4}, 5);
  const Tensor first = model->forward({input})[0];
  model->forward({other});
  const std::vector<float> right = expected(kLong, on_host({8, 4}, 1));
  EXPECT_EQ(values(first), right);
  model.reset();
  EXPECT_EQ(values(first), right);
}

TEST_F(DeviceGraphsTest, CallsOnSeveralStreamsTakeTurnsOnTheDevice) {
  Model model = testing::load(kLong, options());
  const Tensor first_input = on_device({8, 4}, 1);
  const Tensor second_input = on_device({8, 4}, 5);
  testing::synchronize_all();
  const c10::Stream first = new_stream();
  const c10::Stream second = new_stream();
  Hold hold(first);
  const Tensor first_output = model.forward({first_input}, on_stream(first))[0];
  const Tensor second_output = model.forward({second_input}, on_stream(second))[0];
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(testing::is_idle(second)) << "it waits for the first";
  hold.release();
  testing::synchronize(first);
  testing::synchronize(second);
  EXPECT_EQ(values(first_output), expected(kLong, on_host({8, 4}, 1)));
  EXPECT_EQ(values(second_output), expected(kLong, on_host({8, 4}, 5)));
}

TEST_F(DeviceGraphsTest, ServesManyThreads) {
  Model model = testing::load(kLong, options());
  std::vector<std::vector<float>> right;
  for (int value = 0; value < 4; ++value) {
    right.push_back(expected(kLong, on_host({value % 2 ? 2 : 8, 4}, value)));
  }
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 25; ++i) {
        const int value = (thread + i) % 4;
        const Tensor input = on_host({value % 2 ? 2 : 8, 4}, value);
        ASSERT_EQ(values(model.forward({input})[0]), right.at(value));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceGraphsTest, ClonesReplayTheSameRecordings) {
  Model model = testing::load(kLong, options());
  Model clone = model.clone();
  const Tensor input = on_host({8, 4}, 3);
  EXPECT_EQ(values(clone.forward({input})[0]), expected(kLong, input));
}

TEST_F(DeviceGraphsTest, ContainersOfOutputsComeBackWhole) {
  const char* source = R"(
def forward(self, x):
    y = x + 1
    return {'a': [x * 2, y], 'b': [y]}, x.size(0)
)";
  Model model = testing::load(source, options());
  for (const double value : {1.0, 4.0}) {
    const c10::IValue result = call(model, "forward", {at::full({8, 4}, value)});
    const auto& parts = result.toTupleRef().elements();
    const auto named = parts[0].toGenericDict();
    const auto tensors = named.at("a").toTensorVector();
    EXPECT_EQ(tensors[0][7][3].item<double>(), 2 * value);
    EXPECT_EQ(tensors[1][7][3].item<double>(), value + 1);
    EXPECT_EQ(named.at("b").toTensorVector()[0][7][3].item<double>(), value + 1);
    EXPECT_EQ(parts[1].toInt(), 8);
  }
}

TEST_F(DeviceGraphsTest, WhatTheHostWaitsForCannotBeRecorded) {
  const char* source = R"(
def forward(self, x):
    if bool(x.sum() > 0):
        return x + 1
    return x - 1
)";
  Model model = testing::load(source, options());
  EXPECT_THAT(model.info().decisions, Contains(HasSubstr("graphs: none at x 8x4: ")));
  EXPECT_THAT(model.info().decisions, Contains("graphs: calls recorded at 0 sizes"));
  for (const double value : {1.0, -1.0}) {
    const Tensor input = on_host({8, 4}, value);
    EXPECT_EQ(values(model.forward({input})[0]), expected(source, input));
  }
}

TEST_F(DeviceGraphsTest, AModelWithStateRunsWithoutAndSaysSo) {
  LoadOptions of_state = options({});
  of_state.warmup_shapes = {{{"x", {4}}}};
  Model model = testing::load(kSum, of_state);
  EXPECT_THAT(model.info().decisions, Contains("graphs: none, the model has state"));
}

TEST_F(DeviceGraphsTest, MemoryIsReservedInLoad) {
  Model model = testing::load(kLong, options());
  std::vector<Tensor> inputs = {on_host({8, 4}, 1), on_host({2, 4}, 1)};
  const auto taken = [] { return testing::device_allocator().getDeviceStats(0).num_device_alloc; };
  for (const Tensor& input : inputs) model.forward({input});
  const auto before = taken();
  for (int i = 0; i < 100; ++i) model.forward({inputs[i % 2]});
  EXPECT_EQ(taken(), before);
}

TEST_F(DeviceGraphsTest, AnErrorOfAReplayIsThatOfItsCall) {
  Model model = testing::load(kLong, options());
  const Tensor input = on_host({8, 4}, 1);
  {
    testing::Fault fault(2);
    EXPECT_THAT(message_of<ExecutionError>([&] { model.forward({input}); }),
                HasSubstr("injected fault"));
  }
  EXPECT_EQ(values(model.forward({input})[0]), expected(kLong, input));
}

TEST_F(DeviceGraphsTest, NeedsADeviceThatHasThemAndAWarmUp) {
  LoadOptions on_cpu = options();
  on_cpu.device = "cpu";
  EXPECT_THAT(message_of<ModelLoadError>([&] { testing::load(kLong, on_cpu); }),
              HasSubstr("graphs: expected a device whose calls can be recorded, got cpu"));
  LoadOptions cold = options();
  cold.warmup = "off";
  EXPECT_THAT(message_of<ModelLoadError>([&] { testing::load(kLong, cold); }),
              HasSubstr("graphs: expected sizes to record them at, got no warm-up (asked for)"));
}

}  // namespace
}  // namespace ts_infer
