#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>

#include <optional>
#include <thread>

#include "archives.h"
#include "device/streams.h"
#include "device_testing.h"
#include "ts_infer/torch.h"
#include "ts_infer/verify.h"

namespace ts_infer {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Contains;
using testing::current_stream;
using testing::Delay;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::fake_device;
using ::testing::HasSubstr;
using testing::Hold;
using testing::host_waits;
using testing::into;
using testing::kLinear;
using testing::kSum;
using testing::load;
using testing::message_of;
using testing::on_device;
using testing::on_host;
using testing::on_stream;
using testing::to_device;
using testing::values;

class DeviceTest : public testing::DeviceFixture {};

// ---- The fake device itself: what the tests below rely on.

TEST(FakeDeviceTest, RunsLaterWhatIsEnqueued) {
  const at::Tensor tensor = at::ones({4}).to(fake_device());
  Hold hold(current_stream());
  const at::Tensor sum = tensor + 1;
  EXPECT_FALSE(testing::is_idle(current_stream()));
  hold.release();
  EXPECT_EQ(sum.cpu().sum().item<float>(), 8.0f);
}

TEST(FakeDeviceTest, PoisonsFreedMemoryUnlessItsUseIsRecorded) {
  const c10::Stream other = testing::new_stream();
  for (const bool recorded : {false, true}) {
    at::Tensor tensor = at::ones({4}).to(fake_device());
    at::Tensor sum;
    Hold hold(other);
    {
      const c10::StreamGuard guard(other);
      sum = tensor + 1;
    }
    if (recorded) tensor.record_stream(other);
    tensor.reset();
    testing::synchronize(current_stream());
    hold.release();
    testing::synchronize(other);
    EXPECT_EQ(sum.isnan().any().item<bool>(), !recorded);
  }
}

TEST(FakeDeviceTest, ComputesWhatTheHostComputes) {
  const at::Generator random = at::detail::createCPUGenerator(0);
  const at::Tensor image = at::randn({2, 3, 8, 8}, random);
  const at::Tensor kernel = at::randn({4, 3, 3, 3}, random);
  const at::Tensor weight = at::randn({5, 4}, random);
  const auto compute = [&](c10::Device device) {
    at::Tensor x = at::conv2d(image.to(device), kernel.to(device), {}, 1, 1);
    x = at::max_pool2d(at::batch_norm(x, {}, {}, at::zeros({4}).to(device),
                                      at::ones({4}).to(device), false, 0.1, 1e-5, false),
                       2);
    x = at::layer_norm(x.mean({2, 3}), {4});
    x = at::linear(at::gelu(x), weight.to(device));
    x = at::cat({x, at::softmax(x, 1)}, 1).transpose(0, 1).contiguous();
    x = x.index({x.sum(1) > 0}).clamp_min_(-1);
    return at::where(x > 0, x, at::embedding(at::eye(2), at::arange(2)).to(device).sum()).cpu();
  };
  const at::Tensor got = compute(fake_device(1));
  const at::Tensor expected = compute(c10::kCPU);
  EXPECT_TRUE(at::allclose(got, expected, 1e-4, 1e-5)) << got << "\nexpected\n" << expected;
}

// ---- Which device

TEST_F(DeviceTest, AvailableDevicesListsTheAccelerator) {
  EXPECT_THAT(available_devices(), ElementsAre("cpu", "fake:0", "fake:1"));
}

TEST_F(DeviceTest, AutoTakesTheAccelerator) { EXPECT_EQ(load(kLinear).info().device, "fake:0"); }

TEST_F(DeviceTest, NameWithoutIndexIsTheCurrentDevice) {
  const c10::DeviceGuard guard(fake_device(1));
  LoadOptions options;
  options.device = "fake";
  EXPECT_EQ(load(kLinear, options).info().device, "fake:1");
}

TEST_F(DeviceTest, LoadRejectsDevicesThatAreNotHere) {
  for (const char* device : {"fake:2", "cuda", "cuda:0", "nonsense"}) {
    LoadOptions options;
    options.device = device;
    EXPECT_THAT(message_of<ModelLoadError>([&] { load(kLinear, options); }),
                AllOf(HasSubstr("cpu or fake:0 or fake:1"), HasSubstr(device)));
  }
}

TEST_F(DeviceTest, LegacyExecutorStepsDown) {
  LoadOptions options;
  options.executor = "legacy";
  const Model model = load(kLinear, options);
  EXPECT_EQ(model.info().executor, "simple");
  EXPECT_THAT(model.info().decisions, Contains(HasSubstr("executor simple, not legacy")));
}

TEST_F(DeviceTest, EveryExecutorComputesTheSame) {
  for (const char* executor : {"prepared", "simple", "profiling", "profiling-no-fusion"}) {
    LoadOptions options;
    options.executor = executor;
    Model model = load(kLinear, options);
    for (int call = 0; call < 4; ++call) {
      EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f)) << executor;
    }
  }
}

