#include <atomic>
#include <future>
#include <thread>

#include "archives.h"
#include "device/streams.h"
#include "device_testing.h"

namespace ts_infer {
namespace {

using namespace std::chrono_literals;
using testing::current_stream;
using testing::Delay;
using ::testing::Each;
using testing::fake_device;
using testing::Fault;
using ::testing::HasSubstr;
using testing::kLinear;
using testing::kSum;
using testing::load;
using testing::message_of;
using testing::on_device;
using testing::on_host;
using testing::on_stream;
using testing::to_device;
using testing::values;

class DeviceErrorsTest : public testing::DeviceFixture {};

TEST_F(DeviceErrorsTest, EveryAsynchronousFaultIsReportedByItsCallAndByNoOther) {
  Model model = load(kLinear);
  const auto forward = [&] { return values(model.forward({on_host({2, 4})})[0]); };
  forward();
  const c10::Stream stream = own_stream(fake_device());
  const std::size_t before = testing::work_so_far(stream);
  forward();
  const std::size_t work = testing::work_so_far(stream) - before;
  ASSERT_GE(work, 4u);  // a copy, two operators at least, a copy
  const Delay delay(1ms);
  for (std::size_t nth = 1; nth <= work; ++nth) {
    {
      const Fault fault(nth);
      EXPECT_THAT(message_of<ExecutionError>(forward), HasSubstr("injected fault")) << nth;
    }
    EXPECT_THAT(forward(), Each(3.0f)) << nth;
  }
}

TEST_F(DeviceErrorsTest, DeviceInputsWithHostOutputsReportTheirFaults) {
  Model model = load(kLinear);
  const Tensor input = on_device({1, 4});
  const Delay delay(1ms);
  {
    const Fault fault;
    EXPECT_THAT(message_of<ExecutionError>([&] { model.forward({input}, to_device("cpu")); }),
                HasSubstr("injected fault"));
  }
  EXPECT_THAT(values(model.forward({input}, to_device("cpu"))[0]), Each(3.0f));
}

TEST_F(DeviceErrorsTest, FaultsOfUnwaitedCallsAreTheHostsToSee) {
  for (const char* source : {kLinear, kSum}) {
    Model model = load(source);
    const Tensor input = on_device({4});
    const c10::Stream stream = testing::new_stream();
    {
      const Fault fault;
      EXPECT_NO_THROW(model.forward({input}, on_stream(stream)));
    }
    EXPECT_THROW(testing::synchronize(stream), c10::Error);
    EXPECT_NO_THROW(model.forward({on_host({4})}));
  }
}

TEST_F(DeviceErrorsTest, OneOfManyThreadsReportsTheFault) {
  Model model = load(kLinear);
  const Delay delay(1ms);
  std::atomic<int> failed{0};
  std::atomic<int> right{0};
  const Fault fault(23);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int call = 0; call < 5; ++call) {
        try {
          const float expected = 2.0f * static_cast<float>(i) + 1;
          EXPECT_THAT(values(model.forward({on_host({2, 4}, i)})[0]), Each(expected));
          ++right;
        } catch (const ExecutionError&) {
          ++failed;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 1);
  EXPECT_EQ(right, 19);
}

TEST_F(DeviceErrorsTest, AStatefulCallReportsItsOwnFaultWhileOthersWait) {
  Model model = load(kSum);
  const Delay delay(10ms);
  for (int round = 0; round < 3; ++round) {
    std::future<void> first;
    {
      const Fault fault;
      first = std::async(std::launch::async, [&] { model.forward({on_host({4})}); });
      while (!fault.is_taken() && first.wait_for(0s) == std::future_status::timeout) {
        std::this_thread::yield();
      }
    }
    EXPECT_NO_THROW(model.forward({on_host({4})}));
    EXPECT_THROW(first.get(), ExecutionError);
  }
}

TEST_F(DeviceErrorsTest, AFaultThatComesAfterAnErrorIsNotLeftForTheNextCall) {
  Model model = load(kLinear);
  const Delay delay(5ms);
  {
    const Fault fault;  // of the input's copy, which runs after the shapes were refused
    EXPECT_THAT(message_of<ExecutionError>([&] {
                  model.forward({on_host({1, 3})});
                }),
                HasSubstr("mat1 and mat2"));
  }
  EXPECT_THAT(values(model.forward({on_host({1, 4})})[0]), Each(3.0f));
}

TEST_F(DeviceErrorsTest, LoadReportsItsFault) {
  {
    const Fault fault;
    EXPECT_THAT(message_of<ModelLoadError>([] { load(kLinear); }), HasSubstr("injected fault"));
  }
  EXPECT_NO_THROW(load(kLinear));
}

}  // namespace
}  // namespace ts_infer
