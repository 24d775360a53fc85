#include "archive/crc32.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ts_infer {
namespace {

// Polynomials over GF(2) modulo the CRC's, reflected: the highest bit is the coefficient of x^0.
constexpr std::uint32_t times_x(std::uint32_t value) {
  return (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
}

// Slicing-by-8 tables: row k is the CRC of a byte followed by k zero bytes.
constexpr std::array<std::array<std::uint32_t, 256>, 8> make_crc_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = times_x(crc);
    tables[0][i] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t i = 0; i < 256; ++i) {
      const std::uint32_t previous = tables[k - 1][i];
      tables[k][i] = (previous >> 8) ^ tables[0][previous & 0xff];
    }
  }
  return tables;
}

constexpr auto kCrcTables = make_crc_tables();

std::uint32_t update_by_table(std::uint32_t crc, const unsigned char* bytes, std::size_t size) {
  for (; size >= 8; size -= 8, bytes += 8) {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    std::memcpy(&low, bytes, 4);
    std::memcpy(&high, bytes + 4, 4);
    low ^= crc;
    crc = kCrcTables[7][low & 0xff] ^ kCrcTables[6][(low >> 8) & 0xff] ^
          kCrcTables[5][(low >> 16) & 0xff] ^ kCrcTables[4][low >> 24] ^
          kCrcTables[3][high & 0xff] ^ kCrcTables[2][(high >> 8) & 0xff] ^
          kCrcTables[1][(high >> 16) & 0xff] ^ kCrcTables[0][high >> 24];
  }
  for (; size > 0; --size, ++bytes) crc = (crc >> 8) ^ kCrcTables[0][(crc ^ *bytes) & 0xff];
  return crc;
}

#if defined(__x86_64__)

constexpr std::size_t kFoldBytes = 64;

// x^n as a factor of a carry-less product, which comes out one bit short of being reflected.
constexpr long long power_of_x(int n) {
  std::uint32_t value = 0x80000000u;
  for (int i = 0; i < n; ++i) value = times_x(value);
  return static_cast<long long>(value) << 1;
}

/// The 16 bytes `x`, congruent, where they stand `distance` bits later: first half, second half.
template <int distance>
__attribute__((target("pclmul"))) inline __m128i moved(__m128i x) {
  constexpr long long kFirst = power_of_x(distance + 32);
  constexpr long long kSecond = power_of_x(distance - 32);
  const __m128i factors = _mm_set_epi64x(kSecond, kFirst);
  return _mm_xor_si128(_mm_clmulepi64_si128(x, factors, 0x00),
                       _mm_clmulepi64_si128(x, factors, 0x11));
}

inline __m128i load_16(const unsigned char* bytes) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

/// Four lanes of 16 bytes are folded onto the following ones with carry-less products, and what is
/// left at the end is as good as all that came before (V. Gopal et al., Intel, 2009).
__attribute__((target("pclmul"))) std::uint32_t update_by_products(std::uint32_t crc,
                                                                   const unsigned char* bytes,
                                                                   std::size_t size) {
  __m128i lanes[4];
  for (int i = 0; i < 4; ++i) lanes[i] = load_16(bytes + 16 * i);
  lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
  for (bytes += kFoldBytes, size -= kFoldBytes; size >= kFoldBytes;
       bytes += kFoldBytes, size -= kFoldBytes) {
    for (int i = 0; i < 4; ++i) {
      lanes[i] = _mm_xor_si128(moved<8 * kFoldBytes>(lanes[i]), load_16(bytes + 16 * i));
    }
  }
  __m128i folded = lanes[0];
  for (int i = 1; i < 4; ++i) folded = _mm_xor_si128(moved<128>(folded), lanes[i]);
  unsigned char left[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(left), folded);
  return update_by_table(update_by_table(0, left, sizeof left), bytes, size);
}

#endif

}  // namespace

std::uint32_t crc32(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
#if defined(__x86_64__)
  static const bool has_products = __builtin_cpu_supports("pclmul");
  if (has_products && size >= kFoldBytes) return ~update_by_products(0xffffffff, bytes, size);
#endif
  return ~update_by_table(0xffffffff, bytes, size);
}

}  // namespace ts_infer
