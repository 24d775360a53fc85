#include "stats.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace ts_infer {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

std::uint64_t to_ns(double ms) { return static_cast<std::uint64_t>(std::max(ms, 0.0) * 1e6); }

double to_ms(std::uint64_t ns) { return static_cast<double>(ns) * 1e-6; }

}  // namespace

std::size_t StatsRecorder::bucket_of(std::uint64_t ns) {
  constexpr std::uint64_t kSub = std::uint64_t{1} << kSubBits;
  if (ns < kSub) return ns;
  const int shift = std::bit_width(ns) - 1 - kSubBits;
  const std::size_t bucket =
      ((static_cast<std::size_t>(shift) + 1) << kSubBits) + ((ns >> shift) & (kSub - 1));
  return std::min(bucket, kBuckets - 1);
}

double StatsRecorder::middle_ms(std::size_t bucket) {
  constexpr std::size_t kSub = std::size_t{1} << kSubBits;
  if (bucket < kSub) return to_ms(bucket);
  const std::size_t shift = (bucket >> kSubBits) - 1;
  const std::uint64_t low = (kSub + (bucket & (kSub - 1))) << shift;
  return (static_cast<double>(low) + std::ldexp(0.5, static_cast<int>(shift))) * 1e-6;
}

void StatsRecorder::record(const Timing& timing) {
  const std::uint64_t ns = to_ns(timing.total_ms);
  const std::uint64_t index = count_.fetch_add(1, kRelaxed);
  if (index < kFirstCalls) first_ns_[index].store(ns, kRelaxed);
  total_ns_.fetch_add(ns, kRelaxed);
  compute_ns_.fetch_add(to_ns(timing.compute_ms), kRelaxed);
  if (timing.h2d_ms > 0) h2d_ns_.fetch_add(to_ns(timing.h2d_ms), kRelaxed);
  if (timing.d2h_ms > 0) d2h_ns_.fetch_add(to_ns(timing.d2h_ms), kRelaxed);
  buckets_[bucket_of(ns)].fetch_add(1, kRelaxed);
  std::uint64_t seen = max_ns_.load(kRelaxed);
  while (ns > seen && !max_ns_.compare_exchange_weak(seen, ns, kRelaxed)) {
  }
}

LatencyStats StatsRecorder::read() const {
  LatencyStats stats;
  stats.count = count_.load(kRelaxed);
  if (stats.count == 0) return stats;
  const auto count = static_cast<double>(stats.count);
  stats.mean_ms = to_ms(total_ns_.load(kRelaxed)) / count;
  stats.h2d_ms = to_ms(h2d_ns_.load(kRelaxed)) / count;
  stats.compute_ms = to_ms(compute_ns_.load(kRelaxed)) / count;
  stats.d2h_ms = to_ms(d2h_ns_.load(kRelaxed)) / count;
  stats.max_ms = to_ms(max_ns_.load(kRelaxed));
  const std::size_t first = std::min<std::uint64_t>(stats.count, kFirstCalls);
  for (std::size_t i = 0; i < first; ++i) {
    stats.first_calls_ms.push_back(to_ms(first_ns_[i].load(kRelaxed)));
  }
  stats.first_ms = stats.first_calls_ms.front();

  // Nearest rank: the smallest bucket at or below which a share of q of the calls lies.
  const auto percentile = [&](double q) {
    const auto rank = static_cast<std::uint64_t>(std::ceil(q * count));
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      below += buckets_[i].load(kRelaxed);
      if (below >= rank) return std::min(middle_ms(i), stats.max_ms);
    }
    return stats.max_ms;
  };
  stats.p50_ms = percentile(0.50);
  stats.p90_ms = percentile(0.90);
  stats.p99_ms = percentile(0.99);
  return stats;
}

void StatsRecorder::reset() {
  for (auto* figure : {&count_, &total_ns_, &max_ns_, &h2d_ns_, &compute_ns_, &d2h_ns_}) {
    figure->store(0, kRelaxed);
  }
  for (auto& first : first_ns_) first.store(0, kRelaxed);
  for (auto& bucket : buckets_) bucket.store(0, kRelaxed);
}

}  // namespace ts_infer
