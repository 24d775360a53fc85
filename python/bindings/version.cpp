#include "ts_infer/version.h"

#include "bindings.h"

namespace ts_infer::python {

void bind_version(py::module_& module) {
  module.def("version", &version, "Version of the compiled library, such as \"0.1.0\".");
  module.def("built_with_torch", &built_with_torch,
             "Version of torch that the library was built with, such as \"2.13.0\".");
  module.def("loaded_torch", &loaded_torch,
             "Version of the libtorch that this process has loaded, such as \"2.13.0+cpu\".");
}

}  // namespace ts_infer::python
