#include "ts_infer/model.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/clone.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <system_error>
#include <unordered_map>
#include <unordered_set>

#include "archive/archive.h"
#include "archive/golden.h"
#include "background_calls.h"
#include "device/call_graphs.h"
#include "device/device.h"
#include "device/device_call.h"
#include "device/host_cache.h"
#include "device/memory.h"
#include "device/streams.h"
#include "differences.h"
#include "dtype.h"
#include "engine/package_engine.h"
#include "engine/torchscript_engine.h"
#include "input_check.h"
#include "input_nodes.h"
#include "intra_op_threads.h"
#include "ivalues.h"
#include "libraries.h"
#include "messages.h"
#include "model_access.h"
#include "output_checks.h"
#include "print_capture.h"
#include "process.h"
#include "stats.h"
#include "tensor_access.h"
#include "ts_infer/torch.h"
#include "warmup.h"

namespace ts_infer {
namespace {

using Clock = std::chrono::steady_clock;
using Stack = std::vector<c10::IValue>;

constexpr int kMostIntraOpThreads = 4096;
constexpr double kLongestDeadline = 1e9;  // ms; eleven days

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// Collects what libtorch would print, to be handed on when no lock is held.
class WarningCollector : public c10::WarningHandler {
 public:
  explicit WarningCollector(std::vector<std::string>& messages)
      : messages_(messages), guard_(this) {}
  void process(const c10::Warning& warning) override { messages_.push_back(warning.msg()); }

 private:
  std::vector<std::string>& messages_;
  c10::WarningUtils::WarningHandlerGuard guard_;
};

constexpr const char* kForked =
    " expected the process that loaded the model, got a child of fork(), which has none of the "
    "threads that calls need; start it by other means (multiprocessing: \"spawn\"), or load the "
    "model in the child with intra_op_threads=1";

/// OpenMP waits for the threads of its pool, which a child of fork() does not have, without end.
void require_openmp(const std::string& where, int intra_op_threads) {
  const int threads = intra_op_threads > 0 ? intra_op_threads : at::get_num_threads();
  if (fork_count() == 0 || threads == 1) return;
  throw ModelLoadError(
      c10::str(where,
               ": expected a process of its own, got a child of fork() by one that had loaded a "
               "model, without the threads that OpenMP has in it, and ",
               threads,
               " threads a call; start it by other means (multiprocessing: \"spawn\"), or load "
               "with intra_op_threads=1"));
}

/// Puts torch's default random generators back as they were.
class RandomState {
 public:
  explicit RandomState(c10::Device device) {
    save(c10::kCPU);
    if (!device.is_cpu()) save(device);
  }
  ~RandomState() {
    for (auto& [generator, state] : states_) {
      const std::lock_guard<std::mutex> lock(generator.mutex());
      generator.set_state(state);
    }
  }
  RandomState(const RandomState&) = delete;
  RandomState& operator=(const RandomState&) = delete;

 private:
  void save(c10::Device device) {
    try {
      at::Generator generator = at::globalContext().defaultGenerator(device);
      const std::lock_guard<std::mutex> lock(generator.mutex());
      states_.emplace_back(generator, generator.get_state());
    } catch (const c10::Error&) {
      // The backend has none.
    }
  }

  std::vector<std::pair<at::Generator, at::Tensor>> states_;
};

/// An ordinary tensor over the storage of one made in inference mode; where a storage, sizes and
/// strides are all that it is, nothing is copied.
at::Tensor as_ordinary(const at::Tensor& tensor) {
  if (!tensor.is_inference()) return tensor;
  const bool is_plain = tensor.layout() == c10::kStrided && tensor.has_storage() &&
                        !tensor.is_quantized() && !tensor.is_meta();
  const bool no_copy = tensor.is_quantized() &&  // torch has none of these
                       tensor.qscheme() == at::kPerChannelAffineFloatQParams;
  if (!is_plain) return no_copy ? tensor : tensor.clone();
  at::Tensor ordinary = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(tensor.storage()),
                                                                 tensor.key_set(), tensor.dtype());
  ordinary.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                        tensor.storage_offset());
  return ordinary;
}

/// Tells which outputs share memory with anything but each other: an input, a weight, the state.
class OutputOwnership {
 public:
  explicit OutputOwnership(const c10::IValue& result) {
    bool all_unique = true;
    for_each_tensor(result, [&](const at::Tensor& tensor) {
      all_unique = all_unique && tensor.use_count() == 1 &&
                   (!tensor.has_storage() || tensor.storage().use_count() == 1);
    });
    if (!all_unique) find_shared(result);
  }

  bool is_shared(const at::Tensor& tensor) const {
    return !shared_.empty() && shared_.count(key(tensor)) > 0;
  }

 private:
  /// What memory is told apart by: its storage, or the tensor itself where there is none.
  static const void* key(const at::Tensor& tensor) {
    if (!tensor.has_storage()) return tensor.unsafeGetTensorImpl();
    return tensor.storage().unsafeGetStorageImpl();
  }

  template <typename Visit>
  static void for_each_tensor(const c10::IValue& result, const Visit& visit) {
    if (result.isTensor()) {
      if (result.toTensor().defined()) visit(result.toTensor());
      return;
    }
    for_each_leaf(result, [&](const c10::IValue& leaf) {
      if (leaf.isTensor() && leaf.toTensor().defined()) visit(leaf.toTensor());
    });
  }

  /// Memory is shared where it has more owners than the outputs themselves account for.
  void find_shared(const c10::IValue& result) {
    std::unordered_map<const c10::TensorImpl*, std::size_t> handles;
    std::unordered_map<const void*, std::size_t> tensors;
    for_each_tensor(result, [&](const at::Tensor& tensor) {
      if (handles[tensor.unsafeGetTensorImpl()]++ == 0) ++tensors[key(tensor)];
    });
    for_each_tensor(result, [&](const at::Tensor& tensor) {
      if (tensor.use_count() > handles[tensor.unsafeGetTensorImpl()] ||
          (tensor.has_storage() && tensor.storage().use_count() > tensors[key(tensor)])) {
        shared_.insert(key(tensor));
      }
    });
  }

