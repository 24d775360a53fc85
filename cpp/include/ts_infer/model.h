#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ts_infer/error.h"
#include "ts_infer/export.h"
#include "ts_infer/signature.h"
#include "ts_infer/tensor.h"
#include "ts_infer/timing.h"
#include "ts_infer/value.h"

namespace ts_infer {

/// Shapes of the inputs of a call, by name.
using InputShapes = std::map<std::string, std::vector<std::int64_t>>;

/// What a file may ask for before load() refuses it.
struct ArchiveLimits {
  std::uint64_t file_bytes = std::uint64_t{1} << 36;
  std::uint64_t members = 100'000;                        // files in the archive
  std::uint64_t unpacked_bytes = std::uint64_t{1} << 30;  // of its compressed members, together
  /// How deep blocks, brackets and operators nest in its code, and values in one another: torch
  /// calls itself for each, and some thousands end the process.
  std::uint64_t nesting = 1000;
};

/// Operators that reach beyond the model, which load() refuses: "aten::save"; a name that ends in
/// "::" is a namespace of them.
TS_INFER_API std::vector<std::string> restricted_operators();

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// How a model is loaded. Every field has a working default.
struct LoadOptions {
  /// "auto" (the accelerator when there is one, else the host), "cpu", "cuda", "cuda:1", "xpu", …
  std::string device = "auto";

  /// "prepared": inlined and compiled in load(), and run directly: no call compiles or profiles.
  /// "legacy": torch's graph executor with executor mode off: it compiles once per combination of
  /// dtypes and ranks, not of sizes. "simple": the profiling executor's class, not profiling.
  /// "profiling": torch's default. "profiling-no-fusion": that with fusion depth 0.
  /// It holds for this model alone. Where it cannot serve, the next one down is taken and
  /// Model::info() says which and why.
  std::string executor = "prepared";

  /// Run passes() over the model, each where it pays. Model::info() says what was done.
  bool optimize = true;

  /// Names out of passes() that are left out. All but the first two belong to the executor
  /// "prepared".
  std::vector<std::string> disabled_passes;

  /// What products are computed in: "fp32", "bf16" or "fp16". Their sums, what lies between them,
  /// inputs and outputs stay float32. On the host "bf16" is for linears and convolutions with an
  /// even number of inputs, or convolutions of few, on processors with AVX512_BF16, and what only
  /// such convolutions read or add is kept in it too; on an accelerator both are for matrix
  /// products and attention too. For the executor "prepared". Where it cannot be had, products stay
  /// in float32: Model::info() says which precision serves, why, and how far its outputs are from
  /// the golden sample's.
  std::string precision = "fp32";

  /// Intra-op threads of each call, up to 4096: set on the calling thread and put back. 0: left
  /// alone. load() starts so many to see that it may: OpenMP ends the process where it may not.
  int intra_op_threads = 0;

  /// What load() runs so that no later call is the slow one. "fast": forward at each of
  /// warmup_shapes, the largest twice, the last until its time falls no more. "full": each until
  /// its time falls no more, and sizes between them. "off": nothing.
  ///
  /// Inputs take their values from the golden sample where the archive has one, else they are drawn
  /// as random_inputs() does. A model with state runs on a copy of it; random generators are put
  /// back. Nothing is run, and Model::info() says so, where no sizes are known.
  std::string warmup = "fast";

  /// Seconds after which load() starts no further warm-up call; on_log then says what was left out.
  double warmup_budget_s = 10;

  /// Bytes of the inputs of a warm-up call. Sizes that take more are not run; on_log says which.
  std::uint64_t warmup_bytes = std::uint64_t{1} << 30;

  /// Empty: the archive's own.
  std::vector<InputShapes> warmup_shapes;

  /// Make the calls of the golden sample, which ts_infer.export put into the file, on a copy of the
  /// state and hold their outputs against it, as verify() does: load() fails where one differs, and
  /// where the file has no golden sample.
  bool verify = false;

  /// On the host: keep the large buffers of a call for the next one, up to as much as calls have
  /// used at once, instead of having the system map and clear them each time. Only the model's own
  /// calls take part; other allocations of the process go where they went before.
  bool reuse_memory = true;

  /// On the host, of a file: use the weights where the file is mapped, and copy none. Processes and
  /// models share the pages of the file; a page that a model writes to becomes its own. While the
  /// model lives, do not overwrite or truncate the file in place: replace it by a rename. Weights
  /// that are compressed or not aligned in the file are copied.
  bool map_weights = true;

