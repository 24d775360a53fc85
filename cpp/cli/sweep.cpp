#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>

#include "commands.h"
#include "machine.h"
#include "signals.h"
#include "ts_infer/benchmark.h"

namespace ts_infer::cli {
namespace {

using SweepClock = std::chrono::steady_clock;

/// How much better an option must be to win: two runs of one setting differ by as much on a machine
/// that has other work to do.
constexpr double kMargin = 1.05;

/// Many short blocks rather than a few long ones, so that what else the machine does hits all
/// candidates alike.
constexpr double kBlockS = 0.05;
constexpr double kBlockCalls = 10;
constexpr double kShortestBlockS = 0.01;  // where the time is short
constexpr int kFewestRounds = 3;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// One setting, and what its blocks showed, round by round.
struct Candidate {
  std::string what;
  ModelArguments arguments;
  int callers = 1;
  std::shared_ptr<Model> model;  // callers of the same options share it
  std::string executor;          // that serves, as precision does
  std::string precision;
  double call_s = 0;  // about
  std::vector<double> p50_ms;
  std::vector<double> per_s;
  std::vector<double> latencies_ms;

  double p99_ms() const {
    std::vector<double> all = latencies_ms;
    const double rank = std::ceil(0.99 * static_cast<double>(all.size()));
    const auto nth = all.begin() + static_cast<std::ptrdiff_t>(rank) - 1;
    std::nth_element(all.begin(), nth, all.end());
    return *nth;
  }
};

/// The median over rounds, each of which compares what ran at nearly the same time.
double ratio(const std::vector<double>& values, const std::vector<double>& base) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < values.size(); ++i) ratios.push_back(values[i] / base[i]);
  return median(ratios);
}

/// Settings that take turns. The first is what the others are compared with.
struct Stage {
  std::string name;
  std::vector<Candidate> candidates;

  double p50_ratio(const Candidate& candidate) const {
    return ratio(candidate.p50_ms, candidates.front().p50_ms);
  }
  double calls_ratio(const Candidate& candidate) const {
    return ratio(candidate.per_s, candidates.front().per_s);
  }
};

/// The first, so the default or the one on the fewest cores, that none beats by kMargin.
template <typename Cost>
const Candidate& best_of(const std::vector<const Candidate*>& candidates, const Cost& cost) {
  double least = INFINITY;
  for (const Candidate* candidate : candidates) least = std::min(least, cost(*candidate));
  return **std::find_if(candidates.begin(), candidates.end(), [&](const Candidate* candidate) {
    return cost(*candidate) <= least * kMargin;
  });
}

/// 1, 2, 4, … and `last`.
std::vector<int> doublings(int last) {
  std::vector<int> all;
  for (int size = 1; size < last; size *= 2) all.push_back(size);
  all.push_back(last);
  return all;
}

/// Whether two loads that differ in their passes came to the same.
bool is_same(const Candidate& base, const Candidate& other) {
  const std::vector<std::string>& disabled = other.arguments.disabled_passes;
  // Of folding alone the decisions do not say what it did.
  if (disabled == std::vector<std::string>{"fold"} && other.executor == "prepared") return false;
  std::vector<std::string> decisions = other.model->info().decisions;
  for (const std::string& pass : disabled) {
    const std::string of_itself = "pass " + pass + " left out: disabled";
    decisions.erase(std::remove(decisions.begin(), decisions.end(), of_itself), decisions.end());
  }
  return decisions == base.model->info().decisions;
}

int cores_to_use() {
  const Machine machine = this_machine();
  const double quota = machine.cpu_quota > 0 ? std::ceil(machine.cpu_quota) : machine.cores;
  return std::max(1, static_cast<int>(std::min<double>(machine.cores, quota)));
}

std::string count_text(int count, const std::string& noun) {
  return std::to_string(count) + ' ' + noun + (count == 1 ? "" : "s");
}