  std::unordered_set<const void*> shared_;
};

/// Whether two tensors surely have elements in common. Those with gaps may lie between each other.
bool share_memory(const at::Tensor& a, const at::Tensor& b) {
  if (a.device() != b.device() || a.numel() == 0 || b.numel() == 0) return false;
  if (!a.is_non_overlapping_and_dense() || !b.is_non_overlapping_and_dense()) return false;
  const auto* const begin_a = static_cast<const char*>(a.const_data_ptr());
  const auto* const begin_b = static_cast<const char*>(b.const_data_ptr());
  return std::less<>()(begin_a, begin_b + b.nbytes()) &&
         std::less<>()(begin_b, begin_a + a.nbytes());
}

/// Arguments in the schema's order, defaults filled in. `convert(value, argument)` makes an IValue
/// of a caller's value, and throws an InputError that says what is wrong.
template <typename V, typename Kwargs, typename Convert>
Stack bind_arguments(const c10::FunctionSchema& schema, const std::vector<V>& args,
                     const Kwargs& kwargs, const InputCheck& check, const Convert& convert) {
  const auto& arguments = schema.arguments();
  const std::size_t expected = arguments.size() - 1;  // without self
  if (args.size() > expected) {
    check.fail(c10::str("expected ", expected, " inputs at most, got ", args.size()));
  }
  const auto refuse_unknown = [&] {
    for (const auto& kwarg : kwargs) {
      const std::string& name = kwarg.first;  // clang before 16 captures no structured binding
      const bool known = std::any_of(arguments.begin() + 1, arguments.end(),
                                     [&](const auto& argument) { return argument.name() == name; });
      if (!known) check.fail("expected inputs of the model, got an unknown one, \"" + name + '"');
    }
  };
  Stack stack;
  stack.reserve(expected + 1);
  std::size_t used = 0;
  for (std::size_t i = 0; i < expected; ++i) {
    const c10::Argument& argument = arguments[i + 1];
    const auto named = kwargs.empty() ? kwargs.end() : kwargs.find(argument.name());
    const V* value = i < args.size() ? &args[i] : nullptr;
    if (named != kwargs.end()) {
      if (value) {
        check.fail(argument.name(), "expected one value, got one by position and one by name");
      }
      value = &named->second;
      ++used;
    }
    if (value) {
      try {
        stack.push_back(convert(*value, argument));
      } catch (const InputError& error) {
        check.fail(error.what());
      }
    } else if (argument.default_value()) {
      stack.push_back(*argument.default_value());
    } else {
      refuse_unknown();  // which may be a wrong name of this one
      check.fail(argument.name(), "expected a value, got none");
    }
  }
  if (used < kwargs.size()) refuse_unknown();
  return stack;
}

c10::IValue check_type(const c10::IValue& value, const c10::Argument& argument) {
  if (!value.type()->isSubtypeOf(*argument.type())) {
    throw InputError(c10::str("input \"", argument.name(), "\": expected ",
                              argument.type()->annotation_str(), ", got ",
                              value.type()->annotation_str()));
  }
  return value;
}

Signature signature_from(const c10::FunctionSchema& schema) {
  Signature signature;
  for (std::size_t i = 1; i < schema.arguments().size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    TensorSpec spec;
    spec.name = argument.name();
    spec.type = argument.type()->annotation_str();
    spec.has_default = argument.default_value().has_value();
    signature.inputs.push_back(std::move(spec));
  }
  for (const c10::Argument& result : schema.returns()) {
    TensorSpec spec;
    spec.name = result.name().empty() ? "output" : result.name();
    spec.type = result.type()->annotation_str();
    signature.outputs.push_back(std::move(spec));
  }
  return signature;
}

/// Known reasons for which libtorch refuses an archive, with the remedy.
std::string explain_load_failure(const std::string& message,
                                 const std::vector<NeededLibrary>& libraries) {
  if (std::string missing = explain_missing(message, libraries); !missing.empty()) return missing;
  if (message.find("keyword attribute 'value' is undefined") != std::string::npos) {
    return message +
           "; it was saved after optimize_for_inference, which torch cannot load again: "
           "save the frozen module instead, it is optimised at load";
  }
  return message;
}

/// A tensor that gradients may be taken of and that knows nothing of those taken before.
at::Tensor without_history(const at::Tensor& tensor) {
  return tensor.is_inference() ? tensor.clone() : tensor.detach();
}

}  // namespace

struct Model::Impl {
  struct Method {
    const c10::FunctionSchema* schema;
    bool tensors_only;  // every argument is a Tensor without default
    InputCheck check;
  };

  LoadOptions options;
  c10::Device device{c10::kCPU};
  ArchiveInfo archive;
  ModelInfo info;
  Signature signature;
  std::vector<InputNode> nodes;  // of forward's arguments
  std::unique_ptr<Engine> engine;
  std::shared_ptr<const WarmUp> warm_up;
  std::shared_ptr<CallGraphs> graphs;      // of forward; nullptr: not asked for, or none recorded
  std::shared_ptr<const HostCache> cache;  // nullptr: host memory is not reused
  std::vector<Method> methods;
  std::size_t forward = std::string::npos;

  StatsRecorder stats;
  std::atomic<std::uint64_t> calls{0};
  std::mutex turn;                            // of a stateful model
  std::shared_ptr<const StreamLease> stream;  // on a device: of a stateful model
  std::atomic<bool> unwaited{false};  // a call returned while the device may still read weights
  const unsigned forks = fork_count();
  std::unique_ptr<BackgroundCalls> background;  // of calls with a deadline

  explicit Impl(const LoadOptions& load_options)
      : options(load_options),
        background(std::make_unique<BackgroundCalls>(load_options.intra_op_threads)) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl();

