#include "fake_worker.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace ts_infer::testing {

std::atomic<std::int64_t> delay_of_all_ms{0};
std::atomic<std::int64_t> work_until_fault{0};

namespace {
thread_local Capture* current_capture = nullptr;
}

Capture::Capture(Worker& worker, c10::MempoolId_t pool) : worker_(worker), pool_(pool) {
  TORCH_CHECK(!current_capture, "fake device: a capture is under way");
  current_capture = this;
}

Capture::~Capture() { current_capture = nullptr; }

Capture* Capture::current() { return current_capture; }

void Failure::report(const std::shared_ptr<Failure>& failure) {
  if (failure && !failure->reported_.exchange(true)) {
    TORCH_CHECK(false, "fake device: ", failure->message_);
  }
}

Worker::Worker() {
  std::thread([this] { run(); }).detach();
}

void Worker::enqueue_work(std::function<void()> run) {
  ++work_;
  const bool fails = work_until_fault > 0 && work_until_fault.fetch_sub(1) == 1;
  enqueue([this, fails, run = std::move(run)] {
    const auto late = std::max(delay_ms.load(), delay_of_all_ms.load());
    if (late > 0) std::this_thread::sleep_for(std::chrono::milliseconds(late));
    TORCH_CHECK(!fails, "injected fault");
    run();
  });
}

bool Worker::is_idle() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::none_of(tasks_.begin(), tasks_.end(), [](const Task& task) { return task.counts; });
}

void Worker::synchronize() {
  TORCH_CHECK(!current_capture, "fake device: the host waits while its work is captured");
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return tasks_.empty(); });
  const auto failure = failure_;
  lock.unlock();
  Failure::report(failure);
}

std::shared_ptr<Failure> Worker::failure() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return failure_ && !failure_->is_reported() ? failure_ : nullptr;
}

void Worker::add(const std::shared_ptr<Failure>& failure) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failure && (!failure_ || failure_->is_reported())) failure_ = failure;
}

void Worker::push(Task task) {
  if (current_capture && &current_capture->worker_ == this) {
    current_capture->tasks_.push_back(std::move(task.run));
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_all();
}

void Worker::run() {
  const c10::InferenceMode inference;
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !tasks_.empty(); });
    const auto run = tasks_.front().run;  // the task stays there while it runs
    lock.unlock();
    std::string error;
    try {
      run();
    } catch (const c10::Error& caught) {
      error = caught.what_without_backtrace();
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    if (!error.empty()) add(std::make_shared<Failure>(error));
    lock.lock();
    tasks_.pop_front();
    changed_.notify_all();
  }
}

}  // namespace ts_infer::testing
