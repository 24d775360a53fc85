#include "ts_infer/benchmark.h"

#include <cmath>
#include <cstdio>
#include <iostream>

#include "commands.h"
#include "signals.h"

namespace ts_infer::cli {
namespace {

/// Milliseconds to the microsecond.
std::string ms(double value) { return fixed(value, 3); }

std::string progress_text(double elapsed_s, std::uint64_t calls) {
  return "bench: " + fixed(elapsed_s, 1) + " s, " + std::to_string(calls) + " calls" +
         (calls == 0 ? " (warm-up)" : "");
}

std::string loop_text(const BenchArguments& arguments) {
  if (arguments.rate_qps > 0) {
    return "open loop, Poisson arrivals at " + number(arguments.rate_qps) + " a second";
  }
  return "closed loop, " + std::to_string(arguments.concurrency) +
         (arguments.concurrency == 1 ? " caller" : " callers");
}

std::string warmup_text(const BenchmarkResult& result) {
  std::string text = std::to_string(result.skipped) + " calls skipped as warm-up; first call " +
                     ms(result.latency.first_ms) + " ms; ";
  if (result.settled_at == 0) return text + "it did not settle";
  return text + "settled from call " + std::to_string(result.settled_at) + " on, steady " +
         ms(result.steady_ms) + " ms";
}

void print(const BenchArguments& arguments, const Model& model, const BenchmarkResult& result) {
  const LatencyStats& latency = result.latency;
  std::cout << model_text(arguments.common, model.info()) << ", " << loop_text(arguments) << ", "
            << fixed(result.duration_s, 2) << " s\n"
            << warmup_text(result) << "\n\n";
  if (latency.count == 0) {
    std::cout << "no call was counted\n";
    return;
  }
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"n", kRight},
               {"mean", kRight},
               {"p50", kRight},
               {"p90", kRight},
               {"p99", kRight},
               {"max", kRight},
               {"h2d", kRight},
               {"compute", kRight},
               {"d2h", kRight},
               {"throughput", kRight}});
  table.add({std::to_string(latency.count), ms(latency.mean_ms), ms(latency.p50_ms),
             ms(latency.p90_ms), ms(latency.p99_ms), ms(latency.max_ms), ms(latency.h2d_ms),
             ms(latency.compute_ms), ms(latency.d2h_ms), number(result.throughput_per_s) + "/s"});
  std::cout << table.to_string() << "times in ms; percentiles over n = " << latency.count
            << " calls; h2d, compute and d2h are means\n";
  if (arguments.rate_qps > 0 && result.throughput_per_s < 0.9 * arguments.rate_qps) {
    std::cout << "calls arrived faster than they were served: the latencies grow with --duration\n";
  }
}

Json results_json(const BenchmarkResult& result) {
  const LatencyStats& latency = result.latency;
  Json latencies = Json::array();
  for (const double value : result.latencies_ms) latencies.push_back(std::round(value * 1e6) / 1e6);
  return {{"n", latency.count},
          {"mean_ms", latency.mean_ms},
          {"p50_ms", latency.p50_ms},
          {"p90_ms", latency.p90_ms},
          {"p99_ms", latency.p99_ms},
          {"max_ms", latency.max_ms},
          {"h2d_ms", latency.h2d_ms},
          {"compute_ms", latency.compute_ms},
          {"d2h_ms", latency.d2h_ms},
          {"throughput_per_s", result.throughput_per_s},
          {"duration_s", result.duration_s},
          {"skipped", result.skipped},
          {"first_ms", latency.first_ms},
          {"steady_ms", result.steady_ms},
          {"settled_at", result.settled_at > 0 ? Json(result.settled_at) : Json()},
          {"latencies_ms", latencies}};
}

}  // namespace

void bench(const BenchArguments& arguments) {
  LoadOptions options = load_options(arguments.common);
  if (arguments.log_calls) {
    options.on_timing = [](const Timing& timing) { std::cerr << timing.log_line() + '\n'; };
  }
  Model model = load_model(arguments.common, std::move(options));
  note_precision(arguments.common, model.info());
  const Inputs inputs = gather_positional_inputs(model, arguments.inputs);

  BenchmarkOptions benchmark_options;
  benchmark_options.duration_s = arguments.duration_s;
  benchmark_options.skip = arguments.skip;
  benchmark_options.concurrency = arguments.concurrency;
  benchmark_options.rate_qps = arguments.rate_qps;
  benchmark_options.seed = arguments.inputs.seed;
  BenchmarkResult result;
  {
    const NoteSignals note;
    LiveLine live(!arguments.log_calls);
    benchmark_options.on_progress = [&](double elapsed_s, std::uint64_t calls) {
      live.show(progress_text(elapsed_s, calls));
      return noted_signal() == 0;
    };
    result = benchmark(model, inputs.args, benchmark_options);
  }

  if (prints_text(arguments.common.json)) print(arguments, model, result);
  Json json = {{"options", options_json(arguments.common)},
               {"model", model_json(model)},
               {"inputs", inputs.description},
               {"interrupted", noted_signal() != 0},
               {"results", results_json(result)}};
  json["options"].update({{"seed", arguments.inputs.seed},
                          {"concurrency", arguments.concurrency},
                          {"rate_qps", arguments.rate_qps > 0 ? Json(arguments.rate_qps) : Json()},
                          {"skip", arguments.skip},
                          {"duration_s", arguments.duration_s}});
  write_json(arguments.common.json, "bench", json, arguments.common.intra_op_threads);
}

}  // namespace ts_infer::cli
