#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "archive/zip.h"

namespace ts_infer {

/// What a file is that is no zip archive, and what to do: "an empty file; was it fully written?"
std::string describe_file(std::string_view bytes);

/// What a zip archive is that is neither TorchScript nor a package, from its members' names.
/// `root` is the folder that they lie in, with its slash.
std::string describe_zip(const std::vector<ZipMember>& members, const std::string& root);

}  // namespace ts_infer
