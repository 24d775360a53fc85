#pragma once

#include <string>
#include <vector>

#include "ts_infer/model.h"

namespace ts_infer {

/// Loads shared libraries into the process, where they stay. One that is loaded already is left
/// as it is. @throws ModelLoadError
void load_libraries(const std::vector<std::string>& libraries);

/// Where `message` of libtorch says that an operator or class is not registered: which one, and
/// which of the manifest's libraries registers it. Otherwise empty.
std::string explain_missing(const std::string& message,
                            const std::vector<NeededLibrary>& libraries);

}  // namespace ts_infer
