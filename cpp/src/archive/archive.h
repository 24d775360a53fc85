#pragma once

#include <caffe2/serialize/read_adapter_interface.h>

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "archive/manifest.h"
#include "archive/mapped_weights.h"
#include "archive/zip.h"
#include "ts_infer/error.h"
#include "ts_infer/model.h"

namespace ts_infer {

/// A model file, mapped or in the caller's memory, whose structure and checksums were looked at
/// before libtorch sees it: libtorch itself checks no CRC-32.
class Archive {
 public:
  /// Maps a file. @throws ModelLoadError, ModelNotFoundError
  static std::shared_ptr<const Archive> open(const std::string& path, const ArchiveLimits& limits);

  /// Over memory that outlives the Archive. @throws ModelLoadError
  static std::shared_ptr<const Archive> over(std::string_view bytes, const ArchiveLimits& limits);

  ~Archive();
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  /// All but methods, operators, devices and code.
  const ArchiveInfo& info() const { return info_; }

  /// info() with what the archive's code shows.
  ArchiveInfo scan() const;

  /// @throws ModelLoadError where a member's CRC-32 does not match.
  void require_intact() const;

  /// @throws ModelLoadError where its code uses restricted operators that are not among these, or
  /// one of these is no such operator.
  void require_operators(const std::vector<std::string>& allowed) const;

  /// What open() or over() took.
  const std::vector<LoadStep>& steps() const { return steps_; }

  /// Where the golden sample is; nullopt where the manifest names none.
  const std::optional<Golden>& golden() const { return golden_; }

  /// Whether this is an AOTInductor package, not TorchScript.
  bool is_package() const { return is_package_; }

  /// Whether a tensor is on the meta device: it need not have a record, and must stay there.
  bool has_meta() const { return has_meta_; }

  /// A device that other tensors were on when the archive was saved, "cpu" where all were.
  const std::string& saved_on() const { return saved_on_; }

  /// What a package's manifest says; nullopt where it has none.
  const std::optional<Compiled>& compiled() const { return compiled_; }

  /// Bytes of an extra file, as torch.jit.load finds it in _extra_files; nullopt where it is
  /// missing or damaged.
  std::optional<std::string> extra_file(const std::string& name) const;

  /// Of the whole file, 64 hexadecimal digits.
  std::string sha256() const;

  /// What torch::jit::load reads from; valid as long as this archive, and `weights`, which may be
  /// nullptr.
  std::shared_ptr<caffe2::serialize::ReadAdapterInterface> reader(
      MappedWeights* weights = nullptr) const;

  /// A mapping of the weights that can be used where they are: stored as they are, and aligned as
  /// torch's allocators align. nullptr: none can, or this is over memory.
  std::shared_ptr<MappedWeights> map_weights() const;

  /// The file's name without folder and suffix, "model" for memory.
  std::string stem() const;

  /// How errors call it: the path, "<memory>" where there is none.
  std::string subject() const { return path_.empty() ? "<memory>" : path_; }

 private:
  Archive(std::string path, std::string_view bytes, int file);
  void read(const ArchiveLimits& limits);
  void read_members(const ArchiveLimits& limits);
  void read_manifest();
  void require_limit(const char* limit, std::uint64_t got, std::uint64_t most,
                     const std::string& place = "") const;
  void check_pickle(const std::string& name, std::string_view pickle,
                    const std::unordered_map<std::string, std::uint64_t>& sizes,
                    const ArchiveLimits& limits);

  std::string path_;
  std::string_view bytes_;
  int file_;          // open, and mapped; -1: over memory
  std::string root_;  // the folder of every member, with its slash
  std::vector<ZipMember> members_;
  ArchiveInfo info_;
  std::optional<Golden> golden_;
  std::optional<Compiled> compiled_;
  bool is_package_ = false;
  bool has_meta_ = false;
  std::string saved_on_ = "cpu";
  std::vector<LoadStep> steps_;
};

/// Makes a ModelLoadError of it where `work`, a way in that opens a file, runs out of memory.
template <typename Work>
auto with_memory(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    throw ModelLoadError("[load] out of host memory");
  }
}

}  // namespace ts_infer
