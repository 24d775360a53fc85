#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace ts_infer {

/// Runs work on threads of its own, so that who asked for it can stop waiting. A thread that is
/// done serves the next; there are at most kMostThreads.
class BackgroundCalls {
  struct State;

 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kMostThreads = 64;

  /// What has come of work when its caller waits no more.
  struct Outcome {
    enum class Kind {
      kDone,
      kLate,        // done too, but it is past the deadline
      kStillRuns,   // what it throws will be dropped
      kNotStarted,  // it will not run
    };
    Kind kind;
    Clock::duration ran{};    // for how long
    std::size_t running = 0;  // how many others run
  };

  /// What one caller needs. There is a thread for each, while there are fewer than kMostThreads.
  class Seat {
   public:
    /// Waits until the thread is there. @throws std::system_error where the process may not have
    /// so many threads.
    explicit Seat(BackgroundCalls& calls);
    ~Seat();
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;

    /// Waits for `work` until the deadline. @throws what `work` throws.
    Outcome run_until(Clock::time_point deadline, std::function<void()> work);

   private:
    State& state_;
  };

  /// Each thread has so many intra-op threads, there before it serves; 0: torch's own number.
  explicit BackgroundCalls(int intra_op_threads);

  /// Waits for what still runs; in a child process, which has none of the threads, for nothing.
  ~BackgroundCalls();
  BackgroundCalls(const BackgroundCalls&) = delete;
  BackgroundCalls& operator=(const BackgroundCalls&) = delete;

 private:
  std::unique_ptr<State> state_;
  unsigned forks_;  // when it was made
};

}  // namespace ts_infer
