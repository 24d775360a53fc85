#include <iostream>

#include "commands.h"
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

bool is_package(const ArchiveInfo& info) { return info.code.empty() && info.damaged.empty(); }

std::string restricted(const ArchiveInfo& info) {
  if (is_package(info)) return "not known, a package's code is native";
  if (info.restricted_operators.empty()) return "no operator that load refuses";
  return join(info.restricted_operators, ", ") + ", which load refuses unless allowed";
}

std::string text_of(const NeededLibrary& library) {
  std::vector<std::string> names = library.operators;
  names.insert(names.end(), library.classes.begin(), library.classes.end());
  return (library.file.empty() ? "an unknown file" : library.file) + ", for " + join(names, ", ");
}

/// What the export recorded; nothing where it recorded nothing.
void print_provenance(const ArchiveInfo& info) {
  if (!info.state.empty()) std::cout << "state       " << join(info.state, ", ") << '\n';
  for (const NeededLibrary& library : info.libraries) {
    std::cout << "needs       " << text_of(library) << '\n';
  }
  for (const ScriptedPart& part : info.scripted) {
    std::cout << "scripted    " << part.name << ": " << part.reason << '\n';
  }
  if (info.golden_calls > 0) {
    std::cout << "golden      " << info.golden_calls
              << (info.golden_calls == 1 ? " call" : " calls") << ", which ts_infer verify makes\n";
  }
}

void print(const Audit& audit) {
  std::cout << "\naudit: " << audit.level;
  if (!audit.allowed.empty()) std::cout << ", allowed: " << join(audit.allowed, ", ");
  std::cout << '\n';
  if (audit.probes.empty()) return;
  constexpr auto kLeft = Table::Align::kLeft;
  Table table(
      {{"  probe", kLeft}, {"outcome", kLeft}, {"runs", Table::Align::kRight}, {"", kLeft}});
  for (const AuditProbe& probe : audit.probes) {
    table.add({"  " + probe.name, probe.outcome, std::to_string(probe.runs), probe.reason});
  }
  std::cout << table.to_string();
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
            << "methods     " << join(info.methods, ", ") << '\n'
            << "restricted  " << restricted(info) << '\n';
  print_provenance(info);
  if (info.signature) {
    std::cout << '\n' << info.signature->to_string();
  } else {
    std::cout << "\nsignature: not in the file, which has no ts_infer manifest; ts_infer.export "
                 "writes one\n";
  }
  if (info.audit) print(*info.audit);
  if (is_package(info)) {
    std::cout << "\noperators: not known, a package's code is native\n";
    return;
  }
  std::cout << "\noperators (" << info.operators.size() << "):\n" << wrapped(info.operators);
}

Json to_json(const Audit& audit) {
  Json probes = Json::array();
  for (const AuditProbe& probe : audit.probes) {
    probes.push_back({{"name", probe.name},
                      {"outcome", probe.outcome},
                      {"runs", probe.runs},
                      {"reason", probe.reason}});
  }
  return {{"level", audit.level}, {"probes", probes}, {"allowed", audit.allowed}};
}

Json to_json(const ArchiveInfo& info, bool has_code) {
  Json scripted = Json::array();
  for (const ScriptedPart& part : info.scripted) {
    scripted.push_back({{"name", part.name}, {"reason", part.reason}});
  }
  Json libraries = Json::array();
  for (const NeededLibrary& library : info.libraries) {
    libraries.push_back(
        {{"file", library.file}, {"operators", library.operators}, {"classes", library.classes}});
  }
  Json warmup = Json::array();
  for (const auto& shapes : info.warmup_shapes) warmup.push_back(shapes);
  Json json = {
      {"path", info.path},
      {"file_bytes", info.file_bytes},
      {"name", info.name},
      {"method", info.method.empty() ? Json() : Json(info.method)},
      {"is_package", is_package(info)},
      {"exported_with_torch", info.torch_version.empty() ? Json() : Json(info.torch_version)},
      {"signature", info.signature ? signature_json(*info.signature) : Json()},
      {"warmup_shapes", warmup},
      {"state", info.state},
      {"scripted", scripted},
      {"audit", info.audit ? to_json(*info.audit) : Json()},
      {"libraries", libraries},
      {"golden_calls", info.golden_calls},
      {"methods", info.methods},
      {"operators", info.operators},
      {"restricted_operators", info.restricted_operators},
      {"devices", info.devices},
      {"weight_bytes", info.weight_bytes},
      {"members", info.members},
      {"damaged", info.damaged}};
  if (has_code) json["code"] = info.code;
  return json;
}

}  // namespace

void inspect(const InspectArguments& arguments) {
  const ArchiveInfo info = read_model_info(arguments.model, archive_limits(arguments.limits));
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
