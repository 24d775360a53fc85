#include "ts_infer/value.h"

#include "ts_infer/error.h"

namespace ts_infer {
namespace {

template <typename T>
const T& get(const std::variant<std::monostate, bool, std::int64_t, double, std::complex<double>,
                                std::string, Tensor, Value::List, Value::Tuple, Value::Dict>& data,
             const Value& value, const char* expected) {
  if (const T* held = std::get_if<T>(&data)) return *held;
  throw InputError(std::string("[value] expected ") + expected + ", got " + value.type_name());
}

}  // namespace

bool Value::as_bool() const { return get<bool>(data_, *this, "bool"); }

std::int64_t Value::as_int() const { return get<std::int64_t>(data_, *this, "int"); }

double Value::as_double() const { return get<double>(data_, *this, "double"); }

std::complex<double> Value::as_complex() const {
  return get<std::complex<double>>(data_, *this, "complex");
}

const std::string& Value::as_string() const { return get<std::string>(data_, *this, "string"); }

const Tensor& Value::as_tensor() const { return get<Tensor>(data_, *this, "tensor"); }

const std::vector<Value>& Value::as_list() const { return get<List>(data_, *this, "list").values; }

const Value::Tuple& Value::as_tuple() const { return get<Tuple>(data_, *this, "tuple"); }

const Value::Dict& Value::as_dict() const { return get<Dict>(data_, *this, "dict"); }

const Value& Value::at(std::size_t index) const {
  const std::vector<Value>& values = is_tuple() ? as_tuple().values : as_list();
  if (index >= values.size()) {
    throw InputError("[value] expected an index below " + std::to_string(values.size()) + ", got " +
                     std::to_string(index));
  }
  return values[index];
}

const Value& Value::at(const std::string& key) const {
  std::string known;
  if (is_tuple()) {
    const Tuple& tuple = as_tuple();
    for (std::size_t i = 0; i < tuple.names.size(); ++i) {
      if (tuple.names[i] == key) return tuple.values[i];
      known += " \"" + tuple.names[i] + '"';
    }
  } else {
    for (const auto& [name, value] : as_dict()) {
      if (!name.is_string()) continue;
      if (name.as_string() == key) return value;
      known += " \"" + name.as_string() + '"';
    }
  }
  throw InputError("[value] expected one of" + (known.empty() ? " no keys" : known) + ", got \"" +
                   key + '"');
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {"none",   "bool",   "int",  "double", "complex",
                                           "string", "tensor", "list", "tuple",  "dict"};
  return kNames[data_.index()];
}

}  // namespace ts_infer
