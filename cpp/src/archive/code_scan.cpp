#include "archive/code_scan.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <vector>

#include "archive/source_scan.h"

namespace ts_infer {
namespace {

// No std::regex: it recurses with every character that it matches, and a hostile file has many.

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

/// The word that starts there; "" where none does.
std::string_view word_at(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (end < text.size() && is_in_word(text[end])) ++end;
  return text.substr(begin, end - begin);
}

/// Calls use(place) with where the text goes on behind each `wanted`.
template <typename Use>
void for_each_behind(std::string_view text, std::string_view wanted, const Use& use) {
  for (std::size_t at = text.find(wanted); at != text.npos; at = text.find(wanted, at + 1)) {
    use(at + wanted.size());
  }
}

/// Words between dots that end before `end`, the last first, three at most.
std::vector<std::string_view> dotted_name(std::string_view text, std::size_t end) {
  std::vector<std::string_view> words;
  while (words.size() < 3) {
    std::size_t begin = end;
    while (begin > 0 && is_in_word(text[begin - 1])) --begin;
    if (begin == end) break;
    words.push_back(text.substr(begin, end - begin));
    if (begin == 0 || text[begin - 1] != '.') break;
    end = begin - 1;
  }
  return words;
}

/// torch.add, prim.unchecked_cast, ops.torchvision.nms: of what is called by such a name.
void collect_operators(std::string_view text, std::set<std::string>& found) {
  for_each_behind(text, "(", [&](std::size_t place) {
    const std::vector<std::string_view> words = dotted_name(text, place - 1);
    if (words.size() < 2) return;
    const std::string name = std::string(words[1]) + '.' + std::string(words[0]);
    if (words[1] == "torch" || words[1] == "prim") {
      found.insert(name);
    } else if (words.size() == 3 && words[2] == "ops") {
      found.insert("ops." + name);
    }
  });
}

/// Of torch.device("cuda:0").
void collect_devices(std::string_view source, std::set<std::string>& found) {
  for_each_behind(source, "torch.device(\"", [&](std::size_t begin) {
    const std::string_view device = source.substr(begin, source.find('"', begin) - begin);
    const bool is_closed = source.substr(begin + device.size()).starts_with("\")");
    if (is_closed && !device.empty()) found.insert(std::string(device));
  });
}

/// Of "cuda:0" anywhere.
void collect_pickled_devices(std::string_view pickle, std::set<std::string>& found) {
  constexpr std::array kTypes = {"cuda:", "xpu:", "mps:", "hpu:", "npu:", "privateuseone:"};
  for (const std::string type : kTypes) {
    for_each_behind(pickle, type, [&](std::size_t begin) {
      std::size_t end = begin;
      while (end < pickle.size() && std::isdigit(static_cast<unsigned char>(pickle[end])) != 0) {
        ++end;
      }
      if (end > begin) found.insert(type + std::string(pickle.substr(begin, end - begin)));
    });
  }
}

/// Names of the methods that a class of serialised TorchScript defines.
std::vector<std::string> methods_of(const std::string& source, const std::string& class_name) {
  std::vector<std::string> methods;
  const std::size_t begin = source.find("class " + class_name + "(");
  if (begin == std::string::npos) return methods;
  const std::size_t end = source.find("\nclass ", begin);
  const std::string_view body = std::string_view(source).substr(begin, end - begin);
  for_each_behind(body, "\n  def ", [&](std::size_t place) {
    const std::string_view name = word_at(body, place);
    if (!name.empty() && body.substr(place + name.size()).starts_with('(')) {
      methods.emplace_back(name);
    }
  });
  return methods;
}

}  // namespace

void CodeScan::add(const std::string& member, const std::string& content) {
  if (member.starts_with("code/") && member.ends_with(".py")) {
    collect_operators(content, operators_);
    collect_devices(content, devices_);
    code_[member] = content;
  } else if (member == "data.pkl" || member == "constants.pkl") {
    collect_pickled_devices(content, devices_);
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