class Sweep {
 public:
  explicit Sweep(const BenchArguments& arguments) : arguments_(arguments) {
    const std::chrono::duration<double> seconds(arguments.duration_s);
    end_ = start_ + std::chrono::duration_cast<SweepClock::duration>(seconds);
  }

  /// Ends early at a signal.
  void run();
  void print() const;
  Json json() const;

 private:
  ModelArguments sweep_executors(const ModelArguments& base);
  ModelArguments sweep_passes(const ModelArguments& base);
  void sweep_callers(const ModelArguments& base);

  Candidate load(const std::string& what, const ModelArguments& arguments, int callers = 1,
                 std::shared_ptr<Model> model = nullptr);
  void try_add(Stage& stage, const std::string& what, const ModelArguments& arguments);
  BenchmarkResult block(const Candidate& candidate, double seconds, const std::string& progress);
  ModelArguments measure(Stage stage, int stages_left);

  bool has_winners() const {
    return noted_signal() == 0 && !stages_.empty() && stages_.back().name == "callers";
  }
  const Candidate& lowest_latency() const;
  const Candidate& most_calls() const;
  std::string command(const Candidate& candidate) const;
  void print_winner(const std::string& title, const Candidate& candidate) const;
  Json row_json(const Stage& stage, const Candidate& candidate) const;
  Json winner_json(const Candidate& candidate) const;

  struct LeftOut {
    std::string stage;
    std::string what;
    std::string reason;
  };

  BenchArguments arguments_;
  SweepClock::time_point start_ = SweepClock::now();
  SweepClock::time_point end_;
  std::optional<LiveLine> live_;  // while it runs
  ModelInfo info_;                // with the default executor and passes
  Json model_;
  std::vector<Value> args_;
  Json inputs_;
  std::vector<Stage> stages_;  // that were measured
  std::vector<LeftOut> left_out_;
};

void Sweep::run() {
  live_.emplace();
  ModelArguments chosen = arguments_.common;
  chosen.intra_op_threads = 1;
  {
    const Model model = load_model(chosen, load_options(chosen));
    info_ = model.info();
    note_precision(chosen, info_);
    model_ = model_json(model);
    const Inputs inputs = gather_positional_inputs(model, arguments_.inputs);
    args_ = inputs.args;
    inputs_ = inputs.description;
  }
  if (info_.executor != "aotinductor") {  // a package is compiled: there is nothing to choose
    chosen = sweep_executors(chosen);
    if (noted_signal() == 0) chosen = sweep_passes(chosen);
  }
  if (noted_signal() == 0) sweep_callers(chosen);
  live_.reset();
}

ModelArguments Sweep::sweep_executors(const ModelArguments& base) {
  Stage stage = {"executor", {load(info_.executor, base)}};
  for (const std::string& executor : executors()) {
    if (executor == info_.executor || executor == base.executor) continue;
    ModelArguments other = base;
    other.executor = executor;
    try_add(stage, executor, other);
  }
  return measure(std::move(stage), 3);
}

ModelArguments Sweep::sweep_passes(const ModelArguments& base) {
  Stage stage = {"passes", {load("all", base)}};
  for (const std::string& pass : passes()) {
    ModelArguments other = base;
    other.disabled_passes = {pass};
    try_add(stage, "no " + pass, other);
  }
  ModelArguments none = base;
  none.no_optimize = true;
  try_add(stage, "none", none);
  return measure(std::move(stage), 2);
}

void Sweep::sweep_callers(const ModelArguments& base) {
  Stage stage = {"callers", {}};
  const int cores = cores_to_use();
  for (const int threads : doublings(info_.device == "cpu" ? cores : 1)) {
    ModelArguments other = base;
    other.intra_op_threads = threads;
    std::shared_ptr<Model> model;
    for (const int callers : doublings(info_.stateful ? 1 : cores)) {
      if (callers * threads > cores) continue;
      const std::string what = count_text(callers, "caller") + ", " + count_text(threads, "thread");
      stage.candidates.push_back(load(what, other, callers, model));
      model = stage.candidates.back().model;
    }
  }
  std::stable_sort(
      stage.candidates.begin(), stage.candidates.end(), [](const Candidate& a, const Candidate& b) {
        return a.callers * a.arguments.intra_op_threads < b.callers * b.arguments.intra_op_threads;
      });
  measure(std::move(stage), 1);
}

