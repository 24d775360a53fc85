#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace ts_infer::python {

namespace py = pybind11;

/// The contents of a file. py::buffer would be named after the Python that generates the stubs.
struct Contents : py::buffer {
  using py::buffer::buffer;
};

/// The bytes of any object with the buffer protocol.
class Bytes {
 public:
  explicit Bytes(const Contents& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { PyBuffer_Release(&view_); }

  const void* data() const { return view_.buf; }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

}  // namespace ts_infer::python

template <>
struct pybind11::detail::handle_type_name<ts_infer::python::Contents> {
  static constexpr auto name = const_name("bytes | bytearray | memoryview");
};
