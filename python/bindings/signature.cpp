#include "ts_infer/signature.h"

#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings.h"

namespace ts_infer::python {

struct TorchDType : py::object {
  using py::object::object;
};

namespace {

py::typing::Optional<TorchDType> torch_dtype(const TensorSpec& spec) {
  if (!spec.dtype) return py::none();
  return py::object(py::module_::import("torch").attr(to_string(*spec.dtype)));
}

}  // namespace
}  // namespace ts_infer::python

template <>
struct pybind11::detail::handle_type_name<ts_infer::python::TorchDType> {
  static constexpr auto name = const_name("torch.dtype");
};

namespace ts_infer::python {

void bind_signature(py::module_& module) {
  py::class_<Dim>(module, "Dim",
                  "One dimension of a declared shape: a fixed size, a named range, or unknown.")
      .def_readonly("name", &Dim::name,
                    "Of a dynamic dimension, else empty; equal names mean one value.")
      .def_readonly("min", &Dim::min, "Smallest size; None where it is not checked.")
      .def_readonly("max", &Dim::max, "Largest size; None where there is no bound.")
      .def_readonly("factor", &Dim::factor, "Sizes are factor * value + offset.")
      .def_readonly("offset", &Dim::offset)
      .def_property_readonly("is_static", &Dim::is_static, "Whether only one size is allowed.")
      .def("__str__", &Dim::to_string)
      .def("__repr__", [](const Dim& self) { return "<Dim " + self.to_string() + ">"; });

  py::class_<TensorSpec>(module, "TensorSpec",
                         "One argument or result of a model, or a leaf of an argument.")
      .def_readonly("name", &TensorSpec::name)
      .def_readonly("type", &TensorSpec::type,
                    "In TorchScript: \"Tensor\", \"List[Tensor]\", \"int\", ...")
      .def_property_readonly("dtype", &torch_dtype, "Of a Tensor; None: unknown, not checked.")
      .def_readonly("shape", &TensorSpec::shape,
                    "Of a Tensor, one Dim an axis; None: rank unknown, not checked.")
      .def_readonly("has_default", &TensorSpec::has_default, "Whether it may be left out.")
      .def_readonly(
          "leaves", &TensorSpec::leaves,
          R"(Of an argument that is a list, tuple or dict: what it is made of, depth-first.

A leaf's name is its path: "sensors.imu", "clips[0]". Empty: unknown, not checked.)")
      .def_readonly("any_length", &TensorSpec::any_length,
                    "Whether its lists may have more and fewer elements than there are leaves.")
      .def_readonly("any_keys", &TensorSpec::any_keys,
                    "Whether its dicts may have more and fewer keys.")
      .def("__str__", &TensorSpec::to_string)
      .def("__repr__",
           [](const TensorSpec& self) { return "<TensorSpec " + self.to_string() + ">"; });

  py::class_<Signature>(module, "Signature", R"(What a model takes and returns.

Outputs are flattened depth-first, dict entries in insertion order. Without a manifest in the
archive, dtypes and shapes are unknown. ``str(signature)`` has one line an entry and a leaf.)")
      .def_readonly("inputs", &Signature::inputs)
      .def_readonly("outputs", &Signature::outputs)
      .def("__str__", &Signature::to_string)
      .def("__repr__",
           [](const Signature& self) { return "<Signature\n" + self.to_string() + ">"; });
}

}  // namespace ts_infer::python
