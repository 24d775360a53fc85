#include "engine/torchscript_engine.h"

#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "device/front_allocator.h"
#include "engine/corrections.h"
#include "engine/executor_policy.h"
#include "engine/instruction_set.h"
#include "engine/pass.h"
#include "engine/passes.h"
#include "engine/precision.h"
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

/// Inlined code refers to the functions that it comes from, which the text of an error names.
using Origins = std::vector<std::shared_ptr<torch::jit::CompilationUnit>>;

/// The methods of a module, ready to run on any instance of it.
struct Program {
  struct Method {
    const c10::FunctionSchema* schema;
    torch::jit::Code code;                // of "prepared"
    torch::jit::GraphExecutor* executor;  // of the others
  };

  /// `origins` is the code that the module's was made from.
  Program(Module module_, ExecutorChoice& choice, Preparation how_, Origins origins_)
      : module(std::move(module_)),
        how(std::move(how_)),
        origins(std::move(origins_)),
        state(analyse_state(module)),
        names(public_methods(module)) {
    for (const std::string& name : names) {
      methods.push_back({&module.get_method(name).function().getSchema(), {}, nullptr});
    }
    if (choice.executor == "prepared") prepare_methods(choice);
    executor = choice.executor;
    for (std::size_t i = 0; i < names.size() && executor != "prepared"; ++i) {
      torch::jit::Block* const block = torch::jit::toGraphFunction(function(i)).graph()->block();
      keep_scalar_tensors(block);
      unshare_sizes(block);
    }
    create_executors(module._ivalue()->compilation_unit()->get_functions(), executor, how.device);
    for (std::size_t i = 0; i < names.size(); ++i) {
      methods[i].executor = &torch::jit::toGraphFunction(function(i)).get_executor();
    }
  }

  torch::jit::Function& function(std::size_t method) const {
    return module.get_method(names[method]).function();
  }

  void prepare_methods(ExecutorChoice& choice) {
    try {
      for (std::size_t i = 0; i < names.size(); ++i) {
        PreparedFunction prepared = prepare(function(i), how, state);
        methods[i].code = std::move(prepared.code);
        decisions.insert(decisions.end(), prepared.decisions.begin(), prepared.decisions.end());
        lowered_products += prepared.lowered_products;
      }
    } catch (const std::exception& error) {
      for (Method& method : methods) method.code = {};
      lowered_products = 0;
      decisions.clear();
      choice = choose_executor("legacy", how.device);
      choice.reason = "its code cannot be prepared: " + clean_message(error);
    }
  }