/// A candidate that has made its first calls.
Candidate Sweep::load(const std::string& what, const ModelArguments& arguments, int callers,
                      std::shared_ptr<Model> model) {
  Candidate candidate;
  candidate.what = what;
  candidate.arguments = arguments;
  candidate.callers = callers;
  candidate.model = std::move(model);
  if (noted_signal() != 0) return candidate;
  if (!candidate.model) {
    candidate.model = std::make_shared<Model>(load_model(arguments, load_options(arguments)));
  }
  const ModelInfo& info = candidate.model->info();
  candidate.executor = info.executor;
  candidate.precision = info.precision;
  if (info.precision != info_.precision) candidate.what += " in " + info.precision;
  candidate.call_s = block(candidate, kBlockS, "first calls").latency.p50_ms / 1e3;
  return candidate;
}

/// Leaves out a candidate that is the stage's first again, or cannot run.
void Sweep::try_add(Stage& stage, const std::string& what, const ModelArguments& arguments) {
  std::string reason;
  try {
    Candidate candidate = load(what, arguments);
    if (noted_signal() != 0) return;
    if (candidate.executor != arguments.executor && stage.name == "executor") {
      reason = candidate.executor + " serves instead";
    } else if (stage.name == "passes" && is_same(stage.candidates.front(), candidate)) {
      reason = "there is nothing for it to do";
    } else {
      stage.candidates.push_back(std::move(candidate));
      return;
    }
  } catch (const Error& error) {
    reason = error.what();
  }
  left_out_.push_back({stage.name, what, reason});
}

BenchmarkResult Sweep::block(const Candidate& candidate, double seconds,
                             const std::string& progress) {
  BenchmarkOptions options;
  options.duration_s = seconds;
  options.concurrency = candidate.callers;
  // Each caller is a new thread, whose first call starts its pool of intra-op threads.
  options.skip = candidate.call_s * 40 < seconds ? 10 : 1;
  const std::string text = "sweep: " + candidate.what + ", " + progress;
  live_->show(text);
  options.on_progress = [&](double, std::uint64_t) { return noted_signal() == 0; };
  BenchmarkResult result;
  do {  // again where no caller came to its turn in the time
    result = benchmark(*candidate.model, args_, options);
  } while (result.latency.count == 0 && noted_signal() == 0);
  return result;
}

/// Long enough for a few calls of the slowest, and short enough for the rounds that there must be.
double block_seconds(const std::vector<Candidate>& candidates,
                     std::chrono::duration<double> budget) {
  double wanted_s = kBlockS;
  for (const Candidate& candidate : candidates) {
    wanted_s = std::max(wanted_s, candidate.call_s * kBlockCalls);
  }
  const double longest_s = budget.count() / kFewestRounds / static_cast<double>(candidates.size());
  return std::max(kShortestBlockS, std::min(wanted_s, longest_s));
}

