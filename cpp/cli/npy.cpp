#include "npy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <vector>

#include "ts_infer/error.h"

namespace ts_infer::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "the data is copied as it is");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kAlignment = 64;
constexpr std::uint32_t kMaxHeader = 1 << 20;

struct Descr {
  DType dtype;
  const char* text;
};

constexpr std::array<Descr, 11> kDescrs = {{
    {DType::kBool, "|b1"},
    {DType::kUInt8, "|u1"},
    {DType::kInt8, "|i1"},
    {DType::kInt16, "<i2"},
    {DType::kInt32, "<i4"},
    {DType::kInt64, "<i8"},
    {DType::kFloat16, "<f2"},
    {DType::kFloat32, "<f4"},
    {DType::kFloat64, "<f8"},
    {DType::kComplex64, "<c8"},
    {DType::kComplex128, "<c16"},
}};

struct Header {
  DType dtype = DType::kFloat32;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
};

InputError unreadable(const std::string& path, const std::string& why) {
  return InputError("[input] " + path + ": " + why);
}

/// The Python literal that is a .npy header: {'descr': '<f4', 'fortran_order': False,
/// 'shape': (3, 4), }
class HeaderParser {
 public:
  HeaderParser(const std::string& path, std::string_view text) : path_(path), rest_(text) {}

  Header parse() {
    Header header;
    bool has_descr = false;
    bool has_order = false;
    bool has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr") {
        header.dtype = descr();
        has_descr = true;
      } else if (key == "fortran_order") {
        header.fortran_order = boolean();
        has_order = true;
      } else if (key == "shape") {
        header.shape = shape();
        has_shape = true;
      } else {
        fail();
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    if (!has_descr || !has_order || !has_shape) fail();
    return header;
  }

 private:
  [[noreturn]] void fail() const {
    throw unreadable(path_,
                     "the header is damaged: expected {'descr': …, 'fortran_order': …, "
                     "'shape': …}; save the array again with numpy.save");
  }

  void skip_spaces() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n\t"), rest_.size()));
  }

  bool accept(char wanted) {
    skip_spaces();
    if (rest_.empty() || rest_.front() != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char wanted) {
    if (!accept(wanted)) fail();
  }

  std::string_view quoted() {
    const char quote = accept('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const std::size_t end = rest_.find(quote);
    if (end == std::string_view::npos) fail();
    const std::string_view text = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return text;
  }

  DType descr() {
    if (accept('[')) {
      throw unreadable(path_,
                       "it holds a structured array: expected plain numbers; save one field as "
                       "an array of its own");
    }
    const std::string text(quoted());
    if (text.size() < 2) fail();
    if (text[1] == 'O') {
      throw unreadable(path_,
                       "it holds pickled Python objects, which are never loaded: expected plain "
                       "numbers; convert the array with astype first");
    }
    const bool one_byte = text.back() == '1' && text.size() == 3;
    if (text[0] == '>' && !one_byte) {
      throw unreadable(path_, "it is big-endian ('" + text +
                                  "'): expected little-endian; save array.astype('<" +
                                  text.substr(1) + "')");
    }
    for (const Descr& known : kDescrs) {
      const std::string_view wanted = known.text;
      if (text == wanted || (one_byte && text.substr(1) == wanted.substr(1))) return known.dtype;
    }
    throw unreadable(path_, "its dtype is '" + text +
                                "': expected bool, uint8, int8 to int64, float16 to float64, "
                                "complex64 or complex128; convert the array with astype first");
  }

  bool boolean() {
    skip_spaces();
    for (const auto& [word, value] : {std::pair{"True", true}, std::pair{"False", false}}) {
      const std::string_view text = word;
      if (rest_.substr(0, text.size()) != text) continue;
      rest_.remove_prefix(text.size());
      return value;
    }
    fail();
  }

  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!accept(')')) {
      skip_spaces();
      std::int64_t size = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      if (error != std::errc() || size < 0) fail();
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      sizes.push_back(size);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return sizes;
  }

  const std::string& path_;
  std::string_view rest_;
};

std::size_t read_up_to(std::istream& in, void* out, std::size_t size) {
  in.read(static_cast<char*>(out), static_cast<std::streamsize>(size));
  return static_cast<std::size_t>(in.gcount());
}

