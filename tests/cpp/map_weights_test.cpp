#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>

#include "archive/archive.h"
#include "archives.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kRows = 1 << 12;  // of 16 KiB each weight

constexpr const char* kForward = R"(
def forward(self, x):
    return (x + self.a).sum() + 10 * (x + self.b).sum()
)";

constexpr const char* kMappedCounter = R"(
def forward(self, x):
    self.a.add_(1)
    return x + self.a[0] + self.b[0]
)";

/// `a` is all ones, `b` all twos; both are of one size, so that a wrong order would show.
torch::jit::Module make_large(const std::string& source) {
  torch::jit::Module module("Large");
  module.register_buffer("a", at::full({kRows}, 1.0));
  module.register_buffer("b", at::full({kRows}, 2.0));
  module.register_attribute("training", c10::BoolType::get(), false);
  module.define(source);
  module.eval();
  return module;
}

std::string large_file(const char* name, const std::string& source = kForward) {
  return testing::write_file(name, testing::save(make_large(source)));
}

std::string contents(const std::string& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

Model load_file(const std::string& path, bool map_weights = true, bool optimize = false) {
  LoadOptions options;
  options.device = "cpu";
  options.map_weights = map_weights;
  options.optimize = optimize;
  return Model::load(path, options);
}

float first_output(Model& model) {
  return model.forward({from_torch(at::zeros({1}))})[0].data<float>()[0];
}

constexpr float kSum = kRows * (1 + 10 * 2);

TEST(MapWeightsTest, ComputesTheSameAndSaysWhatWasMapped) {
  const std::string path = large_file("mapped.pt");
  for (const bool optimize : {false, true}) {
    Model mapped = load_file(path, true, optimize);
    Model copied = load_file(path, false, optimize);
    EXPECT_EQ(first_output(mapped), kSum);
    EXPECT_EQ(first_output(copied), kSum);
    EXPECT_THAT(mapped.info().decisions,
                Contains("weights mapped from the file: 32768 of 32768 bytes"));
    EXPECT_THAT(copied.info().decisions, Not(Contains(HasSubstr("weights mapped"))));
  }
}

TEST(MapWeightsTest, FrozenWeightsAreMappedToo) {
  const torch::jit::Module frozen = torch::jit::freeze(make_large(kForward));
  const std::string path = testing::write_file("frozen.pt", testing::save(frozen));
  Model model = load_file(path);
  EXPECT_EQ(first_output(model), kSum);
  EXPECT_THAT(model.info().decisions, Contains(HasSubstr("weights mapped")));
}

TEST(MapWeightsTest, MemoryIsNotMapped) {
  const std::string bytes = testing::save(make_large(kForward));
  LoadOptions options;
  options.device = "cpu";
  Model model = Model::load(bytes.data(), bytes.size(), options);
  EXPECT_EQ(first_output(model), kSum);
  EXPECT_THAT(model.info().decisions, Not(Contains(HasSubstr("weights mapped"))));
}

TEST(MapWeightsTest, WritesStayInTheModel) {
  const std::string path = large_file("written.pt", kMappedCounter);
  const std::string before = contents(path);
  Model first = load_file(path);
  Model second = load_file(path);
  EXPECT_EQ(first_output(first), 4);
  EXPECT_EQ(first_output(first), 5);
  Model clone = first.clone();
  EXPECT_EQ(first_output(clone), 6);
  EXPECT_EQ(first_output(first), 6) << "not changed by its clone";
  EXPECT_EQ(first_output(second), 4) << "not changed by another model of the file";
  EXPECT_EQ(contents(path), before);
}

TEST(MapWeightsTest, ModelsOfOneArchiveDoNotShareWhatTheyWrite) {
  const auto archive = Archive::open(large_file("archive.pt", kMappedCounter), {});
  const auto weights = archive->map_weights();
  const auto others = archive->map_weights();
  ASSERT_TRUE(weights && others);
  const auto [buffer, size] = weights->take(kRows * sizeof(float));
  ASSERT_EQ(size, kRows * sizeof(float));
  static_cast<char*>(buffer)[0] = 'x';
  EXPECT_NE(static_cast<char*>(others->take(size).first)[0], 'x');
  EXPECT_NO_THROW(archive->require_intact());
  EXPECT_EQ(archive->sha256(), Archive::open(archive->info().path, {})->sha256());
}

TEST(MapWeightsTest, FileMayBeReplacedOrRemoved) {
  const std::string path = large_file("replaced.pt");
  Model model = load_file(path);
  const std::string other = testing::write_file("other.pt", std::string(100000, 'x'));
  ASSERT_EQ(std::rename(other.c_str(), path.c_str()), 0);
  EXPECT_EQ(first_output(model), kSum);
  ASSERT_EQ(std::remove(path.c_str()), 0);
  Model clone = model.clone();
  EXPECT_EQ(first_output(clone), kSum);
}

TEST(MapWeightsTest, WeightsOutliveTheModel) {
  const std::string path = large_file("outlived.pt", "def forward(self, x):\n    return self.a\n");
  std::vector<Tensor> outputs;
  {
    Model model = load_file(path);
    outputs = model.forward({from_torch(at::zeros({1}))});
  }
  EXPECT_EQ(outputs[0].data<float>()[kRows - 1], 1);
}

TEST(MapWeightsTest, ServesEachPlaceOnce) {
  const auto archive = Archive::open(large_file("once.pt"), {});
  const auto weights = archive->map_weights();
  ASSERT_TRUE(weights);
  const std::size_t size = kRows * sizeof(float);
  const void* const first = weights->take(size).first;
  const void* const second = weights->take(size).first;
  EXPECT_TRUE(first && second && first != second);
  EXPECT_EQ(weights->take(size).first, nullptr);
  EXPECT_EQ(weights->take(size + 4).first, nullptr) << "no record of that size";
}

TEST(MapWeightsTest, RecordThatIsReadElsewhereIsCopied) {
  // A buffer of a weight's size that is requested before the weight's own takes its place.
  const std::string path = large_file("elsewhere.pt");
  const auto archive = Archive::open(path, {});
  const auto weights = archive->map_weights();
  ASSERT_TRUE(weights);
  const std::size_t size = kRows * sizeof(float);
  auto* const place_of_a = static_cast<float*>(weights->take(size).first);
  auto* const place_of_b = static_cast<float*>(weights->take(size).first);
  EXPECT_EQ(place_of_a[0], 1);
  EXPECT_EQ(place_of_b[0], 2);
  const auto reader = archive->reader(weights.get());
  const std::size_t offset_of_a =
      contents(path).find(std::string(reinterpret_cast<const char*>(place_of_a), size));
  reader->read(offset_of_a, place_of_b, size);
  EXPECT_EQ(place_of_b[0], 1);
  EXPECT_EQ(weights->mapped_bytes(), 0u);
  reader->read(offset_of_a, place_of_a, size);
  EXPECT_EQ(weights->mapped_bytes(), size);
}

TEST(MapWeightsTest, RecordsThatOverlapAreNotMapped) {
  std::FILE* const file = std::fopen(large_file("overlap.pt").c_str(), "rb");
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(MappedWeights::map(fileno(file), 20000, {{0, 8192}, {8192, 8192}}));
  EXPECT_FALSE(MappedWeights::map(fileno(file), 20000, {{4096, 8192}, {0, 8192}}));
  EXPECT_FALSE(MappedWeights::map(fileno(file), 20000, {{0, 8192}, {0, 8192}}));
  EXPECT_FALSE(MappedWeights::map(fileno(file), 20000, {{0, 100}})) << "too small";
  EXPECT_FALSE(MappedWeights::map(fileno(file), 20000, {}));
  std::fclose(file);
}

}  // namespace
}  // namespace ts_infer