  static std::unique_ptr<Impl> load(const std::shared_ptr<const Archive>& archive,
                                    const LoadOptions& options);
  void adopt(std::unique_ptr<Engine> loaded);

  /// Another model with its own state. On a device, it is made on `on`, and the state used there.
  std::unique_ptr<Impl> copy(std::shared_ptr<const StreamLease> on);
  /// Has `use` make calls that leave no trace in the model's state, stats and generators.
  void rehearse_with(const std::function<void(const WarmUpCall&)>& use);
  std::vector<LoadStep> rehearse();
  void measure_precision(const std::vector<GoldenCall>& calls);
  void check_golden(const Archive& loaded);
  void record_graphs(std::shared_ptr<CallGraphs> recording);

  /// forward's signature as the manifest has it, where there is one.
  Signature with_manifest(const Signature& of_schema) const;

  std::string where() const { return "[call] " + info.name + ':'; }
  void log(LogLevel level, const std::string& message) const;
  std::size_t find_method(const std::string& name) const;

  Stack bind(std::size_t method, const std::vector<Tensor>& inputs) const;
  Stack bind(std::size_t method, const std::vector<Value>& args,
             const std::map<std::string, Value>& kwargs) const;

  /// What came of a call.
  struct Outcome {
    c10::IValue result;
    Timing timing;
    std::vector<std::string> messages;  // libtorch's warnings, and what the model's code printed
  };

  /// Where inputs are and outputs go.
  struct Places {
    bool host_inputs;
    bool host_outputs;
  };

  c10::IValue run(std::size_t method, Stack stack, const RunOptions& run_options);
  Outcome run_within_deadline(std::size_t method, const Stack& stack, const RunOptions& run_options,
                              const Places& places);
  /// Makes ExecutionErrors of what `work` throws.
  template <typename Work>
  auto guarded(const Work& work) const -> decltype(work());

  /// A call, without stats and callbacks.
  c10::IValue execute(std::size_t method, Stack stack, const RunOptions& run_options,
                      const Places& places, Timing& timing);
  /// The same, with its messages, which are there where it throws too.
  void execute_into(Outcome& outcome, std::size_t method, Stack stack,
                    const RunOptions& run_options, const Places& places);
  void tell(const Outcome& outcome) const;

  /// Refuses what is wrong with a call before the model sees it.
  Places check_call(std::size_t method, const Stack& stack, const RunOptions& run_options) const;
  /// Refuses tensors that no call could read; returns whether there is none on the device.
  bool check_tensors(std::size_t method, const Stack& stack) const;
  c10::IValue compute(std::size_t method, Stack& stack, DeviceCall* call, Timing& timing);
  c10::IValue release(const c10::IValue& result, DeviceCall* call, bool to_host) const;
  void check_buffers(const std::vector<Tensor>& buffers) const;
  void copy_outputs(const c10::IValue& result, const std::vector<Tensor>& buffers,
                    DeviceCall* call) const;
  std::vector<Tensor> flatten(const c10::IValue& result) const;
  void finish(std::size_t method, Outcome& outcome);
};

Model::Impl::~Impl() {
  background = nullptr;
  if (!unwaited || forks != fork_count()) return;
  try {
    synchronize(device);
  } catch (const std::exception&) {
    // The device failed or is shut down: nothing reads the weights any more.
  }
}

std::unique_ptr<Model::Impl> Model::Impl::load(const std::shared_ptr<const Archive>& archive,
                                               const LoadOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  impl->archive = archive->info();
  ModelInfo& info = impl->info;
  info.name = options.name.empty() ? archive->info().name : options.name;
  info.path = archive->info().path;
  info.load_steps = archive->steps();
  const std::string where = "[load] " + archive->subject();
  if (options.intra_op_threads < 0 || options.intra_op_threads > kMostIntraOpThreads) {
    throw ModelLoadError(c10::str(where, ": intra_op_threads: expected 0 to ", kMostIntraOpThreads,
                                  ", got ", options.intra_op_threads));
  }
  if (!can_start_threads(options.intra_op_threads - 1)) {
    throw ModelLoadError(
        c10::str(where, ": intra_op_threads: the process, its user or its container may not have ",
                 options.intra_op_threads, " threads more: lower it, or raise their limits"));
  }
  require_openmp(where, options.intra_op_threads);
  archive->require_intact();
  archive->require_operators(options.allow_operators);
  const bool own_device = archive->compiled() && options.device == "auto";
  impl->device = resolve_device<ModelLoadError>(
      where + ':', own_device ? archive->compiled()->device : options.device);
  info.device = impl->device.str();

  const auto step = [&](const char* name, const auto& work) {
    const auto start = Clock::now();
    work();
    info.load_steps.push_back({name, ms_since(start), {}, {}});
  };
  std::vector<std::string> messages;
  const WarningCollector warnings(messages);
  const PrintCapture prints(messages);
  try {
    auto recording = options.graphs ? std::make_shared<CallGraphs>(impl->device) : nullptr;
    const c10::InferenceMode ordinary(false);  // weights may outlive a guard of the host
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const IntraOpThreads threads(options.intra_op_threads);
    if (!options.libraries.empty()) step("libraries", [&] { load_libraries(options.libraries); });
    c10::OptionalStreamGuard on_stream;
    if (!impl->device.is_cpu()) {
      impl->stream = std::make_shared<StreamLease>(impl->device);
      on_stream.reset_stream(impl->stream->stream());
    }
    if (impl->device.is_cpu() && options.reuse_memory) {
      impl->cache = std::make_shared<HostCache>();
      if (!impl->cache->is_active()) {
        info.decisions.push_back(
            "memory is not reused: the host has a CPU allocator of a higher priority");
      }
    }
    if (archive->is_package()) {
      step("unpack", [&] { impl->adopt(load_package(*archive, impl->device, info)); });
    } else {
      impl->adopt(load_torchscript(*archive, impl->device, options, info));
    }
    if (impl->stream) impl->stream->stream().synchronize();  // calls may run on others
    on_stream.reset();
    if (info.stateful) {
      info.decisions.push_back("stateful, calls take turns: " + impl->engine->state());
    } else {
      impl->stream = nullptr;  // given back: the first thread that serves gets it
    }
    if (impl->forward == std::string::npos) {
      if (options.verify) throw ModelLoadError("verify: expected a forward to call, got none");
      info.decisions.push_back("not warmed up: there is no forward");
    } else {
      impl->warm_up =
          std::make_shared<WarmUp>(options, *archive, info.name, impl->signature, impl->nodes);
      if (!impl->warm_up->reason().empty()) {
        info.decisions.push_back("not warmed up: " + impl->warm_up->reason());
      }
      const OwnStreamScope as_a_serving_thread(impl->device);
      for (LoadStep& warm_up : impl->rehearse()) info.load_steps.push_back(std::move(warm_up));
      if (info.precision != "fp32") {
        step("measure precision", [&] { impl->measure_precision(golden_calls(*archive)); });
      }
      if (recording) impl->record_graphs(std::move(recording));
      if (options.verify) step("verify", [&] { impl->check_golden(*archive); });
    }
  } catch (const Error& error) {
    throw ModelLoadError(where + ": " + error.what());
  } catch (const c10::OutOfMemoryError& error) {
    throw ModelLoadError(c10::str(where, ": its weights are ", impl->archive.weight_bytes,
                                  " bytes: out of memory: ", clean_message(error),
                                  memory_text(impl->device)));
  } catch (const std::bad_alloc&) {
    throw ModelLoadError(where + ": out of host memory");
  } catch (const std::exception& error) {
    throw ModelLoadError(where + ": " +
                         explain_load_failure(clean_message(error), impl->archive.libraries));
  }
  if (const auto memory = device_memory(impl->device)) {
    info.reserved_bytes = static_cast<std::uint64_t>(memory->reserved);
  } else if (impl->cache) {
    info.reserved_bytes = impl->cache->peak_bytes();
  }
  watch_exit();
  for (const LoadStep& done : info.load_steps) info.load_ms += done.ms;
  for (const std::string& message : messages) impl->log(LogLevel::kWarning, message);
  for (const std::string& decision : info.decisions) impl->log(LogLevel::kInfo, decision);
  return impl;
}

