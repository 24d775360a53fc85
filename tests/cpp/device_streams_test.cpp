#include <c10/core/impl/VirtualGuardImpl.h>

#include <future>
#include <optional>
#include <thread>

#include "device/streams.h"
#include "device_testing.h"

namespace ts_infer {
namespace {

using namespace std::chrono_literals;
using testing::Delay;
using ::testing::Each;
using testing::fake_device;
using testing::kLinear;
using testing::kSum;
using testing::load;
using testing::on_device;
using testing::on_host;
using testing::values;

class DeviceStreamsTest : public testing::DeviceFixture {};

void expect_right_answer(Model& model) {
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f));
}

/// The stream that is lent next.
c10::Stream next_stream() { return StreamLease(fake_device()).stream(); }

/// What `run` returns, run in a thread that then ends.
template <typename F>
auto in_thread(const F& run) {
  return std::async(std::launch::async, run).get();
}

TEST_F(DeviceStreamsTest, StreamsAreLentToOneHolderAtATimeTheLastOneBackFirst) {
  std::optional<StreamLease> first(fake_device());
  std::optional<StreamLease> second(fake_device());
  const c10::Stream one = first->stream();
  const c10::Stream two = second->stream();
  EXPECT_NE(one, two);
  second.reset();
  first.reset();
  EXPECT_EQ(next_stream(), one);
  first.emplace(fake_device());
  EXPECT_EQ(next_stream(), two);
}

TEST_F(DeviceStreamsTest, LeasesMove) {
  StreamLease first(fake_device());
  const c10::Stream stream = first.stream();
  StreamLease second(std::move(first));
  EXPECT_EQ(second.stream(), stream);
  EXPECT_NE(next_stream(), stream);
  second = StreamLease(fake_device());
  EXPECT_NE(second.stream(), stream);
  EXPECT_EQ(next_stream(), stream);
}

TEST_F(DeviceStreamsTest, EachDeviceHasItsOwn) {
  const StreamLease first(fake_device(0));
  const StreamLease second(fake_device(1));
  EXPECT_EQ(first.stream().device(), fake_device(0));
  EXPECT_EQ(second.stream().device(), fake_device(1));
  const auto own = in_thread([] {
    return std::pair(own_stream(fake_device(0)).device(), own_stream(fake_device(1)).device());
  });
  EXPECT_EQ(own, std::pair(fake_device(0), fake_device(1)));
}

TEST_F(DeviceStreamsTest, ThreadsOneAfterTheOtherUseTheSameStream) {
  Model model = load(kLinear);
  const auto serve = [&] {
    expect_right_answer(model);
    return own_stream(fake_device());
  };
  const c10::Stream first = in_thread(serve);
  const std::size_t work = testing::work_so_far(first);
  EXPECT_EQ(in_thread(serve), first);
  EXPECT_GT(testing::work_so_far(first), work);
}

TEST_F(DeviceStreamsTest, ThreadsAtOnceUseTwoStreams) {
  Model model = load(kLinear);
  std::promise<c10::Stream> of_first;
  std::promise<c10::Stream> of_second;
  std::promise<void> done;
  const std::shared_future<void> wait = done.get_future().share();
  const auto run = [&model, wait](std::promise<c10::Stream>& stream) {
    expect_right_answer(model);
    stream.set_value(own_stream(fake_device()));
    wait.wait();
  };
  std::thread first(run, std::ref(of_first));
  std::thread second(run, std::ref(of_second));
  EXPECT_NE(of_first.get_future().get(), of_second.get_future().get());
  done.set_value();
  first.join();
  second.join();
}

TEST_F(DeviceStreamsTest, LoadsStreamIsTheFirstServingThreads) {
  const c10::Stream stream = next_stream();
  const std::size_t before = testing::work_so_far(stream);
  Model model = load(kLinear);
  const std::size_t loaded = testing::work_so_far(stream);
  EXPECT_GT(loaded, before);
  in_thread([&] { return expect_right_answer(model), 0; });
  EXPECT_GT(testing::work_so_far(stream), loaded);
}

