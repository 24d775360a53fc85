#include <iostream>
#include <memory>

#include "commands.h"

namespace ts_infer::cli {

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
  options.reuse_memory = !arguments.no_reuse_memory;
  options.map_weights = !arguments.no_map_weights;
  options.graphs = arguments.graphs;
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

Json options_json(const ModelArguments& arguments) {
  return {{"device", arguments.device},
          {"executor", arguments.executor},
          {"intra_op_threads", arguments.intra_op_threads},
          {"optimize", !arguments.no_optimize},
          {"disabled_passes", arguments.disabled_passes},
          {"precision", arguments.precision},
          {"warmup", arguments.warmup},
          {"warmup_budget_s", arguments.warmup_budget_s},
          {"reuse_memory", !arguments.no_reuse_memory},
          {"map_weights", !arguments.no_map_weights},
          {"graphs", arguments.graphs},
          {"libraries", arguments.libraries}};
}

}  // namespace ts_infer::cli