void Model::Impl::rehearse_with(const std::function<void(const WarmUpCall&)>& use) {
  const RandomState random(device);
  std::vector<std::string> of_nobodys_call;
  const PrintCapture dropped(of_nobodys_call);
  // A stateful model keeps its state. On a device the copy takes the model's own stream, whose
  // memory is what has to be there.
  const std::unique_ptr<Impl> understudy = info.stateful ? copy(stream) : nullptr;
  Impl& actor = understudy ? *understudy : *this;
  use([&](const std::vector<Value>& args) {
    Timing timing;
    Stack stack = actor.bind(forward, args, {});
    const Places places = actor.check_call(forward, stack, {});
    return actor.execute(forward, std::move(stack), {}, places, timing);
  });
}

std::vector<LoadStep> Model::Impl::rehearse() {
  std::vector<LoadStep> steps;
  if (!warm_up || !warm_up->reason().empty()) return steps;
  rehearse_with([&](const WarmUpCall& call) {
    steps = warm_up->run(
        call, [this](LogLevel level, const std::string& message) { log(level, message); });
  });
  return steps;
}

void Model::Impl::measure_precision(const std::vector<GoldenCall>& calls) {
  if (calls.empty()) {
    info.decisions.push_back("the error of precision " + info.precision +
                             " is not known: there is no golden sample");
    return;
  }
  double largest = 0;
  rehearse_with([&](const WarmUpCall& call) {
    for (const GoldenCall& golden : calls) {
      std::size_t next = 0;
      for_each_leaf(call(from_ivalues(golden.inputs, where())), [&](const c10::IValue& leaf) {
        if (next == golden.outputs.size()) return;
        const c10::IValue& expected = golden.outputs[next++];
        if (leaf.isTensor() && expected.isTensor()) {
          largest = std::max(largest, relative_error(leaf.toTensor(), expected.toTensor()));
        }
      });
    }
  });
  info.precision_error = largest;
  info.decisions.push_back(c10::str("precision ", info.precision,
                                    ": the golden sample's outputs differ by up to ", largest,
                                    " of their largest magnitude"));
}

void Model::Impl::check_golden(const Archive& loaded) {
  if (!loaded.golden()) {
    throw ModelLoadError(
        "verify: expected a golden sample in the file, got none; export the model with "
        "ts_infer.export, which writes one or says why not, or load it without verify");
  }
  const Golden& golden = *loaded.golden();
  const Tolerances& tolerances = device.is_cpu() ? golden.on_cpu : golden.on_accelerator;
  std::size_t number = 0;
  std::vector<OutputCheck> differing;
  std::size_t outputs = 0;
  rehearse_with([&](const WarmUpCall& call) {
    for (const GoldenCall& expected : golden_calls(loaded)) {
      c10::IValue result;
      try {
        result = call(from_ivalues(expected.inputs, where()));
      } catch (const InputError& error) {
        throw ModelLoadError(std::string("verify: its golden sample does not fit it: ") +
                             error.what() + "; export the model again");
      }
      for (OutputCheck& check : check_outputs(expected, ++number, result, signature, tolerances)) {
        ++outputs;
        if (!check.ok) differing.push_back(std::move(check));
      }
    }
  });
  if (outputs == 0) throw ModelLoadError("verify: expected outputs to compare, got none");
  if (differing.empty()) return;
  const OutputCheck& first = differing.front();
  std::string by;
  if (first.max_abs_diff) {
    by = c10::str(" (by ", *first.max_abs_diff, ", allowed ", first.allowed, ')');
  }
  throw ModelLoadError(c10::str(
      "verify: ", differing.size(), " of ", outputs, " outputs differ from the golden sample on ",
      device.str(), "; the first: call ", first.call, ", ", first.output, ' ', first.difference, by,
      "; ts_infer verify shows them all, optimize=false or a name in "
      "disabled_passes may mend it"));
}

