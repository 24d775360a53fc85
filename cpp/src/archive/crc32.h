#pragma once

#include <cstddef>
#include <cstdint>

namespace ts_infer {

/// CRC-32 as zip uses it (ISO 3309, reflected polynomial 0xEDB88320).
std::uint32_t crc32(const void* data, std::size_t size);

}  // namespace ts_infer
