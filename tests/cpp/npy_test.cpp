#include "npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "ts_infer/error.h"

namespace ts_infer::cli {
namespace {

using Shape = std::vector<std::int64_t>;

class NpyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const ::testing::TestInfo& test = *::testing::UnitTest::GetInstance()->current_test_info();
    folder_ =
        std::filesystem::path(::testing::TempDir()) / ("npy_test_" + std::string(test.name()));
    std::filesystem::create_directories(folder_);
  }

  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string write(const std::string& bytes) const {
    std::ofstream(path("a.npy"), std::ios::binary) << bytes;
    return path("a.npy");
  }

  static std::string npy(const std::string& header, const std::string& data, char version = 1) {
    std::string bytes = std::string("\x93NUMPY") + version + '\0';
    const auto length = static_cast<std::uint32_t>(header.size());
    char length_bytes[4];
    std::memcpy(length_bytes, &length, sizeof length);
    return bytes.append(length_bytes, version == 1 ? 2 : 4) + header + data;
  }

  template <typename T>
  static std::string bytes_of(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
  }

  static std::string header(const std::string& descr, const std::string& shape,
                            const std::string& fortran = "False") {
    return "{'descr': " + descr + ", 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
  }

  void expect_input_error(const std::string& bytes, std::string_view reason) const {
    const std::string file = write(bytes);
    try {
      read_npy(file);
      FAIL() << "expected an InputError with: " << reason;
    } catch (const InputError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(file), std::string::npos) << message;
      EXPECT_NE(message.find(reason), std::string::npos) << message;
    }
  }

  std::filesystem::path folder_;
};

TEST_F(NpyTest, ReadsEveryHeaderVersion) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  for (const char version : {'\1', '\2', '\3'}) {
    const Tensor tensor =
        read_npy(write(npy(header("'<f4'", "(2, 3)"), bytes_of(values), version)));
    EXPECT_EQ(tensor.dtype(), DType::kFloat32);
    EXPECT_EQ(tensor.shape(), (Shape{2, 3}));
    EXPECT_EQ(std::memcmp(tensor.data<float>(), values.data(), tensor.nbytes()), 0);
  }
}

TEST_F(NpyTest, ReadsFortranOrderAsStrides) {
  const std::vector<std::int32_t> columns = {1, 4, 2, 5, 3, 6};
  const Tensor tensor = read_npy(write(npy(header("'<i4'", "(2, 3)", "True"), bytes_of(columns))));
  EXPECT_EQ(tensor.shape(), (Shape{2, 3}));
  EXPECT_EQ(tensor.strides(), (Shape{1, 2}));
  const Tensor rows = tensor.to_host();
  const std::vector<std::int32_t> expected = {1, 2, 3, 4, 5, 6};
  EXPECT_EQ(std::memcmp(rows.data<std::int32_t>(), expected.data(), rows.nbytes()), 0);
}

TEST_F(NpyTest, ReadsScalarsAndEmptyArrays) {
  const Tensor scalar = read_npy(write(npy(header("'<i8'", "()"), bytes_of<std::int64_t>({42}))));
  EXPECT_EQ(scalar.dim(), 0);
  EXPECT_EQ(*scalar.data<std::int64_t>(), 42);
  EXPECT_EQ(read_npy(write(npy(header("'<f8'", "(0, 3)"), ""))).shape(), (Shape{0, 3}));
}

TEST_F(NpyTest, ReadsHeaderInAnotherOrderAndQuotes) {
  const std::string text = R"({"shape": (2,),"fortran_order":False,"descr":"|u1"})";
  EXPECT_EQ(read_npy(write(npy(text, "\1\2"))).shape(), (Shape{2}));
}