TEST_F(DeviceStreamsTest, StatefulModelsKeepTheStreamThatLoadedThem) {
  const c10::Stream stream = next_stream();
  std::optional<Model> model(load(kSum));
  EXPECT_NE(next_stream(), stream);
  const std::size_t loaded = testing::work_so_far(stream);
  in_thread([&] { return values(model->forward({on_host({4})})[0]); });
  EXPECT_GT(testing::work_so_far(stream), loaded);
  model.reset();
  EXPECT_EQ(next_stream(), stream);
}

TEST_F(DeviceStreamsTest, TheCallersStreamWaitsForThatOfAStatefulModel) {
  const c10::Stream stream = next_stream();
  Model model = load(kSum);
  const Tensor input = on_device({4});
  const Delay delay(stream, 100ms);
  const auto outputs = model.forward({input});
  EXPECT_THAT(values(outputs[0]), Each(1.0f));
}

TEST_F(DeviceStreamsTest, ClonesWaitForTheStateThatTheyCopy) {
  const c10::Stream stream = next_stream();
  Model model = load(kSum);
  const Tensor input = on_device({4});
  model.forward({on_host({4})});  // the first call takes longer
  std::optional<Delay> delay(std::in_place, stream, 150ms);
  model.forward({input});
  Model copy = model.clone();
  delay.reset();
  EXPECT_THAT(values(copy.forward({on_host({4})})[0]), Each(3.0f));
}

TEST_F(DeviceStreamsTest, ClonesOfStatefulModelsHaveTheirOwn) {
  const Model model = load(kSum);
  const c10::Stream stream = next_stream();
  const Model copy = model.clone();
  EXPECT_NE(next_stream(), stream);
  const Model stateless = load(kLinear);
  const c10::Stream free = next_stream();
  const Model copy_of_stateless = stateless.clone();
  EXPECT_EQ(next_stream(), free);
}

TEST_F(DeviceStreamsTest, ScopeGivesTheThreadsStreamBackAtItsEnd) {
  in_thread([] {
    const c10::Stream stream = next_stream();
    {
      const OwnStreamScope scope(fake_device());
      EXPECT_EQ(own_stream(fake_device()), stream);
      EXPECT_NE(next_stream(), stream);
    }
    EXPECT_EQ(next_stream(), stream);
    return 0;
  });
}

TEST_F(DeviceStreamsTest, ScopeLeavesAStreamThatTheThreadHasAlready) {
  in_thread([] {
    const c10::Stream stream = own_stream(fake_device());
    {
      const OwnStreamScope scope(fake_device());
      EXPECT_EQ(own_stream(fake_device()), stream);
    }
    EXPECT_EQ(own_stream(fake_device()), stream);
    EXPECT_NE(next_stream(), stream);
    return 0;
  });
}

TEST_F(DeviceStreamsTest, ScopeOnTheHostDoesNothing) { const OwnStreamScope scope(c10::kCPU); }

/// Calls when its thread ends, after what the library keeps for the thread is gone.
struct LastCall {
  Model* model = nullptr;
  ~LastCall() {
    if (model) expect_right_answer(*model);
  }
};

TEST_F(DeviceStreamsTest, CallsWhileTheThreadEndsAreAnswered) {
  Model model = load(kLinear);
  std::thread thread([&] {
    thread_local LastCall last;
    last.model = &model;
    expect_right_answer(model);
  });
  thread.join();
}

TEST_F(DeviceStreamsTest, ManyThreadsWithInputsOfManySizesGetTheirOwnAnswers) {
  Model model = load(kLinear);
  const Delay delay(1ms);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&model, i] {
      std::vector<Tensor> outputs;
      for (int call = 0; call < 6; ++call) {
        outputs.push_back(model.forward({on_host({1 + (call * 5 + i) % 7, 4}, 10 * i + call)})[0]);
      }
      for (int call = 0; call < 6; ++call) {
        const float expected = 2.0f * static_cast<float>(10 * i + call) + 1;
        EXPECT_THAT(values(outputs[static_cast<std::size_t>(call)]), Each(expected));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ts_infer
