#include "input_nodes.h"

#include <ATen/core/Dict.h>
#include <ATen/core/jit_type.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "ivalues.h"
#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using Kind = InputNode::Kind;
using Specs = c10::ArrayRef<TensorSpec>;
using json = nlohmann::json;

[[noreturn]] void misfit(const std::string& path, const c10::Type& type) {
  throw ModelLoadError(c10::str("its manifest describes the input ", path,
                                ": expected paths within its forward's ", type.annotation_str(),
                                ", got another; export it again"));
}

/// The first step of what follows `prefix` in a path: ".imu", "[0]"; "" where there is none.
std::string first_step(const std::string& path, std::size_t prefix) {
  if (prefix >= path.size()) return "";
  std::size_t end = prefix + 1;
  if (path[prefix] == '.') {
    end = std::min(path.find_first_of(".[", end), path.size());
  } else if (path.compare(prefix, 2, "[\"") == 0) {
    for (++end; end < path.size() && path[end] != '"'; ++end) end += path[end] == '\\' ? 1 : 0;
    end += 2;
  } else {
    end = std::min(path.find(']', end), path.size()) + 1;
  }
  return end > path.size() ? "" : path.substr(prefix, end - prefix);
}

/// The key, or the number of the element, that a step names; null for none.
json key_of(const std::string& step) {
  if (step.size() < 2) return nullptr;
  if (step[0] == '.') return step.substr(1);
  if (step[0] != '[' || step.back() != ']') return nullptr;
  json key = json::parse(step.begin() + 1, step.end() - 1, nullptr, /*allow_exceptions=*/false);
  return key.is_primitive() ? key : json();
}

std::optional<c10::IValue> dict_key(const json& key, c10::TypeKind kind) {
  if (kind == c10::TypeKind::StringType && key.is_string()) return key.get<std::string>();
  if (kind == c10::TypeKind::BoolType && key.is_boolean()) return key.get<bool>();
  if (kind == c10::TypeKind::IntType && key.is_number_integer()) return key.get<std::int64_t>();
  if (kind == c10::TypeKind::FloatType && key.is_number()) return key.get<double>();
  return std::nullopt;
}

bool is_same_size(const Dim& a, const Dim& b) {
  return a.min == b.min && a.max == b.max && a.factor == b.factor && a.offset == b.offset;
}

/// Whether two parts are declared to be of the same dtypes and sizes; names of dims aside.
bool is_alike(const InputNode& a, const InputNode& b) {
  if (a.kind != b.kind || a.keys != b.keys) return false;
  if (!std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), is_alike)) {
    return false;
  }
  if (a.leaf.dtype != b.leaf.dtype || a.leaf.shape.has_value() != b.leaf.shape.has_value()) {
    return false;
  }
  return !a.leaf.shape || std::equal(a.leaf.shape->begin(), a.leaf.shape->end(),
                                     b.leaf.shape->begin(), b.leaf.shape->end(), is_same_size);
}

/// Makes the nodes of one argument.
class Builder {
 public:
  explicit Builder(const TensorSpec& argument) : argument_(argument) {}

  InputNode make(const std::string& name, const c10::Type& declared, Specs specs) const {
    const c10::Type& type = declared.kind() == c10::TypeKind::OptionalType
                                ? *declared.expectRef<c10::OptionalType>().getElementType()
                                : declared;
    InputNode node;
    node.name = name;
    if (specs.size() == 1 && specs[0].name == name) {
      node.leaf = specs[0];
      node.is_optional = specs[0].has_default;
      return node;
    }
    switch (type.kind()) {
      case c10::TypeKind::ListType:
        node.kind = Kind::kList;
        node.is_open = argument_.any_length;
        break;
      case c10::TypeKind::TupleType:
        node.kind = Kind::kTuple;
        break;
      case c10::TypeKind::DictType:
        node.kind = Kind::kDict;
        node.is_open = argument_.any_keys;
        break;
      default:
        misfit(specs[0].name, declared);
    }
    while (!specs.empty()) {
      const std::string step = first_step(specs[0].name, name.size());
      std::size_t count = 0;
      while (count < specs.size() && first_step(specs[count].name, name.size()) == step) ++count;
      if (!add_item(node, step, type, specs.slice(0, count))) misfit(specs[0].name, declared);
      specs = specs.slice(count);
    }
    if (node.kind == Kind::kTuple &&
        node.items.size() != type.expectRef<c10::TupleType>().elements().size()) {
      misfit(name, declared);
    }
    std::set<std::string> steps;
    for (const c10::IValue& key : node.keys) {
      if (!steps.insert(path_step(key)).second) misfit(name + path_step(key), declared);
    }
    node.is_optional = std::all_of(node.items.begin(), node.items.end(),
                                   [](const InputNode& item) { return item.is_optional; });
    node.is_uniform = std::all_of(node.items.begin(), node.items.end(), [&](const InputNode& item) {
      return is_alike(item, node.items.back());
    });
    return node;
  }

