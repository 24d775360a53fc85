#include "archive/archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "archive/zip.h"
#include "archives.h"
#include "ts_infer/model.h"

namespace ts_infer {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr const char* kSource = R"(
def forward(self, x):
    return torch.matmul(x, self.weight).to(device=torch.device("cpu"))
def other(self, x):
    return torch.sin(x)
)";

std::string load_error(const std::string& bytes) {
  try {
    Model::load(bytes.data(), bytes.size());
  } catch (const ModelLoadError& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(Crc32Test, MatchesTheStandardCheckValue) {
  EXPECT_EQ(crc32("123456789", 9), 0xcbf43926u);
  EXPECT_EQ(crc32("", 0), 0u);
}

TEST(ArchiveTest, LoadSaysThatThereIsNoFile) {
  EXPECT_THROW(Model::load("/nowhere/model.pt"), ModelNotFoundError);
}

TEST(ArchiveTest, LoadRejectsAFolder) {
  EXPECT_THROW(Model::load(::testing::TempDir()), ModelLoadError);
}

TEST(ArchiveTest, LoadSaysWhatAnotherFileIs) {
  EXPECT_THAT(load_error(""), HasSubstr("an empty file"));
  EXPECT_THAT(load_error("<!DOCTYPE html><html></html>"), HasSubstr("a web page"));
  EXPECT_THAT(load_error("version https://git-lfs.github.com/spec/v1\n"),
              HasSubstr("git lfs pull"));
  EXPECT_THAT(load_error(std::string("\x80\x02", 2) + "}q\x00."), HasSubstr("a bare pickle"));
  EXPECT_THAT(load_error("hello world"), HasSubstr("unknown format"));
}

TEST(ArchiveTest, LoadRejectsEveryTruncation) {
  const std::string bytes = testing::archive(kSource);
  for (std::size_t size = 0; size < bytes.size(); size += bytes.size() / 97) {
    EXPECT_THROW(Model::load(bytes.data(), size), ModelLoadError) << size;
  }
}

TEST(ArchiveTest, LoadNamesTheMemberWhoseBitFlipped) {
  std::string bytes = testing::archive(kSource);
  for (const ZipMember& member : read_zip_directory(bytes)) {
    if (member.compressed_size == 0) continue;
    std::string damaged = bytes;
    damaged[member.data_offset + member.compressed_size / 2] ^= 0x10;
    const std::string name = member.name.substr(member.name.find('/') + 1);
    EXPECT_THAT(load_error(damaged), HasSubstr(name)) << name;
  }
}

TEST(ArchiveTest, InfoIsReadWithoutLoading) {
  const std::string bytes = testing::archive(kSource);
  const ArchiveInfo info = read_model_info(bytes.data(), bytes.size());
  EXPECT_THAT(info.methods, ::testing::UnorderedElementsAre("forward", "other"));
  EXPECT_THAT(info.operators, Contains("torch.matmul"));
  EXPECT_THAT(info.devices, Contains("cpu"));
  EXPECT_EQ(info.weight_bytes, 4u * (16 + 4));
  EXPECT_EQ(info.damaged.size(), 0u);
  EXPECT_FALSE(info.signature.has_value());
  EXPECT_EQ(info.code.size(), 1u);
}

TEST(ArchiveTest, ManifestOfALaterSchemaIsRefused) {
  EXPECT_THAT(load_error(testing::archive(kSource, R"({"schema": 2})")),
              HasSubstr("expected up to 1; upgrade"));
}

TEST(ArchiveTest, ManifestThatIsNotOfTheSchemaIsRefused) {
  EXPECT_THAT(load_error(testing::archive(kSource, R"({"schema": 1, "name": 3})")),
              HasSubstr("manifest is not of schema 1"));
  EXPECT_THAT(load_error(testing::archive(kSource, "{")), HasSubstr("manifest"));
}

}  // namespace
}  // namespace ts_infer
