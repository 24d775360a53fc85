#include "engine/torchscript_engine.h"

#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <unordered_set>

#include "device/front_allocator.h"
#include "engine/convolution.h"
#include "engine/executor_policy.h"
#include "engine/pass.h"
#include "engine/prepared.h"
#include "engine/state_analysis.h"
#include "messages.h"

namespace ts_infer {
namespace {

using torch::jit::Block;
using torch::jit::Module;
using torch::jit::Node;

std::vector<std::string> public_methods(const Module& module) {
  std::vector<std::string> names;
  for (const torch::jit::Method& method : module.get_methods()) {
    if (method.name() != "__setstate__" && method.name() != "__getstate__") {
      names.push_back(method.name());
    }
  }
  return names;
}

/// The methods of a module, ready to run on any instance of it.
struct Program {
  struct Method {
    const c10::FunctionSchema* schema;
    torch::jit::Code code;                // of "prepared"
    torch::jit::GraphExecutor* executor;  // of the others
  };

  Program(Module module_, ExecutorChoice& choice, bool optimize_, c10::Device device_,
          std::vector<std::string>* decisions = nullptr)
      : module(std::move(module_)),
        optimize(optimize_),
        device(device_),
        state(analyse_state(module)),
        names(public_methods(module)) {
    for (const std::string& name : names) {
      methods.push_back({&module.get_method(name).function().getSchema(), {}, nullptr});
    }
    if (choice.executor == "prepared") prepare_methods(choice, decisions);
    executor = choice.executor;
    create_executors(module._ivalue()->compilation_unit()->get_functions(), executor, device);
    for (std::size_t i = 0; i < names.size(); ++i) {
      methods[i].executor = &torch::jit::toGraphFunction(function(i)).get_executor();
    }
  }

  torch::jit::Function& function(std::size_t method) const {
    return module.get_method(names[method]).function();
  }

  void prepare_methods(ExecutorChoice& choice, std::vector<std::string>* decisions) {
    try {
      for (std::size_t i = 0; i < names.size(); ++i) {
        methods[i].code = prepare(function(i), device, optimize, decisions);
      }
    } catch (const std::exception& error) {
      for (Method& method : methods) method.code = {};
      choice = choose_executor("legacy", device);
      choice.reason = "its code cannot be prepared: " + clean_message(error);
    }
  }

  Module module;
  bool optimize;
  c10::Device device;
  std::string executor;
  StateAnalysis state;
  std::vector<std::string> names;
  std::vector<Method> methods;
};

class TorchScriptEngine : public Engine {
 public:
  TorchScriptEngine(std::shared_ptr<const Program> program, const Module& instance)
      : program_(std::move(program)), self_(instance._ivalue()) {}

  const std::vector<std::string>& methods() const override { return program_->names; }

  const c10::FunctionSchema& schema(std::size_t method) const override {
    return *program_->methods[method].schema;
  }

  void run(std::size_t method, std::vector<c10::IValue>& stack) override {
    stack.insert(stack.begin(), self_);
    if (!was_run_.load(std::memory_order_relaxed)) was_run_ = true;
    const Program::Method& chosen = program_->methods[method];
    if (chosen.code) {
      torch::jit::InterpreterState(chosen.code).run(stack);
    } else {
      chosen.executor->run(stack);
    }
  }

  std::size_t compiled_plans(std::size_t method) const override {
    const Program::Method& chosen = program_->methods[method];
    if (chosen.code) return 0;
    if (program_->executor == "legacy") {
      return chosen.executor->getDebugState().execution_plans.size();
    }
    // The first call compiles a plan. One that only profiles is followed by the optimised one.
    const bool profiles = program_->executor == "profiling";
    return (was_run_ ? 1 : 0) + (profiles && chosen.executor->isOptimized() ? 1 : 0);
  }

  const std::string& state() const override { return program_->state.reason; }

