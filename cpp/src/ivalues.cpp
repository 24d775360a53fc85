#include "ivalues.h"

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/enum_type.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/jit_type.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <stdexcept>

#include "input_nodes.h"
#include "messages.h"
#include "tensor_access.h"
#include "ts_infer/error.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw InputError("input \"" + path + "\": " + what);
}

[[noreturn]] void wrong_type(const std::string& path, const c10::TypePtr& expected,
                             const Value& got) {
  fail(path, c10::str("expected ", expected->annotation_str(), ", got ", got.type_name()));
}

constexpr int kDeepest = 1000;  // containers within containers

std::string too_deep() {
  return "containers that nest at most " + std::to_string(kDeepest) + " deep, got deeper ones";
}

using Transform = std::function<at::Tensor(const at::Tensor&)>;

/// The type of a tuple that has names for its fields. The others find theirs in their elements,
/// which fails where one is an undefined tensor.
c10::TupleTypePtr named_type(const c10::ivalue::Tuple& tuple) {
  try {
    const c10::TupleTypePtr type = tuple.type();
    return type->schema() ? type : nullptr;
  } catch (const c10::Error&) {
    return nullptr;
  }
}

c10::IValue map_tensors_at(const c10::IValue& value, const Transform& transform, int depth) {
  if (depth > kDeepest) throw std::length_error("expected " + too_deep());
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    return tensor.defined() ? c10::IValue(transform(tensor)) : c10::IValue();
  }
  const auto map = [&](const c10::IValue& element) {
    return map_tensors_at(element, transform, depth + 1);
  };
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    const c10::ivalue::Tuple& tuple = value.toTupleRef();
    for (const c10::IValue& element : tuple.elements()) elements.push_back(map(element));
    const c10::TupleTypePtr type = named_type(tuple);
    return type ? c10::ivalue::Tuple::createNamed(std::move(elements), type)
                : c10::ivalue::Tuple::create(std::move(elements));
  }
  if (value.isList()) {
    const auto list = value.toList();
    c10::impl::GenericList mapped(list.elementType());
    mapped.reserve(list.size());
    for (const c10::IValue& element : list) mapped.push_back(map(element));
    return mapped;
  }
  if (value.isGenericDict()) {
    const auto dict = value.toGenericDict();
    c10::impl::GenericDict mapped(dict.keyType(), dict.valueType());
    for (const auto& entry : dict) mapped.insert(entry.key(), map(entry.value()));
    return mapped;
  }
  return value;
}

void visit_leaves_at(const c10::IValue& value, const std::function<void(const c10::IValue&)>& visit,
                     int depth) {
  if (depth > kDeepest) throw std::length_error("expected " + too_deep());
  const auto go_on = [&](const c10::IValue& element) {
    visit_leaves_at(element, visit, depth + 1);
  };
  if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) go_on(element);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toList()) go_on(element);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) go_on(entry.value());
  } else {
    visit(value);
  }
}

bool is_deeper_than(const Value& value, int levels) {
  if (levels < 0) return true;
  const auto is_too_deep = [&](const Value& element) {
    return is_deeper_than(element, levels - 1);
  };
  if (value.is_list())
    return std::any_of(value.as_list().begin(), value.as_list().end(), is_too_deep);
  if (value.is_tuple()) {
    const std::vector<Value>& elements = value.as_tuple().values;
    return std::any_of(elements.begin(), elements.end(), is_too_deep);
  }
  return value.is_dict() &&
         std::any_of(value.as_dict().begin(), value.as_dict().end(),
                     [&](const auto& entry) { return is_too_deep(entry.second); });
}

c10::IValue to_list(const Value& value, const c10::ListType& type, const std::string& path) {
  c10::impl::GenericList list(type.getElementType());
  const std::vector<Value>& elements = value.as_list();
  list.reserve(elements.size());
  for (std::size_t i = 0; i < elements.size(); ++i) {
    list.push_back(to_ivalue(elements[i], type.getElementType(), c10::str(path, '[', i, ']')));
  }
  return list;
}

c10::IValue to_tuple(const Value& value, const c10::TupleTypePtr& type, const std::string& path) {
  // A list of the right length is as good: plain C++ has no other way to write one.
  const std::vector<Value>& elements = value.is_list() ? value.as_list() : value.as_tuple().values;
  if (elements.size() != type->elements().size()) {
    fail(path, c10::str("expected ", type->elements().size(), " elements, got ", elements.size()));
  }
  std::vector<c10::IValue> converted;
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const std::string step =
        type->schema() ? '.' + type->schema()->arguments()[i].name() : c10::str('[', i, ']');
    converted.push_back(to_ivalue(elements[i], type->elements()[i], path + step));
  }
  return type->schema() ? c10::ivalue::Tuple::createNamed(std::move(converted), type)
                        : c10::ivalue::Tuple::create(std::move(converted));
}