TEST_F(DeviceTest, RunsOnTheSecondDevice) {
  LoadOptions options;
  options.device = "fake:1";
  Model model = load(kLinear, options);
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f));
  const auto outputs = model.forward({on_device({1, 4}, 1, 1)});
  EXPECT_EQ(outputs[0].device(), "fake:1");
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
  EXPECT_EQ(c10::impl::VirtualGuardImpl(fake_device().type()).getDevice().index(), 0);
}

TEST_F(DeviceTest, HostModelRunsBesideAnAccelerator) {
  LoadOptions options;
  options.device = "cpu";
  Model model = load(kLinear, options);
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f));
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({on_device({1, 4})});
              }),
              HasSubstr("expected cpu, got fake:0"));
}

// ---- Host inputs

TEST_F(DeviceTest, HostInputsComeBackToTheHostAfterOneWait) {
  Model model = load("def forward(self, x):\n    return x + 1, {'a': [x.t()], 'b': [x[0] * 2]}\n");
  const Delay delay(15ms);
  const std::size_t before = host_waits();
  const auto outputs = model.forward({on_host({3, 2})});
  EXPECT_EQ(host_waits(), before + 1);
  EXPECT_TRUE(testing::all_idle());
  for (const Tensor& output : outputs) EXPECT_EQ(output.device(), "cpu");
  EXPECT_THAT(values(outputs.at(0)), Each(2.0f));
  EXPECT_THAT(outputs.at(1).shape(), ElementsAre(2, 3));
  EXPECT_THAT(values(outputs.at(1)), Each(1.0f));
  EXPECT_THAT(values(outputs.at(2)), ElementsAre(2, 2));
}

TEST_F(DeviceTest, HostInputsMayBeNonContiguousAndOfEveryDtype) {
  Model model = load("def forward(self, x):\n    return x + x\n");
  const Delay delay(2ms);
  for (const auto dtype : {at::kByte, at::kLong, at::kHalf, at::kDouble, at::kComplexFloat}) {
    const at::Tensor input = at::arange(12).reshape({3, 4}).to(dtype).t();
    const at::Tensor output = to_torch(model.forward({from_torch(input)})[0]);
    EXPECT_TRUE(at::equal(output, input + input)) << dtype;
    EXPECT_EQ(output.scalar_type(), dtype);
  }
}

TEST_F(DeviceTest, TimesComeFromEvents) {
  Timing seen;
  LoadOptions options;
  options.on_timing = [&](const Timing& timing) { seen = timing; };
  Model model = load(kLinear, options);
  const Delay delay(3ms);
  model.forward({on_host({1, 4})});
  EXPECT_GT(seen.h2d_ms, 0);
  EXPECT_GT(seen.compute_ms, 0);
  EXPECT_GT(seen.d2h_ms, 0);
  EXPECT_GE(seen.total_ms, seen.h2d_ms + seen.compute_ms + seen.d2h_ms);
  EXPECT_GT(model.stats().compute_ms, 0);
}

TEST_F(DeviceTest, HostOutputsAreOrdinaryTensors) {
  Model model = load(kLinear);
  at::Tensor output = to_torch(model.forward({on_host({1, 4})})[0]);
  EXPECT_FALSE(output.is_inference());
  output += 1;
  EXPECT_EQ(output[0][0].item<float>(), 4.0f);
}

TEST_F(DeviceTest, HostInputsLeaveTheCallersStreamAlone) {
  Model model = load(kLinear);
  Hold hold(current_stream());
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f));  // would wait for ever
}