  /// On an accelerator: record forward at each size of the warm-up, and replay the recording where
  /// a call has just these sizes (CUDA graphs): the host then launches the call as one piece of
  /// work. What cannot be recorded (a model with state, a size that depends on values, inputs other
  /// than tensors) runs as without, and Model::info() says why. Replays of one model take turns on
  /// the device. Needs a warm-up. load() fails on a device that has no graphs.
  bool graphs = false;

  ArchiveLimits limits;

  /// Names out of restricted_operators() that the model's code may use. The others refuse it: they
  /// read or write files, or talk to other processes, in load() already. This is no sandbox: give
  /// load() files of people you trust.
  std::vector<std::string> allow_operators;

  /// Shared libraries that register operators and classes of the model's own: loaded before it,
  /// once, and never unloaded. Two files that register the same namespace end the process, as
  /// torch has it.
  std::vector<std::string> libraries;

  /// Name in logs and errors. Empty: the manifest's, else the file's.
  std::string name;

  /// Called after every call, on the thread that made it, outside locks. Must not throw.
  std::function<void(const Timing&)> on_timing;

  /// Receives messages of the library, warnings of libtorch and what the model's code prints (at
  /// kWarning, after the call), outside locks. Must not throw.
  std::function<void(LogLevel, const std::string&)> on_log;
};

/// How one call runs.
struct RunOptions {
  /// Buffers of the caller that receive the outputs, in order: same dtype and shape, on any
  /// device the model can copy to. They may share memory with inputs, not with one another. Empty:
  /// new tensors. They are then what forward() returns.
  std::vector<Tensor> outputs;

  /// Where outputs go: "" for where the inputs were, "cpu", or the model's device.
  std::string output_device;

  /// For inputs on the device: the host's own stream, as its backend's native handle (for CUDA a
  /// cudaStream_t); nullptr is the calling thread's current stream. A stateful model runs on a
  /// stream of its own that is in order with it.
  void* stream = nullptr;

  /// Milliseconds after which the caller stops waiting and gets an ExecutionError; 0: never. For
  /// inputs on the host. What is done later is no result: by the clock, not by who woke up first.
  ///
  /// The call runs on a thread of the model's own, on copies of the inputs. The first such call
  /// starts it, and a call starts one more where all serve, up to 64; the time counts from when it
  /// is there. Nothing can stop what runs: past the deadline it goes on in the background, its
  /// outputs are dropped, and the state of a stateful model changes as if nobody had stopped
  /// waiting. Its next call waits for that, and so does the model's destruction. `outputs` stay as
  /// they were, unless the time runs out while they are written.
  double deadline_ms = 0;
};

/// A shared library that a model needs, and what it registers.
struct NeededLibrary {
  std::string file;  // name without folder; "" unknown
  std::vector<std::string> operators;
  std::vector<std::string> classes;
};

/// A part that the export compiled from its source instead of tracing it.
struct ScriptedPart {
  std::string name;
  std::string reason;
};

/// What one probe of the export's audit did.
struct AuditProbe {
  std::string name;
  std::string outcome;  // "passed", "found", "skipped"
  std::int64_t runs = 0;
  std::string reason;  // of a skipped one
};

/// How the export compared the model with the module.
struct Audit {
  std::string level;  // "full", "fast", "off"
  std::vector<AuditProbe> probes;
  std::vector<std::string> allowed;  // codes of findings that were accepted
};

/// What a file says of itself; nothing of it was run.
struct ArchiveInfo {
  std::string path;
  std::uint64_t file_bytes = 0;
  std::string name;           // from the manifest, else the archive's own
  std::string method;         // how it was exported: "trace", "script", "hybrid"; "" unknown
  std::string torch_version;  // that exported it; "" unknown
  std::optional<Signature> signature;  // nullopt: no manifest
  std::vector<InputShapes> warmup_shapes;
  std::vector<std::string> state;        // paths of the attributes that calls change
  std::vector<ScriptedPart> scripted;    // automatically, by the export
  std::optional<Audit> audit;            // nullopt: not recorded
  std::vector<NeededLibrary> libraries;  // to be given to LoadOptions::libraries
  std::size_t golden_calls = 0;          // that verify() makes; 0: no golden sample
  std::vector<std::string> methods;
  std::vector<std::string> operators;             // "torch.conv2d", "ops.mine.op", sorted
  std::vector<std::string> restricted_operators;  // that load() refuses: "aten::save", sorted
  std::vector<std::string> devices;               // named in the code or the constants, sorted
  std::uint64_t weight_bytes = 0;
  std::size_t members = 0;                  // files in the archive
  std::vector<std::string> damaged;         // members whose CRC-32 does not match
  std::map<std::string, std::string> code;  // TorchScript source by its path in the archive; none:
                                            // a package, whose code is native, and of which
                                            // operators are not known
  std::string manifest_json;                // "" where there is none
};

/// What load() decided and found.
struct ModelInfo {
  std::string name;
  std::string path;  // "" when loaded from memory
  std::string device;
  std::string executor;
  std::vector<std::string> decisions;  // what was chosen and why, one sentence each
  std::string precision = "fp32";      // "fp32", "bf16", "fp16"

