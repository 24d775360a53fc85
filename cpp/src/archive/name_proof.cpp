#include "archive/name_proof.h"

#include <torch/csrc/jit/frontend/lexer.h>
#include <torch/csrc/jit/frontend/parser.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "archive/code_names.h"
#include "archive/setstate_proof.h"
#include "archive/source_scan.h"
#include "archive/zip.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using torch::jit::Apply;
using torch::jit::Assign;
using torch::jit::ClassDef;
using torch::jit::Def;
using torch::jit::Param;
using torch::jit::Select;
using torch::jit::StringLiteral;
using torch::jit::Subscript;
using torch::jit::TreeRef;
using torch::jit::Var;

/// What a name of the code may mean to torch before, or instead of, a variable that is called so.
bool is_torchs_own(const std::string& name) {
  static const std::set<std::string> kReserved = {"torch", "ops",  "__torch__", "CONSTANTS",
                                                  "inf",   "infj", "nan",       "nanj"};
  return kReserved.count(name) > 0;
}

bool is_variable(const TreeRef& tree) { return tree->kind() == torch::jit::TK_VAR; }

std::string name_of(const TreeRef& variable) { return Var(variable).name().name(); }

/// The operands of getattr(value, "name").
struct Getattr {
  TreeRef value;
  std::optional<std::string> name;  // nullopt: not told by one text
};

std::optional<Getattr> as_getattr(const TreeRef& tree) {
  if (tree->kind() != torch::jit::TK_APPLY) return std::nullopt;
  const Apply apply(tree);
  const TreeRef callee = apply.callee().tree();
  if (!is_variable(callee) || name_of(callee) != "getattr") return std::nullopt;
  if (apply.inputs().size() < 2) return Getattr{tree, std::nullopt};
  Getattr found = {apply.inputs()[0].tree(), std::nullopt};
  const TreeRef name = apply.inputs()[1].tree();
  if (name->kind() == torch::jit::TK_STRINGLITERAL) found.name = StringLiteral(name).text();
  return found;
}

/// A class of the archive, as far as torch looks names up in it before it looks for an operator.
struct Class {
  std::map<std::string, std::string> attributes;  // names of their types; "" for no plain name
  std::set<std::string> methods;
  bool is_enum = false;
  bool is_certain = true;

  bool declares(const std::string& name) const {
    return is_certain && (attributes.count(name) > 0 || methods.count(name) > 0);
  }
};

/// The classes of all files. torch finds a file in any case, and in it a class by its exact name.
class Classes {
 public:
  void add(const std::string& file, const TreeRef& tree) {
    const ClassDef definition(tree);
    const std::string name = key(file + '.' + definition.name().name());
    const auto [place, is_new] = classes_.emplace(name, read(definition));
    const bool may_be_registered = name.starts_with("__torch__.torch.classes.");
    if (!is_new || may_be_registered) place->second.is_certain = false;
    if (!is_new) place->second.is_enum = true;
  }

  const Class* find(const std::string& name) const {
    const auto found = classes_.find(key(name));
    return found == classes_.end() ? nullptr : &found->second;
  }

 private:
  static std::string key(const std::string& name) {
    const std::size_t last = name.rfind('.') + 1;
    return lower_case(name.substr(0, last)) + name.substr(last);
  }

  static Class read(const ClassDef& definition) {
    static const std::set<std::string> kBases = {"", "Module", "NamedTuple", "Interface",
                                                 "ModuleInterface"};
    Class read;
    const std::string base = definition.superclass().present()
                                 ? qualified_name(definition.superclass().get().tree())
                                 : "";
    read.is_enum = base == "Enum";
    read.is_certain = kBases.count(base) > 0;
    for (const torch::jit::Stmt& statement : definition.body()) {
      if (statement.kind() == torch::jit::TK_DEF) {
        read.methods.insert(Def(statement).name().name());
      } else if (statement.kind() == torch::jit::TK_ASSIGN) {
        read_assignment(Assign(statement), read);
      }
    }
    return read;
  }

  static void read_assignment(const Assign& assign, Class& read) {
    const TreeRef target = assign.lhs().tree();
    if (is_variable(target)) {
      // A constant has a value, and torch looks for none where it looks for an attribute. A method
      // that is a hook is none.
      if (name_of(target).starts_with("__forward")) read.is_certain = false;
      if (assign.rhs().present() || !assign.type().present()) return;
      read.attributes[name_of(target)] = qualified_name(assign.type().get().tree());
    } else if (target->kind() == torch::jit::TK_SUBSCRIPT && assign.rhs().present()) {
      // __annotations__["0"] = T
      const auto names = Subscript(target).subscript_exprs();
      if (names.size() != 1 || names[0].kind() != torch::jit::TK_STRINGLITERAL) return;
      read.attributes[StringLiteral(names[0]).text()] = qualified_name(assign.rhs().get().tree());
    }
  }

