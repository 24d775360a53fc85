#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "ts_infer/timing.h"

namespace ts_infer {

/// Latencies in fixed memory, recorded without locks. A reader beside a writer may see a call in
/// one figure and not yet in another.
class StatsRecorder {
 public:
  void record(const Timing& timing);
  LatencyStats read() const;
  void reset();

 private:
  // 64 buckets an octave: 1.6 % wide. Below 64 ns a bucket is 1 ns; the last octave ends at 2.4 h.
  static constexpr int kSubBits = 6;
  static constexpr int kOctaves = 37;
  static constexpr std::size_t kBuckets = (std::size_t{kOctaves} + 1) << kSubBits;
  static constexpr std::size_t kFirstCalls = 64;

  static std::size_t bucket_of(std::uint64_t ns);
  static double middle_ms(std::size_t bucket);

  std::atomic<std::uint64_t> count_{0};
  std::atomic<std::uint64_t> total_ns_{0};
  std::atomic<std::uint64_t> max_ns_{0};
  std::atomic<std::uint64_t> h2d_ns_{0};
  std::atomic<std::uint64_t> compute_ns_{0};
  std::atomic<std::uint64_t> d2h_ns_{0};
  std::array<std::atomic<std::uint64_t>, kFirstCalls> first_ns_{};
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
};

}  // namespace ts_infer