TEST_F(DeviceTest, HostThreadsHaveStreamsOfTheirOwn) {
  Model model = load(kLinear);
  const Delay delay(1ms);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&model, i] {
      for (int call = 0; call < 5; ++call) {
        const float expected = 2.0f * static_cast<float>(i) + 1;
        EXPECT_THAT(values(model.forward({on_host({2, 4}, i)})[0]), Each(expected));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceTest, HostInputsCanLeaveOutputsOnTheDevice) {
  Model model = load(kLinear);
  const Delay delay(2ms);
  const auto outputs = model.forward({on_host({1, 4})}, to_device("fake:0"));
  EXPECT_EQ(outputs[0].device(), "fake:0");
  EXPECT_TRUE(testing::all_idle());
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceTest, OutputsLeftOnTheDeviceAreSafeOnTheCallersStream) {
  Model model = load(kLinear);
  auto outputs = model.forward({on_host({1, 4})}, to_device("fake"));
  Hold hold(current_stream());
  const at::Tensor read_late = to_torch(outputs[0]) + 1;
  outputs.clear();
  testing::synchronize(own_stream(fake_device()));  // what was freed is poisoned by now
  hold.release();
  EXPECT_THAT(values(from_torch(read_late)), Each(4.0f));
}

// ---- Device inputs

TEST_F(DeviceTest, DeviceInputsWaitForNothing) {
  Model model = load(kLinear);
  const Tensor input = on_device({1, 4});
  Hold hold(current_stream());
  const std::size_t before = host_waits();
  const auto outputs = model.forward({input});
  EXPECT_EQ(host_waits(), before);
  EXPECT_FALSE(testing::is_idle(current_stream()));
  EXPECT_EQ(outputs[0].device(), "fake:0");
  hold.release();
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceTest, ModelsChainOnTheDevice) {
  Model first = load(kLinear);
  Model second = load("def forward(self, x):\n    return x * 2\n");
  const Tensor input = on_device({1, 4});
  Hold hold(current_stream());
  const auto outputs = second.forward(first.forward({input}));  // its input is dropped unread
  hold.release();
  EXPECT_THAT(values(outputs[0]), Each(6.0f));
}

TEST_F(DeviceTest, DeviceOutputsAreOrdinaryAndOutliveTheModel) {
  std::vector<Tensor> outputs;
  const Tensor input = on_device({1, 4});
  const Delay delay(2ms);
  {
    Model model = load(kLinear);
    outputs = model.forward({input});
  }
  EXPECT_FALSE(to_torch(outputs[0]).is_inference());
  to_torch(outputs[0]).add_(1);
  EXPECT_THAT(values(outputs[0]), Each(4.0f));
}

TEST_F(DeviceTest, DeviceOutputsNeverAliasWeightsStateOrInputs) {
  Model model = load("def forward(self, x):\n    return self.weight, self.state, x, x[0]\n");
  const Tensor input = on_device({2, 4});
  const Delay delay(1ms);
  for (Tensor output : model.forward({input})) to_torch(output).fill_(7);
  EXPECT_THAT(values(input), Each(1.0f));
  const auto again = model.forward({input});
  EXPECT_THAT(values(again[0]), Each(0.5f));
  EXPECT_THAT(values(again[1]), Each(0.0f));
}

TEST_F(DeviceTest, HostOutputsNeverAliasWeightsOrInputs) {
  Model model = load("def forward(self, x):\n    return self.weight, x\n");
  const Tensor input = on_host({4});
  for (Tensor output : model.forward({input})) to_torch(output).fill_(7);
  EXPECT_THAT(values(input), Each(1.0f));
  EXPECT_THAT(values(model.forward({input})[0]), Each(0.5f));
}

TEST_F(DeviceTest, DeviceInputsCanSendOutputsToTheHost) {
  Model model = load(kLinear);
  const Tensor input = on_device({1, 4});
  const Delay delay(3ms);
  const std::size_t before = host_waits();
  const auto outputs = model.forward({input}, to_device("cpu"));
  EXPECT_EQ(host_waits(), before + 1);
  EXPECT_EQ(outputs[0].device(), "cpu");
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceTest, RunsOnTheStreamThatIsGiven) {
  Model model = load(kLinear);
  const Tensor input = on_device({1, 4});
  const c10::Stream caller = current_stream();
  const c10::Stream other = testing::new_stream();
  Hold current(caller);
  Hold held(other);
  const auto outputs = model.forward({input}, on_stream(other));
  EXPECT_EQ(current_stream(), caller);
  EXPECT_FALSE(testing::is_idle(other));
  held.release();
  testing::synchronize(other);
  current.release();
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceTest, InputsMayBeDroppedWhileTheGivenStreamReadsThem) {
  Model model = load(kLinear);
  std::vector<Tensor> inputs = {on_device({1, 4})};
  const c10::Stream other = testing::new_stream();
  Hold hold(other);
  const auto outputs = model.forward(inputs, on_stream(other));
  inputs.clear();
  testing::synchronize(current_stream());
  hold.release();
  testing::synchronize(other);
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceTest, RejectsInputsOnDifferentDevices) {
  Model model = load("def forward(self, x, y):\n    return x + y\n");
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({on_device({1}), on_host({1})});
              }),
              AllOf(HasSubstr("input \"y\""), HasSubstr("all inputs on cpu or all on fake:0")));
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({on_host({1}), on_device({1})});
              }),
              HasSubstr("input \"y\""));
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({on_device({1}, 1, 1), on_device({1}, 1, 1)});
              }),
              AllOf(HasSubstr("input \"x\""), HasSubstr("got fake:1")));
  EXPECT_THAT(values(model.forward({on_device({1}), on_device({1})})[0]), ElementsAre(2));
}