  /// Of another precision than "fp32", where the archive has a golden sample: the largest
  /// difference from its float outputs, divided by the largest magnitude of the output concerned.
  std::optional<double> precision_error;

  bool stateful = false;  // calls take turns; clone() gives another its own state
  bool optimized = false;
  bool grad = false;  // its code asks for gradients: calls run in grad mode, by torch's operators
  double load_ms = 0;
  std::vector<LoadStep> load_steps;

  /// Memory that calls find ready after load. On a device: all that torch's allocator holds of it
  /// for this process, weights too; 0 where it keeps no statistics. On the host: the most that the
  /// warm-up used at once, which is kept for calls; 0 without reuse_memory.
  std::uint64_t reserved_bytes = 0;
};

/// A loaded model. A move-only handle; a moved-from handle may only be assigned or destroyed.
///
/// All members but the special ones are safe from any number of threads at once; the calls of a
/// stateful model take turns. In a child process of fork() calls throw: the threads that they need
/// are not there; load the model in the child. Outputs belong to the caller, never alias the
/// model's memory, and outlive it.
class TS_INFER_API Model {
 public:
  /// Loads a TorchScript archive from a file. @throws ModelLoadError
  static Model load(const std::string& path, const LoadOptions& options = {});

  /// The same from memory, which is not needed after the call. @throws ModelLoadError
  static Model load(const void* data, std::size_t size, const LoadOptions& options = {});

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  /// Runs forward on tensors, in the order of signature().inputs.
  ///
  /// Inputs are all on the host or all on the model's device. Outputs are flattened depth-first.
  /// @throws InputError, ExecutionError
  std::vector<Tensor> forward(const std::vector<Tensor>& inputs, const RunOptions& options = {});

  /// Runs forward on values of any type, by position and by name, and returns what it returns.
  /// @throws InputError, ExecutionError
  Value call(const std::vector<Value>& args, const std::map<std::string, Value>& kwargs = {});

  /// Runs another method. @throws InputError (also for a name that is none), ExecutionError
  Value run_method(const std::string& method, const std::vector<Value>& args = {},
                   const std::map<std::string, Value>& kwargs = {});

  /// Includes "forward" where there is one.
  std::vector<std::string> method_names() const;
  const Signature& signature() const;
  const ModelInfo& info() const;

  /// Does on the calling thread what load() did on its own, at the same sizes: for a thread that is
  /// to make calls, before its first one. What is kept per thread is then there: the pool of
  /// intra-op threads, and on a device the thread's own stream with its memory. (The first thread
  /// that serves takes over the stream that load() warmed up, unless the thread that loaded has
  /// made calls before and so keeps it.) Calls do not count in stats(). @throws ExecutionError
  void warm_up_this_thread();

  /// Calls of forward() and call() since load or reset_stats(). Never blocks a call.
  LatencyStats stats() const;
  void reset_stats();

  /// Another model with the same weights (shared), its own copy of the state, and fresh stats.
  Model clone() const;

 private:
  friend struct ModelAccess;  // the bindings and torch.h
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Reads what a file says of itself and checks every member's CRC-32; runs none of it.
/// @throws ModelLoadError when it is no TorchScript archive.
TS_INFER_API ArchiveInfo read_model_info(const std::string& path, const ArchiveLimits& limits = {});
TS_INFER_API ArchiveInfo read_model_info(const void* data, std::size_t size,
                                         const ArchiveLimits& limits = {});

/// Values of LoadOptions::executor.
TS_INFER_API std::vector<std::string> executors();

/// The optimising passes that load() runs, in their order:
/// "freeze": weights become constants of the code, without which the others find little to do;
/// "fold": constants folded, common subexpressions computed once;
/// and, on the host, own kernels from packed weights for
/// "convolution", "recurrent", "linear", and
/// "attention", which includes the layers of transformers' encoders.
TS_INFER_API std::vector<std::string> passes();

/// Threads inside a call that this thread makes, where LoadOptions::intra_op_threads is 0.
TS_INFER_API int default_intra_op_threads();

/// The devices that this process can use: "cpu", "cuda:0", …
TS_INFER_API std::vector<std::string> available_devices();

}  // namespace ts_infer
