#pragma once

#include <map>
#include <set>
#include <string>

#include "ts_infer/model.h"

namespace ts_infer {

/// What the members of a TorchScript archive show as text: methods, operators, devices. It reads
/// the serialised source and the opcodes of the pickles; nothing is compiled, unpickled or run.
class CodeScan {
 public:
  void add(const std::string& member, const std::string& content);
  void finish(ArchiveInfo& info);

 private:
  std::map<std::string, std::string> code_;
  std::set<std::string> operators_;
  std::set<std::string> devices_;
  std::string root_module_;  // "__torch__.models.gate"
  std::string root_class_;   // "Cell"
};

}  // namespace ts_infer
