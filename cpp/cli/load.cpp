#include <iostream>

#include "commands.h"

namespace ts_infer::cli {

LoadOptions load_options(const ModelArguments& arguments) {
  LoadOptions options;
  options.device = arguments.device;
  options.executor = arguments.executor;
  options.optimize = !arguments.no_optimize;
  options.intra_op_threads = arguments.intra_op_threads;
  options.libraries = arguments.libraries;
  options.on_log = [](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning || level == LogLevel::kError) {
      std::cerr << "ts_infer: " + message + '\n';
    }
  };
  return options;
}

Json options_json(const ModelArguments& arguments) {
  return {{"device", arguments.device},
          {"executor", arguments.executor},
          {"intra_op_threads", arguments.intra_op_threads},
          {"optimize", !arguments.no_optimize},
          {"libraries", arguments.libraries}};
}

}  // namespace ts_infer::cli
