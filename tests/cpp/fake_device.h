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
/// and written when the copy runs; freed memory is overwritten with NaN in the order of the stream
/// that it was allocated on (and of those that record_stream() names) and is never used again. A
/// missing wait thus gives wrong values, surely where a Hold or a Delay makes work late.
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

}  // namespace ts_infer::testing
