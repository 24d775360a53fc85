#include <ATen/ATen.h>

#include <cstdlib>
#include <filesystem>

#include "device_testing.h"
#include "ts_infer/benchmark.h"
#include "ts_infer/torch.h"
#include "ts_infer/verify.h"

namespace ts_infer {
namespace {

using testing::fake_device;

LoadOptions on(const std::string& device) {
  LoadOptions options;
  options.device = device;
  return options;
}

/// Runs on every archive of the folder that TS_INFER_TEST_ARCHIVES names; test_cpp_units.py exports
/// some there.
class DeviceParityTest : public testing::DeviceFixture {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("TS_INFER_TEST_ARCHIVES");
    if (!folder) GTEST_SKIP() << "TS_INFER_TEST_ARCHIVES names no folder of archives";
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      archives_.push_back(entry.path().string());
    }
    ASSERT_FALSE(archives_.empty());
  }

  std::vector<std::string> archives_;
};

TEST_F(DeviceParityTest, GoldenSamplesAreRightOnTheDevice) {
  for (const std::string& archive : archives_) {
    SCOPED_TRACE(archive);
    const VerifyReport report = verify(archive, on(fake_device().str()));
    EXPECT_EQ(report.model.device, fake_device().str());
    EXPECT_GT(report.outputs.size(), 0u);
    for (const OutputCheck& check : report.outputs) {
      EXPECT_TRUE(check.ok) << check.output << ": " << check.difference;
    }
  }
}

TEST_F(DeviceParityTest, OutputsAreTheHostsAtManySizes) {
  for (const std::string& archive : archives_) {
    SCOPED_TRACE(archive);
    // What runs on the host only (packed weights, another layout) rounds otherwise.
    LoadOptions plain = on("cpu");
    plain.optimize = false;
    Model host = Model::load(archive, plain);
    plain.device = fake_device().str();
    Model device = Model::load(archive, plain);
    std::vector<InputShapes> sizes = random_shapes(host, 8);
    if (sizes.empty()) sizes.emplace_back();  // nothing is dynamic
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      std::vector<Tensor> inputs;
      for (const Value& input : random_inputs(host, sizes[i], /*seed=*/i)) {
        inputs.push_back(input.as_tensor());
      }
      const std::vector<Tensor> expected = host.forward(inputs);
      const std::vector<Tensor> actual = device.forward(inputs);
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t output = 0; output < expected.size(); ++output) {
        const at::Tensor ours = to_torch(actual[output]);
        const at::Tensor hosts = to_torch(expected[output]);
        EXPECT_TRUE(at::allclose(ours, hosts, 1e-5, 1e-5, /*equal_nan=*/true))
            << "sizes " << i << ", output " << output << ", difference "
            << (ours.sub(hosts).abs().max());
      }
    }
  }
}

}  // namespace
}  // namespace ts_infer