TEST_F(DeviceTest, RejectsOutputDevicesThatAreNotTheModels) {
  Model model = load(kLinear);
  for (const char* device : {"fake:1", "fake:7", "cuda"}) {
    EXPECT_THAT(message_of<InputError>([&] {
                  model.forward({on_host({1, 4})}, to_device(device));
                }),
                HasSubstr(device));
  }
}

// ---- Buffers of the caller

TEST_F(DeviceTest, HostBuffersReceiveOutputs) {
  Model model = load(kLinear);
  const Delay delay(3ms);
  for (const Tensor& input : {on_host({2, 4}), on_device({2, 4})}) {
    const Tensor buffer = on_host({2, 4}, 0);
    const auto outputs = model.forward({input}, into({buffer}));
    EXPECT_TRUE(testing::is_idle(current_stream()));
    EXPECT_EQ(outputs[0].data_ptr(), buffer.data_ptr());
    EXPECT_THAT(values(buffer), Each(3.0f));
  }
}

TEST_F(DeviceTest, HostBuffersMayBeNonContiguous) {
  Model model = load(kLinear);
  const Delay delay(2ms);
  const at::Tensor whole = at::zeros({4, 6});
  model.forward({on_host({2, 4})}, into({from_torch(whole.narrow(1, 1, 2).t())}));
  EXPECT_EQ(whole.sum().item<float>(), 24.0f);
  EXPECT_TRUE(whole.narrow(1, 1, 2).eq(3).all().item<bool>());
}

TEST_F(DeviceTest, DeviceBuffersReceiveOutputsOfDeviceInputsUnwaited) {
  Model model = load(kLinear);
  const Tensor input = on_device({2, 4});
  const Tensor buffer = on_device({2, 4}, 0);
  Hold hold(current_stream());
  const std::size_t before = host_waits();
  model.forward({input}, into({buffer}));
  EXPECT_EQ(host_waits(), before);
  hold.release();
  EXPECT_THAT(values(buffer), Each(3.0f));
}

TEST_F(DeviceTest, DeviceBuffersReceiveOutputsOfHostInputs) {
  Model model = load(kLinear);
  const Tensor buffer = on_device({2, 4}, 0);
  const Delay delay(2ms);
  model.forward({on_host({2, 4})}, into({buffer}));
  EXPECT_THAT(values(buffer), Each(3.0f));
}

TEST_F(DeviceTest, DeviceBuffersAreNotWrittenBeforeTheirReaders) {
  Model model = load(kLinear);
  const Tensor buffer = on_device({2, 4}, 7);
  model.forward({on_host({2, 4})});  // the first call takes longer
  std::optional<Delay> delay(std::in_place, current_stream(), 150ms);
  const at::Tensor read_before = to_torch(buffer) * 1;
  model.forward({on_host({2, 4})}, into({buffer}));
  delay.reset();
  EXPECT_THAT(values(from_torch(read_before)), Each(7.0f));
  EXPECT_THAT(values(buffer), Each(3.0f));
}

// ---- State