  std::unique_ptr<Engine> clone() const override {
    const StateAnalysis& state = program_->state;
    std::shared_ptr<const Program> program = program_;
    Module instance(self_.toObject());
    if (state.constant_containers || !state.constants.empty()) {
      instance = with_own_constants(instance);
      ExecutorChoice same = {program->executor, ""};
      program = std::make_shared<Program>(instance, same, program->optimize, program->device);
    }
    if (state.stateful()) {
      auto shared = state.opaque ? c10::IValue::HashIdentityIValueMap() : unwritten(instance);
      instance = Module(instance._ivalue()->deepcopy(shared));
    }
    return std::make_unique<TorchScriptEngine>(std::move(program), instance);
  }

 private:
  /// What a deep copy may share: tensors whose memory no method writes to.
  c10::IValue::HashIdentityIValueMap unwritten(const Module& module) const {
    std::unordered_set<const c10::StorageImpl*> written;
    std::vector<at::Tensor> others;
    for_each_tensor_attribute(module, "", [&](const std::string& path, const at::Tensor& tensor) {
      if (!tensor.has_storage()) return;
      if (program_->state.attributes.count(path)) {
        written.insert(tensor.storage().unsafeGetStorageImpl());
      } else {
        others.push_back(tensor);
      }
    });
    c10::IValue::HashIdentityIValueMap shared;
    for (const at::Tensor& tensor : others) {
      if (!written.count(tensor.storage().unsafeGetStorageImpl())) shared.emplace(tensor, tensor);
    }
    return shared;
  }

  static void for_each_tensor_attribute(
      const Module& module, const std::string& prefix,
      const std::function<void(const std::string&, const at::Tensor&)>& visit) {
    for (const auto& attribute : module.named_attributes(/*recurse=*/false)) {
      const std::string path = prefix + attribute.name;
      if (attribute.value.isModule()) {
        for_each_tensor_attribute(attribute.value.toModule(), path + '.', visit);
      } else if (attribute.value.isTensor() && attribute.value.toTensor().defined()) {
        visit(path, attribute.value.toTensor());
      }
    }
  }

  /// The module with new code whose written constants are copies; attributes are still shared.
  Module with_own_constants(const Module& module) const {
    Module copy = module.clone(/*inplace=*/true);
    for (torch::jit::Function* function : copy._ivalue()->compilation_unit()->get_functions()) {
      if (!function) continue;  // a method that freezing has removed
      replace_constants(torch::jit::toGraphFunction(*function).graph()->block());
    }
    return copy;
  }

  void replace_constants(Block* block) const {
    for (Node* node : block->nodes()) {
      for (Block* inner : node->blocks()) replace_constants(inner);
      if (node->kind() != torch::jit::prim::Constant ||
          !node->hasAttribute(torch::jit::attr::value)) {
        continue;
      }
      const torch::jit::AttributeKind kind = node->kindOf(torch::jit::attr::value);
      if (kind == torch::jit::AttributeKind::t) {
        const at::Tensor value = node->t(torch::jit::attr::value);
        if (program_->state.constants.count(value.unsafeGetTensorImpl())) {
          node->t_(torch::jit::attr::value, value.clone());
        }
      } else if (kind == torch::jit::AttributeKind::ival && program_->state.constant_containers) {
        node->ival_(torch::jit::attr::value, node->ival(torch::jit::attr::value).deepcopy());
      }
    }
  }

