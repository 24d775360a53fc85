#include "ts_infer/timing.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "text.h"

namespace ts_infer::python {

void bind_timing(py::module_& module) {
  py::class_<Timing>(module, "Timing", R"(Where the time of one call went, in milliseconds.

On the host ``h2d_ms`` and ``d2h_ms`` are 0. For inputs that are on the device already nothing
is waited for, so only ``total_ms``, the time to enqueue, is known there.)")
      .def_property_readonly(
          "model", [](const Timing& self) { return message_text(self.model); },
          "Name of the model.")
      .def_readonly("call", &Timing::call, "1 is the first call after load.")
      .def_readonly("h2d_ms", &Timing::h2d_ms, "Copying inputs, host to device.")
      .def_readonly("compute_ms", &Timing::compute_ms)
      .def_readonly("d2h_ms", &Timing::d2h_ms, "Copying outputs, device to host.")
      .def_readonly("total_ms", &Timing::total_ms, "The whole call, checks and copies included.")
      .def(
          "log_line", [](const Timing& self) { return message_text(self.log_line()); },
          "Such as \"dense_tnt inference used time: 22.1718 ms.\", one line.")
      .def("__repr__", [](const Timing& self) {
        return py::str(
                   "Timing(model={!r}, call={}, h2d_ms={:.4g}, compute_ms={:.4g}, "
                   "d2h_ms={:.4g}, total_ms={:.4g})")
            .format(message_text(self.model), self.call, self.h2d_ms, self.compute_ms, self.d2h_ms,
                    self.total_ms);
      });

  py::class_<LoadStep>(module, "LoadStep", R"(One step of a load.

``name`` is "read" (the file's directory and manifest), "integrity" (every CRC-32), "libraries",
"deserialise" (weights and code, onto the device), "optimise", "prepare" (what runs it), or
"warm-up", one for each size.)")
      .def_readonly("name", &LoadStep::name)
      .def_readonly("ms", &LoadStep::ms)
      .def_readonly("shapes", &LoadStep::shapes, "Of a warm-up: the inputs' shapes, by name.")
      .def_readonly("calls_ms", &LoadStep::calls_ms, "Of a warm-up: the time of each call.")
      .def("__repr__", [](const LoadStep& self) {
        return py::str("LoadStep(name={!r}, ms={:.4g}, shapes={!r}, calls_ms={!r})")
            .format(self.name, self.ms, self.shapes, self.calls_ms);
      });

  py::class_<LatencyStats>(module, "LatencyStats", R"(Latency of the calls so far, in milliseconds.

Percentiles have a resolution of 1.6 %; ``count``, ``mean_ms``, ``max_ms`` and ``first_ms`` are
exact. ``h2d_ms``, ``compute_ms`` and ``d2h_ms`` are means.)")
      .def_readonly("count", &LatencyStats::count)
      .def_readonly("mean_ms", &LatencyStats::mean_ms)
      .def_readonly("p50_ms", &LatencyStats::p50_ms)
      .def_readonly("p90_ms", &LatencyStats::p90_ms)
      .def_readonly("p99_ms", &LatencyStats::p99_ms)
      .def_readonly("max_ms", &LatencyStats::max_ms)
      .def_readonly("first_ms", &LatencyStats::first_ms,
                    "The first call after load, or after reset_stats().")
      .def_readonly("h2d_ms", &LatencyStats::h2d_ms)
      .def_readonly("compute_ms", &LatencyStats::compute_ms)
      .def_readonly("d2h_ms", &LatencyStats::d2h_ms)
      .def("__repr__", [](const LatencyStats& self) {
        return py::str(
                   "LatencyStats(count={}, mean_ms={:.4g}, p50_ms={:.4g}, p90_ms={:.4g}, "
                   "p99_ms={:.4g}, max_ms={:.4g}, first_ms={:.4g}, h2d_ms={:.4g}, "
                   "compute_ms={:.4g}, d2h_ms={:.4g})")
            .format(self.count, self.mean_ms, self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms,
                    self.first_ms, self.h2d_ms, self.compute_ms, self.d2h_ms);
      });
}

}  // namespace ts_infer::python
