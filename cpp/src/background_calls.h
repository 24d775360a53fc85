#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace ts_infer {

/// Runs work on threads of its own, so that who asked for it can stop waiting. A thread that is
/// done serves the next; there are at most kMostThreads.
class BackgroundCalls {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kMostThreads = 64;

  enum class Outcome {
    kDone,
    kStillRuns,   // and what it throws will be dropped
    kNotStarted,  // every thread was busy until then; it will not run
  };

  BackgroundCalls();

  /// Waits for what still runs; in a child process, which has none of the threads, for nothing.
  ~BackgroundCalls();
  BackgroundCalls(const BackgroundCalls&) = delete;
  BackgroundCalls& operator=(const BackgroundCalls&) = delete;

  /// Waits for `work` until the deadline. @throws what `work` throws; std::system_error where the
  /// process may have no more threads.
  Outcome run_until(Clock::time_point deadline, std::function<void()> work);

 private:
  struct State;
  std::unique_ptr<State> state_;
  unsigned forks_;  // when it was made
};

}  // namespace ts_infer