TEST_F(DeviceTest, StatefulCallsOnHostThreadsTakeTurns) {
  Model model = load(kSum);
  ASSERT_TRUE(model.info().stateful);
  const Delay delay(1ms);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&model] {
      float last = 0;
      for (int call = 0; call < 5; ++call) {
        const auto seen = values(model.forward({on_host({4})})[0]);
        EXPECT_THAT(seen, Each(seen[0]));
        EXPECT_GT(seen[0], last);
        last = seen[0];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(values(model.forward({on_host({4})})[0]), Each(21.0f));
}

TEST_F(DeviceTest, StatefulCallsOnTwoStreamsStayInOrder) {
  Model model = load(kSum);
  const Tensor input = on_device({4});
  const c10::Stream first = testing::new_stream();
  const c10::Stream second = testing::new_stream();
  Hold hold(first);
  const auto one = model.forward({input}, on_stream(first));
  const auto two = model.forward({input}, on_stream(second));
  EXPECT_FALSE(testing::is_idle(second));
  hold.release();
  testing::synchronize(first);
  testing::synchronize(second);
  EXPECT_THAT(values(one[0]), Each(1.0f));
  EXPECT_THAT(values(two[0]), Each(2.0f));
}

TEST_F(DeviceTest, StatefulCallsReadInputsThatAreMadeLate) {
  Model model = load(kSum);
  const at::Tensor one = to_torch(on_device({4}));
  model.forward({on_host({4})});  // the first call takes longer
  std::optional<Delay> delay(std::in_place, current_stream(), 100ms);
  const Tensor input = from_torch(one + 4);
  const auto outputs = model.forward({input});
  testing::synchronize(current_stream());
  delay.reset();
  EXPECT_THAT(values(outputs[0]), Each(6.0f));
}

TEST_F(DeviceTest, HostInputsFollowStatefulCallsThatNobodyWaitedFor) {
  Model model = load(kSum);
  const Tensor input = on_device({4});
  const Delay delay(current_stream(), 30ms);
  model.forward({input});
  EXPECT_THAT(values(model.forward({on_host({4})})[0]), Each(2.0f));
}

TEST_F(DeviceTest, OutputsThatAreTheStateAreThisCallsOwn) {
  Model model = load("def forward(self, x):\n    self.state.add_(x)\n    return self.state\n");
  const Tensor input = on_device({4});
  const c10::Stream first = testing::new_stream();
  const c10::Stream second = testing::new_stream();
  const Delay delay(first, 30ms);
  const auto one = model.forward({input}, on_stream(first));
  const auto two = model.forward({input}, on_stream(second));
  testing::synchronize(first);
  testing::synchronize(second);
  EXPECT_THAT(values(one[0]), Each(1.0f));
  EXPECT_THAT(values(two[0]), Each(2.0f));
}

TEST_F(DeviceTest, ClonesHaveTheirOwnState) {
  Model model = load(kSum);
  const Tensor input = on_device({4});
  const Delay delay(3ms);
  model.forward({input});
  Model copy = model.clone();
  model.forward({input});
  EXPECT_THAT(values(copy.forward({on_host({4})})[0]), Each(2.0f));
  EXPECT_THAT(values(model.forward({on_host({4})})[0]), Each(3.0f));
}

TEST_F(DeviceTest, MethodsWithoutInputsRunOnTheDevice) {
  Model model =
      load(std::string(kSum) + "\ndef reset(self) -> int:\n    self.state.zero_()\n    return 3\n");
  const Delay delay(2ms);
  model.forward({on_host({4}, 5)});
  EXPECT_EQ(model.run_method("reset").as_int(), 3);
  EXPECT_THAT(values(model.forward({on_host({4})})[0]), Each(1.0f));
}

// ---- Model and state across streams

TEST_F(DeviceTest, LoadHasFinishedOnTheDeviceWhenItReturns) {
  std::optional<Delay> delay(60ms);  // freezing computes weight * 2
  Model model = load("def forward(self, x):\n    return torch.matmul(x, self.weight * 2)\n");
  EXPECT_TRUE(testing::all_idle());
  delay.reset();
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(4.0f));
}

TEST_F(DeviceTest, WeightsOutliveTheModelWhileAStreamReadsThem) {
  const Tensor input = on_device({1, 4});
  const c10::Stream other = testing::new_stream();
  const Delay delay(other, 80ms);
  std::vector<Tensor> outputs;
  {
    Model model = load(kLinear);
    outputs = model.forward({input}, on_stream(other));
  }
  testing::synchronize(other);
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceTest, StateThatIsReplacedIsKeptForTheStreamThatReadsIt) {
  Model model = load(R"(
def forward(self, x):
    self.state = self.state + x
    return self.state * 1
)");
  const Tensor input = on_device({4});
  const c10::Stream first = testing::new_stream();
  const c10::Stream second = testing::new_stream();
  model.forward({input}, on_stream(first));
  testing::synchronize(first);
  const Delay delay(second, 20ms);
  const auto outputs = model.forward({input}, on_stream(second));
  testing::synchronize(second);
  EXPECT_THAT(values(outputs[0]), Each(2.0f));
}