 private:
  /// Whether the step is one of the type's.
  bool add_item(InputNode& node, const std::string& step, const c10::Type& type,
                Specs specs) const {
    const json key = key_of(step);
    const std::string name = node.name + step;
    const auto add = [&](const c10::TypePtr& item) {
      node.items.push_back(make(name, *item, specs));
      return true;
    };
    if (node.kind == Kind::kDict) {
      const auto& dict = type.expectRef<c10::DictType>();
      const auto found = dict_key(key, dict.getKeyType()->kind());
      if (!found) return false;
      node.keys.push_back(*found);
      return add(dict.getValueType());
    }
    const std::size_t index = node.items.size();
    if (node.kind == Kind::kList) {
      return key == json(index) && add(type.expectRef<c10::ListType>().getElementType());
    }
    const auto& tuple = type.expectRef<c10::TupleType>();
    // A trace has no fields where the example had them.
    const bool fits = key == json(index) || step[0] == '.';
    return fits && index < tuple.elements().size() && add(tuple.elements()[index]);
  }

  const TensorSpec& argument_;
};

void number_leaves(InputNode& node, std::size_t& next) {
  if (node.kind == Kind::kLeaf) node.index = next++;
  for (InputNode& item : node.items) number_leaves(item, next);
}

std::string elements_text(std::size_t count) {
  return c10::str(count, count == 1 ? " element" : " elements");
}

void visit(const InputNode& node, const std::string& name, const c10::IValue& value,
           const InputVisitor& visitor);

/// An item of a container of that name, which has another path than the declared container where
/// that itself is one that stands for others.
void visit_item(const InputNode& node, const InputNode& item, const std::string& name,
                const c10::IValue& value, const InputVisitor& visitor) {
  if (name == node.name) return visit(item, item.name, value, visitor);
  visit(item, name + item.name.substr(node.name.size()), value, visitor);
}

void visit_elements(const InputNode& node, const std::string& name,
                    c10::ArrayRef<c10::IValue> elements, const InputVisitor& visitor) {
  if (elements.size() != node.items.size() && !node.is_open) {
    visitor.fault(
        name, c10::str("expected ", elements_text(node.items.size()), ", got ", elements.size()));
    return;
  }
  for (std::size_t i = 0; i < elements.size(); ++i) {
    if (i < node.items.size()) {
      visit_item(node, node.items[i], name, elements[i], visitor);
    } else if (node.is_uniform) {
      visit(node.items.back(), c10::str(name, '[', i, ']'), elements[i], visitor);
    }
  }
}