std::string read_header(const std::string& path, std::istream& in) {
  std::array<unsigned char, 8> start = {};
  const std::size_t got = read_up_to(in, start.data(), start.size());
  const std::string_view magic(reinterpret_cast<const char*>(start.data()),
                               std::min(got, kMagic.size()));
  if (got == 0) throw unreadable(path, "the file is empty: expected a .npy file");
  if (magic.substr(0, 2) == "PK") {
    throw unreadable(path,
                     "it is a zip archive, perhaps an .npz: expected a .npy file with one array; "
                     "save each array with numpy.save");
  }
  if (magic != kMagic.substr(0, magic.size())) {
    throw unreadable(path, "it is no .npy file: expected one written by numpy.save");
  }
  const int version = start[6];
  if (got == start.size() && (version < 1 || version > 3)) {
    throw unreadable(path, "its .npy version is " + std::to_string(version) +
                               ": expected 1, 2 or 3; save it with a released numpy");
  }
  std::array<unsigned char, 4> length_bytes = {};
  const std::size_t length_size = version == 1 ? 2 : 4;
  const InputError truncated =
      unreadable(path, "the file is truncated inside its header; save or copy it again");
  if (got < start.size() || read_up_to(in, length_bytes.data(), length_size) < length_size) {
    throw truncated;
  }
  std::uint32_t length = 0;
  std::memcpy(&length, length_bytes.data(), length_bytes.size());
  if (length > kMaxHeader) {
    throw unreadable(path, "the header is damaged: it claims " + std::to_string(length) +
                               " bytes; save the array again with numpy.save");
  }
  std::string header(length, '\0');
  if (read_up_to(in, header.data(), length) < length) throw truncated;
  return header;
}

/// nullopt for sizes that no array can have: more than 2^63 bytes, where a 0 counts as a 1.
std::optional<std::uint64_t> bytes_of(const Header& header) {
  std::int64_t bytes = static_cast<std::int64_t>(size_of(header.dtype));
  bool is_empty = false;
  for (const std::int64_t size : header.shape) {
    is_empty = is_empty || size == 0;
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) return std::nullopt;
  }
  return is_empty ? 0 : bytes;
}

void check_size(const std::string& path, std::istream& in, std::optional<std::uint64_t> expected) {
  std::error_code error;
  // A pipe has no size: there the read itself finds out.
  if (expected && !std::filesystem::is_regular_file(path, error)) return;
  const std::uint64_t size = std::filesystem::file_size(path, error);
  const auto offset = static_cast<std::uint64_t>(in.tellg());
  const std::uint64_t left = error || size < offset ? 0 : size - offset;
  if (expected && left >= *expected) return;
  throw unreadable(path, "the file is truncated: expected " +
                             (expected ? std::to_string(*expected) : "more than 2^63") +
                             " bytes of data, got " + std::to_string(left) +
                             "; save or copy it again");
}

std::string header_text(DType dtype, const std::vector<std::int64_t>& shape) {
  const auto* descr = std::find_if(kDescrs.begin(), kDescrs.end(),
                                   [&](const Descr& known) { return known.dtype == dtype; });
  std::string text =
      std::string("{'descr': '") + descr->text + "', 'fortran_order': False, " + "'shape': (";
  for (const std::int64_t size : shape) text += std::to_string(size) + ", ";
  if (shape.size() > 1) text.erase(text.size() - 2);
  if (shape.size() == 1) text.pop_back();
  return text + "), }";
}

}  // namespace

Tensor read_npy(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw unreadable(path, "no such file: expected a .npy file written by numpy.save");
  }
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path, error)) {
    throw unreadable(path, "it cannot be opened: expected a readable .npy file");
  }
  const std::string text = read_header(path, in);
  const Header header = HeaderParser(path, text).parse();
  const std::optional<std::uint64_t> bytes = bytes_of(header);
  check_size(path, in, bytes);

  const auto count = static_cast<std::int64_t>(*bytes / size_of(header.dtype));
  const Tensor data = Tensor::empty(header.dtype, {count});
  if (const std::size_t got = read_up_to(in, data.data_ptr(), *bytes); got < *bytes) {
    throw unreadable(path, "the file is truncated: expected " + std::to_string(*bytes) +
                               " bytes of data, got " + std::to_string(got) +
                               "; save or copy it again");
  }
  std::vector<std::int64_t> strides(header.shape.size());
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < strides.size(); ++i) {
    const std::size_t axis = header.fortran_order ? i : strides.size() - 1 - i;
    strides[axis] = stride;
    stride *= std::max<std::int64_t>(header.shape[axis], 1);
  }
  return Tensor::from_blob(data.data_ptr(), header.dtype, header.shape, strides, "cpu", [data] {});
}

void write_npy(const std::string& path, const Tensor& tensor) {
  if (tensor.dtype() == DType::kBFloat16) {
    throw Error("[output] " + path +
                ": .npy has no bfloat16: expected another dtype; let the model return "
                "output.float()");
  }
  const Tensor host = tensor.to_host();
  std::string header = header_text(host.dtype(), host.shape());
  const bool is_long = kMagic.size() + 4 + header.size() + kAlignment > 0xffff;
  const std::size_t preamble = kMagic.size() + (is_long ? 6 : 4);
  const std::size_t unpadded = preamble + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  header += '\n';

  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << kMagic << (is_long ? '\2' : '\1') << '\0';
  const auto length = static_cast<std::uint32_t>(header.size());
  out.write(reinterpret_cast<const char*>(&length), is_long ? 4 : 2);
  out << header;
  out.write(static_cast<const char*>(host.data_ptr()), static_cast<std::streamsize>(host.nbytes()));
  out.close();
  if (!out) {
    throw Error("[output] " + path + ": it cannot be written: " + std::strerror(errno) +
                "; check the folder and the space on the disk");
  }
}

}  // namespace ts_infer::cli
