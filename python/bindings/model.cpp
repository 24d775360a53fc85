#include "ts_infer/model.h"

#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <memory>
#include <string>
#include <utility>

#include "bindings.h"
#include "call.h"
#include "contents.h"
#include "gil.h"
#include "text.h"

namespace ts_infer::python {

struct Any : py::object {
  Any(py::object object) : py::object(std::move(object)) {}
};

}  // namespace ts_infer::python

template <>
struct pybind11::detail::handle_type_name<ts_infer::python::Any> {
  static constexpr auto name = const_name("typing.Any");
};

namespace ts_infer::python {
namespace {

// A Python function that any thread may call or drop. Its exceptions go to sys.unraisablehook:
// there is no Python frame that could catch them. Ctrl-C is raised when the call returns.
class Callback {
 public:
  explicit Callback(py::object function)
      : function_(function.release().ptr(), [](PyObject* object) {
          if (!GilHold::is_possible()) return;
          const GilHold gil;
          Py_DECREF(object);
        }) {}

  /// Runs `call(function)` with the GIL held.
  template <typename F>
  void operator()(const F& call) const {
    if (!GilHold::is_possible()) return;
    const GilHold gil;
    wait_at_exit([&] {
      try {
        call(py::handle(function_.get()));
      } catch (py::error_already_set& error) {
        if (error.matches(PyExc_KeyboardInterrupt)) {
          PyErr_SetInterrupt();  // it comes again where there is a frame: behind the call
          return;
        }
        error.discard_as_unraisable(py::reinterpret_borrow<py::object>(function_.get()));
      }
    });
  }

 private:
  std::shared_ptr<PyObject> function_;
};

using OnTiming = py::typing::Callable<py::object(Timing)>;
using OnLog = py::typing::Callable<py::object(int, py::str)>;

void set_on_timing(LoadOptions& options, const std::optional<OnTiming>& function) {
  options.on_timing = nullptr;
  if (!function) return;
  options.on_timing = [callback = Callback(*function)](const Timing& timing) {
    callback([&](py::handle python) { python(timing); });
  };
}

void set_on_log(LoadOptions& options, const std::optional<OnLog>& function) {
  options.on_log = nullptr;
  if (!function) return;
  options.on_log = [callback = Callback(*function)](LogLevel level, const std::string& message) {
    // The levels of Python's logging are 10 apart.
    callback([&](py::handle python) {
      python((static_cast<int>(level) + 1) * 10, message_text(message));
    });
  };
}

/// Paths as os.fsencode() has them.
void set_libraries(LoadOptions& options, const std::vector<py::bytes>& paths) {
  options.libraries.assign(paths.begin(), paths.end());
}

Model load_file(const py::bytes& path, const LoadOptions& options) {
  const std::string native_path = path;
  const GilRelease release;
  return Model::load(native_path, options);
}

Model load_bytes(const Contents& data, const LoadOptions& options) {
  const Bytes bytes(data);
  const GilRelease release;
  return Model::load(bytes.data(), bytes.size(), options);
}

ArchiveInfo read_file(const py::bytes& path, const ArchiveLimits& limits) {
  const std::string native_path = path;
  const GilRelease release;
  return read_model_info(native_path, limits);
}

ArchiveInfo read_bytes(const Contents& data, const ArchiveLimits& limits) {
  const Bytes bytes(data);
  const GilRelease release;
  return read_model_info(bytes.data(), bytes.size(), limits);
}

Any forward(Model& self, const py::Args<Any>& args, const py::KWArgs<Any>& kwargs) {
  return call_method(self, "forward", args, kwargs);
}

Any run_method(Model& self, const std::string& method, const py::Args<Any>& args,
               const py::KWArgs<Any>& kwargs) {
  return call_method(self, method, args, kwargs);
}

Any call_within(Model& self, double deadline_ms, const py::Args<Any>& args,
                const py::KWArgs<Any>& kwargs) {
  if (deadline_ms == 0) {  // to the library it is none
    throw InputError("[call] deadline_ms: expected more than 0, got 0");
  }
  RunOptions options;
  options.deadline_ms = deadline_ms;
  return call_method(self, "forward", args, kwargs, options);
}

constexpr const char* kForwardDoc = R"(Run the model.

Arguments go by position or by name, nested as the signature says. A ``torch.Tensor``, a
numpy array or any object with ``__dlpack__`` is taken where a tensor is expected; memory
is shared where it can be. Nothing is cast. The GIL is released while the model computes,
and any number of threads may call at once; the calls of a stateful model take turns.

Returns:
    What ``torch.jit.load(path)(...)`` would: torch tensors, nested the same way. They
    belong to the caller and never alias the model's memory.

Raises:
    InputError: An argument has the wrong count, name, type, dtype, shape or device.
    ExecutionError: The model failed while it ran, or memory ran out.

Example:
    >>> model = runtime.load("densetnt.pt")
    >>> out = model(*inputs)
)";

}  // namespace