void Model::Impl::record_graphs(std::shared_ptr<CallGraphs> recording) {
  const auto none = [this](const std::string& why) {
    info.decisions.push_back("graphs: none, " + why);
  };
  if (info.stateful) return none("the model has state");
  if (info.grad) return none("the model takes gradients");
  if (!methods[forward].tensors_only) return none("forward has inputs that are no tensors");
  if (!warm_up->reason().empty()) {
    throw ModelLoadError("graphs: expected sizes to record them at, got no warm-up (" +
                         warm_up->reason() + "); give warmup and warmup_shapes");
  }
  const RandomState random(device);
  std::size_t count = 0;
  warm_up->for_each_size([&](const InputShapes& shapes, const std::vector<Value>& args) {
    const auto start = Clock::now();
    Stack stack = bind(forward, args, {});
    std::string reason;
    {
      const c10::InferenceMode inference;
      DeviceCall call(device, /*host_inputs=*/true, nullptr, std::nullopt);
      call.to_device(stack);
      reason = recording->record(stack, [this](Stack inputs) {
        engine->run(forward, inputs);
        return std::move(inputs.back());
      });
      Timing timing;
      call.computed();
      call.finish(timing);
    }
    if (reason.empty()) {
      ++count;
      info.load_steps.push_back({"record", ms_since(start), shapes, {}});
    } else {
      info.decisions.push_back("graphs: none at " + shapes_text(shapes) + ": " + reason);
    }
  });
  if (count > 0) graphs = std::move(recording);
  info.decisions.push_back(c10::str("graphs: calls recorded at ", count, " sizes"));
}

std::unique_ptr<Model::Impl> Model::Impl::copy(std::shared_ptr<const StreamLease> on) {
  auto copied = std::make_unique<Impl>(options);
  copied->device = device;
  copied->archive = archive;
  copied->info = info;
  copied->warm_up = warm_up;
  copied->cache = cache;
  copied->graphs = graphs;  // a model that has any has no state
  const c10::InferenceMode ordinary(false);
  const at::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const std::lock_guard<std::mutex> my_turn(turn);
  if (stream) stream->stream().synchronize();
  c10::OptionalStreamGuard on_stream;
  if (on) on_stream.reset_stream(on->stream());
  copied->adopt(engine->clone());
  if (on) on->stream().synchronize();
  if (info.stateful) copied->stream = std::move(on);
  return copied;
}

void Model::Impl::adopt(std::unique_ptr<Engine> loaded) {
  engine = std::move(loaded);
  info.stateful = !engine->state().empty();
  for (std::size_t i = 0; i < engine->methods().size(); ++i) {
    const c10::FunctionSchema& schema = engine->schema(i);
    const auto& arguments = schema.arguments();
    const bool tensors_only =
        std::all_of(arguments.begin() + 1, arguments.end(), [](const c10::Argument& argument) {
          return argument.type()->kind() == c10::TypeKind::TensorType && !argument.default_value();
        });
    Signature of_method = signature_from(schema);
    if (engine->methods()[i] == "forward") {
      forward = i;
      signature = of_method = with_manifest(of_method);
    }
    std::vector<InputNode> of_arguments = input_nodes(of_method, schema);
    if (forward == i) nodes = of_arguments;
    methods.push_back(
        {&schema, tensors_only, InputCheck(of_method, std::move(of_arguments), where())});
  }
}

Signature Model::Impl::with_manifest(const Signature& of_schema) const {
  if (!archive.signature) return of_schema;
  Signature declared = *archive.signature;
  if (declared.inputs.size() != of_schema.inputs.size()) {
    throw ModelLoadError(c10::str("its manifest lists ", declared.inputs.size(),
                                  " inputs, its forward takes ", of_schema.inputs.size(),
                                  "; export it again"));
  }
  for (std::size_t i = 0; i < declared.inputs.size(); ++i) {
    declared.inputs[i].has_default = of_schema.inputs[i].has_default;
  }
  return declared;
}

void Model::Impl::log(LogLevel level, const std::string& message) const {
  if (!options.on_log) return;
  try {
    options.on_log(level, info.name + ": " + message);
  } catch (...) {
    // Documented not to throw; a call must not fail because of its log.
  }
}

std::size_t Model::Impl::find_method(const std::string& name) const {
  const auto& names = engine->methods();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw InputError(c10::str("[call] ", info.name, ": expected a method of the model (",
                              join(names), "), got \"", name, '"'));
  }
  return static_cast<std::size_t>(found - names.begin());
}

Stack Model::Impl::bind(std::size_t method, const std::vector<Tensor>& inputs) const {
  const c10::FunctionSchema& schema = *methods[method].schema;
  if (methods[method].tensors_only && inputs.size() == schema.arguments().size() - 1) {
    Stack stack;
    stack.reserve(inputs.size() + 1);
    for (const Tensor& input : inputs) stack.emplace_back(to_torch(input));
    return stack;
  }
  return bind_arguments(
      schema, inputs, std::map<std::string, Tensor>(), methods[method].check,
      [](const Tensor& tensor, const c10::Argument& argument) {
        c10::IValue value = to_torch(tensor);
        if (!value.type()->isSubtypeOf(*argument.type())) {
          throw InputError(c10::str("input \"", argument.name(), "\": expected ",
                                    argument.type()->annotation_str(),
                                    ", got tensor; use call(), which takes any type"));
        }
        return value;
      });
}

Stack Model::Impl::bind(std::size_t method, const std::vector<Value>& args,
                        const std::map<std::string, Value>& kwargs) const {
  return bind_arguments(*methods[method].schema, args, kwargs, methods[method].check,
                        [](const Value& value, const c10::Argument& argument) {
                          require_shallow(value, argument.name());
                          return to_ivalue(value, argument.type(), argument.name());
                        });
}