c10::IValue to_dict(const Value& value, const c10::DictType& type, const std::string& path) {
  c10::impl::GenericDict dict(type.getKeyType(), type.getValueType());
  for (const auto& [key, element] : value.as_dict()) {
    const c10::IValue converted = to_ivalue(key, type.getKeyType(), path + " (a key)");
    dict.insert_or_assign(converted,
                          to_ivalue(element, type.getValueType(), path + path_step(converted)));
  }
  return dict;
}

c10::IValue to_enum(const Value& value, const c10::EnumTypePtr& type, const std::string& path) {
  std::vector<std::string> names;
  for (const auto& [name, held] : type->enumNamesValues()) {
    names.push_back(name);
    if (value.is_string() && value.as_string() == name) {
      return c10::IValue(c10::make_intrusive<c10::ivalue::EnumHolder>(type, name, held));
    }
  }
  fail(path, c10::str("expected the name of a member of ", type->annotation_str(), " (",
                      join(names), "), got ", value.type_name()));
}

c10::IValue to_device(const Value& value, const c10::TypePtr& type, const std::string& path) {
  if (!value.is_string()) wrong_type(path, type, value);
  try {
    return c10::Device(value.as_string());
  } catch (const c10::Error& error) {
    fail(path, clean_message(error));
  }
}

/// For an argument whose type is Any: the type that the value itself suggests.
c10::IValue to_any(const Value& value, const std::string& path) {
  const auto any = c10::AnyType::get();
  if (value.is_tensor()) return to_torch(value.as_tensor());
  if (value.is_bool()) return value.as_bool();
  if (value.is_int()) return value.as_int();
  if (value.is_double()) return value.as_double();
  if (value.is_complex()) return c10::complex<double>(value.as_complex());
  if (value.is_string()) return value.as_string();
  if (value.is_list()) return to_list(value, *c10::ListType::create(any), path);
  if (value.is_tuple()) {
    const std::vector<c10::TypePtr> types(value.as_tuple().values.size(), any);
    return to_tuple(value, c10::TupleType::create(types), path);
  }
  if (value.is_dict()) {
    return to_dict(value, *c10::DictType::create(c10::StringType::get(), any), path);
  }
  return {};
}

c10::IValue to_union(const Value& value, const c10::TypePtr& type, const std::string& path) {
  for (const c10::TypePtr& member : type->expectRef<c10::UnionType>().containedTypes()) {
    try {
      return to_ivalue(value, member, path);
    } catch (const InputError&) {
      // The next member may fit.
    }
  }
  wrong_type(path, type, value);
}

}  // namespace

c10::IValue to_ivalue(const Value& value, const c10::TypePtr& type, const std::string& path) {
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      if (value.is_tensor()) return to_torch(value.as_tensor());
      break;
    case c10::TypeKind::OptionalType:
      if (value.is_none()) return {};
      return to_ivalue(value, type->expectRef<c10::OptionalType>().getElementType(), path);
    case c10::TypeKind::NoneType:
      if (value.is_none()) return {};
      break;
    case c10::TypeKind::BoolType:
      if (value.is_bool()) return value.as_bool();
      break;
    case c10::TypeKind::IntType:
      if (value.is_int()) return value.as_int();
      break;
    case c10::TypeKind::FloatType:
      if (value.is_double()) return value.as_double();
      if (value.is_int()) return static_cast<double>(value.as_int());
      break;
    case c10::TypeKind::ComplexType:
      if (value.is_complex()) return c10::complex<double>(value.as_complex());
      break;
    case c10::TypeKind::NumberType:
      if (value.is_int() || value.is_double() || value.is_complex() || value.is_bool()) {
        return to_any(value, path);
      }
      break;
    case c10::TypeKind::StringType:
      if (value.is_string()) return value.as_string();
      break;
    case c10::TypeKind::DeviceObjType:
      return to_device(value, type, path);
    case c10::TypeKind::ListType:
      if (value.is_list()) return to_list(value, type->expectRef<c10::ListType>(), path);
      break;
    case c10::TypeKind::TupleType:
      if (value.is_tuple() || value.is_list()) {
        return to_tuple(value, type->expect<c10::TupleType>(), path);
      }
      break;
    case c10::TypeKind::DictType:
      if (value.is_dict()) return to_dict(value, type->expectRef<c10::DictType>(), path);
      break;
    case c10::TypeKind::UnionType:
      return to_union(value, type, path);
    case c10::TypeKind::EnumType:
      return to_enum(value, type->expect<c10::EnumType>(), path);
    case c10::TypeKind::AnyType:
      return to_any(value, path);
    default:
      fail(path, c10::str("a ", type->annotation_str(),
                          " cannot be given as a Value; use ts_infer/torch.h"));
  }
  wrong_type(path, type, value);
}

