#include "bindings.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled half of ts_infer; ts_infer.runtime is its public door.";
  ts_infer::python::bind_version(module);
  ts_infer::python::bind_error(module);
  ts_infer::python::bind_signature(module);
  ts_infer::python::bind_timing(module);
  ts_infer::python::bind_model(module);
  ts_infer::python::bind_verify(module);
}
