#include "archive/archive.h"

#include <c10/core/alignment.h>
#include <c10/util/StringUtil.h>
#include <caffe2/serialize/inline_container.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <thread>
#include <tuple>
#include <unordered_map>

#include "archive/code_scan.h"
#include "archive/crc32.h"
#include "archive/file_kind.h"
#include "archive/name_proof.h"
#include "archive/pickle_scan.h"
#include "archive/sha256.h"
#include "archive/source_scan.h"
#include "messages.h"
#include "process.h"

namespace ts_infer {
namespace {

using caffe2::serialize::PyTorchStreamReader;
using caffe2::serialize::ReadAdapterInterface;

constexpr const char* kManifestMember = "extra/ts_infer/manifest.json";

class MemoryAdapter : public ReadAdapterInterface {
 public:
  explicit MemoryAdapter(std::string_view bytes, MappedWeights* weights = nullptr)
      : bytes_(bytes), weights_(weights) {}

  size_t size() const override { return bytes_.size(); }

  size_t read(uint64_t pos, void* buf, size_t n, const char* /*what*/ = "") const override {
    if (pos >= bytes_.size()) return 0;
    n = std::min<size_t>(n, bytes_.size() - pos);
    if (weights_ && weights_->holds(buf, pos, n)) return n;
    std::memcpy(buf, bytes_.data() + pos, n);
    return n;
  }

 private:
  std::string_view bytes_;
  MappedWeights* weights_;
};

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

/// A member's name inside the archive's folder, which libtorch finds in any case; "" outside, where
/// it reads nothing.
std::string inner_name(const ZipMember& member, const std::string& root) {
  const bool inside = starts_with(lower_case(member.name), lower_case(root));
  return inside ? member.name.substr(root.size()) : "";
}

/// What loading does with a member, by its name: libtorch finds it in any case.
/// https://github.com/pytorch/pytorch/blob/main/torch/csrc/jit/serialization/import.cpp
enum class Use {
  kCode,    // compiles it
  kPickle,  // unpickles it: values, constants, and what errors say of the source
  kWeight,  // a storage of these values
  kOther,   // reads it as it is, or not at all: what calls were traced with, a mobile interpreter's
            // code, extra files
};

Use use_of(const std::string& inner_name) {
  const std::string name = lower_case(inner_name);
  if (name == "data.pkl" || name == "constants.pkl") return Use::kPickle;
  if (starts_with(name, "data/") || starts_with(name, "constants/")) return Use::kWeight;
  if (!starts_with(name, "code/")) return Use::kOther;
  if (name.ends_with(".debug_pkl")) return Use::kPickle;
  return name.ends_with(".py") ? Use::kCode : Use::kOther;
}

/// Users choose these names, and libtorch looks for none of its own accord.
bool is_extra_file(const std::string& inner_name) {
  return starts_with(lower_case(inner_name), "extra/");
}

bool is_stored_weight(const ZipMember& member, const std::string& root) {
  return member.compression == 0 && use_of(inner_name(member, root)) == Use::kWeight;
}

/// What a member that is stored as it is holds.
std::string_view stored(std::string_view archive, const ZipMember& member) {
  return archive.substr(member.data_offset, member.compressed_size);
}

bool is_intact(std::string_view content, const ZipMember& member) {
  return content.size() == member.size && crc32(content.data(), member.size) == member.crc32;
}

/// A view or copy of what a member holds, or nullopt where its CRC-32 does not match.
class Content {
 public:
  explicit Content(std::string_view view) : view_(view) {}
  Content(at::DataPtr owned, std::size_t size)
      : owned_(std::move(owned)), view_(static_cast<const char*>(owned_.get()), size) {}
  operator std::string_view() const { return view_; }