  Module module;
  Preparation how;
  Origins origins;
  std::string executor;
  std::vector<std::string> decisions;  // of preparing
  int lowered_products = 0;            // of all methods
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
      Origins origins = program->origins;
      origins.push_back(program->module._ivalue()->compilation_unit());
      program = std::make_shared<Program>(instance, same, program->how, std::move(origins));
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
    Copies copies;
    for (const std::string& name : public_methods(copy)) {
      torch::jit::Graph& graph = *copy.get_method(name).graph();
      torch::jit::Inline(graph);  // what it calls belongs to the module too
      replace_constants(graph.block(), copies);
    }
    return copy;
  }

  /// Of tensors that several nodes may hold.
  using Copies = std::unordered_map<const c10::TensorImpl*, at::Tensor>;

  void replace_constants(Block* block, Copies& copies) const {
    for (Node* node : block->nodes()) {
      for (Block* inner : node->blocks()) replace_constants(inner, copies);
      if (node->kind() != torch::jit::prim::Constant ||
          !node->hasAttribute(torch::jit::attr::value)) {
        continue;
      }
      const torch::jit::AttributeKind kind = node->kindOf(torch::jit::attr::value);
      if (kind == torch::jit::AttributeKind::t) {
        const at::Tensor value = node->t(torch::jit::attr::value);
        if (program_->state.constants.count(value.unsafeGetTensorImpl())) {
          at::Tensor& copy = copies[value.unsafeGetTensorImpl()];
          if (!copy.defined()) copy = value.clone();
          node->t_(torch::jit::attr::value, copy);
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

/// Where libtorch is to put all tensors; nullopt: where each was saved. It would put one that is on
/// the meta device elsewhere too, over memory that it does not have.
std::optional<c10::Device> place_for(const Archive& archive, c10::Device device) {
  if (!archive.has_meta()) return device;
  if (device.is_cpu() && archive.saved_on() == "cpu") return std::nullopt;
  throw ModelLoadError(
      "a tensor is on the meta device: expected all others on the CPU, and to be "
      "loaded there, got " +
      (device.is_cpu() ? archive.saved_on() : device.str()) +
      "; give it values, or take it out of the module, before saving");
}

/// Python's call of a module runs them, forward() does not.
void require_no_hooks(const Module& module) {
  const std::vector<torch::jit::Function*>& before = module.type()->getForwardPreHooks();
  const std::vector<torch::jit::Function*>& behind = module.type()->getForwardHooks();
  if (before.empty() && behind.empty()) return;
  throw ModelLoadError("expected a module without forward hooks of its own, got " +
                       (before.empty() ? behind : before).front()->name() +
                       ", which forward() leaves out; trace the module, or make it a part of "
                       "another, before saving");
}

Module read_module(const Archive& archive, c10::Device device, bool map_weights,
                   std::vector<std::string>& decisions) {
  const auto weights = map_weights && device.is_cpu() && FrontAllocator::instance()
                           ? archive.map_weights()
                           : nullptr;
  const FrontAllocator::Use use(weights.get());
  Module module = torch::jit::load(archive.reader(weights.get()), place_for(archive, device));
  require_no_hooks(module);
  if (weights && weights->mapped_bytes() > 0) {
    decisions.push_back(c10::str("weights mapped from the file: ", weights->mapped_bytes(), " of ",
                                 archive.info().weight_bytes, " bytes"));
  }
  return module;
}

/// Whether the code of a module asks whether it trains. A trace has the answer in it.
bool asks_for_training(const Module& module) {
  const auto asks = [](const torch::jit::Node* node) {
    return node->kind() == torch::jit::prim::GetAttr &&
           node->s(torch::jit::attr::name) == "training";
  };
  const std::vector<torch::jit::Method> methods = module.get_methods();
  return std::any_of(methods.begin(), methods.end(), [&](const torch::jit::Method& method) {
    return any_node(method.graph()->block(), asks);
  });
}

bool takes_gradients(const Block* block) {
  return any_node(block, [](const torch::jit::Node* node) {
    return node->kind() == c10::aten::grad || node->kind() == c10::aten::backward;
  });
}

void put_in_eval_mode(Module& module, std::vector<std::string>& decisions) {
  bool answers_otherwise = false;
  for (const Module& inner : module.modules()) {
    answers_otherwise = answers_otherwise || (inner.hasattr("training") && inner.is_training() &&
                                              asks_for_training(inner));
  }
  module.eval();
  if (!answers_otherwise) return;
  const std::string text = "the archive was saved in train mode: it runs in eval mode";
  decisions.push_back(text);
  TORCH_WARN(text, ", and torch.jit.load would not; call eval() before saving");
}

/// The module frozen, or the module itself where that fails or torch's freeze made constants of
/// what the code writes to: a list of tensors that the code takes apart, say. Both compute the
/// same.
///
/// torch's own rewrites of numbers are left out, those of freeze too. It folds a batch norm into a
/// linear over what is written in between; optimize_for_inference keeps values in oneDNN's layout,
/// where a write through a view is lost and some operators answer differently or not at all.
Module frozen(Module module, ModelInfo& info) {
  if (!module.find_method("forward")) {
    info.decisions.push_back("not optimised: there is no forward");
    return module;
  }
  std::vector<std::string> others = public_methods(module);
  others.erase(std::find(others.begin(), others.end(), "forward"));
  try {
    // freeze would inline functions of a copy, and then delete them: error texts still read them.
    for (const std::string& name : public_methods(module)) {
      torch::jit::Inline(*module.get_method(name).graph());
    }
    // Freezing takes `training` away: without it the export froze the module already.
    Module frozen = module.hasattr("training")
                        ? torch::jit::freeze(module, others, /*optimize_numerics=*/false)
                        : module;
    if (analyse_state(frozen).writes_constants()) {
      info.decisions.push_back("not optimised: it writes to what would be constants");
      return module;
    }
    info.optimized = true;
    info.decisions.push_back("frozen");
    return frozen;
  } catch (const std::exception& error) {
    info.decisions.push_back("not optimised: " + clean_message(error));
    return module;
  }
}

}  // namespace

std::unique_ptr<Engine> load_torchscript(const Archive& archive, c10::Device device,
                                         const LoadOptions& options, ModelInfo& info) {
  PassSelection passes(options);  // first: these refuse unknown names
  ExecutorChoice choice = choose_executor(options.executor, device);
  instruction_set();
  auto start = std::chrono::steady_clock::now();
  const auto step_done = [&](const char* name) {
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - start).count();
    info.load_steps.push_back({name, ms, {}, {}});
    start = now;
  };
  Module module = read_module(archive, device, options.map_weights, info.decisions);
  put_in_eval_mode(module, info.decisions);
  const Origins origins = {module._ivalue()->compilation_unit()};
  std::vector<Block*> blocks;
  for (torch::jit::Function* function : origins[0]->get_functions()) {
    blocks.push_back(torch::jit::toGraphFunction(*function).graph()->block());
  }
  info.grad = std::any_of(blocks.begin(), blocks.end(), takes_gradients);
  if (info.grad && !passes.empty()) {
    // Own kernels have no gradients, and freezing takes detach() away.
    info.decisions.push_back("not optimised: it takes gradients");
    passes = PassSelection::none();
  } else if (passes.empty()) {
    info.decisions.push_back("not optimised: asked for");
  }
  correct(blocks, /*optimized=*/!passes.empty());
  step_done("deserialise");
  for (const std::string& name : options.disabled_passes) {
    info.decisions.push_back("pass " + name + " left out: disabled");
  }
  if (passes.runs("freeze")) {
    module = frozen(std::move(module), info);
    step_done("optimise");
  }
  PrecisionChoice precision = choose_precision(options.precision, device, choice.executor);
  const Preparation how = {device, passes, precision.type};
  auto program = std::make_shared<Program>(module, choice, how, origins);
  step_done("prepare");
  info.decisions.insert(info.decisions.end(), program->decisions.begin(), program->decisions.end());
  if (precision.type != c10::kFloat && program->lowered_products == 0) {
    precision = {c10::kFloat, choice.executor == "prepared" ? "no product of it can be"
                                                            : "it runs by another executor"};
  }
  info.precision = precision_name(precision.type);
  if (precision.type != c10::kFloat) {
    info.decisions.push_back(
        c10::str("precision ", info.precision, ": ", program->lowered_products, " products"));
  } else if (info.precision != options.precision) {
    info.decisions.push_back("precision fp32, not " + options.precision + ": " + precision.reason);
  }
  if (const std::string tf32 = tf32_text(device); !tf32.empty()) info.decisions.push_back(tf32);
  info.executor = choice.executor;
  info.decisions.push_back(
      "executor " + choice.executor +
      (choice.reason.empty() ? "" : ", not " + options.executor + ": " + choice.reason));
  return std::make_unique<TorchScriptEngine>(std::move(program), module);
}

}  // namespace ts_infer
