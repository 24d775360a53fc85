#pragma once

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ts_infer/model.h"

namespace ts_infer::testing {

/// A module with the methods that `source` defines; self.weight is a [4, 4] tensor of halves, and
/// self.state a [4] tensor of zeros. Operators of a namespace that begins with "ts_infer_" are
/// called as ts_infer_test.wait(x).
torch::jit::Module make_module(const std::string& source);

/// The bytes of a saved module, with a manifest and a golden sample where they are not empty.
std::string save(const torch::jit::Module& module, const std::string& manifest = "",
                 const std::string& golden = "");

/// A file in the test's temporary folder.
std::string write_file(const std::string& name, const std::string& bytes);

/// The bytes of make_module(source) saved.
std::string archive(const std::string& source, const std::string& manifest = "");

/// The model that a file's bytes are.
Model load_bytes(const std::string& bytes, const LoadOptions& options = {});

// Pickles as Python writes them, protocol 2 without its opcodes for the start and the end.
std::string pickled(const std::string& text);
std::string pickled_list(const std::vector<std::string>& values);
std::string pickled_dict(const std::vector<std::pair<std::string, std::string>>& entries);
/// Of float32, whose elements are in data/KEY.
std::string pickled_tensor(const std::string& key, std::uint8_t elements,
                           const std::vector<std::uint8_t>& shape,
                           const std::vector<std::uint8_t>& strides);

/// A file as torch.save writes it, of a pickle and of what its storages hold.
std::string torch_saved(const std::string& pickle,
                        const std::map<std::string, std::vector<float>>& storages);

/// A golden sample: for each call the vector that goes in and the one that comes out.
using GoldenVectors = std::vector<std::pair<std::vector<float>, std::vector<float>>>;
std::string golden_sample(const GoldenVectors& calls);

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
