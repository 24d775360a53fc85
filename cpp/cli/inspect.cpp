#include <iostream>

#include "commands.h"
#include "machine.h"
#include "ts_infer/version.h"

namespace ts_infer::cli {
namespace {

/// "a, b, c" broken into lines of at most 80 columns, indented by two.
std::string wrapped(const std::vector<std::string>& words) {
  std::string text;
  std::string line = " ";
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string word = words[i] + (i + 1 < words.size() ? "," : "");
    if (line.size() > 1 && line.size() + 1 + word.size() > 80) {
      text += line + '\n';
      line = " ";
    }
    line += ' ' + word;
  }
  return words.empty() ? "  none\n" : text + line + '\n';
}

std::string integrity(const ArchiveInfo& info) {
  if (info.damaged.empty()) return "every member's CRC-32 is right";
  return "DAMAGED: " + join(info.damaged, ", ");
}

void print(const ArchiveInfo& info) {
  std::string exported = info.method.empty() ? "" : info.method + ", ";
  exported += info.torch_version.empty() ? "torch version unknown" : "torch " + info.torch_version;
  std::cout << "name        " << info.name << '\n'
            << "file        " << info.path << ", " << bytes_text(info.file_bytes) << ", "
            << info.members << " members\n"
            << "integrity   " << integrity(info) << '\n'
            << "exported    " << exported << '\n'
            << "read with   ts_infer " << version() << ", torch " << loaded_torch() << '\n'
            << "weights     " << bytes_text(info.weight_bytes) << '\n'
            << "devices     " << (info.devices.empty() ? "none named" : join(info.devices, ", "))
            << '\n'
            << "methods     " << join(info.methods, ", ") << '\n';
  if (info.signature) {
    std::cout << '\n' << info.signature->to_string();
  } else {
    std::cout << "\nsignature: not in the file, which has no ts_infer manifest; ts_infer.export "
                 "writes one\n";
  }
  std::cout << "\noperators (" << info.operators.size() << "):\n" << wrapped(info.operators);
}

Json to_json(const ArchiveInfo& info, bool has_code) {
  Json warmup = Json::array();
  for (const auto& shapes : info.warmup_shapes) warmup.push_back(shapes);
  Json json = {
      {"versions", versions_json()},
      {"path", info.path},
      {"file_bytes", info.file_bytes},
      {"name", info.name},
      {"method", info.method.empty() ? Json() : Json(info.method)},
      {"exported_with_torch", info.torch_version.empty() ? Json() : Json(info.torch_version)},
      {"signature", info.signature ? signature_json(*info.signature) : Json()},
      {"warmup_shapes", warmup},
      {"methods", info.methods},
      {"operators", info.operators},
      {"devices", info.devices},
      {"weight_bytes", info.weight_bytes},
      {"members", info.members},
      {"damaged", info.damaged}};
  if (has_code) json["code"] = info.code;
  return json;
}

}  // namespace

void inspect(const InspectArguments& arguments) {
  const ArchiveInfo info = read_model_info(arguments.model);
  if (prints_text(arguments.json)) {
    print(info);
    if (arguments.code) {
      for (const auto& [path, source] : info.code) {
        std::cout << "\n# " << path << '\n' << source << (source.ends_with('\n') ? "" : "\n");
      }
    }
  }
  write_json(arguments.json, "inspect", to_json(info, arguments.code));
  if (!info.damaged.empty()) {
    throw ModelLoadError("[inspect] " + arguments.model +
                         ": damaged members: " + join(info.damaged, ", ") +
                         ": expected the CRC-32 that the archive records, got another; copy or "
                         "export the file again");
  }
}

}  // namespace ts_infer::cli
