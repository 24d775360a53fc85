#include "archive/archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/crc32.h"
#include "archive/zip.h"
#include "archives.h"
#include "ts_infer/model.h"

namespace ts_infer {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr const char* kLinearSource = R"(
def forward(self, x):
    return torch.matmul(x, self.weight).to(device=torch.device("cpu"))
def other(self, x):
    return torch.sin(x)
)";

std::string load_error(const std::string& bytes) {
  return testing::message_of<ModelLoadError>([&] { testing::load_bytes(bytes); });
}

TEST(Crc32Test, MatchesTheStandardCheckValue) {
  EXPECT_EQ(crc32("123456789", 9), 0xcbf43926u);
  EXPECT_EQ(crc32("", 0), 0u);
}

TEST(Crc32Test, MatchesTheDefinitionAtEveryLength) {
  std::string bytes;
  std::uint32_t crc = 0xffffffff;  // bit by bit
  for (int i = 0; i < 400; ++i) {
    EXPECT_EQ(crc32(bytes.data(), bytes.size()), ~crc) << i;
    const std::string shifted = "." + bytes;
    EXPECT_EQ(crc32(shifted.data() + 1, bytes.size()), ~crc) << i << ", not aligned";
    bytes.push_back(static_cast<char>(i * i + (i >> 3)));
    crc ^= static_cast<unsigned char>(bytes.back());
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
  }
}

TEST(ArchiveTest, LoadSaysThatThereIsNoFile) {
  EXPECT_THROW(Model::load("/nowhere/model.pt"), ModelNotFoundError);
}

TEST(ArchiveTest, LoadRejectsWhatIsNoFile) {
  const std::string pipe = ::testing::TempDir() + "pipe.pt";
  unlink(pipe.c_str());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {::testing::TempDir(), pipe, std::string("/dev/zero")}) {
    EXPECT_THAT(testing::message_of<ModelLoadError>([&] { Model::load(path); }),
                HasSubstr("expected a file, got something else"));
  }
}

TEST(ArchiveTest, LoadSaysWhatAnotherFileIs) {
  EXPECT_THAT(load_error(""), HasSubstr("an empty file"));
  EXPECT_THAT(load_error("<!DOCTYPE html><html></html>"), HasSubstr("a web page"));
  EXPECT_THAT(load_error("version https://git-lfs.github.com/spec/v1\n"),
              HasSubstr("git lfs pull"));
  EXPECT_THAT(load_error(std::string("\x80\x02", 2) + "}q\x00."), HasSubstr("a bare pickle"));
  EXPECT_THAT(load_error("\x89HDF\r\n"), HasSubstr("an HDF5 file"));
  EXPECT_THAT(load_error("\x93NUMPY"), HasSubstr("a NumPy array"));
  EXPECT_THAT(load_error("GGUF"), HasSubstr("a GGUF file"));
  EXPECT_THAT(load_error("\x1f\x8b\x08"), HasSubstr("a gzip file"));
  EXPECT_THAT(load_error("abcdPTMF"), HasSubstr("mobile interpreter"));
  EXPECT_THAT(load_error("\x08\x0a\x12\x07pytorch"), HasSubstr("an ONNX model"));
  EXPECT_THAT(load_error(std::string("\x40\0\0\0\0\0\0\0{\"a\":1}", 15)),
              HasSubstr("a safetensors file"));
  EXPECT_THAT(load_error("hello world"), HasSubstr("unknown format"));
}

TEST(ArchiveTest, LoadRejectsEveryTruncation) {
  const std::string bytes = testing::archive(kLinearSource);
  for (std::size_t size = 0; size < bytes.size(); size += bytes.size() / 97) {
    EXPECT_THROW(Model::load(bytes.data(), size), ModelLoadError) << size;
  }
}

TEST(ArchiveTest, LoadNamesTheMemberWhoseBitFlipped) {
  std::string bytes = testing::archive(kLinearSource);
  for (const ZipMember& member : read_zip_directory(bytes)) {
    if (member.compressed_size == 0) continue;
    std::string damaged = bytes;
    damaged[member.data_offset + member.compressed_size / 2] ^= 0x10;
    const std::string name = member.name.substr(member.name.find('/') + 1);
    EXPECT_THAT(load_error(damaged), HasSubstr(name)) << name;
  }
}

TEST(ArchiveTest, WhatATraceLeavesIsNotLookedAt) {
  torch::jit::Module module = testing::make_module("def forward(self, x):\n    return x + 1\n");
  module.store_traced_inputs("forward", {at::ones({2, 4})});
  const std::string bytes = testing::save(module);
  ASSERT_NE(bytes.find("traced_inputs.pkl"), bytes.npos);
  std::vector<float> values = {1, 2};
  Model model = testing::load_bytes(bytes);
  const std::vector<Tensor> outputs = model.forward({Tensor::from_vector(values, {2})});
  EXPECT_EQ(outputs.at(0).data<float>()[1], 3);
}

