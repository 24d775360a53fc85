#pragma once

// Opt-in: for programs that use libtorch themselves. Needs torch's headers and C++20, and is not
// part of ts_infer.h.

#include <ATen/core/TensorBody.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "ts_infer/export.h"
#include "ts_infer/model.h"
#include "ts_infer/tensor.h"
#include "ts_infer/value.h"

namespace ts_infer {

/// Both share the data; nothing is copied.
TS_INFER_API at::Tensor to_torch(const Tensor& tensor);
/// @throws InputError for a dtype or layout that Tensor does not have.
TS_INFER_API Tensor from_torch(at::Tensor tensor);

/// Runs a method ("forward" counts in the stats) on libtorch's own values, which must fit its
/// schema. Checks, devices, errors and threads as Model::call.
TS_INFER_API c10::IValue call(Model& model, const std::string& method,
                              std::vector<c10::IValue> args,
                              const std::unordered_map<std::string, c10::IValue>& kwargs = {});

}  // namespace ts_infer
