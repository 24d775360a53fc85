#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <optional>

namespace ts_infer::python {

namespace py = pybind11;

// A thread that runs Python code when the interpreter goes away is unwound by force up to Python
// 3.13, which C++ answers with terminate(). Here it waits for the process to end, as Python does
// from 3.14 on.
template <typename F>
void wait_at_exit(const F& python_code) {
  try {
    python_code();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

/// Lets other Python threads run while it lives.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;
  ~GilRelease() {
    wait_at_exit([this] { PyEval_RestoreThread(state_); });
  }

 private:
  PyThreadState* state_;
};

/// Holds the GIL on any thread while it lives.
class GilHold {
 public:
  GilHold() {
    wait_at_exit([this] { gil_.emplace(); });
  }

  /// Whether there is still an interpreter whose GIL could be had.
  static bool is_possible() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsInitialized() != 0 && Py_IsFinalizing() == 0;
#else
    return Py_IsInitialized() != 0 && _Py_IsFinalizing() == 0;
#endif
  }

 private:
  std::optional<py::gil_scoped_acquire> gil_;
};

}  // namespace ts_infer::python
