#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "fake_device.h"
#include "ts_infer/model.h"

namespace ts_infer::testing {

/// What the tests on the fake device share. After each, no memory may be written to that is free,
/// and no failure of asynchronous work may be left that nobody was told.
class DeviceFixture : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_TRUE(free_memory_is_untouched()); }
};

inline constexpr const char* kLinear = R"(
def forward(self, x):
    return torch.relu(torch.matmul(x, self.weight)) + 1
)";

/// Adds to its state in place, and returns a copy.
inline constexpr const char* kSum = R"(
def forward(self, x):
    self.state.add_(x)
    return self.state * 1
)";

Model load(const std::string& source, LoadOptions options = {});

Tensor on_host(const std::vector<std::int64_t>& shape, double value = 1);
Tensor on_pinned_host(const std::vector<std::int64_t>& shape, double value = 1);
Tensor on_device(const std::vector<std::int64_t>& shape, double value = 1, int index = 0);

/// Waits for the calling thread's current stream.
std::vector<float> values(const Tensor& tensor);

RunOptions on_stream(c10::Stream stream);
RunOptions to_device(const std::string& device);
RunOptions into(std::vector<Tensor> buffers);

}  // namespace ts_infer::testing
