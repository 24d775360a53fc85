// A library as users write them for their own operators and classes: what LoadOptions::libraries
// loads in the tests.

#include <ATen/ATen.h>
#include <torch/custom_class.h>
#include <torch/library.h>

namespace {

at::Tensor triple(const at::Tensor& x) { return x * 3; }

/// A scale that a model can keep as an attribute.
struct Scaler : torch::CustomClassHolder {
  explicit Scaler(double factor) : factor(factor) {}
  at::Tensor apply(const at::Tensor& x) const { return x * factor; }
  double factor;
};

}  // namespace

TORCH_LIBRARY(ts_infer_test, library) {
  library.def("triple(Tensor x) -> Tensor", &triple);
  library.class_<Scaler>("Scaler")
      .def(torch::init<double>())
      .def("apply", &Scaler::apply)
      .def_pickle([](const c10::intrusive_ptr<Scaler>& self) { return self->factor; },
                  [](double factor) { return c10::make_intrusive<Scaler>(factor); });
}
