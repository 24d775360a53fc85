#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device/front_allocator.h"

namespace ts_infer {

/// The weights of a model file, mapped for one load: nothing is copied, processes and models share
/// the pages of the file, and a page that a model writes to becomes its own.
///
/// libtorch asks its CPU allocator for a buffer for each record, and reads the record into it. To
/// the request this answers with the place in the mapping of the next record of that size; to the
/// reading it then answers that the bytes are there. A request that was for something else has got
/// memory like any other, and a record that comes elsewhere is copied.
class MappedWeights : public BufferSource {
 public:
  /// Where a record's bytes are in the file.
  struct Record {
    std::uint64_t offset;
    std::uint64_t size;
  };

  /// Of a file that is open for reading; `records` in the order in which libtorch reads them.
  /// nullptr where there is nothing to be mapped, or it cannot be.
  static std::shared_ptr<MappedWeights> map(int file, std::size_t file_size,
                                            const std::vector<Record>& records);
  ~MappedWeights() override;

  std::pair<void*, std::size_t> take(std::size_t size) override;
  void give_back(void* /*buffer*/, std::size_t /*size*/) override {}

  /// Whether `buffer` holds the file's `size` bytes from `offset` on already.
  bool holds(const void* buffer, std::uint64_t offset, std::size_t size);

  /// Of the records that were not copied.
  std::uint64_t mapped_bytes() const { return mapped_bytes_; }

 private:
  MappedWeights(char* begin, std::size_t size);

  char* begin_;
  std::size_t size_;
  std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> offsets_;  // by size, last first
  std::uint64_t mapped_bytes_ = 0;
};

}  // namespace ts_infer
