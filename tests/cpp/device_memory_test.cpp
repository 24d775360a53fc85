#include <ATen/core/CachingHostAllocator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StreamGuard.h>

#include <thread>

#include "archives.h"
#include "device/memory.h"
#include "device/streams.h"
#include "device_testing.h"

namespace ts_infer {
namespace {

using ::testing::AllOf;
using testing::current_stream;
using ::testing::Each;
using testing::fake_device;
using ::testing::HasSubstr;
using testing::Hold;
using testing::load;
using testing::MemoryLimit;
using testing::message_of;
using testing::on_device;
using testing::on_host;
using testing::values;

constexpr std::int64_t kMiB = 1 << 20;

class FakeMemoryTest : public testing::DeviceFixture {
 protected:
  void SetUp() override { c10::getDeviceAllocator(fake_device().type())->emptyCache(); }

  /// One that fills whole blocks, so that sizes can be told exactly.
  static at::Tensor tensor_of(std::int64_t bytes) {
    return at::empty({bytes}, at::TensorOptions(at::kByte).device(fake_device()));
  }
  static DeviceMemory memory() { return device_memory(fake_device()).value(); }
};

class DeviceMemoryTest : public FakeMemoryTest {
 protected:
  /// Two layers, so that memory is freed and used again within a call.
  Model model_ = load(R"(
def forward(self, x):
    y = torch.relu(torch.matmul(x, self.weight)) + 1
    return torch.matmul(torch.cat([y, y * 2], 0), self.weight), y
)");
  static Tensor input(std::int64_t rows) { return on_host({rows, 4}); }
  std::vector<float> first_output(std::int64_t rows) {
    return values(model_.forward({input(rows)})[0]);
  }
};

// ---- The fake device's memory: what the tests below rely on.

TEST_F(FakeMemoryTest, FreeBlocksServeSmallerRequests) {
  tensor_of(kMiB);
  const DeviceMemory before = memory();
  const at::Tensor half = tensor_of(kMiB / 2);
  const at::Tensor other_half = tensor_of(kMiB / 2);
  EXPECT_NE(half.data_ptr(), other_half.data_ptr());
  EXPECT_EQ(memory().device_allocations, before.device_allocations);
  const at::Tensor more = tensor_of(kMiB / 2);
  EXPECT_EQ(memory().device_allocations, before.device_allocations + 1);
}

TEST_F(FakeMemoryTest, FreeNeighboursServeLargerRequests) {
  tensor_of(kMiB);
  {
    const at::Tensor half = tensor_of(kMiB / 2);
    const at::Tensor other_half = tensor_of(kMiB / 2);
  }
  const DeviceMemory before = memory();
  const at::Tensor whole = tensor_of(kMiB);
  EXPECT_EQ(memory().device_allocations, before.device_allocations);
}

TEST_F(FakeMemoryTest, BlocksStayWithTheirStream) {
  tensor_of(kMiB);
  const std::int64_t before = memory().device_allocations;
  {
    const c10::StreamGuard guard(testing::new_stream());
    const at::Tensor of_another = tensor_of(kMiB);
    EXPECT_EQ(memory().device_allocations, before + 1);
  }
  const at::Tensor of_the_same = tensor_of(kMiB);
  EXPECT_EQ(memory().device_allocations, before + 1);
}

TEST_F(FakeMemoryTest, BlocksWaitForTheStreamsThatAreRecorded) {
  const c10::Stream other = testing::new_stream();
  Hold hold(other);
  {
    at::Tensor tensor = tensor_of(kMiB);
    tensor.record_stream(other);
  }
  const std::int64_t before = memory().device_allocations;
  at::Tensor tensor = tensor_of(kMiB);
  EXPECT_EQ(memory().device_allocations, before + 1);
  hold.release();
  testing::synchronize(other);
  const at::Tensor again = tensor_of(kMiB);
  EXPECT_EQ(memory().device_allocations, before + 1);
}

TEST_F(FakeMemoryTest, CachedBlocksMakeRoom) {
  const at::Tensor kept = tensor_of(kMiB);
  tensor_of(kMiB);
  const MemoryLimit limit(static_cast<std::size_t>(memory().reserved + kMiB));
  const at::Tensor larger = tensor_of(2 * kMiB);
  EXPECT_THAT(message_of<c10::OutOfMemoryError>([] { tensor_of(kMiB); }),
              HasSubstr("Tried to allocate 1.00 MiB. Device 0 has a total capacity of"));
}

TEST_F(FakeMemoryTest, PinnedMemoryWaitsForTheStreamsThatAreRecorded) {
  const auto pinned_of = [](std::int64_t bytes) {
    return at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  };
  at::Tensor tensor = pinned_of(kMiB);
  void* const memory = tensor.data_ptr();
  const c10::Stream other = testing::new_stream();
  Hold hold(other);
  at::getHostAllocator(fake_device().type())
      ->record_event(memory, tensor.storage().data_ptr().get_context(), other);
  tensor.reset();
  EXPECT_NE(pinned_of(kMiB).data_ptr(), memory);
  hold.release();
  testing::synchronize(other);
  const at::Tensor first = pinned_of(kMiB);
  const at::Tensor second = pinned_of(kMiB);
  EXPECT_TRUE(first.data_ptr() == memory || second.data_ptr() == memory);
}

// ---- The numbers

TEST_F(DeviceMemoryTest, TheHostHasNone) { EXPECT_FALSE(device_memory(c10::kCPU)); }

TEST_F(DeviceMemoryTest, CountsWhatIsInUseAndWhatIsKept) {
  const DeviceMemory before = memory();
  at::Tensor tensor = tensor_of(3 * kMiB);
  const DeviceMemory with = memory();
  EXPECT_EQ(with.allocated, before.allocated + 3 * kMiB);
  EXPECT_GE(with.peak_allocated, with.allocated);
  EXPECT_EQ(with.reserved, before.reserved + 3 * kMiB);
  EXPECT_EQ(with.device_allocations, before.device_allocations + 1);
  EXPECT_EQ(with.free, before.free - 3 * kMiB);
  EXPECT_EQ(with.total, before.total);
  tensor.reset();
  EXPECT_EQ(memory().allocated, before.allocated);
  EXPECT_EQ(memory().reserved, with.reserved);
  EXPECT_EQ(memory().peak_allocated, with.peak_allocated);
}

TEST_F(DeviceMemoryTest, TellsDevicesApart) {
  const std::int64_t before = memory().device_allocations;
  const Tensor other = on_device({kMiB}, 0, 1);
  EXPECT_EQ(memory().device_allocations, before);
  EXPECT_GE(device_memory(fake_device(1)).value().allocated, 4 * kMiB);
}

// ---- Memory of calls

TEST_F(DeviceMemoryTest, CallsUpToTheLargestOneWarmedUpAllocateNothing) {
  std::thread([&] {
    const OwnStreamScope scope(fake_device());
    first_output(64);
  }).join();
  const DeviceMemory warm = memory();
  std::thread([&] {
    for (const std::int64_t rows : {64, 1, 63, 17, 64, 5, 40, 2, 33, 64}) {
      EXPECT_EQ(first_output(rows).size(), static_cast<std::size_t>(8 * rows));
    }
  }).join();
  std::thread([&] { first_output(50); }).join();
  EXPECT_EQ(memory().device_allocations, warm.device_allocations);
  EXPECT_EQ(memory().reserved, warm.reserved);
  EXPECT_EQ(memory().allocated, warm.allocated);
}

TEST_F(DeviceMemoryTest, CallsBeyondWhatWasWarmedUpAllocate) {
  first_output(64);
  const std::int64_t warm = memory().device_allocations;
  first_output(640);
  EXPECT_GT(memory().device_allocations, warm);
}

TEST_F(DeviceMemoryTest, CallsOutOfMemorySaySoAndTheNextOneAnswers) {
  const std::vector<float> right = first_output(8);
  {
    const MemoryLimit limit(static_cast<std::size_t>(memory().reserved + kMiB));
    for (const Tensor& large : {on_host({kMiB, 4}), on_host({8 * kMiB, 1})}) {
      EXPECT_THROW(model_.forward({large}), ExecutionError);
    }
    EXPECT_THAT(message_of<ExecutionError>([&] { model_.forward({input(kMiB)}); }),
                AllOf(HasSubstr("out of memory"), HasSubstr("Tried to allocate 16.00 MiB"),
                      HasSubstr("total capacity"), HasSubstr("is free")));
    EXPECT_EQ(first_output(8), right);
  }
  EXPECT_THAT(first_output(kMiB), ::testing::SizeIs(8 * kMiB));
}

TEST_F(DeviceMemoryTest, AModelThatRunsOutOfMemoryInTheMiddleAnswersAgain) {
  const std::vector<float> right = first_output(8);
  {
    // Room for the input, and not for what is made of it.
    const MemoryLimit limit(static_cast<std::size_t>(memory().reserved + 20 * kMiB));
    EXPECT_THAT(message_of<ExecutionError>([&] { model_.forward({input(kMiB)}); }),
                HasSubstr("out of memory"));
    EXPECT_TRUE(testing::all_idle());
    EXPECT_EQ(first_output(8), right);
  }
  EXPECT_THAT(first_output(kMiB), ::testing::SizeIs(8 * kMiB));
}

}  // namespace
}  // namespace ts_infer
