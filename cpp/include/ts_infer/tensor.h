#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ts_infer/export.h"

struct DLManagedTensor;  // dlpack.h

namespace ts_infer {

/// Element types.
enum class DType : std::uint8_t {
  kBool,
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex64,
  kComplex128,
};

/// "float32", "int64", "bool", …
TS_INFER_API const char* to_string(DType dtype);

/// The inverse of to_string; nullopt for a name that is none.
TS_INFER_API std::optional<DType> dtype_from_string(const std::string& name);

/// Bytes of one element.
TS_INFER_API std::size_t size_of(DType dtype);

namespace detail {
struct TensorAccess;

template <typename T>
struct DTypeOf;
// clang-format off
template <> struct DTypeOf<bool> { static constexpr DType value = DType::kBool; };
template <> struct DTypeOf<std::uint8_t> { static constexpr DType value = DType::kUInt8; };
template <> struct DTypeOf<std::int8_t> { static constexpr DType value = DType::kInt8; };
template <> struct DTypeOf<std::int16_t> { static constexpr DType value = DType::kInt16; };
template <> struct DTypeOf<std::int32_t> { static constexpr DType value = DType::kInt32; };
template <> struct DTypeOf<std::int64_t> { static constexpr DType value = DType::kInt64; };
template <> struct DTypeOf<float> { static constexpr DType value = DType::kFloat32; };
template <> struct DTypeOf<double> { static constexpr DType value = DType::kFloat64; };
// clang-format on
}  // namespace detail

/// A handle on an n-dimensional array. Copies of the handle share the data.
///
/// Distinct handles may be used from distinct threads; the data itself is not locked.
class TS_INFER_API Tensor {
 public:
  /// An undefined tensor: defined() is false and every other accessor throws InputError.
  Tensor() noexcept = default;
  Tensor(const Tensor& other) noexcept;
  Tensor(Tensor&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
  Tensor& operator=(Tensor other) noexcept {
    std::swap(impl_, other.impl_);
    return *this;
  }
  ~Tensor();

  /// Wraps memory of the caller without copying.
  ///
  /// `strides` are in elements, empty for contiguous. `device` is where `data` lives ("cpu",
  /// "cuda:0"). The memory must stay valid until `deleter` is called, which happens when the last
  /// handle goes; without a deleter the caller keeps it alive as long as any handle lives.
  /// @throws InputError when sizes are negative or overflow, data is null for a non-empty tensor,
  ///         or the device is not here.
  static Tensor from_blob(void* data, DType dtype, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides = {},
                          const std::string& device = "cpu", std::function<void()> deleter = {});

  /// Takes over a vector, contiguous, row-major, on the host. std::vector<bool> is not accepted.
  /// @throws InputError when the number of elements does not fit the shape.
  template <typename T>
  static Tensor from_vector(std::vector<T> values, const std::vector<std::int64_t>& shape) {
    static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no contiguous data");
    check_count(values.size(), shape);
    auto* owned = new std::vector<T>(std::move(values));
    return from_blob(owned->data(), detail::DTypeOf<T>::value, shape, {}, "cpu",
                     [owned] { delete owned; });
  }

  /// A new contiguous tensor on the host; its elements are not initialised.
  static Tensor empty(DType dtype, const std::vector<std::int64_t>& shape);

  /// Takes over a DLPack tensor without copying; its deleter is called when the last handle goes.
  /// @throws InputError for an element type, strides or a device that torch does not have; the
  ///         argument is then still the caller's.
  static Tensor from_dlpack(DLManagedTensor* managed);

  /// A DLPack view that shares the data; the caller must call its deleter.
  DLManagedTensor* to_dlpack() const;

  bool defined() const noexcept { return impl_ != nullptr; }
  DType dtype() const;
  std::vector<std::int64_t> shape() const;
  /// In elements.
  std::vector<std::int64_t> strides() const;
  /// "cpu", "cuda:0", …
  std::string device() const;
  std::int64_t dim() const;
  std::int64_t size(std::int64_t axis) const;
  std::int64_t numel() const;
  std::size_t nbytes() const;
  bool is_contiguous() const;

  /// The first element, on the tensor's own device.
  void* data_ptr() const;

  /// The first element as T. @throws InputError when T is not the dtype.
  template <typename T>
  T* data() const {
    check_dtype(detail::DTypeOf<T>::value);
    return static_cast<T*>(data_ptr());
  }

  /// This tensor contiguous on the host: itself where it is so already, else a copy (waits).
  Tensor to_host() const;

 private:
  friend struct detail::TensorAccess;

  static void check_count(std::size_t count, const std::vector<std::int64_t>& shape);
  void check_dtype(DType expected) const;

  void* impl_ = nullptr;  // an owned reference to a c10::TensorImpl
};

}  // namespace ts_infer
