// Command lines: an argument a line. Nothing of them is done.

#include "command_line.h"

#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> arguments = {"ts_infer", ""};
  for (std::size_t i = 0; i < size; ++i) {
    if (data[i] == '\n') {
      arguments.emplace_back();
    } else if (data[i] != '\0') {
      arguments.back() += static_cast<char>(data[i]);
    }
  }
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  argv.push_back(nullptr);
  try {
    ts_infer::cli::parse_command_line(static_cast<int>(arguments.size()), argv.data());
  } catch (const ts_infer::cli::UsageError&) {
    // Exit code 2.
  }
  return 0;
}
