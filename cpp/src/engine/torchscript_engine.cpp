#include "engine/torchscript_engine.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <functional>
#include <unordered_set>

#include "engine/executor_policy.h"
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

class TorchScriptEngine : public Engine {
 public:
  TorchScriptEngine(Module module, std::string executor)
      : module_(std::move(module)),
        executor_(std::move(executor)),
        state_(analyse_state(module_)),
        self_(module_._ivalue()),
        names_(public_methods(module_)) {
    create_executors(module_._ivalue()->compilation_unit()->get_functions(), executor_);
    for (const std::string& name : names_) {
      auto& function = torch::jit::toGraphFunction(module_.get_method(name).function());
      methods_.push_back({&function.getSchema(), function.get_executor()});
    }
  }

  const std::vector<std::string>& methods() const override { return names_; }

  const c10::FunctionSchema& schema(std::size_t method) const override {
    return *methods_[method].schema;
  }

  void run(std::size_t method, std::vector<c10::IValue>& stack) override {
    stack.insert(stack.begin(), self_);
    methods_[method].executor.run(stack);
  }

  const std::string& state() const override { return state_.reason; }

  std::unique_ptr<Engine> clone() const override {
    const bool own_constants = state_.constant_containers || !state_.constants.empty();
    Module copy = own_constants ? with_own_constants() : module_;
    if (state_.stateful()) {
      auto shared = state_.opaque ? c10::IValue::HashIdentityIValueMap() : unwritten_tensors(copy);
      copy = Module(copy._ivalue()->deepcopy(shared));
    }
    return std::make_unique<TorchScriptEngine>(std::move(copy), executor_);
  }

 private:
  struct Method {
    const c10::FunctionSchema* schema;
    torch::jit::GraphExecutor executor;
  };

  /// What a deep copy may share: tensors whose memory no method writes to.
  c10::IValue::HashIdentityIValueMap unwritten_tensors(const Module& module) const {
    std::unordered_set<const c10::StorageImpl*> written;
    std::vector<at::Tensor> others;
    for_each_tensor_attribute(module, "", [&](const std::string& path, const at::Tensor& tensor) {
      if (!tensor.has_storage()) return;
      if (state_.attributes.count(path)) {
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
  Module with_own_constants() const {
    Module copy = module_.clone(/*inplace=*/true);
    for (torch::jit::Function* function : copy._ivalue()->compilation_unit()->get_functions()) {
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
        if (state_.constants.count(value.unsafeGetTensorImpl())) {
          node->t_(torch::jit::attr::value, value.clone());
        }
      } else if (kind == torch::jit::AttributeKind::ival && state_.constant_containers) {
        node->ival_(torch::jit::attr::value, node->ival(torch::jit::attr::value).deepcopy());
      }
    }
  }

  Module module_;
  std::string executor_;
  StateAnalysis state_;
  c10::IValue self_;
  std::vector<std::string> names_;
  std::vector<Method> methods_;
};

bool calls_convolution(const Block* block) {
  static const std::unordered_set<std::string> kConvolutions = {
      "aten::_convolution", "aten::convolution",      "aten::conv1d",          "aten::conv2d",
      "aten::conv3d",       "aten::conv_transpose2d", "aten::conv_transpose1d"};
  for (const Node* node : block->nodes()) {
    if (kConvolutions.count(node->kind().toQualString())) return true;
    for (const Block* inner : node->blocks()) {
      if (calls_convolution(inner)) return true;
    }
  }
  return false;
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

/// The optimised module, or the module itself where passes do not apply; both compute the same.
Module optimized(Module module, ModelInfo& info) {
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
                                         ModelInfo& info) {
  Module module = torch::jit::load(archive.reader(), device);
  put_in_eval_mode(module, info.decisions);
  if (optimize) {
    module = optimized(std::move(module), info);
  } else {
    info.decisions.push_back("not optimised: asked for");
  }
  return std::make_unique<TorchScriptEngine>(std::move(module), executor);
}

}  // namespace ts_infer
