#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace ts_infer::testing {

constexpr c10::DeviceType kFake = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kDevices = 2;
constexpr int kPoison = 0xff;  // NaN in every floating type, -1 in signed integers

/// What went wrong in enqueued work. One of those who wait for it is told.
class Failure {
 public:
  explicit Failure(std::string message) : message_(std::move(message)) {}
  bool is_reported() const { return reported_; }

  /// Throws what nobody was told yet.
  static void report(const std::shared_ptr<Failure>& failure);

 private:
  std::string message_;
  std::atomic<bool> reported_{false};
};

/// A stream: runs tasks in order, on a thread of its own. Never destroyed.
class Worker {
 public:
  Worker();

  void enqueue(std::function<void()> run) { push({std::move(run), true}); }

  /// Enqueues what the device does for itself.
  void enqueue_housekeeping(std::function<void()> run) { push({std::move(run), false}); }

  /// Enqueues what takes time on a device and may fail: an operator or a copy.
  void enqueue_work(std::function<void()> run);

  bool is_idle();
  std::size_t work_so_far() const { return work_; }

  /// Waits for what is enqueued now, and reports its failure.
  void synchronize();

  /// The first failure that nobody was told.
  std::shared_ptr<Failure> failure();
  void add(const std::shared_ptr<Failure>& failure);

  std::atomic<std::int64_t> delay_ms{0};

 private:
  struct Task {
    std::function<void()> run;
    bool counts;
  };

  void push(Task task);
  void run();
  std::atomic<std::size_t> work_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  std::shared_ptr<Failure> failure_;
};

/// Keeps what the calling thread enqueues on its current stream from now on instead of running it.
/// A host that waits meanwhile is refused, as by CUDA.
class Capture {
 public:
  Capture(Worker& worker, c10::MempoolId_t pool);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// The calling thread's, or nullptr.
  static Capture* current();

  c10::MempoolId_t pool() const { return pool_; }
  std::vector<std::function<void()>> take_tasks() { return std::move(tasks_); }

 private:
  friend class Worker;
  Worker& worker_;
  c10::MempoolId_t pool_;
  std::vector<std::function<void()>> tasks_;
};

/// Of every stream.
extern std::atomic<std::int64_t> delay_of_all_ms;

/// Counts down with each piece of work that is enqueued; the one that takes it to 0 fails.
extern std::atomic<std::int64_t> work_until_fault;

Worker& worker_of(c10::Stream stream);

/// Those of the calling thread.
Worker& current_worker(c10::Device device);
c10::DeviceIndex current_device_index();

}  // namespace ts_infer::testing