/// Has the candidates take turns, and returns the arguments of the fastest.
ModelArguments Sweep::measure(Stage stage, int stages_left) {
  std::vector<Candidate>& candidates = stage.candidates;
  if (candidates.size() == 1 && stage.name != "callers") return candidates.front().arguments;
  const auto start = SweepClock::now();
  const auto stage_end = start + std::max(end_ - start, SweepClock::duration(0)) / stages_left;
  const double block_s = block_seconds(candidates, stage_end - start);
  for (int round = 1; round <= kFewestRounds || SweepClock::now() < stage_end; ++round) {
    std::vector<BenchmarkResult> results;
    for (const Candidate& candidate : candidates) {
      if (noted_signal() != 0) break;
      results.push_back(block(candidate, block_s, "round " + std::to_string(round)));
    }
    if (noted_signal() != 0) break;  // a round that is cut short compares nothing
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const std::vector<double>& latencies = results[i].latencies_ms;
      candidates[i].p50_ms.push_back(results[i].latency.p50_ms);
      candidates[i].per_s.push_back(results[i].throughput_per_s);
      candidates[i].latencies_ms.insert(candidates[i].latencies_ms.end(), latencies.begin(),
                                        latencies.end());
    }
  }
  if (candidates.front().p50_ms.empty()) return candidates.front().arguments;
  std::vector<const Candidate*> all;
  for (Candidate& candidate : candidates) {
    candidate.model.reset();
    all.push_back(&candidate);
  }
  const Candidate& best = best_of(all, [&](const Candidate& one) { return stage.p50_ratio(one); });
  ModelArguments chosen = best.arguments;
  stages_.push_back(std::move(stage));
  return chosen;
}

const Candidate& Sweep::lowest_latency() const {
  std::vector<const Candidate*> alone;
  for (const Candidate& candidate : stages_.back().candidates) {
    if (candidate.callers == 1) alone.push_back(&candidate);
  }
  return best_of(alone, [&](const Candidate& one) { return stages_.back().p50_ratio(one); });
}

const Candidate& Sweep::most_calls() const {
  std::vector<const Candidate*> all;
  for (const Candidate& candidate : stages_.back().candidates) all.push_back(&candidate);
  return best_of(all, [&](const Candidate& one) { return 1 / stages_.back().calls_ratio(one); });
}

/// As a shell reads it.
std::string shell_text(const std::string& word) {
  const char* const plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=,:+";
  if (!word.empty() && word.find_first_not_of(plain) == word.npos) return word;
  std::string quoted;
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return '\'' + quoted + '\'';
}

std::string Sweep::command(const Candidate& candidate) const {
  std::vector<std::string> words = {"ts_infer", "bench", candidate.arguments.model};
  for (const Setting& setting : settings(candidate.arguments)) {
    words.insert(words.end(), setting.flags.begin(), setting.flags.end());
  }
  for (const std::string& input : arguments_.inputs.inputs) {
    words.insert(words.end(), {"--input", input});
  }
  for (const std::string& shape : arguments_.inputs.shapes) {
    words.insert(words.end(), {"--shape", shape});
  }
  if (arguments_.inputs.seed != 0) {
    words.insert(words.end(), {"--seed", std::to_string(arguments_.inputs.seed)});
  }
  words.insert(words.end(), {"--concurrency", std::to_string(candidate.callers)});
  std::transform(words.begin(), words.end(), words.begin(), shell_text);
  return join(words, " ");
}

std::vector<std::string> snippet(const Candidate& candidate) {
  std::vector<std::string> lines = {"ts_infer::LoadOptions options;  // " +
                                    count_text(candidate.callers, "caller")};
  for (const Setting& setting : settings(candidate.arguments)) {
    lines.push_back("options." + setting.assignment + ';');
  }
  return lines;
}

void Sweep::print_winner(const std::string& title, const Candidate& candidate) const {
  std::cout << '\n'
            << title << ": " << candidate.what << ", p50 " << fixed(median(candidate.p50_ms))
            << " ms, " << fixed(median(candidate.per_s), 1) << " calls/s\n  " << command(candidate)
            << '\n';
  for (const std::string& line : snippet(candidate)) std::cout << "  " << line << '\n';
}

