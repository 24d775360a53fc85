#include "engine/package_engine.h"

#include <ATen/ATen.h>
#include <ATen/cpu/Utils.h>
#include <c10/core/alignment.h>
#include <sys/utsname.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using torch::inductor::AOTIModelPackageLoader;

constexpr const char* kModel = "model";  // how torch calls the one model of a package

c10::TypePtr type_of(const ResultStructure& result) {
  using Kind = ResultStructure::Kind;
  switch (result.kind) {
    case Kind::kTensor:
      return c10::TensorType::get();
    case Kind::kTuple: {
      std::vector<c10::TypePtr> types;
      for (const ResultStructure& item : result.items) types.push_back(type_of(item));
      return c10::TupleType::create(std::move(types));
    }
    case Kind::kList:
    case Kind::kDict: {
      // Of tensors where it is empty, as in TorchScript.
      const c10::TypePtr item =
          result.items.empty() ? c10::TypePtr(c10::TensorType::get()) : type_of(result.items[0]);
      for (const ResultStructure& other : result.items) {
        if (*type_of(other) != *item) {
          throw ModelLoadError(
              "its manifest's result: expected items of one type in a list or dict; compile the "
              "model again");
        }
      }
      if (result.kind == Kind::kList) return c10::ListType::create(item);
      return c10::DictType::create(c10::StringType::get(), item);
    }
  }
  return nullptr;
}

std::size_t leaves_of(const ResultStructure& result) {
  if (result.kind == ResultStructure::Kind::kTensor) return 1;
  std::size_t count = 0;
  for (const ResultStructure& item : result.items) count += leaves_of(item);
  return count;
}

/// Takes as many tensors as the structure has leaves.
c10::IValue build(const ResultStructure& result, const c10::Type& type,
                  std::vector<at::Tensor>::iterator& next) {
  using Kind = ResultStructure::Kind;
  switch (result.kind) {
    case Kind::kTensor:
      return std::move(*next++);
    case Kind::kTuple: {
      std::vector<c10::IValue> items;
      for (std::size_t i = 0; i < result.items.size(); ++i) {
        items.push_back(build(result.items[i], *type.containedType(i), next));
      }
      return c10::ivalue::Tuple::create(std::move(items));
    }
    case Kind::kList: {
      c10::impl::GenericList list(type.containedType(0));
      for (const ResultStructure& item : result.items) {
        list.push_back(build(item, *type.containedType(0), next));
      }
      return list;
    }
    case Kind::kDict: {
      c10::impl::GenericDict dict(c10::StringType::get(), type.containedType(1));
      for (std::size_t i = 0; i < result.items.size(); ++i) {
        dict.insert(result.keys[i], build(result.items[i], *type.containedType(1), next));
      }
      return dict;
    }
  }
  return {};
}

/// As the package's code expects it: contiguous, aligned as torch's allocators align, and with
/// memory that holds its values.
at::Tensor as_compiled_for(const at::Tensor& input) {
  at::Tensor contiguous = input.contiguous().resolve_conj().resolve_neg();
  const auto address = reinterpret_cast<std::uintptr_t>(contiguous.const_data_ptr());
  return address % c10::gAlignment == 0 ? contiguous : contiguous.clone();
}

class PackageEngine : public Engine {
 public:
  PackageEngine(std::shared_ptr<AOTIModelPackageLoader> loader, const Signature& signature,
                ResultStructure result)
      : loader_(std::move(loader)),
        result_(std::move(result)),
        leaves_(leaves_of(result_)),
        type_(type_of(result_)),
        schema_(schema_of(signature)) {}

  const std::vector<std::string>& methods() const override { return methods_; }
  const c10::FunctionSchema& schema(std::size_t /*method*/) const override { return schema_; }
  std::size_t compiled_plans(std::size_t /*method*/) const override { return 0; }
  const std::string& state() const override { return state_; }

  std::unique_ptr<Engine> clone() const override { return std::make_unique<PackageEngine>(*this); }

