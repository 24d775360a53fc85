#include "ts_infer/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/dlpack.h>
#include <ATen/ops/arange.h>

#include <limits>

#include "ts_infer/error.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using ::testing::ElementsAre;

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

TEST(TensorTest, TorchConversionsShareTheMemory) {
  const at::Tensor original = at::arange(4);
  const Tensor tensor = from_torch(original);
  EXPECT_EQ(tensor.data_ptr(), original.data_ptr());
  EXPECT_TRUE(to_torch(tensor).is_same(original));
  EXPECT_FALSE(from_torch(at::Tensor()).defined());
}

}  // namespace
}  // namespace ts_infer
