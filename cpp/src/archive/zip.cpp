#include "archive/zip.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "ts_infer/error.h"

namespace ts_infer {
namespace {

constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kEntrySignature = 0x02014b50;
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::size_t kEndSize = 22;
constexpr std::size_t kEntrySize = 46;
constexpr std::size_t kLocalSize = 30;
constexpr std::size_t kLongestComment = 65535;
constexpr std::uint32_t kFolder = 0x10;        // MS-DOS' attribute, that others set too
constexpr std::uint16_t kUnreadable = 0x2061;  // encrypted in one of three ways, or a patch

[[noreturn]] void damaged(const std::string& what) { throw ModelLoadError(what); }

/// Reads little-endian numbers and refuses to leave the archive.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T number(std::uint64_t offset) const {
    static_assert(std::is_unsigned_v<T>);
    T value = 0;
    std::memcpy(&value, text(offset, sizeof(T)).data(), sizeof(T));
    return value;  // every platform that libtorch runs on is little-endian
  }

  std::string_view text(std::uint64_t offset, std::uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) {
      damaged("a record points outside the file, which may have been cut short");
    }
    return bytes_.substr(offset, size);
  }

 private:
  std::string_view bytes_;
};

std::size_t find_end(std::string_view bytes) {
  if (bytes.size() < kEndSize) damaged("it is too short for a zip archive");
  const std::size_t last = bytes.size() - kEndSize;
  const std::size_t first = last > kLongestComment ? last - kLongestComment : 0;
  for (std::size_t offset = last + 1; offset-- > first;) {
    if (Reader(bytes).number<std::uint32_t>(offset) == kEndSignature) return offset;
  }
  damaged("its end is missing: the file was cut short, or never fully written");
}

/// Replaces the 32-bit fields that say "see the zip64 extra field".
void apply_zip64(const Reader& reader, std::uint64_t extra, std::uint64_t extra_size,
                 ZipMember& member, std::uint64_t& local_offset) {
  std::uint64_t at = extra;
  while (at + 4 <= extra + extra_size) {
    const auto id = reader.number<std::uint16_t>(at);
    const auto size = reader.number<std::uint16_t>(at + 2);
    std::uint64_t field = at + 4;
    if (id == 1) {
      for (std::uint64_t* value : {&member.size, &member.compressed_size, &local_offset}) {
        if (*value != 0xffffffff) continue;
        *value = reader.number<std::uint64_t>(field);
        field += 8;
      }
      return;
    }
    at += 4 + size;
  }
}

void require_plain_name(const std::string& name) {
  const bool climbs = ("/" + name + "/").find("/../") != std::string::npos;
  if (name.empty() || name[0] == '/' || name.find('\0') != std::string::npos || climbs) {
    damaged("a member is called \"" + name.substr(0, name.find('\0')) +
            "\", expected a path below the archive's folder");
  }
}

}  // namespace

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return 'A' <= c && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
  });
  return text;
}

std::vector<ZipMember> read_zip_directory(std::string_view bytes) {
  const Reader reader(bytes);
  const std::size_t end = find_end(bytes);
  std::uint64_t count = reader.number<std::uint16_t>(end + 10);
  std::uint64_t offset = reader.number<std::uint32_t>(end + 16);
  if (end >= 20 && reader.number<std::uint32_t>(end - 20) == kEnd64LocatorSignature) {
    const auto end64 = reader.number<std::uint64_t>(end - 20 + 8);
    if (reader.number<std::uint32_t>(end64) != kEnd64Signature) {
      damaged("its zip64 end record is damaged");
    }
    count = reader.number<std::uint64_t>(end64 + 32);
    offset = reader.number<std::uint64_t>(end64 + 48);
  }

  std::vector<ZipMember> members;
  std::unordered_set<std::string> names;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (reader.number<std::uint32_t>(offset) != kEntrySignature) {
      damaged("its table of contents is damaged at entry " + std::to_string(i));
    }
    ZipMember member;
    member.compression = reader.number<std::uint16_t>(offset + 10);
    member.crc32 = reader.number<std::uint32_t>(offset + 16);
    member.compressed_size = reader.number<std::uint32_t>(offset + 20);
    member.size = reader.number<std::uint32_t>(offset + 24);
    const auto name_size = reader.number<std::uint16_t>(offset + 28);
    const auto extra_size = reader.number<std::uint16_t>(offset + 30);
    const auto comment_size = reader.number<std::uint16_t>(offset + 32);
    std::uint64_t local = reader.number<std::uint32_t>(offset + 42);
    member.name = std::string(reader.text(offset + kEntrySize, name_size));
    require_plain_name(member.name);
    if (!names.insert(member.name).second) {
      damaged("two members are called \"" + member.name + "\"");
    }
    // libtorch would take it for empty, and leave what it reads it into as it was.
    if ((reader.number<std::uint32_t>(offset + 38) & kFolder) != 0 && !member.name.ends_with('/')) {
      damaged("member " + member.name + " is marked as a folder");
    }
    if ((reader.number<std::uint16_t>(offset + 8) & kUnreadable) != 0) {
      damaged("member " + member.name + " is marked as encrypted or as a patch");
    }
    apply_zip64(reader, offset + kEntrySize + name_size, extra_size, member, local);

    if (reader.number<std::uint32_t>(local) != kLocalSignature) {
      damaged("the header of member " + member.name + " is damaged");
    }
    member.data_offset = local + kLocalSize + reader.number<std::uint16_t>(local + 26) +
                         reader.number<std::uint16_t>(local + 28);
    reader.text(member.data_offset, member.compressed_size);
    members.push_back(std::move(member));
    offset += kEntrySize + name_size + extra_size + comment_size;
  }
  return members;
}

}  // namespace ts_infer
