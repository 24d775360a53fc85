// The C++ contestants of peers.py: one archive, called in a loop that has no Python in it.

#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/extension.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ts_infer/torch.h"
#include "ts_infer/ts_infer.h"

namespace {

using Arguments = std::vector<c10::IValue>;

class TorchJit {
 public:
  explicit TorchJit(const std::string& path) : module_(torch::jit::load(path)) {}

  c10::IValue operator()(const Arguments& arguments) {
    const c10::InferenceMode inference;
    return module_.forward(arguments);
  }

 private:
  torch::jit::Module module_;
};

class TsInfer {
 public:
  explicit TsInfer(const std::string& path) : model_(ts_infer::Model::load(path, on_host())) {}

  c10::IValue operator()(const Arguments& arguments) {
    return ts_infer::call(model_, "forward", arguments);
  }

 private:
  static ts_infer::LoadOptions on_host() {
    ts_infer::LoadOptions options;
    options.device = "cpu";
    return options;
  }

  ts_infer::Model model_;
};

template <class Engine>
class Runner {
 public:
  explicit Runner(const std::string& path) : engine_(path) {}

  std::vector<at::Tensor> call(const py::args& values) {
    const Arguments arguments = to_arguments(values);
    const py::gil_scoped_release released;
    return to_tensors(engine_(arguments));
  }

  /// Calls with each of the inputs in turn, so many times over.
  void repeat(const std::vector<py::tuple>& inputs, std::size_t passes) {
    std::vector<Arguments> calls;
    for (const py::tuple& values : inputs) calls.push_back(to_arguments(values));
    const py::gil_scoped_release released;
    for (std::size_t i = 0; i < passes; ++i) {
      for (const Arguments& arguments : calls) engine_(arguments);
    }
  }

 private:
  static Arguments to_arguments(const py::tuple& values) {
    Arguments arguments;
    for (const py::handle value : values) {
      if (py::isinstance<py::int_>(value)) {
        arguments.emplace_back(value.cast<std::int64_t>());
      } else {
        arguments.emplace_back(value.cast<at::Tensor>());
      }
    }
    return arguments;
  }

  static std::vector<at::Tensor> to_tensors(const c10::IValue& result) {
    if (result.isTensor()) return {result.toTensor()};
    std::vector<at::Tensor> tensors;
    for (const c10::IValue& element : result.toTupleRef().elements()) {
      tensors.push_back(element.toTensor());
    }
    return tensors;
  }

  Engine engine_;
};

template <class Engine>
void define(py::module_& module, const char* name) {
  py::class_<Runner<Engine>>(module, name)
      .def(py::init<const std::string&>(), py::call_guard<py::gil_scoped_release>())
      .def("call", &Runner<Engine>::call)
      .def("repeat", &Runner<Engine>::repeat);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  define<TorchJit>(module, "TorchJit");
  define<TsInfer>(module, "TsInfer");
}
