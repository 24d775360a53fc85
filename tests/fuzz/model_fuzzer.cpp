// What is in a model's file: the first byte chooses a pickle or a file of code, the others replace
// it. What the gate accepts, libtorch must survive, and it may hold no restricted operator.

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "archive/archive.h"
#include "ts_infer/error.h"
#include "ts_infer/model.h"

namespace {

using namespace ts_infer;

/// The members of a good model, by their names inside the folder.
std::map<std::string, std::string> read_members() {
  std::map<std::string, std::string> members;
  caffe2::serialize::PyTorchStreamReader reader(std::string(TS_INFER_FUZZ_MODEL));
  for (const std::string& name : reader.getAllRecords()) {
    const auto [data, size] = reader.getRecord(name);
    members[name] = std::string(static_cast<const char*>(data.get()), size);
  }
  return members;
}

std::string with_member(const std::map<std::string, std::string>& members,
                        const std::string& replaced, const std::string& content) {
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, std::size_t size) {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  });
  for (const auto& [name, kept] : members) {
    const bool is_written_at_the_end = name == "version" || name.starts_with(".");
    if (is_written_at_the_end) continue;
    const std::string& written = name == replaced ? content : kept;
    writer.writeRecord(name, written.data(), written.size());
  }
  writer.writeEndOfFile();
  return bytes;
}

void require_unrestricted(const torch::jit::Block& block) {
  for (const torch::jit::Node* node : block.nodes()) {
    const std::string name = node->kind().toQualString();
    for (const std::string& restricted : restricted_operators()) {
      const bool is_found =
          restricted.ends_with("::") ? name.starts_with(restricted) : name == restricted;
      if (!is_found) continue;
      std::fprintf(stderr, "%s was let through\n", name.c_str());
      std::abort();
    }
    for (const torch::jit::Block* inner : node->blocks()) require_unrestricted(*inner);
  }
}

void look_at(const std::string& bytes) {
  ArchiveLimits limits;
  limits.unpacked_bytes = 1 << 24;
  const auto archive = Archive::over(bytes, limits);
  archive->scan();
  archive->require_intact();
  archive->require_operators({});
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  try {
    torch::jit::ExtraFilesMap no_files;
    torch::jit::import_ir_module(unit, archive->reader(), c10::Device("cpu"), no_files);
  } catch (const std::exception&) {
    // What it compiled until then is looked at.
  }
  for (const torch::jit::Function* function : unit->get_functions()) {
    if (function->isGraphFunction()) {
      require_unrestricted(*torch::jit::toGraphFunction(*function).graph()->block());
    }
  }
  LoadOptions options;
  options.warmup = "off";
  options.optimize = false;
  Model::load(bytes.data(), bytes.size(), options);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::map<std::string, std::string> kMembers = read_members();
  static const std::vector<std::string> kReplaced = {
      "data.pkl", "constants.pkl", "code/__torch__.py", "code/__torch__.py.debug_pkl"};
  for (const std::string& name : kReplaced) {
    if (kMembers.count(name) > 0) continue;
    std::fprintf(stderr, "no member %s\n", name.c_str());
    std::abort();
  }
  if (size == 0) return 0;
  const std::string content(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    look_at(with_member(kMembers, kReplaced[data[0] % kReplaced.size()], content));
  } catch (const ModelLoadError&) {
    // One of the table's errors.
  }
  return 0;
}
