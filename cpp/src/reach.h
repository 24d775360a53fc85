#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <limits>
#include <optional>

namespace ts_infer {

/// Index of the last element that a tensor reaches in its storage; -1 where it is empty.
/// nullopt for what no tensor can have: a negative number, unequal ranks, more than 2^63 elements.
inline std::optional<std::int64_t> last_element(c10::IntArrayRef sizes, c10::IntArrayRef strides,
                                                std::int64_t offset) {
  if (offset < 0 || sizes.size() != strides.size()) return std::nullopt;
  bool is_empty = false;
  std::int64_t count = 1;
  std::int64_t last = offset;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || strides[i] < 0) return std::nullopt;
    is_empty = is_empty || sizes[i] == 0;
    std::int64_t step = 0;
    if (!is_empty && (__builtin_mul_overflow(count, sizes[i], &count) ||
                      __builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
                      __builtin_add_overflow(last, step, &last))) {
      return std::nullopt;
    }
  }
  return is_empty ? -1 : last;
}

/// Whether torch can address a tensor of these sizes and strides, from its first element on.
inline bool is_addressable(c10::IntArrayRef sizes, c10::IntArrayRef strides,
                           std::size_t element_size) {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  const auto last = last_element(sizes, strides, 0);
  return last && *last < kMost / static_cast<std::int64_t>(element_size);
}

}  // namespace ts_infer