  std::shared_ptr<const Program> program_;
  c10::IValue self_;
  std::atomic<bool> was_run_{false};
};

bool calls_convolution(const Block* block) {
  static const std::unordered_set<std::string> kConvolutions = {
      "aten::_convolution", "aten::convolution",      "aten::conv1d",          "aten::conv2d",
      "aten::conv3d",       "aten::conv_transpose2d", "aten::conv_transpose1d"};
  return any_node(
      block, [](const Node* node) { return kConvolutions.count(node->kind().toQualString()) > 0; });
}

Module read_module(const Archive& archive, c10::Device device, bool map_weights,
                   std::vector<std::string>& decisions) {
  const auto weights = map_weights && device.is_cpu() && FrontAllocator::instance()
                           ? archive.map_weights()
                           : nullptr;
  const FrontAllocator::Use use(weights.get());
  Module module = torch::jit::load(archive.reader(weights.get()), device);
  if (weights && weights->mapped_bytes() > 0) {
    decisions.push_back(c10::str("weights mapped from the file: ", weights->mapped_bytes(), " of ",
                                 archive.info().weight_bytes, " bytes"));
  }
  return module;
}

void put_in_eval_mode(Module& module, std::vector<std::string>& decisions) {
  bool training = false;
  for (const Module& inner : module.modules()) {
    training = training || (inner.hasattr("training") && inner.is_training());
  }
  if (!training) return;
  module.eval();
  decisions.push_back("the archive was saved in train mode: it runs in eval mode");
}

/// Whether prepare() will have all convolutions of a method run by own kernels.
bool runs_all_convolutions(const torch::jit::Method& method) {
  auto graph = method.graph()->copy();
  torch::jit::Inline(*graph);
  torch::jit::ConstantPropagation(graph);
  return packs_all_convolutions(*graph);
}

/// The optimised module, or the module itself where passes do not apply; both compute the same.
Module optimized(Module module, bool own_kernels, ModelInfo& info) {
  if (!module.find_method("forward")) {
    info.decisions.push_back("not optimised: there is no forward");
    return module;
  }
  std::vector<std::string> others = public_methods(module);
  others.erase(std::find(others.begin(), others.end(), "forward"));
  try {
    // Freezing takes `training` away: without it the export froze the module already.
    Module frozen = module.hasattr("training") ? torch::jit::freeze(module, others) : module;
    info.optimized = true;
    // torch's passes convert convolutions to oneDNN or fuse them for cuDNN. Without any they were
    // measured to be between useless and 1.3 times slower (LSTM).
    if (!calls_convolution(frozen.get_method("forward").graph()->block())) {
      info.decisions.push_back("frozen; optimize_for_inference left out: there is no convolution");
      return frozen;
    }
    if (own_kernels && runs_all_convolutions(frozen.get_method("forward"))) {
      info.decisions.push_back("frozen; optimize_for_inference left out: own kernels instead");
      return frozen;
    }
    Module fast = torch::jit::optimize_for_inference(frozen, others);
    info.decisions.push_back("frozen and optimised for inference");
    return fast;
  } catch (const std::exception& error) {
    info.optimized = false;
    info.decisions.push_back("not optimised: " + clean_message(error));
    return module;
  }
}

}  // namespace

std::unique_ptr<Engine> load_torchscript(const Archive& archive, c10::Device device,
                                         const std::string& executor, bool optimize,
                                         bool map_weights, ModelInfo& info) {
  ExecutorChoice choice = choose_executor(executor, device);  // first: it refuses unknown names
  auto start = std::chrono::steady_clock::now();
  const auto step_done = [&](const char* name) {
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - start).count();
    info.load_steps.push_back({name, ms, {}, {}});
    start = now;
  };
  Module module = read_module(archive, device, map_weights, info.decisions);
  put_in_eval_mode(module, info.decisions);
  step_done("deserialise");
  if (optimize) {
    module = optimized(std::move(module), choice.executor == "prepared" && device.is_cpu(), info);
    step_done("optimise");
  } else {
    info.decisions.push_back("not optimised: asked for");
  }
  auto program = std::make_shared<Program>(module, choice, optimize, device, &info.decisions);
  step_done("prepare");
  info.executor = choice.executor;
  info.decisions.push_back(
      "executor " + choice.executor +
      (choice.reason.empty() ? "" : ", not " + executor + ": " + choice.reason));
  return std::make_unique<TorchScriptEngine>(std::move(program), module);
}

}  // namespace ts_infer
