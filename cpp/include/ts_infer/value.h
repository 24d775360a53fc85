#pragma once

#include <complex>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ts_infer/export.h"
#include "ts_infer/tensor.h"

namespace ts_infer {

/// Any argument or result of a model: none, bool, int64, double, complex, string, Tensor, list,
/// tuple or dict, nested as deep as the model's schema says. A torch.device is a string.
class TS_INFER_API Value {
 public:
  /// A type of its own, so that `call({list})` is a call with one argument.
  struct List {
    List() = default;
    List(std::initializer_list<Value> elements);
    explicit List(std::vector<Value> elements);
    std::vector<Value> values;
  };
  /// Insertion order is kept. Keys are strings, ints, doubles, bools or complex numbers.
  using Dict = std::vector<std::pair<Value, Value>>;
  struct Tuple {
    std::vector<Value> values;
    std::vector<std::string> names;  // of a NamedTuple, else empty
  };

  /// None.
  Value() = default;
  Value(std::nullptr_t) {}
  Value(bool value) : data_(value) {}
  Value(int value) : data_(std::int64_t{value}) {}
  Value(std::int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::complex<double> value) : data_(value) {}
  Value(const char* value) : data_(std::string(value)) {}
  Value(std::string value) : data_(std::move(value)) {}
  Value(Tensor value) : data_(std::move(value)) {}
  Value(List value) : data_(std::move(value)) {}
  Value(Tuple value) : data_(std::move(value)) {}
  Value(Dict value) : data_(std::move(value)) {}

  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<std::int64_t>(data_); }
  bool is_double() const { return std::holds_alternative<double>(data_); }
  bool is_complex() const { return std::holds_alternative<std::complex<double>>(data_); }
  bool is_string() const { return std::holds_alternative<std::string>(data_); }
  bool is_tensor() const { return std::holds_alternative<Tensor>(data_); }
  bool is_list() const { return std::holds_alternative<List>(data_); }
  bool is_tuple() const { return std::holds_alternative<Tuple>(data_); }
  bool is_dict() const { return std::holds_alternative<Dict>(data_); }

  /// Each accessor throws InputError, naming what the value is, when it holds something else.
  bool as_bool() const;
  std::int64_t as_int() const;
  double as_double() const;
  std::complex<double> as_complex() const;
  const std::string& as_string() const;
  const Tensor& as_tensor() const;
  const std::vector<Value>& as_list() const;
  const Tuple& as_tuple() const;
  const Dict& as_dict() const;

  /// An element of a list or tuple.
  const Value& at(std::size_t index) const;
  /// An entry of a dict with string keys, or a named field of a tuple.
  const Value& at(const std::string& key) const;

  /// "none", "bool", "int", "double", "complex", "string", "tensor", "list", "tuple", "dict".
  const char* type_name() const;

 private:
  std::variant<std::monostate, bool, std::int64_t, double, std::complex<double>, std::string,
               Tensor, List, Tuple, Dict>
      data_;
};

inline Value::List::List(std::initializer_list<Value> elements) : values(elements) {}
inline Value::List::List(std::vector<Value> elements) : values(std::move(elements)) {}

}  // namespace ts_infer