void visit_dict(const InputNode& node, const std::string& name, const c10::IValue& value,
                const InputVisitor& visitor) {
  const auto dict = value.toGenericDict();
  std::size_t known = 0;
  for (const auto& entry : dict) {
    // As a rule they come in the declared order.
    const bool is_next = known < node.keys.size() && node.keys[known] == entry.key();
    const auto key = is_next ? node.keys.begin() + static_cast<std::ptrdiff_t>(known)
                             : std::find(node.keys.begin(), node.keys.end(), entry.key());
    if (key != node.keys.end()) {
      ++known;
      visit_item(node, node.items[static_cast<std::size_t>(key - node.keys.begin())], name,
                 entry.value(), visitor);
    } else if (!node.is_open) {
      std::vector<std::string> names;
      for (const InputNode& item : node.items) names.push_back(item.name);
      visitor.fault(name + path_step(entry.key()),
                    "expected one of " + join(names) + ", got an unknown key");
    } else if (node.is_uniform) {
      visit(node.items.back(), name + path_step(entry.key()), entry.value(), visitor);
    }
  }
  if (known == node.items.size() || node.is_open) return;
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    if (node.items[i].is_optional || dict.contains(node.keys[i])) continue;
    visitor.fault(name + path_step(node.keys[i]), "expected a value, got a dict without this key");
  }
}

void visit(const InputNode& node, const std::string& name, const c10::IValue& value,
           const InputVisitor& visitor) {
  switch (node.kind) {
    case Kind::kLeaf:
      return visitor.leaf(node, name, value);
    case Kind::kList:
      if (value.isList()) visit_elements(node, name, value.toListRef(), visitor);
      return;
    case Kind::kTuple:
      if (value.isTuple())
        visit_elements(node, name, value.toTupleRef().elements().asArrayRef(), visitor);
      return;
    case Kind::kDict:
      if (value.isGenericDict()) visit_dict(node, name, value, visitor);
      return;
  }
}

bool is_empty(const Value& value) {
  return (value.is_list() && value.as_list().empty()) ||
         (value.is_dict() && value.as_dict().empty());
}

}  // namespace

std::vector<InputNode> input_nodes(const Signature& signature, const c10::FunctionSchema& schema) {
  std::vector<InputNode> nodes;
  std::size_t next = 0;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& input = signature.inputs[i];
    const Specs leaves = input.leaves.empty() ? Specs(input) : Specs(input.leaves);
    nodes.push_back(Builder(input).make(input.name, *schema.arguments().at(i + 1).type(), leaves));
    number_leaves(nodes.back(), next);
  }
  return nodes;
}

void for_each_leaf(const InputNode& node, const std::function<void(const InputNode&)>& visit) {
  if (node.kind == Kind::kLeaf) return visit(node);
  for (const InputNode& item : node.items) for_each_leaf(item, visit);
}

void visit_input(const InputNode& node, const c10::IValue& value, const InputVisitor& visitor) {
  visit(node, node.name, value, visitor);
}

std::optional<Value> build_input(
    const InputNode& node, const std::function<std::optional<Value>(const InputNode&)>& make) {
  if (node.kind == Kind::kLeaf) return make(node);
  std::vector<Value> values;
  Value::Dict dict;
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    std::optional<Value> item = build_input(node.items[i], make);
    if (!item || (node.items[i].is_optional && is_empty(*item))) continue;
    if (node.kind == Kind::kDict) {
      dict.emplace_back(from_ivalue(node.keys[i], ""), *std::move(item));
    } else {
      values.push_back(*std::move(item));
    }
  }
  if (node.kind == Kind::kDict) return Value(std::move(dict));
  if (node.kind == Kind::kList) return Value(Value::List(std::move(values)));
  return Value(Value::Tuple{std::move(values), {}});
}

std::string path_step(const c10::IValue& key) {
  const auto in_brackets = [](const json& value) {
    return '[' + value.dump(-1, ' ', false, json::error_handler_t::replace) + ']';
  };
  if (key.isInt()) return in_brackets(key.toInt());
  if (key.isDouble()) return in_brackets(key.toDouble());
  if (key.isBool()) return in_brackets(key.toBool());
  if (!key.isString()) return c10::str('[', key, ']');
  const std::string& text = key.toStringRef();
  const bool is_plain = !text.empty() && std::none_of(text.begin(), text.end(), [](char c) {
    return std::string_view(" .[]=\"'\\\x7f").find(c) != std::string_view::npos ||
           static_cast<unsigned char>(c) < 0x20;
  });
  return is_plain ? '.' + text : in_brackets(text);
}

}  // namespace ts_infer
