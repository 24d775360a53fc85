#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "ts_infer/model.h"

namespace ts_infer::python {

namespace py = pybind11;

/// Runs a method on Python objects and returns what torch.jit would, with the GIL released while
/// it computes. Arrays (numpy, DLPack) count as tensors, nested ones too.
/// @throws InputError for an argument that the schema does not take, and what the model throws.
py::object call_method(Model& model, const std::string& method, py::handle args, py::handle kwargs,
                       const RunOptions& options = {});

}  // namespace ts_infer::python
