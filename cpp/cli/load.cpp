#include <algorithm>
#include <charconv>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>

#include "commands.h"

namespace ts_infer::cli {

ArchiveLimits archive_limits(const std::vector<std::string>& texts) {
  ArchiveLimits limits;
  const std::map<std::string, std::uint64_t*> fields = {{"file_bytes", &limits.file_bytes},
                                                        {"members", &limits.members},
                                                        {"unpacked_bytes", &limits.unpacked_bytes},
                                                        {"nesting", &limits.nesting}};
  for (const std::string& text : texts) {
    const std::size_t equals = std::min(text.find('='), text.size());
    const auto field = fields.find(text.substr(0, equals));
    const char* const end = text.data() + text.size();
    std::uint64_t value = 0;
    const auto [last, error] = std::from_chars(std::min(text.data() + equals + 1, end), end, value);
    if (field == fields.end() || error != std::errc() || last != end) {
      throw std::invalid_argument(
          "expected file_bytes=N, members=N, unpacked_bytes=N or nesting=N, got " + text);
    }
    *field->second = value;
  }
  return limits;
}

LoadOptions load_options(const ModelArguments& arguments) {
  LoadOptions options;
  options.device = arguments.device;
  options.executor = arguments.executor;
  options.optimize = !arguments.no_optimize;
  options.disabled_passes = arguments.disabled_passes;
  options.precision = arguments.precision;
  options.intra_op_threads = arguments.intra_op_threads;
  options.warmup = arguments.warmup;
  options.warmup_budget_s = arguments.warmup_budget_s;
  options.warmup_bytes = arguments.warmup_bytes;
  options.verify = arguments.verify;
  options.reuse_memory = !arguments.no_reuse_memory;
  options.map_weights = !arguments.no_map_weights;
  options.graphs = arguments.graphs;
  options.limits = archive_limits(arguments.limits);
  options.allow_operators = arguments.allow_operators;
  options.libraries = arguments.libraries;
  options.on_log = [](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning || level == LogLevel::kError) {
      std::cerr << "ts_infer: " + message + '\n';
    }
  };
  return options;
}

Model load_model(const ModelArguments& arguments, LoadOptions options) {
  const auto line = std::make_shared<LiveLine>();
  const auto show = [weak = std::weak_ptr(line)](LogLevel level, const std::string& message) {
    const auto shown = weak.lock();  // only while it loads
    if (shown && level <= LogLevel::kInfo) shown->show("loading " + message);
  };
  options.on_log = [show, next = options.on_log](LogLevel level, const std::string& message) {
    show(level, message);
    next(level, message);
  };
  return Model::load(arguments.model, options);
}

std::string model_text(const ModelArguments& arguments, const ModelInfo& info) {
  const bool is_asked = arguments.precision != ModelArguments().precision;
  return info.name + " on " + info.device + ", executor " + info.executor +
         (is_asked ? ", precision " + info.precision : "");
}

void note_precision(const ModelArguments& arguments, const ModelInfo& info) {
  if (arguments.precision == ModelArguments().precision) return;
  for (const std::string& decision : info.decisions) {
    if (decision.find("precision") == std::string::npos) continue;
    std::cerr << "ts_infer: " + info.name + ": " + decision + '\n';
  }
}

std::vector<Setting> settings(const ModelArguments& arguments) {
  const ModelArguments defaults;
  std::vector<Setting> all;
  const auto literal = [](const std::string& text) {  // of C++, as of JSON
    return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  const auto text = [&](const std::string& flag, const std::string& field, const std::string& value,
                        const std::string& default_value) {
    if (value == default_value) return;
    all.push_back({{flag, value}, field + " = " + literal(value)});
  };
  const auto quantity = [&](const std::string& flag, const std::string& field, double value,
                            double default_value) {
    if (value == default_value) return;
    all.push_back({{flag, number(value)}, field + " = " + number(value)});
  };
  const auto toggle = [&](const std::string& flag, const std::string& assignment, bool is_given) {
    if (is_given) all.push_back({{flag}, assignment});
  };
  const auto list = [&](const std::string& flag, const std::string& field,
                        const std::vector<std::string>& values) {
    if (values.empty()) return;
    Setting setting;
    std::vector<std::string> literals;
    for (const std::string& value : values) {
      setting.flags.insert(setting.flags.end(), {flag, value});
      literals.push_back(literal(value));
    }
    setting.assignment = field + " = {" + join(literals, ", ") + '}';
    all.push_back(setting);
  };
  text("--device", "device", arguments.device, defaults.device);
  text("--executor", "executor", arguments.executor, defaults.executor);
  toggle("--no-optimize", "optimize = false", arguments.no_optimize);
  list("--disable-pass", "disabled_passes", arguments.disabled_passes);
  text("--precision", "precision", arguments.precision, defaults.precision);
  quantity("--intra-op-threads", "intra_op_threads", arguments.intra_op_threads,
           defaults.intra_op_threads);
  text("--warmup", "warmup", arguments.warmup, defaults.warmup);
  quantity("--warmup-budget", "warmup_budget_s", arguments.warmup_budget_s,
           defaults.warmup_budget_s);
  quantity("--warmup-bytes", "warmup_bytes", arguments.warmup_bytes, defaults.warmup_bytes);
  toggle("--verify", "verify = true", arguments.verify);
  toggle("--no-reuse-memory", "reuse_memory = false", arguments.no_reuse_memory);
  toggle("--no-map-weights", "map_weights = false", arguments.no_map_weights);
  toggle("--graphs", "graphs = true", arguments.graphs);
  for (const std::string& limit : arguments.limits) {
    const std::size_t equals = limit.find('=');
    all.push_back({{"--limit", limit},
                   "limits." + limit.substr(0, equals) + " = " + limit.substr(equals + 1)});
  }
  list("--allow-operator", "allow_operators", arguments.allow_operators);
  list("--library", "libraries", arguments.libraries);
  return all;
}

Json options_json(const ModelArguments& arguments) {
  return {{"device", arguments.device},
          {"executor", arguments.executor},
          {"intra_op_threads", arguments.intra_op_threads},
          {"optimize", !arguments.no_optimize},
          {"disabled_passes", arguments.disabled_passes},
          {"precision", arguments.precision},
          {"warmup", arguments.warmup},
          {"warmup_budget_s", arguments.warmup_budget_s},
          {"warmup_bytes", arguments.warmup_bytes},
          {"verify", arguments.verify},
          {"reuse_memory", !arguments.no_reuse_memory},
          {"map_weights", !arguments.no_map_weights},
          {"graphs", arguments.graphs},
          {"limits", arguments.limits},
          {"allow_operators", arguments.allow_operators},
          {"libraries", arguments.libraries}};
}

}  // namespace ts_infer::cli
