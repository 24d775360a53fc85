#include "libraries.h"

#include <c10/util/StringUtil.h>
#include <dlfcn.h>

#include <algorithm>
#include <filesystem>

#include "ts_infer/version.h"

namespace ts_infer {
namespace {

constexpr const char* kClasses = "__torch__.torch.classes.";

/// The run of characters of a qualified name at `begin`, without a full stop at its end.
std::string name_at(const std::string& text, std::size_t begin) {
  const std::size_t end = text.find_first_not_of(
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:.", begin);
  std::string name = text.substr(begin, end == std::string::npos ? end : end - begin);
  while (!name.empty() && (name.back() == '.' || name.back() == ':')) name.pop_back();
  return name;
}

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

/// "mine::triple" and "mine::triple.out", "mine.Stack" and "__torch__.torch.classes.mine.Stack".
bool is_same(std::string recorded, const std::string& name) {
  if (starts_with(recorded, kClasses)) recorded.erase(0, std::string(kClasses).size());
  return recorded == name || starts_with(recorded, name + '.');
}

std::string ask_for(const std::string& kind, const std::string& name,
                    const std::vector<NeededLibrary>& libraries) {
  const auto holder =
      std::find_if(libraries.begin(), libraries.end(), [&](const NeededLibrary& library) {
        const auto is_it = [&](const std::string& recorded) { return is_same(recorded, name); };
        return !library.file.empty() &&
               (std::any_of(library.operators.begin(), library.operators.end(), is_it) ||
                std::any_of(library.classes.begin(), library.classes.end(), is_it));
      });
  const std::string what = c10::str("it needs the custom ", kind, ' ', name, ": expected ");
  if (holder == libraries.end()) {
    return what + "the library that registers it to be loaded; pass it in libraries (--library)";
  }
  return c10::str(what, holder->file, " to be loaded; pass libraries=[\"…/", holder->file,
                  "\"] (--library)");
}

}  // namespace

void load_libraries(const std::vector<std::string>& libraries) {
  for (const std::string& library : libraries) {
    // A name without a slash would be looked for on the loader's path only.
    std::error_code error;
    const std::filesystem::path absolute = std::filesystem::absolute(library, error);
    const bool is_file = !error && std::filesystem::exists(absolute, error);
    const std::string path = is_file ? absolute.string() : library;
    if (path.empty() || !dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
      const char* reason = path.empty() ? nullptr : dlerror();
      throw ModelLoadError(c10::str("[load] \"", library, "\": the library cannot be loaded: ",
                                    reason ? reason : "it has no name",
                                    "; check the path in libraries (--library)"));
    }
  }
}

void load_cuda_graphs() {
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&load_cuda_graphs), &self) == 0 || !self.dli_fname)
    return;
  const auto path =
      std::filesystem::path(self.dli_fname).replace_filename("libts_infer_cuda_graphs.so");
  dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

std::string explain_missing(const std::string& message,
                            const std::vector<NeededLibrary>& libraries) {
  const std::string unknown_operator = "Unknown builtin op: ";
  std::size_t begin = message.find(unknown_operator);
  if (begin != std::string::npos) {
    const std::string name = name_at(message, begin + unknown_operator.size());
    if (starts_with(name, "aten::") || starts_with(name, "prim::")) {
      return c10::str("it needs the operator ", name, ": expected a torch that has it, got ",
                      loaded_torch(), "; use a torch as new as the one that exported it");
    }
    return ask_for("operator", name, libraries);
  }
  begin = message.find(kClasses);
  if (begin != std::string::npos &&
      (message.find("Unknown type name") != std::string::npos ||
       message.find("Class Namespace cannot be used as a value") != std::string::npos)) {
    std::string name = name_at(message, begin + std::string(kClasses).size());
    name.erase(std::min(name.find('.', name.find('.') + 1), name.size()));  // "mine.Stack.__new__"
    return ask_for("class", name, libraries);
  }
  return "";
}

}  // namespace ts_infer
