#include "ts_infer/benchmark.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <random>
#include <system_error>
#include <thread>

namespace ts_infer {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr double kLongestSeconds = 86400;  // far from where the clock's range ends

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

struct Call {
  Clock::time_point end;
  double latency_ms;  // in an open loop from the arrival on
  double inside_ms;   // without the wait: settling is judged by it
};

void check(const Model& model, const BenchmarkOptions& options) {
  const auto fail = [&](const std::string& what) {
    throw InputError("[benchmark] " + model.info().name + ": " + what);
  };
  if (!(options.duration_s > 0 && options.duration_s <= kLongestSeconds)) {
    fail("duration_s is out of range: expected more than 0 and at most 86400, got " +
         std::to_string(options.duration_s));
  }
  if (options.skip < 0) {
    fail("skip is negative: expected 0 or more, got " + std::to_string(options.skip));
  }
  if (options.concurrency < 1) {
    fail("too few callers: expected a concurrency of 1 or more, got " +
         std::to_string(options.concurrency));
  }
  if (!(options.rate_qps >= 0 && std::isfinite(options.rate_qps))) {
    fail("rate_qps is out of range: expected 0 (a closed loop) or more, got " +
         std::to_string(options.rate_qps));
  }
}

/// Arrivals of a Poisson process, handed out in order to whichever caller is free.
class Arrivals {
 public:
  Arrivals(double rate_qps, std::uint64_t seed) : rate_(rate_qps), generator_(seed) {}

  void start(Clock::time_point now) { next_ = now; }

  Clock::time_point take() {
    const std::lock_guard lock(mutex_);
    const double uniform = static_cast<double>(generator_() >> 11) * 0x1p-53;  // [0, 1)
    next_ += seconds(std::min(-std::log1p(-uniform) / rate_, kLongestSeconds));
    return next_;
  }

 private:
  double rate_;
  std::mt19937_64 generator_;
  std::mutex mutex_;
  Clock::time_point next_;
};

class Benchmark {
 public:
  Benchmark(Model& model, const std::vector<Value>& args, const BenchmarkOptions& options)
      : model_(model),
        args_(args),
        options_(options),
        arrivals_(options.rate_qps, options.seed),
        skipped_(static_cast<std::size_t>(options.concurrency)),
        counted_(static_cast<std::size_t>(options.concurrency)) {}

  ~Benchmark() { stop_and_join(); }

  BenchmarkResult run() {
    const auto begin = Clock::now();
    start_callers();
    wait_until(begin, warm_);
    const LatencyStats before = model_.stats();
    {
      const std::lock_guard lock(mutex_);
      start_ = Clock::now();
      deadline_ = start_ + seconds(options_.duration_s);
      arrivals_.start(start_);
      measuring_ = true;
    }
    changed_.notify_all();
    wait_until(begin, finished_);
    const bool ended_early = stop_;
    const auto now = Clock::now();
    stop_and_join();
    if (error_) std::rethrow_exception(error_);
    return summarize(before, model_.stats(), ended_early ? now : deadline_);
  }

 private:
  void start_callers() {
    try {
      for (std::size_t caller = 0; caller < counted_.size(); ++caller) {
        threads_.emplace_back([this, caller] { serve(caller); });
      }
    } catch (const std::system_error& error) {
      throw InputError("[benchmark] " + model_.info().name + ": cannot start " +
                       std::to_string(options_.concurrency) + " callers: " + error.what() +
                       "; ask for fewer");
    }
  }

  void serve(std::size_t caller) {
    try {
      for (std::int64_t i = 0; i < options_.skip && !stop_; ++i) {
        make_call(skipped_[caller], Clock::now());
      }
      {
        std::unique_lock lock(mutex_);
        ++warm_;
        changed_.notify_all();
        changed_.wait(lock, [this] { return measuring_ || stop_; });
      }
      while (!stop_) {
        auto arrival = Clock::now();
        if (options_.rate_qps > 0) {
          arrival = arrivals_.take();
          wait_for(std::min(arrival, deadline_));
        }
        if (stop_ || Clock::now() >= deadline_) break;
        make_call(counted_[caller], arrival);
        count_.fetch_add(1, std::memory_order_relaxed);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stop_ = true;
    }
    const std::lock_guard lock(mutex_);
    ++finished_;
    changed_.notify_all();
  }

  void make_call(std::vector<Call>& calls, Clock::time_point arrival) {
    const auto begin = Clock::now();
    const Value result = model_.call(args_);
    const auto end = Clock::now();
    calls.push_back({end, ms_between(std::min(arrival, begin), end), ms_between(begin, end)});
  }

  void wait_for(Clock::time_point arrival) {
    // A sleep ends some 50 us late, which would count as latency: the last stretch is spun.
    const auto nearly = arrival - std::chrono::microseconds(200);
    if (Clock::now() < nearly) {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, nearly, [this] { return stop_.load(); });
    }
    while (!stop_ && Clock::now() < arrival) {
      std::this_thread::yield();
    }
  }

