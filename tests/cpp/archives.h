#pragma once

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <string>

namespace ts_infer::testing {

/// A module with the methods that `source` defines; self.weight is a [4, 4] tensor of halves, and
/// self.state a [4] tensor of zeros.
torch::jit::Module make_module(const std::string& source);

/// The bytes of a saved module, with a manifest where `manifest` is not empty.
std::string save(const torch::jit::Module& module, const std::string& manifest = "");

/// A file in the test's temporary folder.
std::string write_file(const std::string& name, const std::string& bytes);

/// The bytes of make_module(source) saved.
std::string archive(const std::string& source, const std::string& manifest = "");

/// What the exception of type E says that `call` throws; a test failure where it throws none.
template <typename E, typename F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace ts_infer::testing
