#pragma once

#include <functional>
#include <string>

namespace ts_infer::cli {

/// A command line that cannot be understood.
struct UsageError {
  std::string message;
  std::string usage;  // "" or on a line of its own
};

/// What the arguments ask for: a command, or the text of --help or --version. Nothing of it has
/// been done yet. @throws UsageError
std::function<void()> parse_command_line(int argc, const char* const* argv);

}  // namespace ts_infer::cli