  void run(std::size_t /*method*/, std::vector<c10::IValue>& stack) override {
    std::vector<at::Tensor> inputs;
    inputs.reserve(stack.size());
    for (const c10::IValue& input : stack) inputs.push_back(as_compiled_for(input.toTensor()));
    std::vector<at::Tensor> outputs = loader_->run(inputs);
    TORCH_CHECK(outputs.size() == leaves_, "the package returned ", outputs.size(),
                " tensors, its manifest declares ", leaves_, "; compile the model again");
    auto next = outputs.begin();
    stack.assign(1, build(result_, *type_, next));
  }

 private:
  c10::FunctionSchema schema_of(const Signature& signature) const {
    std::vector<c10::Argument> arguments = {c10::Argument("self", c10::AnyType::get())};
    for (const TensorSpec& input : signature.inputs) {
      arguments.emplace_back(input.name, c10::TensorType::get());
    }
    return {methods_[0], "", std::move(arguments), {c10::Argument("", type_)}};
  }

  std::shared_ptr<AOTIModelPackageLoader> loader_;
  ResultStructure result_;
  std::size_t leaves_;
  c10::TypePtr type_;
  std::vector<std::string> methods_ = {"forward"};
  std::string state_;
  c10::FunctionSchema schema_;
};

/// Code for another processor would end the process at its first unknown instruction.
void require_this_processor(const std::string& path) {
  const auto metadata = AOTIModelPackageLoader::load_metadata_from_package(path, kModel);
  const auto entry = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  const auto refuse = [](const std::string& expected, const std::string& got) {
    throw ModelLoadError("expected a processor with " + expected +
                         ", for which it was compiled, got " + got + "; compile it on this one");
  };
  utsname system{};
  uname(&system);
  if (const std::string machine = entry("AOTI_MACHINE");
      !machine.empty() && machine != system.machine) {
    refuse(machine, system.machine);
  }
  // As torch's compiler calls them, and as its library does.
  constexpr std::pair<const char*, const char*> kExtensions[] = {{"AVX2", "avx2"},
                                                                 {"AVX512", "avx512_f"},
                                                                 {"AVX512_VNNI", "avx512_vnni"},
                                                                 {"AMX_TILE", "amx_tile"}};
  const std::string needed = entry("AOTI_CPU_ISA");
  const auto here = at::cpu::get_cpu_capabilities();
  for (const auto& [name, ours] : kExtensions) {
    const auto found = here.find(ours);
    if (needed.find(name) != std::string::npos &&
        (found == here.end() || !found->second.toBool())) {
      refuse(needed, std::string("one without ") + name);
    }
  }
}

}  // namespace

std::unique_ptr<Engine> load_package(const Archive& archive, c10::Device device, ModelInfo& info) {
  const std::optional<Compiled>& compiled = archive.compiled();
  if (!compiled) {
    throw ModelLoadError(
        "an AOTInductor package that does not say what its inputs are: nothing could check them, "
        "and its code does not; make it with `ts_infer compile`");
  }
  for (const TensorSpec& input : archive.info().signature->inputs) {
    if (!input.dtype || !input.shape) {
      throw ModelLoadError("its manifest does not say what the input " + input.name +
                           " is: expected a dtype and a shape; compile the model again");
    }
  }
  if (archive.info().path.empty()) {
    throw ModelLoadError(
        "expected a file, got an AOTInductor package in memory; torch unpacks it from its file: "
        "load it by its path");
  }
  if (c10::Device(compiled->device).type() != device.type()) {
    throw ModelLoadError("expected the device that it was compiled for, " + compiled->device +
                         ", got " + device.str() + "; choose that, or compile it again");
  }
  require_this_processor(archive.info().path);
  // As many calls as there are processors run at once; weights are shared.
  const std::size_t runners = std::max(1u, std::thread::hardware_concurrency());
  auto loader = std::make_shared<AOTIModelPackageLoader>(
      archive.info().path, kModel, /*run_single_threaded=*/false, runners,
      device.is_cpu() ? c10::DeviceIndex{-1} : device.index());
  info.executor = "aotinductor";
  info.decisions.push_back("compiled for " + compiled->device +
                           ": executor, optimize, precision and map_weights do not apply");
  return std::make_unique<PackageEngine>(std::move(loader), *archive.info().signature,
                                         compiled->result);
}

}  // namespace ts_infer
