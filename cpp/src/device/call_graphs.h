#pragma once

#include <ATen/core/GraphImplInterface.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace ts_infer {

/// Calls recorded in load() and replayed: one graph for each set of input sizes, which the host
/// launches as one piece of work instead of operator by operator (CUDA graphs, by torch's
/// device-independent interface).
///
/// All graphs share one memory pool, so that one replay follows the other on the device, whichever
/// threads and streams the calls come from; the host does not wait. Safe from many threads.
class CallGraphs {
 public:
  using Inputs = std::vector<c10::IValue>;  // tensors on the device
  using Compute = std::function<c10::IValue(Inputs)>;

  /// @throws ModelLoadError, as a clause, where nothing records graphs on such a device.
  explicit CallGraphs(c10::Device device);

  /// Records what `compute` enqueues on the current stream for inputs of these sizes, after it has
  /// run once. Returns why it could not be recorded; empty where it was.
  std::string record(const Inputs& inputs, const Compute& compute);

  /// The outputs, in tensors of their own, on the current stream; nothing where no graph was
  /// recorded for such inputs.
  std::optional<c10::IValue> replay(const Inputs& inputs);

 private:
  struct Recorded {
    std::unique_ptr<at::GraphImplInterface> graph;
    std::vector<at::Tensor> inputs;  // where it reads, and what it returns
    c10::IValue outputs;
  };

  Recorded* find(const Inputs& inputs);

  c10::Device device_;
  at::MempoolId_t pool_{0, 0};  // of the first graph
  std::vector<Recorded> recorded_;
  std::mutex turn_;    // of who enqueues a replay
  c10::Event copied_;  // the outputs of the replay before
};

}  // namespace ts_infer