  std::unordered_map<std::string, Class> classes_;
};

/// What the variables of one function are, as far as it is certain.
class Scope {
 public:
  explicit Scope(const Classes& classes) : classes_(classes) {}

  /// A method where `own` is the class that it is in.
  Scope(const Classes& classes, const Def& function, const Class* own) : classes_(classes) {
    for (const Param& param : function.decl().params()) {
      const bool is_self = own != nullptr && parameters_.empty();
      parameters_[param.ident().name()] =
          is_self                  ? own
          : param.type().present() ? classes.find(qualified_name(param.type().get().tree()))
                                   : nullptr;
    }
    for (const TreeRef& tree : function.tree()->trees()) count(tree);
  }

  /// The class whose instance an expression is; nullptr where it is none, or not certain.
  const Class* class_of(const TreeRef& tree, int steps = 0) const {
    constexpr int kMostSteps = 100;  // a variable may be given to itself
    if (steps > kMostSteps) return nullptr;
    if (is_variable(tree)) return class_of_variable(name_of(tree), steps);
    if (tree->kind() == '.') {
      const Select select(tree);
      return attribute(select.value().tree(), select.selector().name(), steps);
    }
    const std::optional<Getattr> getattr = as_getattr(tree);
    if (getattr && getattr->name) return attribute(getattr->value, *getattr->name, steps);
    return class_of_new_object(tree);
  }

  /// Whether an expression is a name of the archive's own code: no value, of which an operator
  /// could be had.
  bool is_own_namespace(const TreeRef& tree) const {
    const std::string name = qualified_name(tree);
    if (!(name + '.').starts_with("__torch__.") || mentions_.count("__torch__") > 0) return false;
    for (std::size_t end = name.find('.'); end != name.npos; end = name.find('.', end + 1)) {
      if (is_enum(name.substr(0, end))) return false;  // its members are values
    }
    return !is_enum(name);
  }

 private:
  /// __torch__.C.__new__(__torch__.C)
  const Class* class_of_new_object(const TreeRef& tree) const {
    if (tree->kind() != torch::jit::TK_APPLY) return nullptr;
    const TreeRef callee = Apply(tree).callee().tree();
    if (callee->kind() != '.' || Select(callee).selector().name() != "__new__") return nullptr;
    const TreeRef type = Select(callee).value().tree();
    return is_own_namespace(type) ? classes_.find(qualified_name(type)) : nullptr;
  }

  bool is_enum(const std::string& name) const {
    const Class* const found = classes_.find(name);
    return found != nullptr && found->is_enum;
  }

  const Class* attribute(const TreeRef& value, const std::string& name, int steps) const {
    const Class* const holder = class_of(value, steps + 1);
    if (holder == nullptr || !holder->is_certain) return nullptr;
    const auto found = holder->attributes.find(name);
    return found == holder->attributes.end() ? nullptr : classes_.find(found->second);
  }

  const Class* class_of_variable(const std::string& name, int steps) const {
    const auto mentions = mentions_.find(name);
    if (is_torchs_own(name) || mentions == mentions_.end() || mentions->second != 1) return nullptr;
    const auto parameter = parameters_.find(name);
    if (parameter != parameters_.end()) return parameter->second;
    const auto value = values_.find(name);
    return value == values_.end() ? nullptr : class_of(value->second, steps + 1);
  }

  /// Counts what could bind a variable: each mention of it but those that only read an attribute.
  void count(const TreeRef& tree) {
    if (is_variable(tree)) {
      ++mentions_[name_of(tree)];
      return;
    }
    if (tree->kind() == torch::jit::TK_PARAM) ++mentions_[Param(tree).ident().name()];
    if (tree->kind() == torch::jit::TK_DEF) ++mentions_[Def(tree).name().name()];
    if (tree->kind() == torch::jit::TK_ASSIGN) {
      const Assign assign(tree);
      const auto targets = assign.lhs_list();
      if (targets.size() == 1 && is_variable(targets[0].tree()) && assign.rhs().present() &&
          !assign.type().present()) {
        values_.emplace(name_of(targets[0].tree()), assign.rhs().get().tree());
      }
    }
    const std::optional<Getattr> getattr = as_getattr(tree);
    TreeRef only_read;
    if (tree->kind() == '.') only_read = Select(tree).value().tree();
    if (getattr) only_read = getattr->value;
    count_within(tree, only_read);
  }