bool Model::Impl::check_tensors(std::size_t method, const Stack& stack) const {
  bool any_host = false;
  bool any_device = false;
  for (std::size_t i = 0; i < stack.size(); ++i) {
    const std::string& name = methods[method].schema->arguments()[i + 1].name();
    const auto look_at = [&](const c10::IValue& leaf) {
      if (!leaf.isTensor() || !leaf.toTensor().defined()) return;
      const auto fail = [&](const std::string& what) {
        methods[method].check.fail(path_of(leaf.toTensor(), stack[i], name), what);
      };
      const c10::Device where_it_is = leaf.toTensor().device();
      const bool on_host = where_it_is.is_cpu();
      any_host = any_host || on_host;
      any_device = any_device || !on_host;
      if ((!on_host && where_it_is != device) || (any_host && any_device)) {
        fail(c10::str("device: expected ",
                      device.is_cpu() ? "cpu" : "all inputs on cpu or all on " + device.str(),
                      ", got ", where_it_is.str(), on_host ? " beside inputs on the device" : "",
                      "; move it, or load the model on that device"));
      }
      if (const std::string fault = InputCheck::memory_fault(leaf.toTensor()); !fault.empty()) {
        fail(fault);
      }
    };
    if (stack[i].isTensor()) {
      look_at(stack[i]);
      continue;
    }
    try {
      for_each_leaf(stack[i], look_at);
    } catch (const std::length_error& error) {
      methods[method].check.fail(name, error.what());
    }
  }
  return !any_device;
}

c10::IValue Model::Impl::compute(std::size_t method, Stack& stack, DeviceCall* call,
                                 Timing& timing) {
  const c10::InferenceMode inference(!info.grad);
  const at::AutoGradMode grad_mode(info.grad);
  if (call) call->to_device(stack);
  if (info.grad) {
    for (c10::IValue& value : stack) value = map_tensors(value, without_history);
  }

  const auto start = Clock::now();
  {
    const HostCache::Use reuse(cache.get());
    auto replayed = graphs && method == forward ? graphs->replay(stack) : std::nullopt;
    if (replayed) {
      stack.assign({*std::move(replayed)});
    } else {
      engine->run(method, stack);
    }
  }
  if (call) {
    call->computed();
  } else {
    timing.compute_ms = ms_since(start);
  }

  c10::IValue result = std::move(stack.back());
  stack.clear();
  return info.grad ? map_tensors(result, without_history) : result;
}

c10::IValue Model::Impl::release(const c10::IValue& result, DeviceCall* call, bool to_host) const {
  const c10::InferenceMode ordinary(false);
  const at::NoGradGuard no_grad;
  const OutputOwnership ownership(result);
  const auto holds_too_much = [this](const at::Tensor& tensor) {
    return cache && tensor.is_cpu() && tensor.has_storage() &&
           cache->wastes(tensor.storage().data(), tensor.storage().nbytes());
  };
  const auto release_tensor = [&](const at::Tensor& tensor) {
    if (tensor.is_meta()) return as_ordinary(tensor);
    if (to_host && !tensor.is_cpu()) return call->to_host(tensor);
    // Its memory holds something else than its values.
    if (tensor.is_conj() || tensor.is_neg()) return tensor.resolve_conj().resolve_neg();
    const bool is_copied = ownership.is_shared(tensor) || holds_too_much(tensor);
    at::Tensor released = is_copied ? tensor.detach().clone() : as_ordinary(tensor);
    if (call && !released.is_cpu()) call->keep_on_device(released);
    return released;
  };
  // The common case, without the walk's indirection.
  if (result.isTensor() && result.toTensor().defined()) return release_tensor(result.toTensor());
  return map_tensors(result, release_tensor);
}

void Model::Impl::check_buffers(const std::vector<Tensor>& buffers) const {
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const auto fail = [&](const std::string& what) {
      throw InputError(c10::str(where(), " outputs[", i, "]: ", what));
    };
    const at::Tensor buffer = to_torch(buffers[i]);
    if (!buffer.defined()) fail("expected a buffer, got an undefined tensor");
    if (const std::string fault = InputCheck::memory_fault(buffer); !fault.empty()) fail(fault);
    if (at::has_internal_overlap(buffer) == at::MemOverlap::Yes) {
      fail("expected a buffer with room for each element, got strides " +
           shape_string(buffer.strides()) + " in which elements share theirs");
    }
    for (std::size_t other = 0; other < i; ++other) {
      if (share_memory(buffer, to_torch(buffers[other]))) {
        fail(c10::str("expected memory of its own, got memory of outputs[", other, "]"));
      }
    }
  }
}

void Model::Impl::copy_outputs(const c10::IValue& result, const std::vector<Tensor>& buffers,
                               DeviceCall* call) const {
  const c10::InferenceMode ordinary(false);
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> outputs;
  for_each_leaf(result, [&](const c10::IValue& leaf) {
    if (leaf.isTensor() && leaf.toTensor().defined()) outputs.push_back(leaf.toTensor());
  });
  if (outputs.size() != buffers.size()) {
    throw InputError(c10::str(where(), " outputs: expected ", outputs.size(),
                              " buffers, as the model has outputs, got ", buffers.size()));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor buffer = to_torch(buffers[i]);
    if (buffer.scalar_type() != outputs[i].scalar_type() || buffer.sizes() != outputs[i].sizes()) {
      throw InputError(c10::str(where(), " outputs[", i, "]: expected a buffer of ",
                                dtype_string(outputs[i].scalar_type()),
                                shape_string(outputs[i].sizes()), ", got ",
                                dtype_string(buffer.scalar_type()), shape_string(buffer.sizes())));
    }
    if (call) {
      call->copy_into(outputs[i], buffer);
    } else {
      buffer.copy_(outputs[i]);
    }
  }
}

