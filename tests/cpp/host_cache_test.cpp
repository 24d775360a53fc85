#include "device/host_cache.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <sys/resource.h>

#include <optional>
#include <thread>

#include "archives.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

constexpr std::int64_t kMany = 1 << 20;  // floats: 4 MiB

at::Tensor buffer(std::int64_t floats) { return at::empty({floats}, at::kFloat); }

long page_faults() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt;
}

TEST(HostCacheTest, KeepsALargeBufferForTheNextRequest) {
  const HostCache cache;
  ASSERT_TRUE(cache.is_active());
  const HostCache::Use use(&cache);
  const void* const first = buffer(kMany).data_ptr();
  EXPECT_EQ(buffer(kMany).data_ptr(), first);
  EXPECT_EQ(buffer(kMany / 8).data_ptr(), first) << "a smaller request";
  const at::Tensor held = buffer(kMany);
  EXPECT_NE(buffer(kMany).data_ptr(), held.data_ptr());
}

TEST(HostCacheTest, HostsAllocationsPassThrough) {
  const HostCache cache;
  const auto deleter = [](const at::Tensor& tensor) {
    return tensor.storage().data_ptr().get_deleter();
  };
  const auto hosts = c10::GetDefaultCPUAllocator()->raw_deleter();
  EXPECT_EQ(deleter(buffer(kMany)), hosts) << "no Use";
  const HostCache::Use use(&cache);
  EXPECT_EQ(deleter(buffer(16)), hosts) << "small";
  EXPECT_NE(deleter(buffer(kMany)), hosts);
  std::thread([&] { EXPECT_EQ(deleter(buffer(kMany)), hosts) << "another thread"; }).join();
  const HostCache::Use none(nullptr);
  EXPECT_EQ(deleter(buffer(kMany)), hosts) << "a Use of no cache";
}

TEST(HostCacheTest, BuffersMayBeFreedAfterTheCacheAndOnAnotherThread) {
  std::optional<HostCache> cache(std::in_place);
  at::Tensor outlives;
  at::Tensor freed_elsewhere;
  {
    const HostCache::Use use(&*cache);
    outlives = at::ones({kMany});
    freed_elsewhere = buffer(kMany);
  }
  const void* const address = freed_elsewhere.data_ptr();
  std::thread([&] { freed_elsewhere.reset(); }).join();
  {
    const HostCache::Use use(&*cache);
    EXPECT_EQ(buffer(kMany).data_ptr(), address);
  }
  cache.reset();
  EXPECT_EQ(outlives.sum().item<float>(), kMany);
}

TEST(HostCacheTest, HoldsNoMoreThanWasUsedAtOnce) {
  const HostCache cache;
  const HostCache::Use use(&cache);
  for (std::int64_t floats = kMany; floats < 4 * kMany; floats += 100'000) buffer(floats);
  // One buffer at a time, up to 16 MiB and the eighth that sizes are rounded up by.
  EXPECT_LE(cache.peak_bytes(), 18u << 20);
  const at::Tensor one = buffer(kMany);
  const at::Tensor two = buffer(kMany);
  EXPECT_LE(cache.peak_bytes(), 22u << 20);
}

TEST(HostCacheTest, ServesRawAllocations) {
  const HostCache cache;
  c10::Allocator& allocator = *c10::GetCPUAllocator();
  void* first = nullptr;
  {
    const HostCache::Use use(&cache);
    first = allocator.raw_allocate(4 * kMany);
    allocator.raw_deallocate(first);
    EXPECT_EQ(allocator.raw_allocate(4 * kMany), first);
  }
  allocator.raw_deallocate(first);
  allocator.raw_deallocate(allocator.raw_allocate(4 * kMany));  // passed on both ways
}

TEST(HostCacheTest, RequestThatCannotBeMetLeavesItUsable) {
  const HostCache cache;
  const HostCache::Use use(&cache);
  buffer(kMany);
  EXPECT_THROW(buffer(std::int64_t{1} << 58), c10::Error);
  EXPECT_EQ(at::ones({kMany}).sum().item<float>(), kMany);
}

TEST(HostCacheTest, SteadyCallsOfAModelFaultNoPages) {
  const std::string bytes = testing::archive(
      "def forward(self, x):\n    y = x + 1\n    z = y * 2\n    return torch.relu(z) - y\n");
  LoadOptions options;
  Model model = Model::load(bytes.data(), bytes.size(), options);
  const Tensor input = from_torch(at::zeros({16, 1 << 20}));  // 64 MiB: glibc maps such each time
  for (int i = 0; i < 3; ++i) model.forward({input});
  const long before = page_faults();
  for (int i = 0; i < 5; ++i) model.forward({input});
  EXPECT_LT(page_faults() - before, 50);
}

TEST(HostCacheTest, SmallOutputsHoldNoLargeBuffers) {
  const HostCache cache;
  const HostCache::Use use(&cache);
  buffer(8 * kMany);
  const at::Tensor small = buffer(kMany);
  EXPECT_TRUE(cache.wastes(small.data_ptr(), 4 * kMany));
  EXPECT_FALSE(cache.wastes(small.data_ptr(), 16 * kMany));
  EXPECT_FALSE(cache.wastes(at::empty({16}).data_ptr(), 64)) << "not a buffer of a cache";

  const std::string bytes =
      testing::archive("def forward(self, x):\n    y = x * 2\n    return y[:1].clone()\n");
  Model model = Model::load(bytes.data(), bytes.size());
  const Tensor input = from_torch(at::ones({64, kMany / 16}));
  std::vector<Tensor> outputs;
  for (int i = 0; i < 20; ++i) outputs.push_back(model.forward({input})[0]);
  const long before = page_faults();
  for (int i = 0; i < 20; ++i) model.forward({input});
  EXPECT_LT(page_faults() - before, 200) << "the large buffer is mapped anew in each call";
  for (const Tensor& output : outputs) EXPECT_EQ(output.data<float>()[7], 2);
}

TEST(HostCacheTest, OutputsOutliveTheModel) {
  const std::string bytes = testing::archive("def forward(self, x):\n    return x + 1\n");
  std::optional<Model> model(Model::load(bytes.data(), bytes.size()));
  std::vector<Tensor> outputs;
  for (int i = 0; i < 3; ++i) {
    outputs.push_back(model->forward({from_torch(at::full({kMany}, i))})[0]);
  }
  model.reset();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(to_torch(outputs[static_cast<std::size_t>(i)]).max().item<float>(), i + 1);
  }
}

}  // namespace
}  // namespace ts_infer
