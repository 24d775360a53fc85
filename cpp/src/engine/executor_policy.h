#pragma once

#include <ATen/core/function.h>
#include <c10/core/Device.h>

#include <string>
#include <vector>

namespace ts_infer {

/// Which graph executor runs a model, and why it is not the one asked for.
struct ExecutorChoice {
  std::string executor;
  std::string reason;  // "" when it is the one asked for
};

/// @throws ModelLoadError for a name that is none, as a clause.
ExecutorChoice choose_executor(const std::string& requested, c10::Device device);

/// Creates torch's executor of each function; for "prepared", the executor that runs what is called
/// from prepared code. Which kind a function gets is decided by process-wide
/// switches at this moment and never again, so they are set under one lock and put back: models
/// loaded at the same time, and TorchScript of the host, do not see them. Only a host thread that
/// runs a function for the first time inside this window, milliseconds long, is affected.
void create_executors(const std::vector<torch::jit::Function*>& functions,
                      const std::string& executor, c10::Device device);

}  // namespace ts_infer
