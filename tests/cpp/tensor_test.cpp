#include "ts_infer/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/dlpack.h>
#include <ATen/ops/arange.h>

#include <limits>

#include "archives.h"
#include "ts_infer/error.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TensorTest, FromBlobSharesTheCallersMemory) {
  std::vector<float> memory = {1, 2, 3, 4, 5, 6};
  const Tensor tensor = Tensor::from_blob(memory.data(), DType::kFloat32, {2, 3});
  memory[5] = 7;
  EXPECT_EQ(tensor.data<float>()[5], 7);
  EXPECT_THAT(tensor.shape(), ElementsAre(2, 3));
  EXPECT_THAT(tensor.strides(), ElementsAre(3, 1));
  EXPECT_EQ(tensor.nbytes(), 24u);
  EXPECT_EQ(tensor.device(), "cpu");
}

TEST(TensorTest, DeleterRunsOnceWhenTheLastHandleGoes) {
  int deleted = 0;
  std::vector<float> memory(2);
  {
    Tensor copy;
    {
      const Tensor tensor =
          Tensor::from_blob(memory.data(), DType::kFloat32, {2}, {}, "cpu", [&] { ++deleted; });
      copy = tensor;
    }
    EXPECT_EQ(deleted, 0);
  }
  EXPECT_EQ(deleted, 1);
}

TEST(TensorTest, StridesMakeATransposedView) {
  std::vector<std::int32_t> memory = {0, 1, 2, 3, 4, 5};
  const Tensor tensor = Tensor::from_blob(memory.data(), DType::kInt32, {3, 2}, {1, 3});
  EXPECT_FALSE(tensor.is_contiguous());
  const Tensor host = tensor.to_host();
  EXPECT_THAT(std::vector<std::int32_t>(host.data<std::int32_t>(), host.data<std::int32_t>() + 6),
              ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST(TensorTest, BadShapesStridesAndPointersAreInputErrors) {
  float value = 0;
  const auto max = std::numeric_limits<std::int64_t>::max();
  EXPECT_THROW(Tensor::from_blob(nullptr, DType::kFloat32, {1}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {-1}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {max, 2}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {1, 1}, {1}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {2}, {-1}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {3, 3}, {max, max}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {2}, {max / 2}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {0, max, 3}), InputError);
  EXPECT_THROW(Tensor::from_blob(&value, DType::kFloat32, {1}, {}, "cuda:9"), InputError);
  EXPECT_THROW(Tensor::from_vector(std::vector<float>{1, 2}, {3}), InputError);
  EXPECT_EQ(Tensor::from_blob(nullptr, DType::kFloat32, {0, 3}).numel(), 0);
}

TEST(TensorTest, AccessorsOfAnUndefinedTensorThrow) {
  EXPECT_FALSE(Tensor().defined());
  EXPECT_THROW(Tensor().shape(), InputError);
  EXPECT_THROW(Tensor().to_dlpack(), InputError);
}

TEST(TensorTest, DataOfAnotherTypeThrows) {
  const Tensor tensor = Tensor::from_vector(std::vector<float>{1}, {1});
  EXPECT_THROW(tensor.data<double>(), InputError);
}

TEST(TensorTest, DTypeNamesRoundTrip) {
  for (const char* name : {"bool", "uint8", "int8", "int16", "int32", "int64", "float16",
                           "bfloat16", "float32", "float64", "complex64", "complex128"}) {
    ASSERT_TRUE(dtype_from_string(name)) << name;
    EXPECT_STREQ(to_string(*dtype_from_string(name)), name);
    EXPECT_EQ(Tensor::empty(*dtype_from_string(name), {3}).nbytes(),
              3 * size_of(*dtype_from_string(name)));
  }
  EXPECT_FALSE(dtype_from_string("float"));
}

TEST(TensorTest, DlpackRoundTripSharesTheMemory) {
  const Tensor tensor = Tensor::from_vector(std::vector<std::int64_t>{1, 2, 3}, {3});
  const Tensor back = Tensor::from_dlpack(tensor.to_dlpack());
  EXPECT_EQ(back.data_ptr(), tensor.data_ptr());
  EXPECT_THROW(Tensor::from_dlpack(nullptr), InputError);
}

TEST(TensorTest, DlpackTensorsThatTorchWouldStumbleOverAreRefused) {
  std::vector<float> memory(6);
  std::vector<std::int64_t> shape = {2, 3};
  std::vector<std::int64_t> strides = {3, 1};
  const auto tensor = [&] {
    DLManagedTensor managed = {};
    managed.dl_tensor.data = memory.data();
    managed.dl_tensor.device = {kDLCPU, 0};
    managed.dl_tensor.ndim = 2;
    managed.dl_tensor.dtype = {kDLFloat, 32, 1};
    managed.dl_tensor.shape = shape.data();
    managed.dl_tensor.strides = strides.data();
    return managed;
  };
  const auto error = [](DLManagedTensor managed) {
    return testing::message_of<InputError>([&] { Tensor::from_dlpack(&managed); });
  };
  DLManagedTensor good = tensor();
  EXPECT_EQ(Tensor::from_dlpack(&good).shape(), shape);
  DLManagedTensor bad = tensor();
  bad.dl_tensor.ndim = -1;
  EXPECT_THAT(error(bad), HasSubstr("expected a shape, got -1 dimensions"));
  bad = tensor();
  bad.dl_tensor.shape = nullptr;
  EXPECT_THAT(error(bad), HasSubstr("expected a shape"));
  bad = tensor();
  bad.dl_tensor.data = nullptr;
  EXPECT_THAT(error(bad), HasSubstr("expected a pointer to data, got null"));
  bad = tensor();
  bad.dl_tensor.dtype = {kDLFloat, 7, 1};
  EXPECT_THAT(error(bad), HasSubstr("from_dlpack"));
  for (const std::int64_t stride : {std::int64_t{-1}, std::int64_t{1} << 61, INT64_MAX}) {
    strides[1] = stride;
    EXPECT_THAT(error(tensor()), HasSubstr("expected strides of 0 or more that stay in memory"));
  }
  strides[1] = 1;
  for (const std::int64_t size : {std::int64_t{-1}, INT64_MAX}) {
    shape[1] = size;
    EXPECT_THAT(error(tensor()), HasSubstr("[tensor] shape"));
  }
}

TEST(TensorTest, TorchConversionsShareTheMemory) {
  const at::Tensor original = at::arange(4);
  const Tensor tensor = from_torch(original);
  EXPECT_EQ(tensor.data_ptr(), original.data_ptr());
  EXPECT_TRUE(to_torch(tensor).is_same(original));
  EXPECT_FALSE(from_torch(at::Tensor()).defined());
}

}  // namespace
}  // namespace ts_infer