  /// Until every caller is in `state`, or the benchmark was stopped and every caller has finished.
  void wait_until(Clock::time_point begin, const std::size_t& state) {
    std::unique_lock lock(mutex_);
    const auto done = [&] {
      return state == counted_.size() || (stop_ && finished_ == counted_.size());
    };
    while (!changed_.wait_for(lock, milliseconds(250), done)) {
      if (!options_.on_progress || stop_) continue;
      lock.unlock();
      const double elapsed_s = ms_between(begin, Clock::now()) / 1e3;
      const bool go_on = options_.on_progress(elapsed_s, count_.load(std::memory_order_relaxed));
      lock.lock();
      if (!go_on) {
        stop_ = true;
        changed_.notify_all();
      }
    }
  }

  void stop_and_join() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
    threads_.clear();
  }

  static std::vector<Call> in_order_of_end(const std::vector<std::vector<Call>>& by_caller) {
    std::vector<Call> all;
    for (const auto& calls : by_caller) {
      all.insert(all.end(), calls.begin(), calls.end());
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Call& a, const Call& b) { return a.end < b.end; });
    return all;
  }

  BenchmarkResult summarize(const LatencyStats& before, const LatencyStats& after,
                            Clock::time_point end) const;
  static void settle(const std::vector<Call>& calls, BenchmarkResult& result);

  Model& model_;
  const std::vector<Value>& args_;
  const BenchmarkOptions& options_;
  Arrivals arrivals_;
  std::vector<std::vector<Call>> skipped_;  // by caller, so that nothing is shared while timing
  std::vector<std::vector<Call>> counted_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> count_{0};

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::size_t warm_ = 0;
  std::size_t finished_ = 0;
  bool measuring_ = false;
  Clock::time_point start_;
  Clock::time_point deadline_;
  std::exception_ptr error_;
};

BenchmarkResult Benchmark::summarize(const LatencyStats& before, const LatencyStats& after,
                                     Clock::time_point end) const {
  BenchmarkResult result;
  std::vector<Call> all = in_order_of_end(skipped_);
  result.skipped = all.size();
  const std::vector<Call> counted = in_order_of_end(counted_);
  all.insert(all.end(), counted.begin(), counted.end());
  if (all.empty()) return result;
  settle(all, result);
  LatencyStats& latency = result.latency;
  latency.first_ms = all.front().latency_ms;
  if (counted.empty()) return result;

  for (const Call& call : counted) {
    result.latencies_ms.push_back(call.latency_ms);
  }
  std::vector<double> sorted = result.latencies_ms;
  std::sort(sorted.begin(), sorted.end());
  const auto percentile = [&](double p) {
    const auto rank = static_cast<std::size_t>(std::ceil(p * static_cast<double>(sorted.size())));
    return sorted[std::max<std::size_t>(rank, 1) - 1];
  };
  latency.count = sorted.size();
  latency.mean_ms =
      std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  latency.p50_ms = percentile(0.50);
  latency.p90_ms = percentile(0.90);
  latency.p99_ms = percentile(0.99);
  latency.max_ms = sorted.back();

  result.duration_s = ms_between(start_, std::max(end, counted.back().end)) / 1e3;
  result.throughput_per_s = static_cast<double>(sorted.size()) / result.duration_s;

  // The model's own stats may hold earlier calls: what these calls added, as sums.
  if (after.count > before.count) {
    const auto n = static_cast<double>(after.count - before.count);
    const auto mean_since = [&](double mean_after, double mean_before) {
      return (mean_after * static_cast<double>(after.count) -
              mean_before * static_cast<double>(before.count)) /
             n;
    };
    latency.h2d_ms = mean_since(after.h2d_ms, before.h2d_ms);
    latency.compute_ms = mean_since(after.compute_ms, before.compute_ms);
    latency.d2h_ms = mean_since(after.d2h_ms, before.d2h_ms);
  }
  return result;
}

void Benchmark::settle(const std::vector<Call>& calls, BenchmarkResult& result) {
  std::vector<double> last_half;
  for (std::size_t i = calls.size() / 2; i < calls.size(); ++i) {
    last_half.push_back(calls[i].inside_ms);
  }
  const auto middle = last_half.begin() + static_cast<std::ptrdiff_t>(last_half.size() / 2);
  std::nth_element(last_half.begin(), middle, last_half.end());
  result.steady_ms = *middle;
  if (last_half.size() % 2 == 0) {
    result.steady_ms = (result.steady_ms + *std::max_element(last_half.begin(), middle)) / 2;
  }
  std::size_t in_a_row = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const double off = std::abs(calls[i].inside_ms - result.steady_ms);
    in_a_row = off <= 0.25 * result.steady_ms ? in_a_row + 1 : 0;
    if (in_a_row == 3) {
      result.settled_at = i - 1;  // the first of the three, counted from 1
      return;
    }
  }
}

}  // namespace

BenchmarkResult benchmark(Model& model, const std::vector<Value>& args,
                          const BenchmarkOptions& options) {
  check(model, options);
  return Benchmark(model, args, options).run();
}

}  // namespace ts_infer
