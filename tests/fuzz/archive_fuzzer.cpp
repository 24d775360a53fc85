// Files. What is accepted must hold for libtorch, which reads the file anew, what was checked.

#include <caffe2/serialize/inline_container.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "archive/archive.h"
#include "archive/crc32.h"
#include "archive/golden.h"
#include "archive/zip.h"
#include "ts_infer/error.h"

namespace {

using namespace ts_infer;

constexpr const char* kEntry = "PK\1\2";
constexpr std::size_t kCrcInEntry = 16;
constexpr std::size_t kNameInEntry = 46;

ArchiveLimits limits() {
  ArchiveLimits limits;
  limits.unpacked_bytes = 1 << 24;
  return limits;
}

[[noreturn]] void found(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

/// The same file with the CRC-32 of each stored member as it should be: what lies behind that check
/// is looked at too.
std::string with_right_checksums(std::string bytes) {
  const std::vector<ZipMember> members = read_zip_directory(bytes);
  for (const ZipMember& member : members) {
    if (member.compression != 0 || member.size != member.compressed_size) continue;
    const std::uint32_t crc = crc32(bytes.data() + member.data_offset, member.size);
    for (std::size_t entry = bytes.find(kEntry); entry != bytes.npos;
         entry = bytes.find(kEntry, entry + 1)) {
      if (std::string_view(bytes).substr(entry).size() < kNameInEntry + member.name.size()) break;
      if (bytes.compare(entry + kNameInEntry, member.name.size(), member.name) != 0) continue;
      bytes.replace(entry + kCrcInEntry, sizeof crc, reinterpret_cast<const char*>(&crc),
                    sizeof crc);
    }
  }
  return bytes;
}

/// libtorch lists no file that has members outside its folder, and reads none of those.
std::vector<std::string> names_of(caffe2::serialize::PyTorchStreamReader& reader) {
  try {
    return reader.getAllRecords();
  } catch (const c10::Error&) {
    return {};
  }
}

/// That libtorch reads the members that were checked, and no others.
void compare_with_libtorch(const Archive& archive, const std::string& bytes) {
  std::map<std::string, ZipMember> checked;
  for (ZipMember& member : read_zip_directory(bytes)) {
    const std::string name = member.name;
    checked.emplace(name.substr(name.find('/') + 1), std::move(member));
  }
  caffe2::serialize::PyTorchStreamReader reader(archive.reader());
  for (const std::string& name : names_of(reader)) {
    const auto member = checked.find(name);
    if (member == checked.end()) found("libtorch finds " + name);
    const auto [data, size] = reader.getRecord(name);
    if (size != member->second.size) found(name + " has another size for libtorch");
    if (crc32(data.get(), size) != member->second.crc32) found(name + " is another for libtorch");
  }
}

void look_at(const std::string& bytes) {
  try {
    const auto archive = Archive::over(bytes, limits());
    archive->scan();
    archive->require_intact();
    if (!archive->is_package()) compare_with_libtorch(*archive, bytes);
    archive->require_operators({});
    golden_calls(*archive);
  } catch (const ModelLoadError&) {
    // One of the table's errors.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  look_at(bytes);
  try {
    look_at(with_right_checksums(bytes));
  } catch (const ts_infer::ModelLoadError&) {
    // It has no directory.
  }
  return 0;
}
