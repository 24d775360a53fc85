#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ts_infer/export.h"
#include "ts_infer/model.h"

namespace ts_infer {

/// What benchmark() measures.
struct BenchmarkOptions {
  double duration_s = 5;   // of the measured part
  std::int64_t skip = 10;  // calls a caller makes first, not counted
  int concurrency = 1;     // callers in a closed loop: each calls again when its call returns
  double rate_qps = 0;     // > 0: an open loop, Poisson arrivals at this mean rate, served in order
                           // by `concurrency` callers; latency counts from the arrival on
  std::uint64_t seed = 0;  // of the arrivals

  /// Called about four times a second on the benchmark's own thread, with seconds since the start
  /// and counted calls so far. Returns false to end early.
  std::function<bool(double elapsed_s, std::uint64_t calls)> on_progress;
};

/// One benchmark() run. Percentiles are exact: every call is kept.
struct BenchmarkResult {
  LatencyStats latency;          // of the counted calls; first_ms is the very first, skipped one
  std::uint64_t skipped = 0;     // calls, all callers together
  double duration_s = 0;         // of the counted part
  double throughput_per_s = 0;   // counted calls a second
  std::uint64_t settled_at = 0;  // first call k such that k, k+1 and k+2 are within 25 % of
                                 // steady; 1 is the first; 0: it never settled
  double steady_ms = 0;          // median of the last half of the calls
  std::vector<double> latencies_ms;  // counted calls, in the order in which they ended
};

/// Calls `model` with `args` again and again. Throws what the model throws.
TS_INFER_API BenchmarkResult benchmark(Model& model, const std::vector<Value>& args,
                                       const BenchmarkOptions& options = {});

/// Arguments for model.call() drawn at random: floats from a normal distribution, integers and
/// bools 0 or 1, on the host. `given` holds values that are used as they are, `shapes` gives sizes,
/// both by the name of an input or of a leaf; other dynamic dimensions take the archive's first
/// warm-up size, else their minimum. An unknown dtype is drawn as float32.
/// @throws InputError for an input that is no tensor and has no default, or whose shape is not
///         known, or for a name that is none: the message says how to give it.
TS_INFER_API std::vector<Value> random_inputs(
    const Model& model, const std::map<std::string, std::vector<std::int64_t>>& shapes = {},
    std::uint64_t seed = 0, const std::map<std::string, Value>& given = {});

/// Shapes of `count` calls, of every input whose shape has a dynamic dimension: each named
/// dimension is drawn from its range, small sizes as often as large ones (log-uniformly). A range
/// with no end ends at the largest of the archive's warm-up sizes. Empty where no dimension is
/// dynamic.
TS_INFER_API std::vector<InputShapes> random_shapes(const Model& model, std::size_t count,
                                                    std::uint64_t seed = 0);

/// What cold_start() runs.
struct ColdStartOptions {
  std::size_t calls = 25;
  bool changing_sizes = false;  // each call has sizes of its own, by random_shapes()
  InputShapes shapes;           // of constant sizes; empty: the middle of each range
  std::uint64_t seed = 0;
};

/// One of the first calls, and what it did beside computing.
struct ColdCall {
  double ms = 0;
  std::uint64_t compiled = 0;            // execution plans that torch's executors compiled in it
  std::uint64_t page_faults = 0;         // minor ones, of the process
  std::uint64_t device_allocations = 0;  // from the device, by torch's caching allocator
  std::int64_t device_bytes = 0;         // that the allocator reserved more
  InputShapes shapes;
};

/// The first calls of a model.
struct ColdStart {
  ModelInfo model;
  std::vector<ColdCall> calls;
  double first_ms = 0;
  double steady_ms = 0;          // of the first call's size: the median of its later calls
  std::uint64_t settled_at = 0;  // first call k such that k, k+1 and k+2, later ones too, are
                                 // within 25 % of their sizes' steady; 1 is the first; 0: none is
  std::vector<double> later_ms;  // calls after these, five of each size, the sizes in turn
};

/// Loads a model and makes its first calls, then calls each size again to know its steady time. To
/// be run as the first thing of a fresh process: what libtorch has set up once is warm for ever. It
/// sets libtorch's process-wide statistics logger.
/// @throws ModelLoadError, InputError, ExecutionError
TS_INFER_API ColdStart cold_start(const std::string& path, const LoadOptions& options,
                                  const ColdStartOptions& cold = {});

}  // namespace ts_infer
