#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

namespace ts_infer::testing {

/// Linking fake_device.cpp gives the process an accelerator, "fake", of two devices.
///
/// Its memory is the host's, its operators are the host's, and yet it behaves as a GPU does: every
/// stream is a thread, so what is enqueued runs later and beside other streams; host memory is read
/// and written when the copy runs, where it is pinned; freed memory is overwritten with NaN in the
/// order of the stream that it was allocated on, after those that record_stream() names, and is
/// then used again (fake_memory.h). A missing wait thus gives wrong values, surely where a Hold or
/// a Delay makes work late.
c10::Device fake_device(int index = 0);

/// The calling thread's current stream, and a new one of the device's pool.
c10::Stream current_stream(c10::Device device = fake_device());
c10::Stream new_stream(c10::Device device = fake_device());

/// What RunOptions.stream takes.
void* native_handle(c10::Stream stream);

/// Whether everything that was enqueued has run, on the stream and on all; and to wait for that.
bool is_idle(c10::Stream stream);
bool all_idle();
void synchronize(c10::Stream stream);
void synchronize_all();

/// How often a host thread waited for the device so far.
std::size_t host_waits();

/// How many operators and copies the stream got so far.
std::size_t work_so_far(c10::Stream stream);

/// The copies so far between a device and the host's memory. As with CUDA, those from and to
/// pageable memory go through the host: it is read at once, and written before the call returns.
struct HostCopies {
  std::size_t pinned = 0;
  std::size_t pageable = 0;
};
HostCopies host_copies();

/// Whether nobody wrote to memory that is free, on the devices or pinned. Waits for them.
bool free_memory_is_untouched();

/// Keeps work that is enqueued after it from running, until release() or the end of its life.
class Hold {
 public:
  explicit Hold(c10::Stream stream);
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  void release();

 private:
  struct Latch;
  std::shared_ptr<Latch> latch_;
};

/// Makes every operator and copy that runs in its life late by this much, on one stream or on all.
class Delay {
 public:
  explicit Delay(std::chrono::milliseconds each);
  Delay(c10::Stream stream, std::chrono::milliseconds each);
  ~Delay();
  Delay(const Delay&) = delete;
  Delay& operator=(const Delay&) = delete;

 private:
  c10::Stream stream_;
  bool all_;
};

/// Makes one piece of work that is enqueued in its life fail, the nth, when it runs.
class Fault {
 public:
  explicit Fault(std::size_t nth = 1);
  ~Fault();
  Fault(const Fault&) = delete;
  Fault& operator=(const Fault&) = delete;

  /// Whether that work is enqueued.
  bool is_taken() const;
};

/// The memory that a device has, in its life.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t bytes, c10::Device device = fake_device());
  ~MemoryLimit();
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  c10::Device device_;
  std::size_t previous_;
};

/// No pinned memory can be had in its life.
class NoPinnedMemory {
 public:
  NoPinnedMemory();
  ~NoPinnedMemory();
  NoPinnedMemory(const NoPinnedMemory&) = delete;
  NoPinnedMemory& operator=(const NoPinnedMemory&) = delete;
};

}  // namespace ts_infer::testing
