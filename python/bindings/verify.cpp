#include "ts_infer/verify.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "contents.h"
#include "gil.h"
#include "text.h"

namespace ts_infer::python {
namespace {

VerifyReport verify_file(const py::bytes& path, const LoadOptions& options,
                         const std::string& sha256) {
  const std::string native_path = path;
  const GilRelease release;
  return verify(native_path, options, sha256);
}

VerifyReport verify_bytes(const Contents& data, const LoadOptions& options,
                          const std::string& sha256) {
  const Bytes bytes(data);
  const GilRelease release;
  return verify(bytes.data(), bytes.size(), options, sha256);
}

}  // namespace

void bind_verify(py::module_& module) {
  py::class_<OutputCheck>(
      module, "OutputCheck",
      "One output of one golden call, beside what the module returned where it was exported.")
      .def_readonly("call", &OutputCheck::call, "1 is the first.")
      .def_property_readonly(
          "output", [](const OutputCheck& self) { return message_text(self.output); },
          "Its name in the signature, else \"output_0\", ...")
      .def_readonly("ok", &OutputCheck::ok)
      .def_readonly("max_abs_diff", &OutputCheck::max_abs_diff,
                    "The largest ``|expected - actual|``; None where there is nothing to subtract.")
      .def_readonly("allowed", &OutputCheck::allowed, "There: ``atol + rtol * |expected|``.")
      .def_property_readonly(
          "difference", [](const OutputCheck& self) { return message_text(self.difference); },
          "Empty when ok, else such as \"at [0, 3]: expected 1.5, got 2.5\".")
      .def("__repr__", [](const OutputCheck& self) {
        return py::str("<OutputCheck of {!r}, call {}: {}>")
            .format(message_text(self.output), self.call,
                    self.ok ? py::str("ok") : message_text(self.difference));
      });

  py::class_<VerifyReport>(module, "VerifyReport", "What ts_infer.runtime.verify found.")
      .def_property_readonly("ok", &VerifyReport::ok,
                             "Whether every output of every call is within the tolerance.")
      .def_readonly("model", &VerifyReport::model)
      .def_readonly("file_bytes", &VerifyReport::file_bytes)
      .def_readonly("members", &VerifyReport::members,
                    "Number of files in the archive; the CRC-32 of each was right.")
      .def_readonly("sha256", &VerifyReport::sha256, "Of the file, 64 hexadecimal digits.")
      .def_readonly("calls", &VerifyReport::calls)
      .def_readonly("outputs", &VerifyReport::outputs, "Call by call.")
      .def("__repr__", [](const VerifyReport& self) {
        return py::str("<VerifyReport of {!r} on {}: {} calls, {}>")
            .format(message_text(self.model.name), self.model.device, self.calls,
                    self.ok() ? "ok" : "outputs differ");
      });

  module.def("verify_file", &verify_file, py::arg("path"), py::arg("options"), py::arg("sha256"));
  module.def("verify_bytes", &verify_bytes, py::arg("data"), py::arg("options"), py::arg("sha256"));
}

}  // namespace ts_infer::python
