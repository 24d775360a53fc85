#include "ts_infer/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "archive/sha256.h"
#include "archives.h"

namespace ts_infer {
namespace {

using testing::golden_sample;
using testing::GoldenVectors;
using ::testing::HasSubstr;
using testing::make_module;
using testing::message_of;

constexpr const char* kDouble = "def forward(self, x):\n    return x * 2\n";

/// The n-th call returns x + n.
constexpr const char* kCount = R"(
def forward(self, x):
    self.state.add_(1)
    return x + self.state
)";

constexpr const char* kVerifyManifest = R"({
  "schema": 1, "name": "sample", "inputs": [{"name": "x"}], "outputs": [{"name": "y"}],
  "golden": {"file": "ts_infer/golden.pt", "calls": 1, "tolerance": {
    "cpu": {"float32": [0.01, 0.1]}, "accelerator": {}}}})";

constexpr const char* kExactManifest = R"({
  "schema": 1, "name": "sample", "inputs": [{"name": "x"}],
  "golden": {"file": "ts_infer/golden.pt", "calls": 1, "tolerance": {"cpu": {}}}})";

std::string bytes_of(const std::string& source, const GoldenVectors& calls,
                     const std::string& manifest = kVerifyManifest) {
  return testing::save(make_module(source), manifest, golden_sample(calls));
}

VerifyReport verify_bytes(const std::string& bytes, const std::string& sha256 = "") {
  return verify(bytes.data(), bytes.size(), {}, sha256);
}

TEST(VerifyTest, PassesWhatIsWithinTheTolerance) {
  const std::string bytes = bytes_of(kDouble, {{{1, 50}, {2.1f, 101.0f}}});
  const VerifyReport report = verify_bytes(bytes);
  EXPECT_TRUE(report.ok());
  EXPECT_EQ(report.model.name, "sample");
  EXPECT_EQ(report.file_bytes, bytes.size());
  EXPECT_EQ(report.sha256, sha256(bytes));
  EXPECT_EQ(report.calls, 1u);
  ASSERT_EQ(report.outputs.size(), 1u);
  EXPECT_EQ(report.outputs[0].output, "y");
  EXPECT_NEAR(report.outputs[0].max_abs_diff.value(), 1.0, 1e-5);
  EXPECT_NEAR(report.outputs[0].allowed, 0.1 + 0.01 * 101, 1e-9);
  EXPECT_EQ(report.outputs[0].difference, "");
}

TEST(VerifyTest, SaysWhereAnOutputDiffers) {
  const VerifyReport report = verify_bytes(bytes_of(kDouble, {{{1, 2, 3}, {2, 4.5f, 6}}}));
  EXPECT_FALSE(report.ok());
  EXPECT_EQ(report.outputs.at(0).difference, "at [1]: expected 4.5, got 4; 1 of 3 elements differ");
  EXPECT_EQ(report.outputs.at(0).max_abs_diff, 0.5);
}

TEST(VerifyTest, MakesTheCallsInARowOnAFreshModel) {
  const std::string bytes = bytes_of(
      kCount,
      {{{0, 0, 0, 0}, {1, 1, 1, 1}}, {{0, 0, 0, 0}, {2, 2, 2, 2}}, {{5, 5, 5, 5}, {8, 8, 8, 8}}});
  EXPECT_TRUE(verify_bytes(bytes).ok());
  const VerifyReport again = verify_bytes(bytes);
  EXPECT_TRUE(again.ok());
  EXPECT_EQ(again.calls, 3u);
  EXPECT_EQ(again.outputs.back().call, 3u);
}

TEST(VerifyTest, NanEqualsNanAndInfinityItself) {
  const float nan = std::nanf("");
  EXPECT_TRUE(verify_bytes(bytes_of(kDouble, {{{nan, INFINITY, -INFINITY, 1},
                                               {nan, INFINITY, -INFINITY, 2}}}))
                  .ok());
  for (const auto& [input, output] : GoldenVectors{{{nan}, {2}},
                                                   {{1}, {nan}},
                                                   {{1}, {INFINITY}},
                                                   {{INFINITY}, {2}},
                                                   {{-INFINITY}, {INFINITY}}}) {
    const VerifyReport report = verify_bytes(bytes_of(kDouble, {{input, output}}));
    EXPECT_FALSE(report.ok()) << input[0] << ' ' << output[0];
    EXPECT_TRUE(std::isinf(report.outputs.at(0).max_abs_diff.value()));
  }
}