TEST_F(NpyTest, WritesWhatItReadsForEveryDType) {
  for (const DType dtype :
       {DType::kBool, DType::kUInt8, DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64,
        DType::kFloat16, DType::kFloat32, DType::kFloat64, DType::kComplex64, DType::kComplex128}) {
    const Tensor tensor = Tensor::empty(dtype, {3, 2});
    std::memset(tensor.data_ptr(), 1, tensor.nbytes());
    write_npy(path("b.npy"), tensor);
    const Tensor again = read_npy(path("b.npy"));
    EXPECT_EQ(again.dtype(), dtype);
    EXPECT_EQ(again.shape(), (Shape{3, 2}));
    EXPECT_EQ(std::memcmp(again.data_ptr(), tensor.data_ptr(), tensor.nbytes()), 0)
        << to_string(dtype);
    EXPECT_EQ((std::filesystem::file_size(path("b.npy")) - tensor.nbytes()) % 64, 0U);
  }
}

TEST_F(NpyTest, WritesStridedTensorsInRowOrder) {
  std::vector<float> columns = {1, 3, 2, 4};
  write_npy(path("b.npy"), Tensor::from_blob(columns.data(), DType::kFloat32, {2, 2}, {1, 2}));
  const Tensor rows = read_npy(path("b.npy"));
  EXPECT_TRUE(rows.is_contiguous());
  const std::vector<float> expected = {1, 2, 3, 4};
  EXPECT_EQ(std::memcmp(rows.data<float>(), expected.data(), rows.nbytes()), 0);
}

TEST_F(NpyTest, WriteRejectsBFloat16AndFoldersThatAreNotThere) {
  EXPECT_THROW(write_npy(path("b.npy"), Tensor::empty(DType::kBFloat16, {1})), Error);
  EXPECT_FALSE(std::filesystem::exists(path("b.npy")));
  EXPECT_THROW(write_npy(path("none/b.npy"), Tensor::empty(DType::kFloat32, {1})), Error);
}

TEST_F(NpyTest, ReadRejectsTruncatedFilesAtEveryLength) {
  const std::string whole = npy(header("'<f4'", "(2,)"), bytes_of<float>({1, 2}));
  for (std::size_t length = 1; length < whole.size(); ++length) {
    expect_input_error(whole.substr(0, length), "truncated");
  }
  expect_input_error("", "empty");
}

TEST_F(NpyTest, ReadRejectsMoreElementsThanTheFileHolds) {
  expect_input_error(npy(header("'<f4'", "(1000000000000,)"), "abcd"), "truncated");
  expect_input_error(npy(header("'<f4'", "(4611686018427387904, 4611686018427387904)"), "abcd"),
                     "more than 2^63 bytes");
}

TEST_F(NpyTest, ReadNamesWhatItDoesNotTake) {
  expect_input_error(npy(header("'|O'", "(1,)"), "abcd"), "pickled");
  expect_input_error(npy(header("'>f4'", "(1,)"), "abcd"), "big-endian");
  expect_input_error(npy(header("'<u4'", "(1,)"), "abcd"), "dtype is '<u4'");
  expect_input_error(npy(header("'<U3'", "(1,)"), "abcdefghijkl"), "dtype is '<U3'");
  expect_input_error(npy(header("[('a', '<f4')]", "(1,)"), "abcd"), "structured");
  expect_input_error("PK\3\4 and so on", ".npz");
  expect_input_error("x,y\n1,2\n", "no .npy file");
  expect_input_error(npy(header("'<f4'", "(1,)"), "abcd", 4), "version is 4");
}

TEST_F(NpyTest, ReadRejectsDamagedHeaders) {
  for (const char* text : {"", "{}", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': False}",
                           "{'descr': '<f4', 'fortran_order': Maybe, 'shape': ()}",
                           "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
                           "{'descr': '<f4', 'fortran_order': False, 'shape': (1",
                           "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
                           "{'descr': '', 'fortran_order': False, 'shape': (1,)}",
                           "{'descr': '<f4', 'evil': 1, 'shape': (1,)}", "{{{{", "'''"}) {
    expect_input_error(npy(text, "abcd"), "header is damaged");
  }
}

TEST_F(NpyTest, ReadRejectsPathsThatAreNoFile) {
  EXPECT_THROW(read_npy(path("none.npy")), InputError);
  EXPECT_THROW(read_npy(folder_.string()), InputError);
}

}  // namespace
}  // namespace ts_infer::cli
