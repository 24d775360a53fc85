#include <c10/core/CachingDeviceAllocator.h>

#include <atomic>
#include <future>
#include <random>
#include <thread>

#include "archives.h"
#include "device/memory.h"
#include "device_testing.h"

namespace ts_infer {
namespace {

using ::testing::AllOf;
using testing::fake_device;
using ::testing::HasSubstr;
using testing::MemoryLimit;
using testing::message_of;
using testing::on_host;
using testing::values;

constexpr const char* kManifest = R"({
  "schema": 1, "name": "sized", "method": "trace",
  "inputs": [{"name": "x", "type": "Tensor", "dtype": "float32",
              "shape": [{"name": "n", "min": 1, "max": 4096}, 4]}],
  "outputs": [{"name": "y", "type": "Tensor"}],
  "warmup_shapes": [{"x": [4096, 4]}, {"x": [1, 4]}]
})";

constexpr const char* kLayers = R"(
def forward(self, x):
    y = torch.relu(torch.matmul(x, self.weight)) + 1
    return torch.matmul(torch.cat([y, y * 2], 0), self.weight)
)";

constexpr const char* kCounter = R"(
def forward(self, x):
    self.state.add_(1)
    return x + self.state
)";

class DeviceWarmUpTest : public testing::DeviceFixture {
 protected:
  void SetUp() override { c10::getDeviceAllocator(fake_device().type())->emptyCache(); }

  /// On a thread with no stream of its own yet: the one that is warmed up goes to the first thread
  /// that serves.
  static Model load(const char* source, LoadOptions options = {}) {
    const std::string bytes = testing::archive(source, kManifest);
    return std::async(std::launch::async,
                      [&] { return Model::load(bytes.data(), bytes.size(), options); })
        .get();
  }
  static DeviceMemory memory() { return device_memory(fake_device()).value(); }
};

/// A thousand calls of sizes within the range, on two serving threads one after the other.
void expect_no_allocation(Model& model, const DeviceMemory& warm) {
  std::mt19937 generator(1);
  std::uniform_int_distribution<std::int64_t> rows(1, 4096);
  const auto call = [&](int count) {
    std::vector<Tensor> held;  // a caller keeps its last outputs
    for (int i = 0; i < count; ++i) held = model.forward({on_host({rows(generator), 4})});
  };
  std::thread([&] { call(500); }).join();
  std::thread([&] { call(500); }).join();
  const DeviceMemory after = device_memory(fake_device()).value();
  EXPECT_EQ(after.device_allocations, warm.device_allocations);
  EXPECT_EQ(after.reserved, warm.reserved);
}

TEST_F(DeviceWarmUpTest, NoCallAfterLoadAllocatesFromTheDevice) {
  Model model = load(kLayers);
  const DeviceMemory warm = memory();
  EXPECT_EQ(model.info().reserved_bytes, static_cast<std::uint64_t>(warm.reserved));
  EXPECT_GE(warm.reserved, 3 * 4096 * 16);
  expect_no_allocation(model, warm);
}

TEST_F(DeviceWarmUpTest, NorDoesACallOfAStatefulModel) {
  Model model = load(kCounter);
  expect_no_allocation(model, memory());
}

TEST_F(DeviceWarmUpTest, WithoutItTheFirstLargeCallAllocates) {
  LoadOptions options;
  options.warmup = "off";
  Model model = load(kLayers, options);
  const std::int64_t cold = memory().device_allocations;
  model.forward({on_host({4096, 4})});
  EXPECT_GT(memory().device_allocations, cold);
}

TEST_F(DeviceWarmUpTest, StateIsWhatItWas) {
  Model model = load(kCounter);
  model.warm_up_this_thread();
  EXPECT_EQ(values(model.forward({on_host({1, 4}, 0)})[0])[0], 1);
  EXPECT_EQ(values(model.forward({on_host({1, 4}, 0)})[0])[0], 2);
}

TEST_F(DeviceWarmUpTest, ThreadsThatWarmThemselvesUpAllocateNothingLater) {
  Model model = load(kLayers);
  constexpr int kThreads = 3;
  std::atomic<int> warm{0};
  std::atomic<std::int64_t> allocations{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      model.warm_up_this_thread();
      if (++warm == kThreads) allocations = memory().device_allocations;
      while (warm < kThreads || allocations == 0) std::this_thread::yield();
      for (const std::int64_t rows : {4096, 7, 1000, 4096}) model.forward({on_host({rows, 4})});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memory().device_allocations, allocations);
}

TEST_F(DeviceWarmUpTest, LoadSaysWhatWasNeededWhenMemoryRunsOut) {
  const MemoryLimit limit(static_cast<std::size_t>(memory().reserved) + 100 * 1024);
  EXPECT_THAT(message_of<ModelLoadError>([&] { load(kLayers); }),
              AllOf(HasSubstr("it fails in its warm-up at x 4096x4"), HasSubstr("out of memory"),
                    HasSubstr("Tried to allocate 0.06 MiB"), HasSubstr("this process holds "),
                    HasSubstr("the device has ")));
  LoadOptions options;
  options.warmup = "off";
  Model model = load(kLayers, options);
  EXPECT_EQ(values(model.forward({on_host({1, 4})})[0]).size(), 8u);
}

}  // namespace
}  // namespace ts_infer
