#include "background_calls.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "process.h"

namespace ts_infer {

struct BackgroundCalls::State {
  struct Job {
    std::function<void()> work;
    std::condition_variable changed;
    bool is_started = false;
    bool is_done = false;
    std::exception_ptr error;
  };

  std::mutex mutex;
  std::condition_variable has_work;
  std::deque<std::shared_ptr<Job>> waiting;
  std::size_t idle = 0;
  bool is_ending = false;
  std::vector<std::thread> threads;

  void serve() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      ++idle;
      has_work.wait(lock, [this] { return is_ending || !waiting.empty(); });
      --idle;
      if (waiting.empty()) return;
      const std::shared_ptr<Job> job = waiting.front();
      waiting.pop_front();
      job->is_started = true;
      lock.unlock();
      std::exception_ptr error;
      try {
        job->work();
      } catch (...) {
        error = std::current_exception();
      }
      job->work = nullptr;  // what it holds goes before its caller goes on
      lock.lock();
      job->error = error;
      job->is_done = true;
      job->changed.notify_one();
    }
  }
};

BackgroundCalls::BackgroundCalls() : state_(std::make_unique<State>()), forks_(fork_count()) {}

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

BackgroundCalls::Outcome BackgroundCalls::run_until(Clock::time_point deadline,
                                                    std::function<void()> work) {
  State& state = *state_;
  const auto job = std::make_shared<State::Job>();
  job->work = std::move(work);
  std::unique_lock<std::mutex> lock(state.mutex);
  if (state.idle <= state.waiting.size() && state.threads.size() < kMostThreads) {
    state.threads.emplace_back([&state] { state.serve(); });
  }
  state.waiting.push_back(job);
  state.has_work.notify_one();
  if (!job->changed.wait_until(lock, deadline, [&] { return job->is_done; })) {
    if (job->is_started) return Outcome::kStillRuns;
    state.waiting.erase(std::find(state.waiting.begin(), state.waiting.end(), job));
    return Outcome::kNotStarted;
  }
  if (job->error) std::rethrow_exception(job->error);
  return Outcome::kDone;
}

}  // namespace ts_infer
