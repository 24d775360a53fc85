#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace ts_infer::python {

namespace py = pybind11;

/// A path as os.fsdecode() has it, usable as a path again.
inline py::str path_text(const std::string& path) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size())));
}

/// Text that may hold a file's name, whose bytes need not be UTF-8; the others are escaped.
inline py::str message_text(const std::string& message) {
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
      message.data(), static_cast<py::ssize_t>(message.size()), "backslashreplace"));
}

}  // namespace ts_infer::python