 private:
  at::DataPtr owned_;
  std::string_view view_;
};

std::optional<Content> intact_content(std::string_view archive, const ZipMember& member,
                                      PyTorchStreamReader& unpacker, const std::string& name) {
  if (member.compression == 0) {
    const std::string_view content = stored(archive, member);
    if (!is_intact(content, member)) return std::nullopt;
    return Content(content);
  }
  try {
    auto [data, size] = unpacker.getRecord(name);
    Content content(std::move(data), size);
    if (is_intact(content, member)) return content;
  } catch (const std::exception&) {
    // It does not even unpack.
  }
  return std::nullopt;
}

/// Calls work(0) to work(count - 1) on up to `threads` threads, this one too. They must not throw.
void for_each_of(std::size_t count, std::size_t threads,
                 const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  const auto take_turns = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::thread> helpers;
  try {
    while (helpers.size() + 1 < threads) helpers.emplace_back(take_turns);
  } catch (const std::exception&) {
    // The process may have no more threads or memory: this one does the rest.
  }
  take_turns();
  for (std::thread& helper : helpers) helper.join();
}

/// Whether the CRC-32 of each weight that is stored as it is matches; true for any other member.
/// Large files are checked on a few threads: mapping their pages takes as long as the arithmetic.
std::vector<char> intact_weights(std::string_view archive, const std::vector<ZipMember>& members,
                                 const std::string& root) {
  constexpr std::size_t kBytesPerThread = 8 << 20;
  constexpr std::size_t kMostThreads = 4;
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  const std::size_t threads = std::min({archive.size() / kBytesPerThread + 1, cores, kMostThreads});
  std::vector<char> intact(members.size(), 1);
  for_each_of(members.size(), threads, [&](std::size_t i) {
    const ZipMember& member = members[i];
    if (is_stored_weight(member, root)) intact[i] = is_intact(stored(archive, member), member);
  });
  return intact;
}

/// libtorch could read another member than the one that was looked at.
void require_distinct_names(const std::vector<ZipMember>& members, const std::string& root) {
  std::unordered_map<std::string, const ZipMember*> known;
  for (const ZipMember& member : members) {
    const std::string name = inner_name(member, root);
    if (name.empty()) continue;
    const auto [found, is_new] = known.emplace(lower_case(name), &member);
    const bool are_stored = member.compression == 0 && found->second->compression == 0;
    if (is_new || (is_extra_file(name) && are_stored)) continue;
    throw ModelLoadError("two members are called \"" + member.name +
                         "\" but for case, which libtorch ignores");
  }
}

/// A byte of a pickle may be a value, which takes many here and in libtorch.
void require_moderate(const ZipMember& member) {
  constexpr std::uint64_t kAlways = 4 << 20;
  constexpr std::uint64_t kMostTimes = 32;  // debug information of torch packs to a seventh
  if (member.compression == 0 || member.size <= kAlways) return;
  if (member.size / kMostTimes <= member.compressed_size) return;
  throw ModelLoadError(c10::str(member.name, " unpacks to ", member.size, " bytes: expected ",
                                kMostTimes, " times its ", member.compressed_size, " at most"));
}

std::uint64_t unpacked_bytes(const std::vector<ZipMember>& members) {
  std::uint64_t total = 0;
  for (const ZipMember& member : members) {
    if (member.compression == 0) continue;
    if (member.size > std::numeric_limits<std::uint64_t>::max() - total) return ~std::uint64_t{0};
    total += member.size;
  }
  return total;
}

[[noreturn]] void no_torchscript(const std::string& subject, const std::string& what) {
  throw ModelLoadError("[load] " + subject + ": expected a TorchScript archive, got " + what);
}

}  // namespace

Archive::Archive(std::string path, std::string_view bytes, int file)
    : path_(std::move(path)), bytes_(bytes), file_(file) {}

Archive::~Archive() {
  if (file_ < 0) return;
  munmap(const_cast<char*>(bytes_.data()), bytes_.size());
  ::close(file_);
}

std::shared_ptr<const Archive> Archive::open(const std::string& path, const ArchiveLimits& limits) {
  if (is_exiting()) throw ModelLoadError("[load] " + path + ':' + kProcessEnds);
  if (path.find('\0') != path.npos) {  // what lies before it may be another file
    throw ModelLoadError("[load] " + path.substr(0, path.find('\0')) +
                         ": expected a path, got one with a NUL behind this; leave that away");
  }
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // waits for no pipe
  if (file < 0) {
    const std::string message = "[load] " + path + ": " + std::strerror(errno);
    if (errno == ENOENT || errno == ENOTDIR) {
      throw ModelNotFoundError(message + "; check the path");
    }
    throw ModelLoadError(message);
  }
  struct stat status {};
  const bool regular = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const auto size = static_cast<std::size_t>(status.st_size);
  void* mapped =
      regular && size > 0 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  const int mmap_error = errno;
  if (mapped == MAP_FAILED) ::close(file);
  if (!regular) throw ModelLoadError("[load] " + path + ": expected a file, got something else");
  if (size == 0) no_torchscript(path, describe_file({}));
  if (mapped == MAP_FAILED) {
    throw ModelLoadError("[load] " + path + ": " + std::strerror(mmap_error));
  }
  std::shared_ptr<Archive> archive(
      new Archive(path, {static_cast<const char*>(mapped), size}, file));
  archive->read(limits);
  return archive;
}

std::shared_ptr<const Archive> Archive::over(std::string_view bytes, const ArchiveLimits& limits) {
  std::shared_ptr<Archive> archive(new Archive("", bytes, -1));
  if (is_exiting()) throw ModelLoadError("[load] " + archive->subject() + ':' + kProcessEnds);
  archive->read(limits);
  return archive;
}

std::string Archive::stem() const {
  return path_.empty() ? "model" : std::filesystem::path(path_).stem().string();
}

std::shared_ptr<ReadAdapterInterface> Archive::reader(MappedWeights* weights) const {
  return std::make_shared<MemoryAdapter>(bytes_, weights);
}

std::shared_ptr<MappedWeights> Archive::map_weights() const {
  if (file_ < 0) return nullptr;
  // libtorch reads the constants first, and each folder's records by their numbers.
  std::vector<std::pair<std::tuple<bool, std::size_t, std::string>, const ZipMember*>> found;
  for (const ZipMember& member : members_) {
    const std::string name = inner_name(member, root_);
    if (!is_stored_weight(member, root_) || member.data_offset % c10::gAlignment != 0) continue;
    found.push_back({{starts_with(name, "data/"), name.size(), name}, &member});
  }
  std::sort(found.begin(), found.end());
  std::vector<MappedWeights::Record> records;
  for (const auto& [order, member] : found) records.push_back({member->data_offset, member->size});
  return MappedWeights::map(file_, bytes_.size(), records);
}

void Archive::require_limit(const char* limit, std::uint64_t got, std::uint64_t most,
                            const std::string& place) const {
  if (got <= most) return;
  throw ModelLoadError(c10::str("[load] ", subject(), ": limits.", limit, ": expected at most ",
                                most, ", got ", got, place,
                                "; if you trust where the file comes from, raise it"));
}

void Archive::read(const ArchiveLimits& limits) {
  const auto start = std::chrono::steady_clock::now();
  const auto ms = [&] {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double, std::milli>(now - start).count();
  };
  info_.path = path_;
  info_.file_bytes = bytes_.size();
  const std::string where = "[load] " + subject() + ": ";
  if (!starts_with(bytes_, "PK")) no_torchscript(subject(), describe_file(bytes_));
  try {
    require_limit("file_bytes", bytes_.size(), limits.file_bytes);
    members_ = read_zip_directory(bytes_);
    // Every member lies in one folder, whose name is the archive's own.
    if (!members_.empty()) root_ = members_[0].name.substr(0, members_[0].name.find('/') + 1);
    const auto has = [&](const std::string& start) {
      return std::any_of(members_.begin(), members_.end(), [&](const ZipMember& member) {
        return starts_with(lower_case(inner_name(member, root_)), start);
      });
    };
    is_package_ = has("data/aotinductor/");
    if (!is_package_ && !has("code/")) {
      no_torchscript(subject(), describe_zip(members_, root_));
    }

    if (has("model.json")) {
      no_torchscript(subject(), "one of torch before 1.3; load it in Python and save it again");
    }

    info_.name = stem();
    info_.members = members_.size();
    require_limit("members", members_.size(), limits.members);
    require_limit("unpacked_bytes", unpacked_bytes(members_), limits.unpacked_bytes);
    require_distinct_names(members_, root_);
    steps_.push_back({"read", ms(), {}, {}});
    read_members(limits);
    read_manifest();
    steps_.push_back({"integrity", ms() - steps_.front().ms, {}, {}});
  } catch (const ModelLoadError& error) {
    if (starts_with(error.what(), "[load]")) throw;
    throw ModelLoadError(where + "the file is damaged: " + error.what());
  } catch (const std::bad_alloc&) {
    throw ModelLoadError(where + "out of host memory while the file was checked");
  } catch (const std::exception& error) {
    throw ModelLoadError(where + "the file is damaged: " + clean_message(error));
  }
}

void Archive::read_members(const ArchiveLimits& limits) {
  PyTorchStreamReader unpacker(reader());
  const std::vector<char> intact = intact_weights(bytes_, members_, root_);
  std::map<std::string, std::string> code;
  std::unordered_map<std::string, std::uint64_t> sizes;
  for (const ZipMember& member : members_) {
    if (use_of(inner_name(member, root_)) != Use::kWeight) continue;
    sizes[lower_case(inner_name(member, root_))] = member.size;
  }
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const ZipMember& member = members_[i];
    const std::string name = inner_name(member, root_);
    if (name.empty()) {
      const bool is_stored = member.compression == 0;
      if (is_stored && !is_intact(stored(bytes_, member), member)) {
        info_.damaged.push_back(member.name);
      }
      continue;
    }
    const Use use = use_of(name);
    if (use == Use::kWeight) info_.weight_bytes += member.size;
    if (use == Use::kPickle) require_moderate(member);
    if (is_stored_weight(member, root_)) {
      if (!intact[i]) info_.damaged.push_back(name);
    } else if (const auto content = intact_content(bytes_, member, unpacker, name)) {
      if (name == kManifestMember) info_.manifest_json = std::string_view(*content);
      if (use == Use::kCode) {
        const std::string& source = code[name] = std::string_view(*content);
        require_limit("nesting", scan_source(source).nesting, limits.nesting, " in " + name);
      }
      if (use == Use::kPickle) check_pickle(name, *content, sizes, limits);
    } else {
      info_.damaged.push_back(name);
    }
  }
  const std::set<std::string> used = used_operators(code);
  info_.restricted_operators.assign(used.begin(), used.end());
}

