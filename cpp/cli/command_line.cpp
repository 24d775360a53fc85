#include "command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <memory>
#include <numeric>

#include "commands.h"
#include "output.h"
#include "ts_infer/version.h"

namespace ts_infer::cli {
namespace {

constexpr double kMaxCalls = 1e15;
constexpr double kSweepSeconds = 60;
constexpr std::array kPythonVerbs = {"export", "audit", "compile", "report", "demo"};

/// Levenshtein's distance.
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  const auto closest = std::min_element(
      known.begin(), known.end(),
      [&](const auto& a, const auto& b) { return distance(word, a) < distance(word, b); });
  const bool is_close = closest != known.end() && distance(word, *closest) <= 3 &&
                        distance(word, *closest) < word.size() / 2 + 1;
  return is_close ? "; did you mean '" + *closest + "'?" : "";
}

/// A number from `low` to `high`. CLI::Range lets NaN through and fills the help with its bounds.
CLI::Validator in_range(double low, double high) {
  const auto check = [low, high](const std::string& text) -> std::string {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return "";
    return "expected a number from " + number(low) + " to " + number(high) + ", got '" + text + "'";
  };
  return CLI::Validator(check, "");
}

std::string check_sha256(const std::string& text) {
  const bool is_hex = text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
  if (text.size() == 64 && is_hex) return "";
  return "expected 64 hexadecimal digits, got '" + text + "'";
}

std::string check_limit(const std::string& text) {
  try {
    archive_limits({text});
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

class CommandLine {
 public:
  CommandLine() {
    app_.set_version_flag("--version", "ts_infer " + version());
    app_.require_subcommand(1);
    app_.footer(
        "The Python package adds: " + join({kPythonVerbs.begin(), kPythonVerbs.end()}, ", ") +
        ".\n\nExit status: 0 done, 2 bad flags, 3 a model that cannot be read or is refused, 4 a "
        "wrong input,\n5 the model failed while it ran, 6 the audit found something, 7 outputs "
        "differ from the golden\nsample's, 1 anything else, 130 or 143 by a signal.");
    add_run();
    add_bench();
    add_coldstart();
    add_verify();
    add_inspect();
    add_env();
  }

  /// What is asked for; it lives as long as this.
  std::function<void()> parse(int argc, const char* const* argv) {
    if (argc > 1) check_verb(argv[1]);
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& help_or_version) {
      return [this, help_or_version] { app_.exit(help_or_version); };
    } catch (const CLI::ExtrasError&) {
      const std::string word = app_.remaining(true).front();
      throw UsageError{"unexpected argument '" + word + "'" + did_you_mean(word, flags()), usage()};
    } catch (const CLI::ParseError& error) {
      throw UsageError{error.what(), usage()};
    }
    return command_;
  }

 private:
  void check_verb(const std::string& verb) const {
    if (std::find(kPythonVerbs.begin(), kPythonVerbs.end(), verb) != kPythonVerbs.end()) {
      throw UsageError{"'" + verb +
                           "' needs the Python package: pip install ts-infer-runtime, then "
                           "python -m ts_infer " +
                           verb,
                       ""};
    }
    std::vector<std::string> verbs;
    for (const CLI::App* command : app_.get_subcommands({})) verbs.push_back(command->get_name());
    if (verb.rfind('-', 0) == 0 || std::find(verbs.begin(), verbs.end(), verb) != verbs.end()) {
      return;
    }
    throw UsageError{"no command '" + verb + "'" + did_you_mean(verb, verbs), usage()};
  }

  /// The command that was asked for, else the program itself.
  const CLI::App* parsed() const {
    const auto commands = app_.get_subcommands();
    return commands.empty() ? &app_ : commands.front();
  }

  std::string usage() const {
    const std::string name =
        parsed() == &app_ ? app_.get_name() : app_.get_name() + ' ' + parsed()->get_name();
    return '\n' + CLI::Formatter().make_usage(parsed(), name) + "See " + name + " --help.";
  }

  std::vector<std::string> flags() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : parsed()->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    return names;
  }

  static void add_json(CLI::App& command, std::string& json) {
    command.add_option("--json", json, "Write the results as JSON; - is stdout")->type_name("FILE");
  }

  static void add_inputs(CLI::App& command, InputArguments& inputs) {
    command
        .add_option(
            "--input", inputs.inputs,
            "A tensor from a file, or a number or string itself; the rest is random. NAME is "
            "an input or a part of one: sensors.imu, clips[0]")
        ->type_name("NAME=FILE.npy")
        ->check(check_input)
        ->allow_extra_args(false);
    command.add_option("--shape", inputs.shapes, "The shape of a random input or part of one")
        ->type_name("NAME=1x3x224x224")
        ->check(check_shape)
        ->allow_extra_args(false);
    command.add_option("--seed", inputs.seed, "Of the random inputs and of --rate")
        ->capture_default_str()
        ->type_name("N");
  }

  static void add_limits(CLI::App& command, std::vector<std::string>& limits) {
    command
        .add_option("--limit", limits,
                    "Of the file: file_bytes, members, unpacked_bytes or nesting (of its code)")
        ->type_name("NAME=N")
        ->check(check_limit)
        ->allow_extra_args(false);
  }

  static void add_model(CLI::App& command, ModelArguments& model) {
    command.add_option("MODEL", model.model, "A TorchScript archive")->required()->type_name("");
    command.add_option("--device", model.device, "auto, cpu, cuda, cuda:1, xpu, …")
        ->capture_default_str()
        ->type_name("DEVICE");
    command.add_option("--executor", model.executor, join(executors(), ", "))
        ->capture_default_str()
        ->check(CLI::IsMember(executors()).description(""))
        ->type_name("EXECUTOR");
    command
        .add_option("--intra-op-threads", model.intra_op_threads,
                    "Threads inside a call; 0 leaves torch's own number")
        ->capture_default_str()
        ->check(in_range(0, 4096))
        ->type_name("N");
    command.add_flag("--no-optimize", model.no_optimize, "Run the archive as it is");
    command
        .add_option("--disable-pass", model.disabled_passes,
                    "Leave out a pass of the optimisation: " + join(passes(), ", "))
        ->check(CLI::IsMember(passes()).description(""))
        ->type_name("PASS")
        ->allow_extra_args(false);
    command.add_option("--precision", model.precision, "Of products: fp32, bf16, fp16")
        ->capture_default_str()
        ->check(CLI::IsMember({"fp32", "bf16", "fp16"}).description(""))
        ->type_name("TYPE");
    command.add_flag("--no-reuse-memory", model.no_reuse_memory,
                     "Let the system map large host buffers anew in each call");
    command.add_flag("--no-map-weights", model.no_map_weights,
                     "Copy the weights instead of using them where the file is mapped");
    command.add_flag("--graphs", model.graphs,
                     "On an accelerator, record a call at each size of the warm-up and replay it");
    add_limits(command, model.limits);
    command
        .add_option("--allow-operator", model.allow_operators,
                    "Let the model use an operator that reads or writes files, or talks to other "
                    "processes: " +
                        join(restricted_operators(), ", "))
        ->check(CLI::IsMember(restricted_operators()).description(""))
        ->type_name("OPERATOR")
        ->allow_extra_args(false);
    command
        .add_option("--library", model.libraries,
                    "A shared library that registers operators or classes of the model's own")
        ->type_name("FILE")
        ->allow_extra_args(false);
    add_json(command, model.json);
  }

  static void add_load_calls(CLI::App& command, ModelArguments& model) {
    command.add_option("--warmup", model.warmup, "What is run in load: off, fast, full")
        ->capture_default_str()
        ->check(CLI::IsMember({"off", "fast", "full"}).description(""))
        ->type_name("LEVEL");
    command
        .add_option("--warmup-budget", model.warmup_budget_s,
                    "Seconds after which no further warm-up call is started")
        ->capture_default_str()
        ->check(in_range(0.0, 86400.0))
        ->type_name("S");
    command
        .add_option("--warmup-bytes", model.warmup_bytes,
                    "Of the inputs of a warm-up call; sizes that take more are not run")
        ->capture_default_str()
        ->type_name("N");
    command.add_flag(
        "--verify", model.verify,
        "Hold the golden sample's calls against it in load, and fail where they differ");
  }

  void add_run() {
    CLI::App& command =
        *app_.add_subcommand("run", "Run a model; the time of each call goes to stderr");
    add_model(command, run_.common);
    add_load_calls(command, run_.common);
    add_inputs(command, run_.inputs);
    command.add_option("--output-dir", run_.output_dir, "Write each output tensor as NAME.npy")
        ->type_name("DIR");
    command.add_option("--iterations", run_.iterations, "Calls")
        ->capture_default_str()
        ->check(in_range(1, kMaxCalls))
        ->type_name("N");
    command.add_flag("--quiet", run_.quiet, "No line a call");
    command.callback([this] { command_ = [this] { run(run_); }; });
  }

  void add_bench() {
    CLI::App& command = *app_.add_subcommand("bench", "Measure the latency of a model");
    add_model(command, bench_.common);
    add_load_calls(command, bench_.common);
    add_inputs(command, bench_.inputs);
    CLI::Option* concurrency =
        command.add_option("--concurrency", bench_.concurrency, "Callers in a closed loop")
            ->capture_default_str()
            ->check(in_range(1, 4096))
            ->type_name("N");
    command
        .add_option("--rate", bench_.rate_qps,
                    "Calls a second in an open loop with Poisson arrivals")
        ->check(in_range(1e-3, 1e9))
        ->excludes(concurrency)
        ->type_name("QPS");
    command.add_option("--skip", bench_.skip, "Calls that each caller makes first, not counted")
        ->capture_default_str()
        ->check(in_range(0, kMaxCalls))
        ->type_name("N");
    CLI::Option* duration =
        command
            .add_option("--duration", bench_.duration_s,
                        "Seconds of the counted part; of --sweep: of all of it, about")
            ->default_str("5, of --sweep 60")
            ->check(in_range(1e-3, 86400.0))
            ->type_name("S");
    command.add_flag("--log-calls", bench_.log_calls, "A line a call on stderr");
    CLI::Option* sweep_flag = command.add_flag(
        "--sweep", bench_.sweep,
        "Measure executors, passes, intra-op threads and callers, and name the options that win");
    for (const char* swept : {"--executor", "--no-optimize", "--disable-pass", "--intra-op-threads",
                              "--concurrency", "--rate", "--skip", "--log-calls"}) {
      sweep_flag->excludes(command.get_option(swept));
    }
    command.callback([this, duration] {
      if (bench_.sweep && duration->empty()) bench_.duration_s = kSweepSeconds;
      command_ = [this] { bench_.sweep ? sweep(bench_) : bench(bench_); };
    });
  }

  void add_coldstart() {
    CLI::App& command = *app_.add_subcommand(
        "coldstart", "Measure the first calls under each executor, each in a fresh process");
    ColdStartArguments& arguments = coldstart_;
    add_model(command, arguments.common);
    command.remove_option(command.get_option("--executor"));
    command
        .add_option("--shape", arguments.shapes, "The shape of an input in the runs of one size")
        ->type_name("NAME=1x3x224x224")
        ->check(check_shape)
        ->allow_extra_args(false);
    command.add_option("--calls", arguments.calls, "Calls of a run")
        ->capture_default_str()
        ->check(in_range(1, 1e6))
        ->type_name("N");
    command.add_option("--seed", arguments.seed, "Of the inputs and of the sizes that change")
        ->capture_default_str()
        ->type_name("N");
    // Of the processes that it starts.
    command.add_option("--child", arguments.child)->group("");
    command.add_option("--executor", arguments.common.executor)->group("");
    command.add_option("--warmup", arguments.common.warmup)->group("");
    command.callback([this] { command_ = [this] { coldstart(coldstart_); }; });
  }

  void add_verify() {
    CLI::App& command = *app_.add_subcommand(
        "verify", "Check a file, and that it computes here what it computed where it was exported");
    add_model(command, verify_.common);
    command.add_option("--sha256", verify_.sha256, "What the file's SHA-256 must be")
        ->check(check_sha256)
        ->type_name("HEX");
    command.callback([this] { command_ = [this] { verify(verify_); }; });
  }

  void add_inspect() {
    CLI::App& command =
        *app_.add_subcommand("inspect", "Say what is in a file; runs nothing of it");
    command.add_option("MODEL", inspect_.model, "A TorchScript archive")->required()->type_name("");
    add_limits(command, inspect_.limits);
    command.add_flag("--code", inspect_.code, "Print the TorchScript of each method");
    add_json(command, inspect_.json);
    command.callback([this] { command_ = [this] { inspect(inspect_); }; });
  }

  void add_env() {
    CLI::App& command = *app_.add_subcommand("env", "Versions, devices, threads");
    add_json(command, env_.json);
    command.callback([this] { command_ = [this] { env(env_); }; });
  }

  CLI::App app_{"Runs, measures and checks TorchScript models.", "ts_infer"};
  RunArguments run_;
  BenchArguments bench_;
  ColdStartArguments coldstart_;
  VerifyArguments verify_;
  InspectArguments inspect_;
  EnvArguments env_;
  std::function<void()> command_;
};

}  // namespace

std::function<void()> parse_command_line(int argc, const char* const* argv) {
  const auto line = std::make_shared<CommandLine>();
  return [line, command = line->parse(argc, argv)] { command(); };
}

}  // namespace ts_infer::cli
