#include "archive/code_scan.h"

#include <algorithm>
#include <regex>

namespace ts_infer {
namespace {

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

/// The class that the first GLOBAL opcode of data.pkl names is the archive's module.
bool find_root(const std::string& pickle, std::string& module, std::string& name) {
  const std::size_t begin = pickle.find("c__torch__");
  if (begin == std::string::npos) return false;
  const std::size_t middle = pickle.find('\n', begin);
  if (middle == std::string::npos) return false;
  const std::size_t end = pickle.find('\n', middle + 1);
  if (end == std::string::npos) return false;
  module = pickle.substr(begin + 1, middle - begin - 1);
  name = pickle.substr(middle + 1, end - middle - 1);
  return true;
}

void collect(const std::string& text, const std::regex& pattern, std::set<std::string>& found) {
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match) {
    found.insert((*match)[1].str());
  }
}

/// Names of the methods that a class of serialised TorchScript defines.
std::vector<std::string> methods_of(const std::string& source, const std::string& class_name) {
  std::vector<std::string> methods;
  const std::size_t begin = source.find("class " + class_name + "(");
  if (begin == std::string::npos) return methods;
  const std::size_t end = source.find("\nclass ", begin);
  const std::string body = source.substr(begin, end == std::string::npos ? end : end - begin);
  static const std::regex kMethod("\\n  def (\\w+)\\(");
  for (std::sregex_iterator match(body.begin(), body.end(), kMethod), last; match != last;
       ++match) {
    methods.push_back((*match)[1].str());
  }
  return methods;
}

}  // namespace

void CodeScan::add(const std::string& member, const std::string& content) {
  static const std::regex kOperator("\\b((?:torch|prim|ops\\.\\w+)\\.\\w+)\\(");
  static const std::regex kDevice("torch\\.device\\(\"([^\"]+)\"\\)");
  static const std::regex kPickledDevice("((?:cuda|xpu|mps|hpu|npu|privateuseone):\\d+)");
  if (member.rfind("code/", 0) == 0 && ends_with(member, ".py")) {
    collect(content, kOperator, operators_);
    collect(content, kDevice, devices_);
    code_[member] = content;
  } else if (ends_with(member, ".pkl") && member.find('/') == std::string::npos) {
    collect(content, kPickledDevice, devices_);
    if (member == "data.pkl") find_root(content, root_module_, root_class_);
  }
}

void CodeScan::finish(ArchiveInfo& info) {
  info.operators.assign(operators_.begin(), operators_.end());
  info.devices.assign(devices_.begin(), devices_.end());
  std::string file = "code/" + root_module_ + ".py";
  std::replace(file.begin() + 5, file.end() - 3, '.', '/');
  const auto source = code_.find(file);
  if (source != code_.end()) info.methods = methods_of(source->second, root_class_);
  info.code = std::move(code_);
}

}  // namespace ts_infer