void Archive::check_pickle(const std::string& name, std::string_view pickle,
                           const std::unordered_map<std::string, std::uint64_t>& sizes,
                           const ArchiveLimits& limits) {
  if (is_package_) return;  // libtorch unpickles nothing of it
  const std::string records = name.substr(0, name.find('.')) + '/';
  const auto storage_bytes = [&](const std::string& key) -> std::optional<std::uint64_t> {
    const auto found = sizes.find(lower_case(records + key));
    if (found == sizes.end()) return std::nullopt;
    return found->second;
  };
  try {
    const PickleScan scan = lower_case(name).ends_with(".debug_pkl")
                                ? scan_debug_info(pickle)
                                : scan_pickle(pickle, storage_bytes);
    require_limit("nesting", scan.nesting, limits.nesting, " in " + name);
    has_meta_ = has_meta_ || scan.has_meta;
    if (scan.device != "cpu") saved_on_ = scan.device;
  } catch (const ModelLoadError& error) {
    if (starts_with(error.what(), "[load]")) throw;
    throw ModelLoadError(name + ": " + error.what());
  }
}

void Archive::read_manifest() {
  if (info_.manifest_json.empty()) return;
  Manifest manifest = parse_manifest(info_.manifest_json);
  info_.name = manifest.name;
  info_.method = manifest.method;
  info_.torch_version = manifest.torch_version;
  info_.signature = std::move(manifest.signature);
  info_.warmup_shapes = std::move(manifest.warmup_shapes);
  info_.state = std::move(manifest.state);
  info_.scripted = std::move(manifest.scripted);
  info_.audit = std::move(manifest.audit);
  info_.libraries = std::move(manifest.libraries);
  golden_ = std::move(manifest.golden);
  compiled_ = std::move(manifest.compiled);
  if (is_package_) info_.methods = std::move(manifest.methods);
  if (is_package_ && compiled_) info_.devices = {compiled_->device};
  if (golden_) info_.golden_calls = golden_->calls;
}

