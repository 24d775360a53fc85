#pragma once

#include <string>
#include <vector>

#include "ts_infer/model.h"

namespace ts_infer {

/// Loads shared libraries into the process, where they stay. One that is loaded already is left
/// as it is. @throws ModelLoadError
void load_libraries(const std::vector<std::string>& libraries);

/// Loads libts_infer_cuda_graphs.so, which lies beside this library where it was built; it
/// registers CUDA's graphs with torch. Nothing happens where it is not there.
void load_cuda_graphs();

/// Where `message` of libtorch says that an operator or class is not registered: which one, and
/// which of the manifest's libraries registers it. Otherwise empty.
std::string explain_missing(const std::string& message,
                            const std::vector<NeededLibrary>& libraries);

}  // namespace ts_infer
