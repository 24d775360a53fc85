#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>

#include "commands.h"
#include "inputs.h"
#include "machine.h"
#include "signals.h"
#include "ts_infer/benchmark.h"

namespace ts_infer::cli {
namespace {

Json calls_json(const ColdStart& cold) {
  Json calls = Json::array();
  for (const ColdCall& call : cold.calls) {
    calls.push_back({{"ms", call.ms},
                     {"compiled", call.compiled},
                     {"page_faults", call.page_faults},
                     {"device_allocations", call.device_allocations},
                     {"device_bytes", call.device_bytes},
                     {"shapes", call.shapes}});
  }
  return calls;
}

/// What a child prints.
void measure(const ColdStartArguments& arguments) {
  ColdStartOptions options;
  options.calls = static_cast<std::size_t>(arguments.calls);
  options.changing_sizes = arguments.child == "changing";
  options.shapes = parse_shapes(arguments.shapes);
  options.seed = arguments.seed;
  const ColdStart cold =
      cold_start(arguments.common.model, load_options(arguments.common), options);
  const Json document = {{"model", model_json(cold.model)},
                         {"calls", calls_json(cold)},
                         {"first_ms", cold.first_ms},
                         {"settled_at", cold.settled_at > 0 ? Json(cold.settled_at) : Json()},
                         {"steady_ms", cold.steady_ms},
                         {"later_ms", cold.later_ms}};
  std::cout << document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// A file that is gone when it is closed.
class ScratchFile {
 public:
  ScratchFile() : file_(std::tmpfile(), &std::fclose) {
    if (!file_) {
      throw Error(std::string("[coldstart] a temporary file cannot be made: ") +
                  std::strerror(errno));
    }
  }
  int descriptor() const { return fileno(file_.get()); }
  std::string read() {
    std::string text;
    std::rewind(file_.get());
    char buffer[4096];
    while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file_.get())) {
      text.append(buffer, count);
    }
    return text;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

struct Run {
  std::string executor;
  std::string warmup;
  std::string sizes;

  std::string title() const { return warmup == "off" ? executor : executor + ", warm"; }
};

std::vector<std::string> child_command(const ColdStartArguments& arguments, const Run& run) {
  ModelArguments common = arguments.common;
  common.executor = run.executor;
  common.warmup = run.warmup;
  std::vector<std::string> command = {"ts_infer", "coldstart",
                                      "--child",  run.sizes,
                                      "--seed",   std::to_string(arguments.seed),
                                      "--calls",  std::to_string(arguments.calls)};
  for (const Setting& setting : settings(common)) {
    command.insert(command.end(), setting.flags.begin(), setting.flags.end());
  }
  if (run.sizes == "constant") {
    for (const std::string& shape : arguments.shapes) {
      command.insert(command.end(), {"--shape", shape});
    }
  }
  command.insert(command.end(), {"--", common.model});
  return command;
}

/// Makes a run in a process of its own; what goes wrong there becomes its "error". The process'
/// exit code goes into `exit_code`, 1 where a signal ended it.
Json run_child(const ColdStartArguments& arguments, const Run& run, int& exit_code) {
  ScratchFile out;
  ScratchFile err;
  std::vector<std::string> command = child_command(arguments, run);
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.descriptor(), STDERR_FILENO);
  pid_t child = 0;
  const int failed = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    throw Error(std::string("[coldstart] a process cannot be started: ") + std::strerror(failed));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  Json result = {{"executor", run.executor}, {"warmup", run.warmup}, {"sizes", run.sizes}};
  const Json document = Json::parse(out.read(), nullptr, /*allow_exceptions=*/false);
  exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  if (exit_code == 0 && document.is_object()) {
    result.update(document);
    result["error"] = nullptr;
    return result;
  }
  std::string error = err.read();
  if (error.rfind("ts_infer: ", 0) == 0) error.erase(0, 10);
  error.erase(error.find_last_not_of('\n') + 1);
  if (WIFSIGNALED(status)) {
    error = "the process ended by signal " + std::to_string(WTERMSIG(status)) +
            (error.empty() ? "" : ": " + error);
  }
  result.update({{"model", nullptr},
                 {"calls", Json::array()},
                 {"first_ms", nullptr},
                 {"settled_at", nullptr},
                 {"steady_ms", nullptr},
                 {"later_ms", Json::array()},
                 {"error", error}});
  return result;
}

/// "12.345*": a call, marked where it compiled.
std::string call_text(const Json& call) {
  return fixed(call["ms"].get<double>()) + (call["compiled"].get<std::uint64_t>() > 0 ? "*" : " ");
}

void print_table(const std::vector<Run>& runs, const Json& results, const std::string& sizes,
                 bool with_precision) {
  std::vector<std::pair<std::string, Table::Align>> columns = {{"call", Table::Align::kLeft}};
  std::vector<const Json*> shown;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (runs[i].sizes != sizes || !results[i]["error"].is_null()) continue;
    columns.emplace_back(runs[i].title() + ' ', Table::Align::kRight);
    shown.push_back(&results[i]);
  }
  if (shown.empty()) return;
  Table table(columns);
  const auto add = [&](const std::string& title, const auto& text) {
    std::vector<std::string> row = {title};
    for (const Json* run : shown) row.push_back(text(*run));
    table.add(std::move(row));
  };
  const std::size_t calls = shown.front()->at("calls").size();
  for (std::size_t i = 0; i < calls; ++i) {
    // The first ten, then every fifth: the rest is in the JSON.
    if (i >= 10 && (i + 1) % 5 != 0) continue;
    add(std::to_string(i + 1), [&](const Json& run) { return call_text(run["calls"][i]); });
  }
  add("steady", [](const Json& run) { return fixed(run["steady_ms"].get<double>()) + ' '; });
  add("settled at", [](const Json& run) {
    const std::string none = "not by " + std::to_string(run["calls"].size());
    return (run["settled_at"].is_null() ? none : run["settled_at"].dump()) + ' ';
  });
  if (with_precision) {
    add("precision",
        [](const Json& run) { return run["model"]["precision"].get<std::string>() + ' '; });
  }
  const auto total = [](const Json& run, const char* what) {
    std::uint64_t sum = 0;
    for (const Json& call : run["calls"]) sum += call[what].get<std::uint64_t>();
    return std::to_string(sum) + ' ';
  };
  add("compiled", [&](const Json& run) { return total(run, "compiled"); });
  add("page faults", [&](const Json& run) { return total(run, "page_faults"); });
  add("device allocations", [&](const Json& run) { return total(run, "device_allocations"); });
  add("load", [](const Json& run) { return fixed(run["model"]["load_ms"].get<double>()) + ' '; });
  std::cout << "\n"
            << (sizes == "constant" ? "constant size" : "a new size in each call")
            << ", ms; * compiled\n\n"
            << table.to_string();
}

/// Throws what a process ended with.
[[noreturn]] void fail(const std::string& message, int exit_code) {
  if (exit_code == kModelLoad) throw ModelLoadError(message);
  if (exit_code == kInput) throw InputError(message);
  throw ExecutionError(message);
}

}  // namespace