std::vector<Tensor> Model::Impl::flatten(const c10::IValue& result) const {
  std::vector<Tensor> outputs;
  for_each_leaf(result, [&](const c10::IValue& leaf) {
    if (!leaf.isTensor()) {
      throw InputError(c10::str(where(), " forward: expected outputs that are tensors, got ",
                                leaf.type()->annotation_str(),
                                "; use call(), which returns values of any type"));
    }
    outputs.push_back(output_tensor(leaf.toTensor(), where()));
  });
  return outputs;
}

void Model::Impl::finish(std::size_t method, Outcome& outcome) {
  Timing& timing = outcome.timing;
  if (method == forward) {
    stats.record(timing);
    timing.call = calls.fetch_add(1, std::memory_order_relaxed) + 1;
    if (options.on_timing) {
      timing.model = info.name;
      try {
        options.on_timing(timing);
      } catch (...) {
        log(LogLevel::kError, "on_timing threw an exception, which is dropped");
      }
    }
  }
  tell(outcome);
}

void Model::Impl::tell(const Outcome& outcome) const {
  for (const std::string& message : outcome.messages) log(LogLevel::kWarning, message);
}

void Model::Impl::execute_into(Outcome& outcome, std::size_t method, Stack stack,
                               const RunOptions& run_options, const Places& places) {
  const WarningCollector warnings(outcome.messages);
  const PrintCapture prints(outcome.messages);
  outcome.result = execute(method, std::move(stack), run_options, places, outcome.timing);
}

c10::IValue Model::Impl::run(std::size_t method, Stack stack, const RunOptions& run_options) {
  const auto start = Clock::now();
  const Places places = check_call(method, stack, run_options);
  Outcome outcome;
  if (run_options.deadline_ms > 0) {
    outcome = run_within_deadline(method, stack, run_options, places);
  } else {
    try {
      execute_into(outcome, method, std::move(stack), run_options, places);
    } catch (...) {
      tell(outcome);
      throw;
    }
  }
  outcome.timing.total_ms = ms_since(start);
  finish(method, outcome);
  return std::move(outcome.result);
}

Model::Impl::Outcome Model::Impl::run_within_deadline(std::size_t method, const Stack& stack,
                                                      const RunOptions& run_options,
                                                      const Places& places) {
  using Kind = BackgroundCalls::Outcome::Kind;
  const std::string expected = c10::str(where(), " deadline_ms: expected a result within ",
                                        run_options.deadline_ms, " ms, got ");
  std::optional<BackgroundCalls::Seat> seat;
  try {
    seat.emplace(*background);
  } catch (const std::system_error&) {
    throw ExecutionError(where() +
                         " deadline_ms: expected a thread to serve the call, got none: the "
                         "process, its user or its container may not have more; raise their "
                         "limits, or call without a deadline");
  }

  const auto start = Clock::now();
  const std::chrono::duration<double, std::milli> within(run_options.deadline_ms);
  const auto deadline = start + std::chrono::duration_cast<Clock::duration>(within);
  // The caller's memory is the caller's again at the deadline.
  Stack copies;
  for (const c10::IValue& argument : stack) {
    copies.push_back(map_tensors(argument, [](const at::Tensor& tensor) {
      return tensor.detach().clone(at::MemoryFormat::Preserve);
    }));
  }
  if (Clock::now() >= deadline) {
    throw ExecutionError(expected + "none; it was not started: copying the inputs took as long");
  }
  RunOptions without_buffers = run_options;
  without_buffers.outputs.clear();
  const auto shared = std::make_shared<Outcome>();
  const auto done = [&] {
    try {
      return seat->run_until(
          deadline, [=, this] { execute_into(*shared, method, copies, without_buffers, places); });
    } catch (...) {
      tell(*shared);
      throw;
    }
  }();
  if (done.kind == Kind::kNotStarted) {
    const bool all_serve = done.running >= BackgroundCalls::kMostThreads;
    throw ExecutionError(c10::str(expected, "none; it was not started: ",
                                  all_serve ? c10::str(done.running, " earlier calls still run")
                                            : "its thread got no processor"));
  }
  if (done.kind == Kind::kStillRuns) {
    const double ran = std::chrono::duration<double, std::milli>(done.ran).count();
    throw ExecutionError(
        c10::str(expected, "none; it has run for ", ran, " ms and goes on in the background"));
  }
  const auto fail_late = [&] {
    throw ExecutionError(c10::str(expected, "it after ", ms_since(start), " ms; it is dropped"));
  };
  if (done.kind == Kind::kLate) fail_late();
  if (!run_options.outputs.empty()) {
    copy_outputs(shared->result, run_options.outputs, nullptr);
    shared->result = {};
    if (Clock::now() > deadline) fail_late();
  }
  return std::move(*shared);
}

Model::Impl::Places Model::Impl::check_call(std::size_t method, const Stack& stack,
                                            const RunOptions& run_options) const {
  if (is_exiting()) throw ExecutionError(where() + kProcessEnds);
  if (forks != fork_count()) {
    throw ExecutionError(where() + kForked);
  }
  methods[method].check.check(stack);
  const bool host_inputs = check_tensors(method, stack);
  check_buffers(run_options.outputs);
  const double deadline_ms = run_options.deadline_ms;
  if (!(deadline_ms >= 0 && deadline_ms <= kLongestDeadline)) {
    throw InputError(c10::str(where(), " deadline_ms: expected a number from 0 to ",
                              kLongestDeadline, ", got ", deadline_ms));
  }
  if (deadline_ms > 0 && !host_inputs) {
    throw InputError(where() +
                     " deadline_ms: expected inputs on the host, whose call waits for its outputs; "
                     "got inputs on the device, whose call returns before they are computed");
  }
  if (run_options.output_device.empty()) return {host_inputs, host_inputs};
  const c10::Device wanted = resolve_device<InputError>(where(), run_options.output_device);
  if (!wanted.is_cpu() && wanted != device) {
    throw InputError(c10::str(where(), " output_device: expected cpu or ", device.str(), ", got ",
                              wanted.str()));
  }
  return {host_inputs, wanted.is_cpu()};
}