void Sweep::print() const {
  const double elapsed_s = std::chrono::duration<double>(SweepClock::now() - start_).count();
  const bool is_asked = arguments_.common.precision != ModelArguments().precision;
  std::cout << info_.name << " on " << info_.device
            << (is_asked ? ", precision " + info_.precision : "") << ", "
            << this_machine().cpu_model << ", " << count_text(cores_to_use(), "core")
            << ", sweep of " << fixed(elapsed_s, 1) << " s\n\n";
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"stage", Table::Align::kLeft},
               {"what", Table::Align::kLeft},
               {"p50", kRight},
               {"p99", kRight},
               {"calls/s", kRight},
               {"p50 ratio", kRight},
               {"calls/s ratio", kRight},
               {"n", kRight}});
  for (const Stage& stage : stages_) {
    for (const Candidate& candidate : stage.candidates) {
      table.add({stage.name, candidate.what, fixed(median(candidate.p50_ms)),
                 fixed(candidate.p99_ms()), fixed(median(candidate.per_s), 1),
                 fixed(stage.p50_ratio(candidate), 2), fixed(stage.calls_ratio(candidate), 2),
                 std::to_string(candidate.latencies_ms.size())});
    }
  }
  if (stages_.empty()) {
    std::cout << "no stage was measured\n";
    return;
  }
  std::cout << table.to_string()
            << "times in ms; executor and passes with 1 caller and 1 thread; medians over rounds "
               "in which the rows of a\nstage take turns; a ratio is to the stage's first row, and "
               "what is less than 5 % better does not win\n";
  for (const LeftOut& left : left_out_) {
    std::cout << left.stage << ", " << left.what << ": left out, " << left.reason << '\n';
  }
  if (info_.stateful) {
    std::cout << "the model has state, and its calls take turns: one caller only; clone() gives "
                 "each caller a model\n";
  }
  if (!has_winners()) {
    std::cout << "interrupted: nothing has won\n";
    return;
  }
  print_winner("lowest latency", lowest_latency());
  print_winner("most calls a second", most_calls());
}

Json Sweep::row_json(const Stage& stage, const Candidate& candidate) const {
  return {{"stage", stage.name},
          {"what", candidate.what},
          {"executor", candidate.executor},
          {"precision", candidate.precision},
          {"optimize", !candidate.arguments.no_optimize},
          {"disabled_passes", candidate.arguments.disabled_passes},
          {"intra_op_threads", candidate.arguments.intra_op_threads},
          {"concurrency", candidate.callers},
          {"n", candidate.latencies_ms.size()},
          {"rounds", candidate.p50_ms.size()},
          {"p50_ms", median(candidate.p50_ms)},
          {"p99_ms", candidate.p99_ms()},
          {"throughput_per_s", median(candidate.per_s)},
          {"p50_ratio", stage.p50_ratio(candidate)},
          {"throughput_ratio", stage.calls_ratio(candidate)}};
}

Json Sweep::winner_json(const Candidate& candidate) const {
  Json json = row_json(stages_.back(), candidate);
  json.update({{"command", command(candidate)}, {"load_options", join(snippet(candidate), "\n")}});
  return json;
}

Json Sweep::json() const {
  Json rows = Json::array();
  for (const Stage& stage : stages_) {
    for (const Candidate& candidate : stage.candidates) rows.push_back(row_json(stage, candidate));
  }
  Json left_out = Json::array();
  for (const LeftOut& left : left_out_) {
    left_out.push_back({{"stage", left.stage}, {"what", left.what}, {"reason", left.reason}});
  }
  Json options = options_json(arguments_.common);
  for (const char* swept : {"executor", "intra_op_threads", "optimize", "disabled_passes"})
    options.erase(swept);
  options.update({{"seed", arguments_.inputs.seed}, {"duration_s", arguments_.duration_s}});
  return {{"options", options},
          {"model", model_},
          {"inputs", inputs_},
          {"interrupted", noted_signal() != 0},
          {"rows", rows},
          {"left_out", left_out},
          {"lowest_latency", has_winners() ? winner_json(lowest_latency()) : Json()},
          {"most_calls", has_winners() ? winner_json(most_calls()) : Json()}};
}

}  // namespace

void sweep(const BenchArguments& arguments) {
  Sweep sweep(arguments);
  {
    const NoteSignals note;
    sweep.run();
  }
  if (prints_text(arguments.common.json)) sweep.print();
  write_json(arguments.common.json, "sweep", sweep.json(), arguments.common.intra_op_threads);
}

}  // namespace ts_infer::cli
