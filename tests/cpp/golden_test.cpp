#include "archive/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "archives.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;
using testing::message_of;
using testing::pickled;
using testing::pickled_dict;
using testing::pickled_list;
using testing::pickled_tensor;
using testing::torch_saved;

const std::map<std::string, std::vector<float>> kStorages = {{"0", {0, 1, 2, 3, 4, 5}}};

std::string pickle_of(const std::vector<std::string>& inputs) {
  return pickled_dict(
      {{"calls",
        pickled_list({pickled_dict({{"inputs", pickled_list(inputs)}, {"outputs", "]"}})})}});
}

/// What the values become that a pickle has as inputs.
std::vector<c10::IValue> read(const std::vector<std::string>& inputs) {
  const auto calls = read_golden(torch_saved(pickle_of(inputs), kStorages));
  EXPECT_EQ(calls.size(), 1u);
  return calls.at(0).inputs;
}

std::string error_of(const std::string& value) {
  return message_of<ModelLoadError>([&] { read({value}); });
}

TEST(GoldenTest, ReadsPlainValues) {
  const auto values = read({"N", "\x88", "\x89", "K\xff", std::string("M\xe8\x03"),
                            std::string("J\xfb\xff\xff\xff"),
                            std::string("\x8a\x06\0\0\0\0\0\1", 8), std::string("\x8a\1\xff"),
                            std::string("G\x3f\xf8\0\0\0\0\0\0", 9), pickled("é"), "]", "}", ")"});
  ASSERT_EQ(values.size(), 13u);
  EXPECT_TRUE(values[0].isNone());
  EXPECT_TRUE(values[1].toBool());
  EXPECT_FALSE(values[2].toBool());
  EXPECT_EQ(values[3].toInt(), 255);
  EXPECT_EQ(values[4].toInt(), 1000);
  EXPECT_EQ(values[5].toInt(), -5);
  EXPECT_EQ(values[6].toInt(), std::int64_t{1} << 40);
  EXPECT_EQ(values[7].toInt(), -1);
  EXPECT_EQ(values[8].toDouble(), 1.5);
  EXPECT_EQ(values[9].toStringRef(), "é");
  EXPECT_EQ(values[10].toList().size(), 0u);
  EXPECT_EQ(values[11].toGenericDict().size(), 0u);
  EXPECT_EQ(values[12].toTupleRef().elements().size(), 0u);
}

TEST(GoldenTest, ReadsViewsOfOneStorage) {
  const auto values = read({pickled_tensor("0", 6, {3, 2}, {1, 3}), pickled_tensor("0", 6, {}, {}),
                            pickled_tensor("0", 6, {0, 4}, {4, 1})});
  EXPECT_TRUE(values[0].toTensor().equal(at::arange(6).to(at::kFloat).reshape({2, 3}).t()));
  EXPECT_EQ(values[1].toTensor().dim(), 0);
  EXPECT_EQ(values[2].toTensor().numel(), 0);
  EXPECT_EQ(values[0].toTensor().storage().data(), values[1].toTensor().storage().data());
}

TEST(GoldenTest, ReadsWhatIsMentionedAgain) {
  const auto values = read({"]q\0(K\1K\2e"s, "h\0"s});
  EXPECT_EQ(values[1].toList().size(), 2u);
}

TEST(GoldenTest, SaysWhatIsWrong) {
  EXPECT_THAT(error_of(pickled_tensor("0", 7, {7}, {1})),
              HasSubstr("storage 0: expected 6 elements at most, as its record has, got 7"));
  EXPECT_THAT(error_of(pickled_tensor("0", 6, {7}, {1})), HasSubstr("outside its storage"));
  EXPECT_THAT(error_of(pickled_tensor("0", 6, {2, 2}, {1})), HasSubstr("outside its storage"));
  EXPECT_THAT(error_of(pickled_tensor("1", 6, {6}, {1})), HasSubstr("data/1 is missing"));
  EXPECT_THAT(error_of("cos\nsystem\n(X\1"), HasSubstr("ends too early"));
  EXPECT_THAT(error_of("cos\nsystem\n)R"), HasSubstr("os system is none of the values"));
  EXPECT_THAT(error_of("\x8a\x09"
                       "123456789"),
              HasSubstr("more than 64 bits"));
  EXPECT_THAT(error_of("a"), HasSubstr("no pickle"));
  EXPECT_THAT(error_of("]q\0h\0a"s), HasSubstr("holds itself"));
  EXPECT_THAT(message_of<ModelLoadError>([] { read_golden(torch_saved("]", {})); }),
              HasSubstr("expected a dict with a list \"calls\""));
  EXPECT_THAT(message_of<ModelLoadError>([] { read_golden("no zip"); }), HasSubstr("too short"));
}

TEST(GoldenTest, ReadsNoMoreThanAFileCouldMean) {
  const std::size_t levels = 200'000;
  EXPECT_THAT(error_of(std::string(levels, ']') + std::string(levels - 1, 'a')),
              HasSubstr("nested too deep"));
  std::string doubled = "]q" + std::string(1, '\0');
  for (char i = 1; i < 60; ++i) {
    const std::string before = "h" + std::string(1, static_cast<char>(i - 1));
    doubled += "](" + before + before + "eq" + std::string(1, i);
  }
  EXPECT_THAT(error_of(doubled), HasSubstr("it has more than 100000 values"));
}

TEST(GoldenTest, NeverCrashesOnADamagedPickle) {
  const std::string pickle =
      pickle_of({pickled_tensor("0", 6, {3, 2}, {1, 3}), "]q\1(K\1Nh\1ee", pickled("text"),
                 pickled_dict({{"a", "K\1"}, {"b", ")"}}), "(K\1K\2t"});
  std::size_t refused = 0;
  for (std::size_t at = 0; at < pickle.size(); ++at) {
    for (int change = 1; change < 256; change += 7) {
      std::string damaged = pickle;
      damaged[at] = static_cast<char>(damaged[at] ^ change);
      try {
        for (const GoldenCall& call : read_golden(torch_saved(damaged, kStorages))) {
          for (const c10::IValue& value : call.inputs) {
            if (value.isTensor()) value.toTensor().contiguous();
          }
        }
      } catch (const ModelLoadError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, pickle.size());
  const std::string file = torch_saved(pickle, kStorages);
  for (std::size_t size = 0; size < file.size(); size += 7) {
    EXPECT_THROW(read_golden(file.substr(0, size)), ModelLoadError) << size;
  }
}

}  // namespace
}  // namespace ts_infer