c10::IValue Model::Impl::execute(std::size_t method, Stack stack, const RunOptions& run_options,
                                 const Places& places, Timing& timing) {
  return guarded([&] {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const IntraOpThreads threads(options.intra_op_threads);
    // Outputs may alias the state until release() has copied them, and what fails on the stream of
    // the state is this call's until it has waited.
    std::unique_lock<std::mutex> my_turn(turn, std::defer_lock);
    if (info.stateful) my_turn.lock();
    std::optional<DeviceCall> call;
    if (!device.is_cpu()) {
      call.emplace(device, places.host_inputs, run_options.stream,
                   stream ? std::optional(stream->stream()) : std::nullopt);
      if (!places.host_inputs) unwaited = true;
    }
    DeviceCall* const on_device = call ? &*call : nullptr;
    c10::IValue computed = compute(method, stack, on_device, timing);
    c10::IValue result;
    try {
      if (run_options.outputs.empty()) {
        result = release(computed, on_device, places.host_outputs);
      } else {
        copy_outputs(computed, run_options.outputs, on_device);
      }
    } catch (const std::length_error&) {
      take_apart(std::move(computed));
      throw;
    }
    if (call) call->finish(timing);
    return result;
  });
}

template <typename Work>
auto Model::Impl::guarded(const Work& work) const -> decltype(work()) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw ExecutionError(where() + " out of host memory");
  } catch (const std::exception& error) {
    // The interpreter turns torch's OutOfMemoryError into one of its own.
    const std::string message = clean_message(error);
    const bool needs_memory = message.find("out of memory") != std::string::npos;
    throw ExecutionError(where() + ' ' + message + (needs_memory ? memory_text(device) : ""));
  }
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const std::string& path, const LoadOptions& options) {
  return with_memory(
      [&] { return ModelAccess::load(Archive::open(path, options.limits), options); });
}

Model Model::load(const void* data, std::size_t size, const LoadOptions& options) {
  return with_memory([&] {
    const std::string_view bytes(static_cast<const char*>(data), size);
    return ModelAccess::load(Archive::over(bytes, options.limits), options);
  });
}

std::vector<Tensor> Model::forward(const std::vector<Tensor>& inputs, const RunOptions& options) {
  return impl_->guarded([&] {
    const std::size_t method =
        impl_->forward != std::string::npos ? impl_->forward : impl_->find_method("forward");
    const c10::IValue result = impl_->run(method, impl_->bind(method, inputs), options);
    return options.outputs.empty() ? impl_->flatten(result) : options.outputs;
  });
}

Value Model::call(const std::vector<Value>& args, const std::map<std::string, Value>& kwargs) {
  return run_method("forward", args, kwargs);
}

Value Model::run_method(const std::string& name, const std::vector<Value>& args,
                        const std::map<std::string, Value>& kwargs) {
  return impl_->guarded([&] {
    const std::size_t method = impl_->find_method(name);
    return from_ivalue(impl_->run(method, impl_->bind(method, args, kwargs), {}), impl_->where());
  });
}

std::vector<std::string> Model::method_names() const { return impl_->engine->methods(); }

const Signature& Model::signature() const { return impl_->signature; }

const ModelInfo& Model::info() const { return impl_->info; }

LatencyStats Model::stats() const { return impl_->stats.read(); }

void Model::reset_stats() { impl_->stats.reset(); }

void Model::warm_up_this_thread() {
  impl_->guarded([&] { impl_->rehearse(); });
}

Model Model::clone() const {
  if (is_exiting()) throw ExecutionError("[clone] " + impl_->info.name + ':' + kProcessEnds);
  if (impl_->forks != fork_count())
    throw ExecutionError("[clone] " + impl_->info.name + ':' + kForked);
  try {
    return Model(impl_->copy(
        impl_->device.is_cpu() ? nullptr : std::make_shared<const StreamLease>(impl_->device)));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw ExecutionError("[clone] " + impl_->info.name + ": " + clean_message(error));
  }
}

const c10::FunctionSchema& ModelAccess::schema(const Model& model, const std::string& method) {
  return *model.impl_->methods[model.impl_->find_method(method)].schema;
}

Model ModelAccess::load(const std::shared_ptr<const Archive>& archive, const LoadOptions& options) {
  return Model(Model::Impl::load(archive, options));
}

std::size_t ModelAccess::compiled_plans(const Model& model) {
  return model.impl_->engine->compiled_plans(model.impl_->find_method("forward"));
}

const ArchiveInfo& ModelAccess::archive(const Model& model) { return model.impl_->archive; }

const std::vector<InputNode>& ModelAccess::inputs(const Model& model) { return model.impl_->nodes; }

c10::IValue ModelAccess::call(Model& model, const std::string& name, std::vector<c10::IValue> args,
                              const std::unordered_map<std::string, c10::IValue>& kwargs,
                              const RunOptions& options) {
  Model::Impl& impl = *model.impl_;
  return impl.guarded([&] {
    const std::size_t method = name == "forward" && impl.forward != std::string::npos
                                   ? impl.forward
                                   : impl.find_method(name);
    const Model::Impl::Method& plan = impl.methods[method];
    const bool complete = plan.tensors_only && kwargs.empty() &&
                          args.size() == plan.schema->arguments().size() - 1 &&
                          std::all_of(args.begin(), args.end(),
                                      [](const c10::IValue& arg) { return arg.isTensor(); });
    if (complete) return impl.run(method, std::move(args), options);
    return impl.run(method, bind_arguments(*plan.schema, args, kwargs, plan.check, check_type),
                    options);
  });
}

c10::IValue call(Model& model, const std::string& method, std::vector<c10::IValue> args,
                 const std::unordered_map<std::string, c10::IValue>& kwargs) {
  return ModelAccess::call(model, method, std::move(args), kwargs);
}

}  // namespace ts_infer
