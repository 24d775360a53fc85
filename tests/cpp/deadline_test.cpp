#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/library.h>
#include <unistd.h>

#include <ATen/ATen.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "archives.h"
#include "background_calls.h"
#include "ts_infer/model.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using testing::archive;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using testing::message_of;

/// Where an operator of the models below waits until the test lets it pass.
class Gate {
 public:
  void pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return is_open_; });
    ++passed_;
  }
  void open(bool is_open) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_open_ = is_open;
    }
    changed_.notify_all();
  }
  int passed() const { return passed_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = true;
  std::atomic<int> passed_{0};
};

Gate gate;

at::Tensor pass_gate(const at::Tensor& x) {
  gate.pass();
  return x + 1;
}

TORCH_LIBRARY(ts_infer_deadline_test, library) {
  library.def("wait(Tensor x) -> Tensor", pass_gate);
}

Model gated_model(const std::string& statement = "y = x") {
  const std::string bytes = archive("def forward(self, x):\n    " + statement +
                                    "\n    return ts_infer_deadline_test.wait(y)\n");
  return Model::load(bytes.data(), bytes.size());
}

RunOptions within(double ms) {
  RunOptions options;
  options.deadline_ms = ms;
  return options;
}

float first(const std::vector<Tensor>& outputs) { return outputs.at(0).data<float>()[0]; }

TEST(DeadlineTest, WhatIsInTimeIsReturned) {
  Model model = gated_model();
  std::vector<float> memory = {1};
  const Tensor x = Tensor::from_blob(memory.data(), DType::kFloat32, {1});
  EXPECT_EQ(first(model.forward({x}, within(60'000))), 2);
  RunOptions options = within(60'000);
  std::vector<float> result(1);
  options.outputs = {Tensor::from_blob(result.data(), DType::kFloat32, {1})};
  model.forward({x}, options);
  EXPECT_EQ(result[0], 2);
  EXPECT_EQ(model.stats().count, 2u);
}

TEST(DeadlineTest, WhatIsLateGoesOnWithoutTheCallersMemory) {
  const int before = gate.passed();
  {
    Model model = gated_model();
    std::vector<float> result = {7};
    gate.open(false);
    {
      auto memory = std::make_unique<float>(1.0f);
      RunOptions options = within(300);
      options.outputs = {Tensor::from_blob(result.data(), DType::kFloat32, {1})};
      EXPECT_THAT(
          message_of<ExecutionError>([&] {
            model.forward({Tensor::from_blob(memory.get(), DType::kFloat32, {1})}, options);
          }),
          MatchesRegex(".* deadline_ms: expected a result within 300 ms, got none; it has run for "
                       "[0-9.]+ ms and goes on in the background"));
    }
    EXPECT_EQ(gate.passed(), before);
    gate.open(true);
    EXPECT_EQ(first(model.forward({Tensor::from_vector<float>({2}, {1})}, within(60'000))), 3);
    EXPECT_EQ(result[0], 7);
    EXPECT_EQ(model.stats().count, 1u);
  }
  EXPECT_EQ(gate.passed(), before + 2) << "the destructor has waited";
}

TEST(DeadlineTest, TheNextCallOfAModelWithStateWaits) {
  Model model = gated_model("self.state.add_(1)\n    y = x + self.state[0]");
  ASSERT_TRUE(model.info().stateful);
  const Tensor x = Tensor::from_vector<float>({0}, {1});
  gate.open(false);
  EXPECT_THROW(model.forward({x}, within(300)), ExecutionError);
  std::thread opens([] { gate.open(true); });
  EXPECT_EQ(first(model.forward({x})), 3) << "the state of the late call, and this one's";
  opens.join();
}

TEST(DeadlineTest, ADeadlineIsANumberOfMilliseconds) {
  Model model = gated_model();
  for (const double ms : {-1.0, 1e10, std::nan("")}) {
    EXPECT_THAT(message_of<InputError>(
                    [&] { model.forward({Tensor::from_vector<float>({0}, {1})}, within(ms)); }),
                HasSubstr("deadline_ms: expected a number from 0"));
  }
}

TEST(DeadlineTest, ErrorsOfTheModelAreThoseOfACall) {
  const std::string bytes =
      archive("def forward(self, x):\n    return torch.matmul(x, self.weight)\n");
  Model model = Model::load(bytes.data(), bytes.size());
  EXPECT_THAT(message_of<ExecutionError>(
                  [&] { model.forward({Tensor::from_vector<float>({0}, {1})}, within(60'000)); }),
              HasSubstr("cannot be multiplied"));
}

using Kind = BackgroundCalls::Outcome::Kind;

BackgroundCalls::Outcome run_for(BackgroundCalls& calls, std::chrono::milliseconds time,
                                 std::function<void()> work) {
  BackgroundCalls::Seat seat(calls);
  return seat.run_until(BackgroundCalls::Clock::now() + time, std::move(work));
}

TEST(BackgroundCallsTest, ThereAreOnlySoManyThreads) {
  BackgroundCalls calls(1);
  gate.open(false);
  std::size_t running = 0;
  while (running < BackgroundCalls::kMostThreads) {
    const auto outcome = run_for(calls, std::chrono::milliseconds(10), [] { gate.pass(); });
    ASSERT_THAT(outcome.kind, ::testing::AnyOf(Kind::kStillRuns, Kind::kNotStarted));
    EXPECT_EQ(outcome.running, running);
    if (outcome.kind == Kind::kStillRuns) ++running;
  }
  bool was_run = false;
  const auto refused = run_for(calls, std::chrono::milliseconds(10), [&] { was_run = true; });
  EXPECT_EQ(refused.kind, Kind::kNotStarted);
  EXPECT_EQ(refused.running, BackgroundCalls::kMostThreads);
  gate.open(true);
  EXPECT_EQ(run_for(calls, std::chrono::minutes(1), [&] { was_run = true; }).kind, Kind::kDone);
  EXPECT_TRUE(was_run);
}

TEST(BackgroundCallsTest, WhatEndsPastTheDeadlineIsNotInTime) {
  BackgroundCalls calls(1);
  for (int i = 0; i < 500; ++i) {
    BackgroundCalls::Seat seat(calls);
    const auto deadline = BackgroundCalls::Clock::now() + std::chrono::microseconds(200);
    // So close to it that the caller often finds it done when it wakes.
    const auto outcome = seat.run_until(deadline, [deadline] {  // it may outlive this turn
      while (BackgroundCalls::Clock::now() <= deadline) {
      }
    });
    ASSERT_NE(outcome.kind, Kind::kDone);
  }
}

TEST(ForkTest, AChildIsToldThatItCannotCall) {
  Model model = gated_model();
  const Tensor x = Tensor::from_vector<float>({1}, {1});
  model.forward({x}, within(60'000));
  const pid_t child = fork();
  if (child == 0) {
    int code = 1;
    {
      Model here = std::move(model);
      try {
        here.forward({x});
      } catch (const ExecutionError& error) {
        code = std::string(error.what()).find("got a child of fork()") == std::string::npos ? 2 : 0;
      }
    }  // destroyed without waiting for threads that are not there
    _exit(code);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(first(model.forward({x})), 2);
}

}  // namespace
}  // namespace ts_infer
