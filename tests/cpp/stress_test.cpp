#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <atomic>
#include <random>
#include <shared_mutex>
#include <thread>

#include "archives.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using testing::archive;
using testing::load_bytes;

constexpr int kThreads = 16;
constexpr int kSteps = 150;

constexpr const char* kPlain = R"(
def forward(self, x):
    return torch.relu(torch.matmul(x, self.weight)) + 1
def twice(self, x):
    return x + x
)";

constexpr const char* kWithState = R"(
def forward(self, x):
    self.state.add_(1)
    return x + self.state[0]
def count(self):
    return self.state[0] + 0
)";

Tensor row(float value) { return Tensor::from_vector<float>({value, value, value, value}, {1, 4}); }

float first(const Tensor& tensor) { return tensor.to_host().data<float>()[0]; }

/// Threads that load, call, clone, replace and destroy models at random, and check every output.
class Stress {
 public:
  Stress() : plain_(archive(kPlain)), with_state_(archive(kWithState)) {
    shared_ = std::make_shared<Model>(load_bytes(plain_));
    counter_ = std::make_shared<Model>(load_bytes(with_state_));
  }

  void run() {
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { work(i); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong_, 0);
    // One call of the shared state each, whoever made it.
    const Value counted = counter_->run_method("count");
    EXPECT_EQ(first(counted.as_tensor()), static_cast<float>(counter_calls_));
  }

 private:
  std::shared_ptr<Model> shared() {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    return shared_;
  }

  void check(bool is_right) {
    if (!is_right) ++wrong_;
  }

  void work(int seed) {
    std::minstd_rand random(static_cast<unsigned>(seed));
    for (int step = 0; step < kSteps; ++step) {
      const auto value = static_cast<float>(random() % 100);
      switch (random() % 9) {
        case 0: {
          Model own = load_bytes(plain_);
          check(first(own.forward({row(value)})[0]) == 2 * value + 1);
          break;
        }
        case 1: {
          const auto model = std::make_shared<Model>(load_bytes(plain_));
          const std::unique_lock<std::shared_mutex> lock(mutex_);
          shared_ = model;  // the last call of the one before destroys it
          break;
        }
        case 2: {
          Model own = counter_->clone();
          const float before = first(own.run_method("count").as_tensor());
          check(first(own.forward({row(value)})[0]) == value + before + 1);
          break;
        }
        case 3:
          ++counter_calls_;
          check(first(counter_->forward({row(value)})[0]) > value);
          break;
        case 4: {
          const Value doubled = shared()->run_method("twice", {Value(row(value))});
          check(first(doubled.as_tensor()) == 2 * value);
          break;
        }
        case 5:
          try {
            shared()->forward({Tensor::from_vector<float>({value}, {1, 1})});
            check(false);
          } catch (const ExecutionError&) {
          }
          break;
        case 6:
          try {
            shared()->forward({});
            check(false);
          } catch (const InputError&) {
          }
          break;
        case 7: {
          RunOptions options;
          options.deadline_ms = 600'000;
          check(first(shared()->forward({row(value)}, options)[0]) == 2 * value + 1);
          break;
        }
        default:
          check(first(shared()->forward({row(value)})[0]) == 2 * value + 1);
          check(shared()->stats().count > 0 || shared()->info().load_ms > 0);
      }
    }
  }

  std::string plain_;
  std::string with_state_;
  std::shared_mutex mutex_;
  std::shared_ptr<Model> shared_;
  std::shared_ptr<Model> counter_;
  std::atomic<int> counter_calls_{0};
  std::atomic<int> wrong_{0};
};

TEST(StressTest, ThreadsDoWhatTheyLikeAndEveryOutputIsRight) { Stress().run(); }

}  // namespace
}  // namespace ts_infer
