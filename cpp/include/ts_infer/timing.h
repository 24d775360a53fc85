#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ts_infer/export.h"

namespace ts_infer {

/// Where the time of one call went, in milliseconds. On the host h2d and d2h are 0; on an
/// accelerator h2d, compute and d2h come from device events. For inputs that are on the device
/// already nothing is waited for, so only `total_ms`, the time to enqueue, is known there.
struct Timing {
  std::string model;
  std::uint64_t call = 0;  // 1 is the first call after load
  double h2d_ms = 0;       // inputs, host to device
  double compute_ms = 0;
  double d2h_ms = 0;    // outputs, device to host
  double total_ms = 0;  // the whole call, checks and copies included

  /// "dense_tnt inference used time: 22.1718 ms."
  TS_INFER_API std::string log_line() const;
};

/// One step of a load. In order: "read" (the file's directory and manifest), "integrity" (every
/// CRC-32), "libraries", "deserialise" (weights and code, onto the device), "optimise", "prepare"
/// (what runs it), then a "warm-up" for each size.
struct LoadStep {
  std::string name;
  double ms = 0;

  /// Of a warm-up: the shapes of the inputs, by name, and its calls' times.
  std::map<std::string, std::vector<std::int64_t>> shapes;
  std::vector<double> calls_ms;
};

/// Latency of the calls so far, in milliseconds. Percentiles come from a histogram with a relative
/// resolution of 1.6 %; `count`, `mean_ms`, `max_ms` and `first_ms` are exact.
struct LatencyStats {
  std::uint64_t count = 0;
  double mean_ms = 0;
  double p50_ms = 0;
  double p90_ms = 0;
  double p99_ms = 0;
  double max_ms = 0;
  double first_ms = 0;  // the first call after load (or reset_stats)
  double h2d_ms = 0;    // means
  double compute_ms = 0;
  double d2h_ms = 0;
  std::vector<double> first_calls_ms;  // of up to the first 64 calls, in order
};

}  // namespace ts_infer