ArchiveInfo Archive::scan() const {
  ArchiveInfo info = info_;
  if (is_package_) return info;  // its code is native
  CodeScan scan;
  PyTorchStreamReader unpacker(reader());
  for (const ZipMember& member : members_) {
    const std::string name = inner_name(member, root_);
    if (name.empty() || use_of(name) == Use::kWeight) continue;
    if (const auto content = intact_content(bytes_, member, unpacker, name)) {
      scan.add(name, std::string(std::string_view(*content)));
    }
  }
  scan.finish(info);
  return info;
}

void Archive::require_intact() const {
  if (info_.damaged.empty()) return;
  throw ModelLoadError(c10::str("[load] ", subject(),
                                ": the file is damaged: the CRC-32 does not match in ",
                                join(info_.damaged), "; copy or export it again"));
}

void Archive::require_operators(const std::vector<std::string>& allowed) const {
  const auto& known = all_restricted_operators();
  const auto entry_of = [&](const std::string& name) {
    return std::find_if(known.begin(), known.end(),
                        [&](const RestrictedOperator& op) { return op.name == name; });
  };
  for (const std::string& name : allowed) {
    if (entry_of(name) != known.end()) continue;
    throw ModelLoadError("allow_operators: expected " + join(restricted_operators()) + ", got \"" +
                         name + '"');
  }
  std::vector<std::string> found;
  for (const std::string& name : info_.restricted_operators) {
    if (std::find(allowed.begin(), allowed.end(), name) != allowed.end()) continue;
    found.push_back(name + " (" + entry_of(name)->reach + ')');
  }
  if (found.empty()) return;
  throw ModelLoadError(
      "[load] " + subject() + ": expected code that computes and does nothing else, got a use of " +
      join(found) + "; if you trust where the file comes from, name it in allow_operators");
}

std::optional<std::string> Archive::extra_file(const std::string& name) const {
  const std::string wanted = root_ + "extra/" + name;
  const auto member = std::find_if(members_.begin(), members_.end(),
                                   [&](const ZipMember& m) { return m.name == wanted; });
  if (member == members_.end()) return std::nullopt;
  PyTorchStreamReader unpacker(reader());
  const auto content = intact_content(bytes_, *member, unpacker, inner_name(*member, root_));
  if (!content) return std::nullopt;
  return std::string(std::string_view(*content));
}

std::string Archive::sha256() const { return ts_infer::sha256(bytes_); }

ArchiveInfo read_model_info(const std::string& path, const ArchiveLimits& limits) {
  return with_memory([&] { return Archive::open(path, limits)->scan(); });
}

ArchiveInfo read_model_info(const void* data, std::size_t size, const ArchiveLimits& limits) {
  return with_memory([&] {
    return Archive::over({static_cast<const char*>(data), size}, limits)->scan();
  });
}

std::vector<std::string> restricted_operators() {
  std::vector<std::string> names;
  for (const RestrictedOperator& op : all_restricted_operators()) names.push_back(op.name);
  return names;
}

}  // namespace ts_infer