void coldstart(const ColdStartArguments& arguments) {
  if (!arguments.child.empty()) return measure(arguments);
  // Refused here, and not by each of the processes.
  const ArchiveInfo archive =
      read_model_info(arguments.common.model, archive_limits(arguments.common.limits));
  bool is_dynamic = false;
  if (archive.signature) {
    for (const TensorSpec& input : archive.signature->inputs) {
      if (!input.shape) continue;
      is_dynamic = is_dynamic || std::any_of(input.shape->begin(), input.shape->end(),
                                             [](const Dim& dim) { return !dim.name.empty(); });
    }
  }

  std::vector<Run> runs;
  for (const char* sizes : {"constant", "changing"}) {
    if (!is_dynamic && std::string(sizes) == "changing") continue;
    runs.push_back({"prepared", "fast", sizes});
    for (const std::string& executor : executors()) runs.push_back({executor, "off", sizes});
  }
  Json results = Json::array();
  std::vector<int> exit_codes(runs.size());
  {
    const NoteSignals note;
    LiveLine live;
    for (const Run& run : runs) {
      if (noted_signal() != 0) break;
      live.show("coldstart: " + std::to_string(results.size() + 1) + " of " +
                std::to_string(runs.size()) + ", " + run.title() + ", " + run.sizes + " sizes");
      results.push_back(run_child(arguments, run, exit_codes[results.size()]));
    }
  }

  Json model;
  for (const Json& result : results) {
    if (model.is_null() && result["error"].is_null()) model = result["model"];
  }
  if (prints_text(arguments.common.json)) {
    const std::string device = model.is_null() ? "" : " on " + model["device"].get<std::string>();
    std::cout << archive.name << device << ", " << this_machine().cpu_model << ", first "
              << arguments.calls << " calls, each column a fresh process\n";
    const bool with_precision = arguments.common.precision != ModelArguments().precision;
    for (const char* sizes : {"constant", "changing"}) {
      print_table(runs, results, sizes, with_precision);
    }
    if (!is_dynamic) std::cout << "\nno dimension is declared dynamic: sizes cannot change\n";
  }
  const bool all_failed = model.is_null() && !results.empty();
  for (const Json& result : results) {
    if (all_failed || result["error"].is_null()) continue;
    std::cerr << "ts_infer: " << result["executor"].get<std::string>() << ", "
              << result["sizes"].get<std::string>()
              << " sizes: " << result["error"].get<std::string>() << '\n';
  }
  Json json = {{"options", options_json(arguments.common)},
               {"model", model},
               {"interrupted", noted_signal() != 0},
               {"runs", results}};
  json["options"].erase("executor");
  json["options"].erase("warmup");
  json["options"].update({{"seed", arguments.seed}, {"calls", arguments.calls}});
  write_json(arguments.common.json, "coldstart", json, arguments.common.intra_op_threads);
  if (all_failed)
    fail("no run succeeded: " + results[0]["error"].get<std::string>(), exit_codes[0]);
}

}  // namespace ts_infer::cli
