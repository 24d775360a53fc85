#include "archive/mapped_weights.h"

#include <sys/mman.h>

#include <algorithm>

namespace ts_infer {
namespace {

constexpr std::size_t kSmallest = 4096;  // a page: less is cheaper to copy than to map

/// No writer does that, and tensors would share what one of them writes.
bool overlap(std::vector<MappedWeights::Record> records) {
  const auto by_offset = [](const auto& a, const auto& b) { return a.offset < b.offset; };
  std::sort(records.begin(), records.end(), by_offset);
  const auto reaches_next = [](const auto& a, const auto& b) {
    return a.offset + a.size > b.offset;
  };
  return std::adjacent_find(records.begin(), records.end(), reaches_next) != records.end();
}

}  // namespace

std::shared_ptr<MappedWeights> MappedWeights::map(int file, std::size_t file_size,
                                                  const std::vector<Record>& records) {
  std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> offsets;
  for (auto record = records.rbegin(); record != records.rend(); ++record) {
    if (record->size >= kSmallest) offsets[record->size].push_back(record->offset);
  }
  if (offsets.empty() || overlap(records)) return nullptr;
  // Without MAP_NORESERVE a file larger than the memory could not be mapped.
  void* const begin =
      mmap(nullptr, file_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
  if (begin == MAP_FAILED) return nullptr;
  std::shared_ptr<MappedWeights> weights(new MappedWeights(static_cast<char*>(begin), file_size));
  weights->offsets_ = std::move(offsets);
  return weights;
}

MappedWeights::MappedWeights(char* begin, std::size_t size)
    : BufferSource(kSmallest), begin_(begin), size_(size) {}

MappedWeights::~MappedWeights() { munmap(begin_, size_); }

std::pair<void*, std::size_t> MappedWeights::take(std::size_t size) {
  const auto found = offsets_.find(size);
  if (found == offsets_.end() || found->second.empty()) return {nullptr, 0};
  const std::uint64_t offset = found->second.back();
  found->second.pop_back();
  return {begin_ + offset, size};
}

bool MappedWeights::holds(const void* buffer, std::uint64_t offset, std::size_t size) {
  if (buffer != begin_ + offset) return false;
  mapped_bytes_ += size;
  return true;
}

}  // namespace ts_infer
