#include <iostream>
#include <new>

#include "command_line.h"
#include "commands.h"
#include "signals.h"
#include "ts_infer/error.h"

namespace ts_infer::cli {
namespace {

/// Prints the exception that is being handled; returns its exit code.
int report_exception() {
  const auto print = [](std::string message, ExitCode code) {
    message.erase(message.find_last_not_of('\n') + 1);  // a signature ends with one
    std::cerr << "ts_infer: " + message + '\n';
    return code;
  };
  try {
    throw;
  } catch (const UsageError& error) {
    return print(error.message + error.usage, kUsage);
  } catch (const OutputsDiffer& error) {
    return print(error.message, kOutputsDiffer);
  } catch (const ModelLoadError& error) {
    return print(error.what(), kModelLoad);
  } catch (const InputError& error) {
    return print(error.what(), kInput);
  } catch (const ExecutionError& error) {
    return print(error.what(), kExecution);
  } catch (const std::bad_alloc&) {
    return print("out of memory", kExecution);
  } catch (const std::exception& error) {
    return print(error.what(), kOther);
  } catch (...) {
    return print("an unknown error", kOther);
  }
}

}  // namespace
}  // namespace ts_infer::cli

int main(int argc, char** argv) {
  using namespace ts_infer::cli;
  try {
    install_signal_handlers();
    parse_command_line(argc, argv)();
    std::cout.flush();
    if (!std::cout) {
      throw ts_infer::Error("[output] stdout: it cannot be written; check where it goes");
    }
    return noted_signal() != 0 ? 128 + noted_signal() : kOk;
  } catch (...) {
    return report_exception();
  }
}