TEST(VerifyTest, DtypeThatIsNotListedMustBeEqual) {
  EXPECT_TRUE(verify_bytes(bytes_of(kDouble, {{{1}, {2}}}, kExactManifest)).ok());
  EXPECT_FALSE(verify_bytes(bytes_of(kDouble, {{{1}, {2.000001f}}}, kExactManifest)).ok());
}

TEST(VerifyTest, OutputOfAnotherKindDiffers) {
  const auto difference = [](const std::string& body) {
    const VerifyReport report =
        verify_bytes(bytes_of("def forward(self, x):\n    return " + body + '\n', {{{1}, {2}}}));
    EXPECT_FALSE(report.ok());
    return report.outputs.at(0).difference;
  };
  EXPECT_EQ(difference("torch.cat([x, x])"), "expected float32[1], got float32[2]");
  EXPECT_EQ(difference("(x * 2).double()"), "expected float32[1], got float64[1]");
  EXPECT_EQ(difference("\"two\""), "expected float32[1], got \"two\"");
  EXPECT_EQ(difference("x.numel()"), "expected float32[1], got 1");
  const VerifyReport two =
      verify_bytes(bytes_of("def forward(self, x):\n    return x * 2, x\n", {{{1}, {2}}}));
  ASSERT_EQ(two.outputs.size(), 2u);
  EXPECT_TRUE(two.outputs[0].ok);
  EXPECT_EQ(two.outputs[1].difference, "expected no such output, got float32[1]");
}

TEST(VerifyTest, RunsNothingOfAnotherFile) {
  const std::string bytes = bytes_of(
      "def forward(self, x):\n    assert x.numel() > 9, \"it ran\"\n    return x\n", {{{1}, {2}}});
  EXPECT_THAT(message_of<ModelLoadError>([&] { verify_bytes(bytes, std::string(64, 'A')); }),
              HasSubstr("expected SHA-256 " + std::string(64, 'a') + ", got " + sha256(bytes)));
  EXPECT_THROW(verify_bytes(bytes, sha256(bytes)), ExecutionError);
}

TEST(VerifyTest, AsksForAGoldenSample) {
  const std::string plain = testing::archive(kDouble);
  EXPECT_THAT(message_of<ModelLoadError>([&] { verify_bytes(plain); }),
              HasSubstr("expected a golden sample in the file, got none"));
  const std::string missing = testing::save(make_module(kDouble), kVerifyManifest);
  EXPECT_THAT(message_of<ModelLoadError>([&] { verify_bytes(missing); }),
              HasSubstr("expected extra/ts_infer/golden.pt in the file, got none"));
  const std::string garbage = testing::save(make_module(kDouble), kVerifyManifest, "garbage");
  EXPECT_THAT(message_of<ModelLoadError>([&] { verify_bytes(garbage); }),
              HasSubstr("its golden sample cannot be read"));
  EXPECT_FALSE(verify_bytes(bytes_of(kDouble, {})).ok());
}

TEST(VerifyTest, SampleThatDoesNotFitTheModelIsALoadError) {
  const std::string source = "def forward(self, x, y):\n    return x + y\n";
  const std::string manifest = R"({"schema": 1, "name": "m",
    "inputs": [{"name": "x"}, {"name": "y"}],
    "golden": {"file": "ts_infer/golden.pt", "calls": 1, "tolerance": {}}})";
  const std::string bytes = bytes_of(source, {{{1}, {2}}}, manifest);
  EXPECT_THAT(message_of<ModelLoadError>([&] { verify_bytes(bytes); }),
              HasSubstr("its golden sample does not fit it"));
}

TEST(VerifyTest, DamagedFileIsRefused) {
  std::string bytes = bytes_of(kDouble, {{{1}, {2}}});
  bytes[bytes.find("_rebuild_tensor_v2")] ^= 1;
  EXPECT_THAT(message_of<ModelLoadError>([&] { verify_bytes(bytes); }),
              HasSubstr("the CRC-32 does not match in extra/ts_infer/golden.pt"));
}

}  // namespace
}  // namespace ts_infer
