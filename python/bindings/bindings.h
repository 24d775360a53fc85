#pragma once

#include <pybind11/pybind11.h>

#include <exception>

namespace ts_infer::python {

namespace py = pybind11;

// One function a public header.
void bind_version(py::module_& module);
void bind_error(py::module_& module);
void bind_signature(py::module_& module);
void bind_timing(py::module_& module);
void bind_model(py::module_& module);
void bind_verify(py::module_& module);

/// Sets the Python exception that stands for a C++ one; rethrows what is not this library's.
void set_python_error(std::exception_ptr error);

}  // namespace ts_infer::python