TEST_F(DeviceTest, ClonesAreFinishedWhenTheyAreReturned) {
  Model model = load(kSum);
  model.forward({on_host({4})});
  std::optional<Delay> delay(60ms);
  Model copy = model.clone();
  EXPECT_TRUE(testing::all_idle());
  delay.reset();
  EXPECT_THAT(values(model.forward({on_host({4})})[0]), Each(2.0f));
  EXPECT_THAT(values(copy.forward({on_host({4})})[0]), Each(2.0f));
}

TEST_F(DeviceTest, CallsFollowAStatefulOneThatFailed) {
  Model model = load(R"(
def forward(self, x):
    self.state.add_(1)
    self.state.copy_(self.state * 2)
    return torch.matmul(x, self.weight)[0] + self.state
)");
  const Tensor wrong = on_device({1, 3});
  const Tensor right = on_device({1, 4});
  const c10::Stream first = testing::new_stream();
  const c10::Stream second = testing::new_stream();
  const Delay delay(first, 10ms);
  EXPECT_THROW(model.forward({wrong}, on_stream(first)), ExecutionError);
  const auto outputs = model.forward({right}, on_stream(second));
  testing::synchronize(second);
  testing::synchronize(first);
  EXPECT_THAT(values(outputs[0]), Each(8.0f));  // (((0 + 1) * 2) + 1) * 2 + 2
}

// ---- Errors

TEST_F(DeviceTest, AnswersAfterAnErrorInTheModel) {
  Model model = load(kLinear);
  EXPECT_THAT(message_of<ExecutionError>([&] {
                model.forward({on_host({1, 3})});
              }),
              HasSubstr("mat1 and mat2"));
  EXPECT_THAT(message_of<ExecutionError>([&] {
                model.forward({on_device({1, 3})});
              }),
              HasSubstr("mat1 and mat2"));
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f));
  EXPECT_THAT(values(model.forward({on_device({1, 4})})[0]), Each(3.0f));
}

TEST_F(DeviceTest, AnswersAfterAnErrorOnTheDevice) {
  Model model = load("def forward(self, i):\n    return self.weight[i]\n");
  const auto at_index = [](std::int64_t i) { return from_torch(at::full({1}, i, at::kLong)); };
  EXPECT_THAT(message_of<ExecutionError>([&] { model.forward({at_index(9)}); }),
              HasSubstr("out of bounds"));
  EXPECT_THAT(values(model.forward({at_index(1)})[0]), Each(0.5f));
}

TEST_F(DeviceTest, ErrorsLeaveNoCopyBehindThatReadsTheInputs) {
  Model model = load(kLinear);
  EXPECT_THROW(model.forward({on_host({1, 3})}), ExecutionError);  // the first one takes longer
  const Delay delay(150ms);
  EXPECT_THROW(model.forward({on_host({1, 3})}), ExecutionError);
  EXPECT_TRUE(testing::all_idle());
}

TEST_F(DeviceTest, ErrorsLeaveNoCopyBehindThatWritesTheBuffers) {
  Model model = load("def forward(self, x):\n    return x + 1, x + 2\n");
  for (const Tensor& input : {on_host({4}), on_device({4})}) {
    const Tensor buffer = on_host({4}, 0);
    const Delay delay(10ms);
    EXPECT_THROW(model.forward({input}, into({buffer, on_host({3})})), InputError);
    to_torch(buffer).fill_(7);
    testing::synchronize_all();
    EXPECT_THAT(values(buffer), Each(7.0f));
  }
}

TEST(DeviceVerifyTest, TakesTheToleranceOfAccelerators) {
  const std::string manifest = R"({
    "schema": 1, "name": "double", "inputs": [{"name": "x"}],
    "golden": {"file": "ts_infer/golden.pt", "calls": 1, "tolerance": {
      "cpu": {"float32": [0, 0.01]}, "accelerator": {"float32": [0, 0.5]}}}})";
  const std::string bytes =
      testing::save(testing::make_module("def forward(self, x):\n    return x * 2\n"), manifest,
                    testing::golden_sample({{{1, 2}, {2, 4.25}}}));
  LoadOptions options;
  const VerifyReport on_accelerator = verify(bytes.data(), bytes.size(), options);
  EXPECT_EQ(on_accelerator.model.device, fake_device().str());
  EXPECT_TRUE(on_accelerator.ok());
  options.device = "cpu";
  EXPECT_FALSE(verify(bytes.data(), bytes.size(), options).ok());
}

}  // namespace
}  // namespace ts_infer
