#pragma once

#include <ATen/core/ivalue.h>

#include <string_view>
#include <vector>

namespace ts_infer {

/// One call of the golden sample.
struct GoldenCall {
  std::vector<c10::IValue> inputs;   // of forward, in order
  std::vector<c10::IValue> outputs;  // leaves of what the module returned, depth-first
};

/// Reads what Python's torch.save({"calls": [{"inputs": […], "outputs": […]}, …]}) wrote: tensors
/// on the host, None, bools, numbers, strings, lists, tuples and dicts. Nothing in it is run, and
/// the tensors own their memory.
///
/// libtorch has a reader of its own, which refuses integers of more than 32 bits and complex
/// numbers, and believes the sizes that it reads.
/// @throws ModelLoadError that says what is wrong, as a clause.
std::vector<GoldenCall> read_golden(std::string_view bytes);

class Archive;

/// The golden sample of an archive; empty where it has none.
/// @throws ModelLoadError that says what is wrong, as a clause.
std::vector<GoldenCall> golden_calls(const Archive& archive);

}  // namespace ts_infer