Tensor output_tensor(const at::Tensor& tensor, const std::string& where) {
  try {
    return from_torch(tensor);
  } catch (const InputError& error) {
    throw ExecutionError(where + " a result: " + error.what());
  }
}

Value from_ivalue(const c10::IValue& value, const std::string& where) {
  if (value.isNone()) return {};
  if (value.isTensor()) {
    return value.toTensor().defined() ? Value(output_tensor(value.toTensor(), where)) : Value();
  }
  if (value.isBool()) return value.toBool();
  if (value.isInt()) return value.toInt();
  if (value.isDouble()) return value.toDouble();
  if (value.isComplexDouble()) return std::complex<double>(value.toComplexDouble());
  if (value.isString()) return value.toStringRef();
  if (value.isDevice()) return value.toDevice().str();
  if (value.isEnum()) return value.toEnumHolder()->name();
  if (value.isTuple()) {
    Value::Tuple tuple;
    for (const c10::IValue& element : value.toTupleRef().elements()) {
      tuple.values.push_back(from_ivalue(element, where));
    }
    if (const auto& schema = value.type()->expectRef<c10::TupleType>().schema()) {
      for (const c10::Argument& field : schema->arguments()) tuple.names.push_back(field.name());
    }
    return tuple;
  }
  if (value.isList()) {
    Value::List list;
    for (const c10::IValue& element : value.toList()) {
      list.values.push_back(from_ivalue(element, where));
    }
    return list;
  }
  if (value.isGenericDict()) {
    Value::Dict dict;
    for (const auto& entry : value.toGenericDict()) {
      dict.emplace_back(from_ivalue(entry.key(), where), from_ivalue(entry.value(), where));
    }
    return dict;
  }
  throw ExecutionError(c10::str(where, ": it returned a ", value.type()->annotation_str(),
                                ", which a Value cannot hold; use ts_infer/torch.h"));
}

std::vector<Value> from_ivalues(const std::vector<c10::IValue>& values, const std::string& where) {
  std::vector<Value> result;
  for (const c10::IValue& value : values) result.push_back(from_ivalue(value, where));
  return result;
}

c10::IValue map_tensors(const c10::IValue& value, const Transform& transform) {
  return map_tensors_at(value, transform, 0);
}

void take_apart(c10::IValue value) {
  std::vector<c10::IValue> left;
  left.push_back(std::move(value));
  while (!left.empty()) {
    c10::IValue last = std::move(left.back());
    left.pop_back();
    // What others hold too does not end here.
    if (!last.isPtrType() || last.use_count() > 1) continue;
    if (last.isTuple()) {
      for (c10::IValue& element : last.toTupleRef().elements().vec()) {
        left.push_back(std::move(element));
      }
      last.toTuple()->setElements(std::vector<c10::IValue>());
    } else if (last.isList()) {
      c10::List<c10::IValue> list = last.toList();
      for (std::size_t i = 0; i < list.size(); ++i) left.push_back(list.extract(i));
    } else if (last.isGenericDict()) {
      for (const auto& entry : last.toGenericDict()) {
        left.push_back(entry.value());
        entry.setValue(c10::IValue());
      }
    }
  }
}

void for_each_leaf(const c10::IValue& value, const std::function<void(const c10::IValue&)>& visit) {
  visit_leaves_at(value, visit, 0);
}

std::string path_of(const at::Tensor& tensor, const c10::IValue& value, const std::string& path) {
  if (value.isTensor()) return value.toTensor().is_same(tensor) ? path : "";
  std::string found;
  const auto look_in = [&](const std::string& step, const c10::IValue& element) {
    if (found.empty()) found = path_of(tensor, element, path + step);
  };
  if (value.isTuple()) {
    const auto& schema = value.type()->expectRef<c10::TupleType>().schema();
    const auto elements = value.toTupleRef().elements().asArrayRef();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      look_in(schema ? '.' + schema->arguments()[i].name() : c10::str('[', i, ']'), elements[i]);
    }
  } else if (value.isList()) {
    for (std::size_t i = 0; i < value.toListRef().size(); ++i) {
      look_in(c10::str('[', i, ']'), value.toListRef()[i]);
    }
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      look_in(path_step(entry.key()), entry.value());
    }
  }
  return found;
}

void require_shallow(const Value& value, const std::string& path) {
  if (is_deeper_than(value, kDeepest)) fail(path, "expected " + too_deep());
}

}  // namespace ts_infer