TEST(ArchiveTest, InfoIsReadWithoutLoading) {
  const std::string bytes = testing::archive(kLinearSource);
  const ArchiveInfo info = read_model_info(bytes.data(), bytes.size());
  EXPECT_THAT(info.methods, ::testing::UnorderedElementsAre("forward", "other"));
  EXPECT_THAT(info.operators, Contains("torch.matmul"));
  EXPECT_THAT(info.devices, Contains("cpu"));
  EXPECT_EQ(info.weight_bytes, 4u * (16 + 4));
  EXPECT_EQ(info.damaged.size(), 0u);
  EXPECT_FALSE(info.signature.has_value());
  EXPECT_EQ(info.code.size(), 1u);
}

TEST(ArchiveTest, ManifestSaysHowFarTheModelCanBeTrusted) {
  const std::string bytes = testing::archive(kLinearSource, R"({
    "schema": 1, "name": "m", "inputs": [{"name": "x"}], "a key of later": {"a": 1},
    "state": ["cell.hidden"], "scripted": [{"name": "dg", "reason": "a branch"}],
    "audit": {"level": "full", "allowed": ["tracer-warning"], "probes": [
      {"name": "values", "outcome": "passed", "runs": 12, "reason": ""},
      {"name": "devices", "outcome": "skipped", "runs": 0, "reason": "no accelerator"}]},
    "libraries": [{"file": "libmine.so", "operators": ["mine::triple"], "classes": []}],
    "golden": {"file": "ts_infer/golden.pt", "calls": 2, "tolerance": {
      "cpu": {"float32": [0.1, 0.2], "float8_e4m3fn": [1, 1]}, "accelerator": {}}}})");
  const ArchiveInfo info = read_model_info(bytes.data(), bytes.size());
  EXPECT_THAT(info.state, ::testing::ElementsAre("cell.hidden"));
  ASSERT_EQ(info.scripted.size(), 1u);
  EXPECT_EQ(info.scripted[0].reason, "a branch");
  ASSERT_TRUE(info.audit.has_value());
  EXPECT_EQ(info.audit->level, "full");
  EXPECT_THAT(info.audit->allowed, ::testing::ElementsAre("tracer-warning"));
  ASSERT_EQ(info.audit->probes.size(), 2u);
  EXPECT_EQ(info.audit->probes[0].runs, 12);
  EXPECT_EQ(info.audit->probes[1].reason, "no accelerator");
  ASSERT_EQ(info.libraries.size(), 1u);
  EXPECT_EQ(info.libraries[0].file, "libmine.so");
  EXPECT_THAT(info.libraries[0].operators, ::testing::ElementsAre("mine::triple"));
  EXPECT_EQ(info.golden_calls, 2u);

  const auto archive = Archive::over(bytes, {});
  ASSERT_TRUE(archive->golden().has_value());
  EXPECT_EQ(archive->golden()->on_cpu.at(DType::kFloat32).atol, 0.2);
  EXPECT_EQ(archive->golden()->on_cpu.size(), 1u);
}

TEST(ArchiveTest, ManifestWithoutProvenanceIsRead) {
  const std::string bytes = testing::archive(
      kLinearSource, R"({"schema": 1, "name": "m", "inputs": [{"name": "x"}], "audit": null})");
  const ArchiveInfo info = read_model_info(bytes.data(), bytes.size());
  EXPECT_FALSE(info.audit.has_value());
  EXPECT_TRUE(info.state.empty() && info.scripted.empty() && info.libraries.empty());
  EXPECT_EQ(info.golden_calls, 0u);
}

TEST(ArchiveTest, ManifestOfALaterSchemaIsRefused) {
  EXPECT_THAT(load_error(testing::archive(kLinearSource, R"({"schema": 2})")),
              HasSubstr("expected up to 1; upgrade"));
}

TEST(ArchiveTest, ManifestThatIsNotOfTheSchemaIsRefused) {
  EXPECT_THAT(load_error(testing::archive(kLinearSource, R"({"schema": 1, "name": 3})")),
              HasSubstr("manifest is not of schema 1"));
  EXPECT_THAT(load_error(testing::archive(kLinearSource, "{")), HasSubstr("manifest"));
  for (const char* key :
       {R"("state": 3)", R"("scripted": ["dg"])", R"("audit": "full")", R"("libraries": "lib.so")",
        R"("golden": {"calls": 2})", R"("golden": {"file": "f", "calls": 7e99})",
        R"("warmup_shapes": [{"x": [1.5]}])", R"("warmup_shapes": [{"x": [1e300]}])",
        R"("golden": {"file": "f", "calls": 1, "tolerance": {"cpu": {"float32": 1}}})"}) {
    const std::string start = R"({"schema": 1, "name": "m", "inputs": [{"name": "x"}], )";
    EXPECT_THAT(load_error(testing::archive(kLinearSource, start + key + '}')),
                HasSubstr("manifest is not of schema 1"))
        << key;
  }
}

TEST(ArchiveTest, ManifestThatNestsTooDeepIsRefused) {
  std::string result;
  for (int i = 0; i < 100'000; ++i) result += R"({"tuple": [)";
  result += R"("tensor")";
  for (int i = 0; i < 100'000; ++i) result += "]}";
  const std::string manifest = R"({"schema": 1, "name": "m", "inputs": [], "outputs": [],
      "compiled": {"device": "cpu", "result": )";
  EXPECT_THAT(load_error(testing::archive(kLinearSource, manifest + result + "}}")),
              HasSubstr("its manifest nests too deep"));
}

}  // namespace
}  // namespace ts_infer
