#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace ts_infer {

/// Bytes of the record that holds a storage, by its key; nullopt where there is none.
using StorageBytes = std::function<std::optional<std::uint64_t>(const std::string& key)>;

struct PickleScan {
  std::size_t nesting = 0;     // of values, or of brackets in the name of a type
  bool has_meta = false;       // a storage is on the meta device: it need not have a record
  std::string device = "cpu";  // one that a storage is on, "cpu" where all others are
};

/// Goes through a pickle as libtorch's unpickler does, which trusts it: every opcode finds what it
/// takes, storages are no larger than their records, tensors stay within their storages, and
/// nothing holds itself. No value is made.
/// @throws ModelLoadError; the message is a clause such as "it ends too early".
PickleScan scan_pickle(std::string_view pickle, const StorageBytes& storage_bytes);

/// The same of debug information (.debug_pkl), whose values must be what torch takes them for.
PickleScan scan_debug_info(std::string_view pickle);

}  // namespace ts_infer