void bind_model(py::module_& module) {
  py::class_<ArchiveLimits>(
      module, "ArchiveLimits",
      "What a file may ask for before ``load`` refuses it.\n\n"
      "``file_bytes``; ``members``, files in the archive; "
      "``unpacked_bytes`` of its\ncompressed members, together; "
      "``nesting`` of blocks, brackets and operators in its code,\nand of values.\n")
      .def(py::init([](std::uint64_t file_bytes, std::uint64_t members,
                       std::uint64_t unpacked_bytes, std::uint64_t nesting) {
             return ArchiveLimits{file_bytes, members, unpacked_bytes, nesting};
           }),
           py::kw_only(), py::arg("file_bytes") = ArchiveLimits().file_bytes,
           py::arg("members") = ArchiveLimits().members,
           py::arg("unpacked_bytes") = ArchiveLimits().unpacked_bytes,
           py::arg("nesting") = ArchiveLimits().nesting)
      .def_readonly("file_bytes", &ArchiveLimits::file_bytes)
      .def_readonly("members", &ArchiveLimits::members)
      .def_readonly("unpacked_bytes", &ArchiveLimits::unpacked_bytes)
      .def_readonly("nesting", &ArchiveLimits::nesting)
      .def("__repr__", [](const ArchiveLimits& self) {
        return py::str("ArchiveLimits(file_bytes={}, members={}, unpacked_bytes={}, nesting={})")
            .format(self.file_bytes, self.members, self.unpacked_bytes, self.nesting);
      });

  py::class_<LoadOptions>(module, "LoadOptions", "Arguments of ts_infer.runtime.load.")
      .def(py::init<>())
      .def_readwrite("device", &LoadOptions::device)
      .def_readwrite("executor", &LoadOptions::executor)
      .def_readwrite("optimize", &LoadOptions::optimize)
      .def_readwrite("disabled_passes", &LoadOptions::disabled_passes)
      .def_readwrite("precision", &LoadOptions::precision)
      .def_readwrite("intra_op_threads", &LoadOptions::intra_op_threads)
      .def_readwrite("warmup", &LoadOptions::warmup)
      .def_readwrite("warmup_budget_s", &LoadOptions::warmup_budget_s)
      .def_readwrite("warmup_bytes", &LoadOptions::warmup_bytes)
      .def_readwrite("warmup_shapes", &LoadOptions::warmup_shapes)
      .def_readwrite("verify", &LoadOptions::verify)
      .def_readwrite("reuse_memory", &LoadOptions::reuse_memory)
      .def_readwrite("map_weights", &LoadOptions::map_weights)
      .def_readwrite("graphs", &LoadOptions::graphs)
      .def_readwrite("limits", &LoadOptions::limits)
      .def_readwrite("allow_operators", &LoadOptions::allow_operators)
      .def_readwrite("name", &LoadOptions::name)
      .def("set_libraries", &set_libraries, py::arg("paths"))
      .def("set_on_timing", &set_on_timing, py::arg("function"))
      .def("set_on_log", &set_on_log, py::arg("function"));

  py::class_<ModelInfo>(module, "ModelInfo", "What load() decided and found.")
      .def_property_readonly("name", [](const ModelInfo& self) { return message_text(self.name); })
      .def_property_readonly(
          "path", [](const ModelInfo& self) { return path_text(self.path); },
          "Empty when loaded from memory.")
      .def_readonly("device", &ModelInfo::device)
      .def_readonly("executor", &ModelInfo::executor)
      .def_readonly("decisions", &ModelInfo::decisions,
                    "What was chosen and why, one sentence each.")
      .def_readonly("precision", &ModelInfo::precision, "Of products: fp32, bf16 or fp16.")
      .def_readonly("precision_error", &ModelInfo::precision_error,
                    R"(Of bf16 and fp16, where there is a golden sample: how far outputs are off.

The largest difference from its float outputs, divided by the largest magnitude of that
output.)")
      .def_readonly("stateful", &ModelInfo::stateful,
                    "Whether calls take turns; clone() gives another model its own state.")
      .def_readonly("optimized", &ModelInfo::optimized)
      .def_readonly("grad", &ModelInfo::grad,
                    "Whether its code asks for gradients: calls run in grad mode.")
      .def_readonly("load_ms", &ModelInfo::load_ms)
      .def_readonly("load_steps", &ModelInfo::load_steps, "What load_ms is made of, in order.")
      .def_readonly("reserved_bytes", &ModelInfo::reserved_bytes,
                    "Bytes that torch's allocator holds of a device; on the host, that are kept.")
      .def("__repr__", [](const ModelInfo& self) {
        return py::str(
                   "ModelInfo(name={!r}, path={!r}, device={!r}, executor={!r}, stateful={}, "
                   "optimized={}, load_ms={:.4g}, decisions={!r})")
            .format(message_text(self.name), path_text(self.path), self.device, self.executor,
                    self.stateful, self.optimized, self.load_ms, self.decisions);
      });

  py::class_<NeededLibrary>(module, "NeededLibrary",
                            "A shared library that a model needs, and what it registers.")
      .def_property_readonly(
          "file", [](const NeededLibrary& self) { return path_text(self.file); },
          "Name without folder; empty: unknown.")
      .def_readonly("operators", &NeededLibrary::operators)
      .def_readonly("classes", &NeededLibrary::classes)
      .def("__repr__", [](const NeededLibrary& self) {
        return py::str("NeededLibrary(file={!r}, operators={!r}, classes={!r})")
            .format(path_text(self.file), self.operators, self.classes);
      });

  py::class_<ScriptedPart>(module, "ScriptedPart",
                           "A part that the export compiled from its source instead of tracing it.")
      .def_readonly("name", &ScriptedPart::name)
      .def_readonly("reason", &ScriptedPart::reason)
      .def("__repr__", [](const ScriptedPart& self) {
        return py::str("ScriptedPart(name={!r}, reason={!r})").format(self.name, self.reason);
      });

  py::class_<AuditProbe>(module, "AuditProbe", "What one probe of the export's audit did.")
      .def_readonly("name", &AuditProbe::name)
      .def_readonly("outcome", &AuditProbe::outcome, "One of \"passed\", \"found\", \"skipped\".")
      .def_readonly("runs", &AuditProbe::runs)
      .def_readonly("reason", &AuditProbe::reason, "Of a skipped one.")
      .def("__repr__", [](const AuditProbe& self) {
        return py::str("AuditProbe(name={!r}, outcome={!r}, runs={}, reason={!r})")
            .format(self.name, self.outcome, self.runs, self.reason);
      });

  py::class_<Audit>(module, "Audit", "How the export compared the model with the module.")
      .def_readonly("level", &Audit::level, "One of \"full\", \"fast\", \"off\".")
      .def_readonly("probes", &Audit::probes)
      .def_readonly("allowed", &Audit::allowed, "Codes of findings that were accepted.")
      .def("__repr__", [](const Audit& self) {
        return py::str("Audit(level={!r}, probes={!r}, allowed={!r})")
            .format(self.level, self.probes, self.allowed);
      });

  py::class_<ArchiveInfo>(module, "ArchiveInfo",
                          "What a model file says of itself; nothing of it was run.")
      .def_property_readonly(
          "path", [](const ArchiveInfo& self) { return path_text(self.path); },
          "Empty when read from memory.")
      .def_readonly("file_bytes", &ArchiveInfo::file_bytes)
      .def_property_readonly(
          "name", [](const ArchiveInfo& self) { return message_text(self.name); },
          "From the manifest, else the archive's own.")
      .def_readonly("method", &ArchiveInfo::method,
                    "How it was exported: \"trace\", \"script\", \"hybrid\"; empty: unknown.")
      .def_readonly("torch_version", &ArchiveInfo::torch_version,
                    "Of the torch that exported it; empty: unknown.")
      .def_readonly("signature", &ArchiveInfo::signature, "None: the archive has no manifest.")
      .def_readonly("warmup_shapes", &ArchiveInfo::warmup_shapes, "Sizes by input name.")
      .def_readonly("state", &ArchiveInfo::state, "Paths of the attributes that calls change.")
      .def_readonly("scripted", &ArchiveInfo::scripted, "Parts that the export did not trace.")
      .def_readonly("audit", &ArchiveInfo::audit, "None: not recorded.")
      .def_readonly("libraries", &ArchiveInfo::libraries,
                    "What ``libraries`` of ``ts_infer.runtime.load`` must have.")
      .def_readonly("golden_calls", &ArchiveInfo::golden_calls,
                    "Calls that ``ts_infer.runtime.verify`` makes; 0: no golden sample.")
      .def_readonly("methods", &ArchiveInfo::methods)
      .def_readonly("restricted_operators", &ArchiveInfo::restricted_operators,
                    "That ``load`` refuses unless they are allowed.")
      .def_readonly("operators", &ArchiveInfo::operators,
                    "Such as \"torch.conv2d\" and \"ops.mine.op\", sorted.")
      .def_readonly("devices", &ArchiveInfo::devices, "Named in the code or the constants, sorted.")
      .def_readonly("weight_bytes", &ArchiveInfo::weight_bytes)
      .def_readonly("members", &ArchiveInfo::members, "Number of files in the archive.")
      .def_readonly("damaged", &ArchiveInfo::damaged, "Members whose CRC-32 does not match.")
      .def_readonly("code", &ArchiveInfo::code,
                    "TorchScript source by its path in the archive; a package has none.")
      .def_readonly("manifest_json", &ArchiveInfo::manifest_json, "Empty where there is none.")
      .def("__repr__", [](const ArchiveInfo& self) {
        return py::str("<ArchiveInfo of {!r}: {} bytes, {} members, methods {!r}>")
            .format(message_text(self.name), self.file_bytes, self.members, self.methods);
      });

  py::class_<Model>(module, "Model", R"(A loaded model; ``ts_infer.runtime.load`` makes one.

Every method is safe from any number of threads at once.)")
      .def("__call__", &forward, kForwardDoc)
      .def("forward", &forward, kForwardDoc)
      // Its own argument has no name, so that no argument of the method can clash with it.
      .def("run_method", &run_method, R"(Run another method, whose name comes first.

The other arguments, the result and the errors are those of a call; it does not count in the
stats.

Raises:
    InputError: There is no such method, or an argument is wrong.
    ExecutionError: The method failed while it ran, or memory ran out.

Example:
    >>> model.run_method("reset_states")
)")
      .def("call_within", &call_within,
           R"(Run the model, and stop waiting after so many milliseconds.

The deadline, above 0, comes first; the other arguments, the result and the errors are
those of a call. The call runs on a thread of the model's own, on copies of the inputs,
which are on the host. The first such call starts the thread; the time counts from when
it is there. Nothing can stop what runs: past the deadline it goes on in the background
and its outputs are dropped. The next call of a stateful model waits for it, and so does
the model's destruction.

Raises:
    InputError: An argument is wrong, the deadline too.
    ExecutionError: The model failed, or there was no result by the deadline; it says what
        happened.

Example:
    >>> out = model.call_within(20, *inputs)
)")
      .def("method_names", &Model::method_names, "Includes \"forward\" where there is one.")
      .def_property_readonly("signature", &Model::signature, "What a call takes and returns.")
      .def("info", &Model::info, py::return_value_policy::reference_internal,
           "What load() decided and found.")
      .def("warm_up_this_thread", &Model::warm_up_this_thread, py::call_guard<GilRelease>(),
           R"(Do on the calling thread what ``load`` did on its own, at the same sizes.

For a thread that is to make calls, before its first one: what is kept per thread, such as
the pool of intra-op threads, is then there. The calls do not count in the stats.

Raises:
    ExecutionError: The model failed, or memory ran out.
)")
      .def("stats", &Model::stats, py::call_guard<GilRelease>(),
           "Latency of the calls since load or reset_stats().")
      .def("reset_stats", &Model::reset_stats, py::call_guard<GilRelease>(),
           "Forget all calls so far.")
      .def("clone", &Model::clone, py::call_guard<GilRelease>(),
           "Another model that shares the weights, with its own copy of the state and no stats.")
      .def("__repr__", [](const Model& self) {
        return py::str("<ts_infer.runtime.Model {!r} on {}>")
            .format(message_text(self.info().name), self.info().device);
      });

  module.def("load_file", &load_file, py::arg("path"), py::arg("options"));
  module.def("load_bytes", &load_bytes, py::arg("data"), py::arg("options"));
  module.def("read_file", &read_file, py::arg("path"), py::arg("limits"));
  module.def("read_bytes", &read_bytes, py::arg("data"), py::arg("limits"));
  module.def("executors", &executors, "Values of ``executor`` of ``ts_infer.runtime.load``.");
  module.def("restricted_operators", &restricted_operators,
             "Operators that reach beyond the model, which ``ts_infer.runtime.load`` refuses.\n\n"
             "A name that ends in ``::`` is a namespace of them.\n");
  module.def("passes", &passes, "Values of ``disabled_passes`` of ``ts_infer.runtime.load``.");
  module.def("available_devices", &available_devices, py::call_guard<GilRelease>(),
             "The devices that this process can use: \"cpu\", \"cuda:0\", ...");
}

}  // namespace ts_infer::python
