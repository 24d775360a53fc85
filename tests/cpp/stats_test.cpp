#include "stats.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace ts_infer {
namespace {

Timing took(double total_ms) {
  Timing timing;
  timing.total_ms = total_ms;
  return timing;
}

TEST(StatsTest, NothingRecordedIsAllZero) {
  const StatsRecorder recorder;
  EXPECT_EQ(recorder.read().count, 0u);
  EXPECT_EQ(recorder.read().p99_ms, 0);
}

TEST(StatsTest, PercentilesAreWithinTheResolution) {
  StatsRecorder recorder;
  for (int i = 1; i <= 1000; ++i) recorder.record(took(0.01 * i));
  const LatencyStats stats = recorder.read();
  EXPECT_NEAR(stats.p50_ms, 5.0, 5.0 * 0.016);
  EXPECT_NEAR(stats.p90_ms, 9.0, 9.0 * 0.016);
  EXPECT_NEAR(stats.p99_ms, 9.9, 9.9 * 0.016);
  EXPECT_NEAR(stats.mean_ms, 5.005, 1e-5);
  EXPECT_DOUBLE_EQ(stats.max_ms, 10.0);
  EXPECT_DOUBLE_EQ(stats.first_ms, 0.01);
}

TEST(StatsTest, ExtremesLandInTheEdgeBuckets) {
  StatsRecorder recorder;
  recorder.record(took(0));
  recorder.record(took(1e9));  // 11 days
  EXPECT_DOUBLE_EQ(recorder.read().max_ms, 1e9);
  EXPECT_EQ(recorder.read().p50_ms, 0);
}

TEST(StatsTest, NoCallIsLostBetweenThreads) {
  StatsRecorder recorder;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) recorder.record(took(1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const LatencyStats stats = recorder.read();
  EXPECT_EQ(stats.count, 40000u);
  EXPECT_NEAR(stats.mean_ms, 1, 1e-9);
  recorder.reset();
  EXPECT_EQ(recorder.read().count, 0u);
}

}  // namespace
}  // namespace ts_infer
