#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ts_infer {

/// One file of a zip archive, as its central directory tells it.
struct ZipMember {
  std::string name;
  std::uint16_t compression;  // 0: stored, 8: deflated
  std::uint32_t crc32;        // of the uncompressed bytes
  std::uint64_t compressed_size;
  std::uint64_t size;
  std::uint64_t data_offset;  // of its first compressed byte in the archive
};

/// Of ASCII, as libtorch compares the names of members.
std::string lower_case(std::string text);

/// The members in the order of the central directory; zip64 too.
/// Names are relative and stay below the archive's folder, and no two are the same.
/// Format: PKWARE APPNOTE 6.3. @throws ModelLoadError when the structure does not hold together;
/// the message is a clause such as "its end is missing".
std::vector<ZipMember> read_zip_directory(std::string_view bytes);

}  // namespace ts_infer