  void count_within(const TreeRef& tree, const TreeRef& only_read) {
    for (const TreeRef& inner : tree->trees()) {
      if (inner == only_read && is_variable(inner)) continue;
      if (inner->kind() == torch::jit::TK_LIST) {
        count_within(inner, only_read);
      } else {
        count(inner);
      }
    }
  }

  const Classes& classes_;
  std::map<std::string, const Class*> parameters_;
  std::map<std::string, TreeRef> values_;  // of variables that one assignment gives one
  std::map<std::string, int> mentions_;
};

class Proof {
 public:
  void read(const std::string& file, const std::string& source) {
    try {
      parse(file, source);
    } catch (const std::exception&) {
      // torch will not read it either, and says where.
      used_.merge(scan_source(source).restricted);
    }
  }

  std::set<std::string> run() {
    for (const auto& [file, tree] : definitions_) {
      if (tree->kind() == torch::jit::TK_DEF) {
        look_at(tree, Scope(classes_, Def(tree), nullptr));
        continue;
      }
      const ClassDef definition(tree);
      const Class* const own = classes_.find(file + '.' + definition.name().name());
      for (const torch::jit::Stmt& statement : definition.body()) {
        const bool is_method = statement.kind() == torch::jit::TK_DEF;
        look_at(statement.tree(),
                is_method ? Scope(classes_, Def(statement), own) : Scope(classes_));
      }
    }
    if (!only_assigns_in_load(definitions_)) used_.insert(kSetstate);
    return std::move(used_);
  }

 private:
  void parse(const std::string& file, const std::string& source) {
    std::string qualifier = file.substr(5, file.size() - 8);  // code/ … .py
    std::replace(qualifier.begin(), qualifier.end(), '/', '.');
    torch::jit::Parser parser(std::make_shared<torch::jit::Source>(source, file, 1));
    torch::jit::Lexer& lexer = parser.lexer();
    if (lexer.cur().kind == torch::jit::TK_IDENT && lexer.cur().text() == "op_version_set") {
      skip_line(lexer);  // torch before 1.4
    }
    while (lexer.cur().kind != torch::jit::TK_EOF) {
      if (lexer.cur().kind == torch::jit::TK_IMPORT) {
        skip_line(lexer);
      } else if (lexer.cur().kind == torch::jit::TK_CLASS_DEF) {
        definitions_.emplace_back(qualifier, parser.parseClass());
        classes_.add(qualifier, definitions_.back().second);
      } else {
        definitions_.emplace_back(qualifier, parser.parseFunction(/*is_method=*/false));
      }
    }
  }

  static void skip_line(torch::jit::Lexer& lexer) {
    while (lexer.cur().kind != torch::jit::TK_NEWLINE && lexer.cur().kind != torch::jit::TK_EOF) {
      lexer.next();
    }
    lexer.nextIf(torch::jit::TK_NEWLINE);
  }

  void look_at(const TreeRef& tree, const Scope& scope) {
    if (tree->kind() == '.') {
      const Select select(tree);
      look_at_name(select.selector().name(), select.value().tree(), scope);
      return look_at(select.value().tree(), scope);
    }
    if (tree->kind() == torch::jit::TK_SUBSCRIPT && Subscript(tree).subscript_exprs().empty()) {
      throw ModelLoadError("its code has brackets with no index in them");  // torch reads the first
    }
    if (is_variable(tree) && name_of(tree) == "getattr") return use_all();
    if (const std::optional<Getattr> getattr = as_getattr(tree)) {
      if (!getattr->name) return use_all();
      look_at_name(*getattr->name, getattr->value, scope);
      for (std::size_t i = 1; i < tree->trees().size(); ++i) look_at(tree->tree(i), scope);
      return;
    }
    for (const TreeRef& inner : tree->trees()) look_at(inner, scope);
  }

  void look_at_name(const std::string& name, const TreeRef& value, const Scope& scope) {
    for (const RestrictedOperator& restricted : all_restricted_operators()) {
      if (last_name(restricted.name) != name) continue;
      const Class* const holder = scope.class_of(value);
      const bool is_own =
          (holder != nullptr && holder->declares(name)) || scope.is_own_namespace(value);
      if (!is_own) used_.insert(restricted.name);
    }
  }

  void use_all() {
    for (const RestrictedOperator& restricted : all_restricted_operators()) {
      used_.insert(restricted.name);
    }
  }

  Classes classes_;
  std::vector<Definition> definitions_;
  std::set<std::string> used_;
};

}  // namespace

std::set<std::string> used_operators(const std::map<std::string, std::string>& code) {
  Proof proof;
  for (const auto& [file, source] : code) proof.read(file, source);
  return proof.run();
}

}  // namespace ts_infer
