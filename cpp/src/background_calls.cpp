#include "background_calls.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <future>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "intra_op_threads.h"
#include "process.h"

namespace ts_infer {

struct BackgroundCalls::State {
  struct Job {
    std::function<void()> work;
    std::condition_variable changed;
    Clock::time_point start;
    bool is_started = false;
    bool is_done = false;
    bool is_abandoned = false;
    std::exception_ptr error;
  };

  explicit State(int threads_of_each) : intra_op_threads(threads_of_each) {}

  const int intra_op_threads;
  std::mutex mutex;
  std::condition_variable has_work;
  std::deque<std::shared_ptr<Job>> waiting;
  std::size_t seats = 0;
  std::size_t running = 0;
  std::size_t abandoned = 0;  // of those that run
  bool is_ending = false;
  std::vector<std::thread> threads;

  bool needs_thread() const { return threads.size() < std::min(seats + abandoned, kMostThreads); }

  void serve(std::promise<void> is_there) {
    {
      const IntraOpThreads own(intra_op_threads);
      at::parallel_for(0, at::get_num_threads(), 1, [](auto, auto) {});
    }
    is_there.set_value();
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      has_work.wait(lock, [this] { return is_ending || !waiting.empty(); });
      if (waiting.empty()) return;
      const std::shared_ptr<Job> job = waiting.front();
      waiting.pop_front();
      job->start = Clock::now();
      job->is_started = true;
      ++running;
      lock.unlock();
      std::exception_ptr error;
      try {
        job->work();
      } catch (...) {
        error = std::current_exception();
      }
      job->work = nullptr;  // what it holds goes before its caller goes on
      lock.lock();
      --running;
      if (job->is_abandoned) --abandoned;
      job->error = error;
      job->is_done = true;
      job->changed.notify_one();
    }
  }

  void start_thread() {
    // OpenMP ends the process where it cannot have its threads.
    if (!can_start_threads(intra_op_threads > 0 ? intra_op_threads : at::get_num_threads())) {
      throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
    }
    std::promise<void> promise;
    const std::future<void> is_there = promise.get_future();
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!needs_thread()) return;
      threads.emplace_back(&State::serve, this, std::move(promise));
    }
    is_there.wait();
  }
};

BackgroundCalls::BackgroundCalls(int intra_op_threads)
    : state_(std::make_unique<State>(intra_op_threads)), forks_(fork_count()) {}

BackgroundCalls::~BackgroundCalls() {
  if (fork_count() != forks_) {
    (void)state_.release();  // its threads are not here to be joined
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->is_ending = true;
  }
  state_->has_work.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

BackgroundCalls::Seat::Seat(BackgroundCalls& calls) : state_(*calls.state_) {
  {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    ++state_.seats;
    if (!state_.needs_thread()) return;
  }
  try {
    state_.start_thread();
  } catch (...) {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    --state_.seats;
    throw;
  }
}

BackgroundCalls::Seat::~Seat() {
  const std::lock_guard<std::mutex> lock(state_.mutex);
  --state_.seats;
}

BackgroundCalls::Outcome BackgroundCalls::Seat::run_until(Clock::time_point deadline,
                                                          std::function<void()> work) {
  using Kind = Outcome::Kind;
  const auto job = std::make_shared<State::Job>();
  job->work = std::move(work);
  std::unique_lock<std::mutex> lock(state_.mutex);
  state_.waiting.push_back(job);
  state_.has_work.notify_one();
  job->changed.wait_until(lock, deadline, [&] { return job->is_done; });
  // This thread may have waited for a processor, so that only the clock tells what is late.
  const Clock::time_point now = Clock::now();
  if (!job->is_started) {
    state_.waiting.erase(std::find(state_.waiting.begin(), state_.waiting.end(), job));
    return {Kind::kNotStarted, {}, state_.running};
  }
  if (!job->is_done) {
    job->is_abandoned = true;
    ++state_.abandoned;
    return {Kind::kStillRuns, now - job->start, state_.running - 1};
  }
  if (job->error) std::rethrow_exception(job->error);
  return {now > deadline ? Kind::kLate : Kind::kDone, now - job->start, state_.running};
}

}  // namespace ts_infer
