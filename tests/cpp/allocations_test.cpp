// What a call allocates, counted by operator new itself, for this program and libtorch alike; and
// what comes of it where there is no memory.

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "archives.h"
#include "engine/prepared.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCounts = false;  // a sanitizer has its own operator new
#else
constexpr bool kCounts = true;

namespace {
thread_local int news = 0;
thread_local int until_failure = -1;  // none
}  // namespace

void* operator new(std::size_t size) {
  ++news;
  if (until_failure >= 0 && until_failure-- == 0) throw std::bad_alloc();
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
// Inlined, GCC takes their free() for one of memory that new gave.
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}
#endif

namespace ts_infer {
namespace {

using testing::archive;
using testing::make_module;

constexpr const char* kPlusOne = "def forward(self, x):\n    return x + 1\n";
constexpr const char* kPlusOneManifest = R"({
  "schema": 1, "name": "plus", "method": "script", "versions": {"torch": "2.13.0"},
  "inputs": [{"name": "x", "type": "Tensor", "dtype": "float32",
              "shape": [{"name": "rows", "min": 1, "max": 8}, 4]}],
  "outputs": [{"name": "y", "dtype": "float32", "shape": [{"name": "rows", "min": 1, "max": 8}, 4]}],
  "methods": ["forward"]})";

template <typename Call>
int count(const Call& call) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  call();
  return 0;
#else
  for (int i = 0; i < 10; ++i) call();
  const int before = news;
  call();
  return news - before;
#endif
}

/// Of torch's interpreter alone, with the argument list that it takes.
int count_torchs(const at::Tensor& input) {
  torch::jit::Module module = make_module(kPlusOne);
  const torch::jit::Code code =
      prepare(module.get_method("forward").function(), {c10::kCPU, PassSelection(LoadOptions())})
          .code;
  const c10::InferenceMode inference;
  return count([&] {
    std::vector<c10::IValue> stack;
    stack.reserve(2);
    stack.emplace_back(module._ivalue());
    stack.emplace_back(input);
    torch::jit::InterpreterState(code).run(stack);
  });
}

TEST(AllocationsTest, ACallAllocatesWhatItReturns) {
  if (!kCounts) GTEST_SKIP() << "a sanitizer has its own operator new";
  const at::Tensor input = at::ones({2, 4});
  const std::string bytes = archive(kPlusOne, kPlusOneManifest);
  Model model = Model::load(bytes.data(), bytes.size());
  const std::vector<Tensor> inputs = {from_torch(input)};
  const int torchs = count_torchs(input);
  ASSERT_GT(torchs, 0);
  // The list of outputs, and for each a tensor that is no inference tensor: itself and its version.
  EXPECT_EQ(count([&] { model.forward(inputs); }), torchs + 3);

  RunOptions into;
  into.outputs = {from_torch(at::empty({2, 4}))};
  const int written = count([&] { model.forward(inputs, into); });
  EXPECT_LE(written, torchs + 3);
}

/// Does `work` again and again, with its first, second, … allocation failing, `stride` apart, until
/// it makes no more; returns how often one failed. What leaves it must be an Error.
template <typename Work>
int fail_each_allocation(int stride, const Work& work) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 0;
#else
  for (int n = 0, failed = 0;; n += stride, ++failed) {
    until_failure = n;
    try {
      work();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()), "");
    }
    const bool has_failed = until_failure < 0;
    until_failure = -1;
    if (!has_failed) return failed;
  }
#endif
}

TEST(AllocationsTest, ACallWithoutMemoryIsAnError) {
  if (!kCounts) GTEST_SKIP() << "a sanitizer has its own operator new";
  const at::Tensor input = at::ones({2, 4});
  const std::string bytes = archive(kPlusOne, kPlusOneManifest);
  Model model = Model::load(bytes.data(), bytes.size());
  const std::vector<Tensor> inputs = {from_torch(input)};
  const auto answer = [&] { return to_torch(model.forward(inputs).at(0)); };
  EXPECT_GT(fail_each_allocation(1, [&] { model.forward(inputs); }), 3);
  EXPECT_TRUE(at::equal(answer(), input + 1));

  RunOptions within;
  within.deadline_ms = 60'000;
  EXPECT_GT(fail_each_allocation(1, [&] { model.forward(inputs, within); }), 3);
  EXPECT_TRUE(at::equal(answer(), input + 1));

  const std::vector<Value> values = {from_torch(input)};
  EXPECT_GT(fail_each_allocation(1, [&] { model.call(values); }), 3);
  EXPECT_TRUE(at::equal(answer(), input + 1));
}

/// What load does before libtorch, whose own constructors end the process there, has a say; nor has
/// the JSON library, whose destructors allocate.
TEST(AllocationsTest, ACheckOfAFileWithoutMemoryIsAnError) {
  if (!kCounts) GTEST_SKIP() << "a sanitizer has its own operator new";
  const std::string bytes = archive(kPlusOne);
  const ArchiveLimits limits;
  const auto read = [&] { return read_model_info(bytes.data(), bytes.size(), limits).name; };
  const std::string expected = read();
  EXPECT_GT(fail_each_allocation(1, read), 10);
  EXPECT_EQ(read(), expected);
}

}  // namespace
}  // namespace ts_infer
