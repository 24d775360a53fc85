#include "device/call_graphs.h"

#include <ATen/ops/empty_like.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <utility>

#include "ivalues.h"
#include "libraries.h"
#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

bool is_like(const at::Tensor& tensor, const at::Tensor& recorded) {
  return tensor.scalar_type() == recorded.scalar_type() && tensor.sizes() == recorded.sizes();
}

}  // namespace

CallGraphs::CallGraphs(c10::Device device) : device_(device), copied_(device.type()) {
  if (device.is_cuda() && !at::has_graph_impl(device.type())) load_cuda_graphs();
  if (!at::has_graph_impl(device.type())) {
    throw ModelLoadError(c10::str(
        "graphs: expected a device whose calls can be recorded, got ", device.str(),
        device.is_cuda() ? ", and this installation was built without its plugin for CUDA: "
                           "build it where CUDA's headers are, or leave graphs out"
                         : "; leave graphs out"));
  }
}

std::string CallGraphs::record(const Inputs& inputs, const Compute& compute) {
  Recorded recorded{at::create_graph_impl(device_.type()), {}, {}};
  Inputs placeholders;
  for (const c10::IValue& input : inputs) {
    recorded.inputs.push_back(input.toTensor().clone());
    placeholders.emplace_back(recorded.inputs.back());
  }
  const c10::Stream stream = current_stream(device_);
  try {
    compute(placeholders);  // libraries set themselves up, which cannot be recorded
    stream.synchronize();
    recorded.graph->capture_begin(pool_, at::GraphCaptureMode::ThreadLocal);
    try {
      recorded.outputs = compute(std::move(placeholders));
    } catch (const std::exception& error) {
      const std::string reason = clean_message(error);
      try {
        recorded.graph->capture_end();
      } catch (const std::exception&) {
        // It says once more that the recording failed.
      }
      return reason;
    }
    recorded.graph->capture_end();
  } catch (const std::exception& error) {
    return clean_message(error);
  }
  bool all_on_device = true;
  for_each_leaf(recorded.outputs, [&](const c10::IValue& leaf) {
    if (leaf.isTensor() && leaf.toTensor().defined()) {
      all_on_device = all_on_device && leaf.toTensor().device() == device_;
    }
  });
  if (!all_on_device) return "an output is not on the device";
  pool_ = recorded.graph->pool();
  recorded_.push_back(std::move(recorded));
  return "";
}

CallGraphs::Recorded* CallGraphs::find(const Inputs& inputs) {
  const auto fits = [&](const Recorded& recorded) {
    return inputs.size() == recorded.inputs.size() &&
           std::equal(inputs.begin(), inputs.end(), recorded.inputs.begin(),
                      [](const c10::IValue& input, const at::Tensor& placeholder) {
                        return is_like(input.toTensor(), placeholder);
                      });
  };
  const auto found = std::find_if(recorded_.begin(), recorded_.end(), fits);
  return found == recorded_.end() ? nullptr : &*found;
}

std::optional<c10::IValue> CallGraphs::replay(const Inputs& inputs) {
  Recorded* const recorded = find(inputs);
  if (!recorded) return std::nullopt;
  // Before anything is enqueued: what can fail for want of memory.
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  c10::IValue outputs = map_tensors(recorded->outputs, [&](const at::Tensor& output) {
    copies.emplace_back(at::empty_like(output), output);
    return copies.back().first;
  });

  const c10::Stream stream = current_stream(device_);
  const std::lock_guard<std::mutex> my_turn(turn_);
  copied_.block(stream);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    recorded->inputs[i].copy_(inputs[i].toTensor(), /*non_blocking=*/true);
  }
  recorded->graph->replay();
  for (auto& [to, from] : copies) to.copy_(from, /*non_blocking=*/true);
  copied_.record(stream);
  return outputs;
}

}  // namespace ts_infer
