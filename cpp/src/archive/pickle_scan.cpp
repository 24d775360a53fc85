#include "archive/pickle_scan.h"

#include <c10/core/ScalarType.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "archive/pickle_machine.h"
#include "archive/source_scan.h"
#include "reach.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

constexpr std::string_view kBuildIntList = "torch.jit._pickle build_intlist";

[[noreturn]] void refuse(const std::string& what) { throw ModelLoadError(what); }

/// Bytes of an element of "torch FloatStorage"; nullopt for another global.
std::optional<std::uint64_t> element_size(std::string_view global) {
  static const auto kSizes = [] {
    std::unordered_map<std::string_view, std::uint64_t> sizes;
#define TS_INFER_ADD_STORAGE(_, name) \
  sizes["torch " #name "Storage"] = c10::elementSize(c10::ScalarType::name);
    AT_FORALL_SCALAR_TYPES_WITH_COMPLEX_AND_QINTS(TS_INFER_ADD_STORAGE)
#undef TS_INFER_ADD_STORAGE
    return sizes;
  }();
  const auto found = kSizes.find(global);
  if (found == kSizes.end()) return std::nullopt;
  return found->second;
}

/// "List[ ]": torch reads what is in them first.
bool has_empty_brackets(std::string_view type) {
  for (std::size_t open = type.find('['); open != type.npos; open = type.find('[', open + 1)) {
    const std::size_t next = type.find_first_not_of(" \t\r\n\f\v", open + 1);
    if (next != type.npos && type[next] == ']') return true;
  }
  return false;
}

/// A value as far as it can be told from the opcodes. Small: a byte of a pickle may be a value.
struct PickledValue {
  enum class Kind : std::uint8_t {
    kOther,
    kInt,
    kText,
    kGlobal,
    kTuple,
    kList,
    kDict,
    kObject,
    kStorage
  };
  Kind kind = Kind::kOther;
  std::uint32_t node = 0;   // of what holds others: its place in the graph
  std::int64_t number = 0;  // kInt; kStorage: elements; kText, kGlobal: its place among the texts

  bool holds_others() const {
    return kind == Kind::kTuple || kind == Kind::kList || kind == Kind::kDict ||
           kind == Kind::kObject;
  }
};

class PickleScanner : PickleMachine<PickledValue> {
 public:
  /// Without storages for what has none: debug information.
  PickleScanner(std::string_view pickle, const StorageBytes* storage_bytes)
      : PickleMachine(pickle, "it", "no pickle that torch writes"), storage_bytes_(storage_bytes) {}

  PickleScan run() {
    for (auto opcode = number<std::uint8_t>(); opcode != '.'; opcode = number<std::uint8_t>()) {
      step(opcode);
    }
    scan_.nesting = std::max(longest_path(), scan_.nesting);
    if (is_debug()) check_debug_info(pop());
    return std::move(scan_);
  }

 private:
  using Kind = PickledValue::Kind;
  using Values = c10::ArrayRef<PickledValue>;

  bool is_debug() const { return storage_bytes_ == nullptr; }

  void step(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
        number<std::uint8_t>();
        return;
      case 'N':
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        return push({});
      case 'G':
        take(8);
        return push({});
      case 'J':
        return push_int(number<std::int32_t>());
      case 'K':
        return push_int(number<std::uint8_t>());
      case 'M':
        return push_int(number<std::uint16_t>());
      case 0x8a:  // LONG1
        return push_int(long_integer());
      case 'X':
        return push_text(Kind::kText, take(number<std::uint32_t>()));
      case 'c':
        return push_global();
      case ']':
        return push_holder(Kind::kList);
      case '}':
        return push_holder(Kind::kDict);
      case ')':
        return push_tuple(0);
      case 0x85:  // TUPLE1 to TUPLE3
      case 0x86:
      case 0x87:
        return push_tuple(opcode - 0x84u);
      case '(':
        return mark();
      case 't':
        return push_tuple(above_mark());
      case 'l':
      case 'd': {
        const std::vector<PickledValue> values = pop(above_mark());
        if (opcode == 'd' && values.size() % 2 != 0) no_pickle();
        push_holder(opcode == 'l' ? Kind::kList : Kind::kDict);
        return put_in(values);
      }
      case 'a':
        return append(1);
      case 'e':
        return append(above_mark());
      case 's':
        return set_items(2);
      case 'u':
        return set_items(above_mark());
      case 'q':
        return memorise(number<std::uint8_t>());
      case 'r':
        return memorise(number<std::uint32_t>());
      case 'h':
        return push_memo(number<std::uint8_t>());
      case 'j':
        return push_memo(number<std::uint32_t>());
      case 'Q':
        return push(storage(pop()));
      case 0x81:  // NEWOBJ: the object is made by BUILD
        pop();
        return;
      case 'R':
      case 'b': {
        const PickledValue argument = pop();
        return reduce(pop(), argument);
      }
      default:
        refuse(
            c10::str("it has the opcode ", static_cast<int>(opcode), ", which torch never writes"));
    }
  }

  void push_int(std::int64_t value) { push({.kind = Kind::kInt, .number = value}); }

  void push_text(Kind kind, std::string_view text) {
    push({.kind = kind, .number = static_cast<std::int64_t>(texts_.size())});
    texts_.push_back(text);
  }

  void push_global() {
    const std::string module = line();
    globals_.push_back(module + ' ' + line());
    if (is_debug() && globals_.back() != kBuildIntList) no_pickle();
    push_text(Kind::kGlobal, globals_.back());
  }

  std::string_view text_of(const PickledValue& value) const {
    return texts_[static_cast<std::size_t>(value.number)];
  }

  static std::uint32_t narrow(std::size_t number) {
    if (number > std::numeric_limits<std::uint32_t>::max()) refuse("it has too many values");
    return static_cast<std::uint32_t>(number);
  }

  void push_holder(Kind kind) {
    push({.kind = kind, .node = narrow(tuples_.size())});
    tuples_.emplace_back();
  }

  /// Into the value on top.
  void put_in(Values values) {
    for (const PickledValue& value : values) {
      if (value.holds_others()) holds_.push_back({top().node, value.node});
    }
  }

  /// It keeps what it holds, for reduce().
  void push_tuple(std::size_t count) {
    const std::vector<PickledValue> values = pop(count);
    push_holder(Kind::kTuple);
    keep(values);
    put_in(values);
  }

  /// In the value on top.
  void keep(const std::vector<PickledValue>& values) {
    tuples_[top().node] = {narrow(kept_.size()), narrow(values.size())};
    kept_.insert(kept_.end(), values.begin(), values.end());
  }

  void append(std::size_t count) {
    const std::vector<PickledValue> values = pop(count);
    if (top().kind != Kind::kList) no_pickle();
    if (is_debug()) {
      if (tuples_[top().node].size > 0) no_pickle();  // torch fills a list at once
      keep(values);
    }
    put_in(values);
  }

  void set_items(std::size_t count) {
    const std::vector<PickledValue> values = pop(count);
    if (top().kind != Kind::kDict || count % 2 != 0) no_pickle();
    put_in(values);
  }

  Values elements(const PickledValue& tuple, std::size_t at_least) const {
    if (tuple.kind != Kind::kTuple || tuples_[tuple.node].size < at_least) no_pickle();
    return kept_of(tuple);
  }

  Values kept_of(const PickledValue& value) const {
    return Values(kept_).slice(tuples_[value.node].begin, tuples_[value.node].size);
  }

  std::int64_t integer(const PickledValue& value) const {
    if (value.kind != Kind::kInt) no_pickle();
    return value.number;
  }

  std::vector<std::int64_t> integers(const PickledValue& tuple) const {
    std::vector<std::int64_t> numbers;
    for (const PickledValue& value : elements(tuple, 0)) numbers.push_back(integer(value));
    return numbers;
  }

  /// ("storage", type, key, location, elements)
  PickledValue storage(const PickledValue& id) {
    if (is_debug()) no_pickle();
    const Values parts = elements(id, 5);
    const auto item = element_size(parts[1].kind == Kind::kGlobal ? text_of(parts[1]) : "");
    if (!item || parts[2].kind != Kind::kText || parts[3].kind != Kind::kText) no_pickle();
    const std::int64_t count = integer(parts[4]);
    const std::string_view device = text_of(parts[3]);
    if (device == "meta" && count >= 0) {
      scan_.has_meta = true;
      return {.kind = Kind::kStorage, .number = count};
    }
    if (device != "cpu") scan_.device = device;
    const std::string key(text_of(parts[2]));
    const std::optional<std::uint64_t> bytes = (*storage_bytes_)(key);
    if (count < 0 || (count > 0 && !bytes) ||
        static_cast<std::uint64_t>(count) > bytes.value_or(0) / *item) {
      refuse(c10::str("storage ", key, ": expected ", bytes.value_or(0) / *item,
                      " elements at most, as its record has, got ", count));
    }
    return {.kind = Kind::kStorage, .number = count};
  }

  /// (storage, offset, sizes, strides, …)
  void check_tensor(const PickledValue& arguments) const {
    const Values parts = elements(arguments, 4);
    if (parts[0].kind != Kind::kStorage) no_pickle();
    const auto last = last_element(integers(parts[2]), integers(parts[3]), integer(parts[1]));
    if (!last || *last >= parts[0].number) {
      refuse(c10::str("a tensor reaches outside its storage of ", parts[0].number, " elements"));
    }
  }

  void reduce(const PickledValue& function, const PickledValue& argument) {
    if (function.kind != Kind::kGlobal) no_pickle();
    const std::string_view name = text_of(function);
    if (is_debug()) return build_list(name, argument);
    if (name == "torch._utils _rebuild_tensor_v2" || name == "torch._utils _rebuild_qtensor") {
      check_tensor(argument);
    } else if (name == "torch._tensor _rebuild_from_type_v2" ||
               name == "torch.distributed.rpc rref") {
      refuse("it has a " + std::string(name) + ", which a model for inference does not need");
    } else if (name == "torch.jit._pickle restore_type_tag") {
      const Values parts = elements(argument, 2);
      if (parts[1].kind != Kind::kText) no_pickle();
      if (has_empty_brackets(text_of(parts[1]))) no_pickle();
      // torch's parser reads the type.
      scan_.nesting = std::max(scan_.nesting, scan_source(text_of(parts[1])).nesting);
    }
    push_holder(Kind::kObject);
    put_in({argument});
  }

  void build_list(std::string_view function, const PickledValue& argument) {
    const Values parts = elements(argument, 1);
    if (function != kBuildIntList || parts[0].kind != Kind::kList) no_pickle();
    const Kept kept = tuples_[parts[0].node];
    push_holder(Kind::kObject);
    tuples_[top().node] = kept;
    put_in({argument});
  }

  /// Where code was in its author's files: (offset in the code, (source, begin, end), …) of each
  /// piece. torch reads it when it makes the text of an error, and an error within that ends the
  /// process. Sources are made of the texts of a table, in torch before 1.11 of one text.
  void check_debug_info(const PickledValue& root) const {
    Values pieces = elements(root, 0);
    Values texts;
    const bool has_table =
        !pieces.empty() && is_text(pieces[0]) && text_of(pieces[0]) == "FORMAT_WITH_STRING_TABLE";
    if (has_table) {
      texts = elements(elements(root, 3)[1], 0);
      pieces = elements(pieces[2], 0);
      if (!std::all_of(texts.begin(), texts.end(), is_text)) no_pickle();
    }
    for (const PickledValue& piece : pieces) {
      const Values parts = elements(piece, 2);
      integer(parts[0]);
      const Values range = elements(parts[1], 3);
      const std::int64_t size = source_size(range[0], texts);
      const std::int64_t begin = integer(range[1]);
      if (range.size() != 3 || begin < 0 || begin > size || integer(range[2]) < begin) no_pickle();
    }
  }

  static bool is_text(const PickledValue& value) { return value.kind == Kind::kText; }

  /// (texts' places in the table, the file name's place, line), or (text, file name or None, line).
  std::int64_t source_size(const PickledValue& source, Values texts) const {
    const Values parts = elements(source, 3);
    integer(parts[2]);
    if (parts.size() != 3) no_pickle();
    if (texts.empty()) {
      if (!is_text(parts[0]) || (!is_text(parts[1]) && parts[1].kind != Kind::kOther)) no_pickle();
      return static_cast<std::int64_t>(text_of(parts[0]).size());
    }
    const auto text_at = [&](const PickledValue& place) {
      const std::int64_t i = integer(place);
      if (i < 0 || i >= static_cast<std::int64_t>(texts.size())) no_pickle();
      return text_of(texts[static_cast<std::size_t>(i)]);
    };
    text_at(parts[1]);
    if (parts[0].kind != Kind::kObject) no_pickle();
    std::int64_t size = 0;
    for (const PickledValue& place : kept_of(parts[0])) {
      size += static_cast<std::int64_t>(text_at(place).size());
    }
    return size;
  }

  /// Values on the longest way down.
  std::size_t longest_path() {
    const std::size_t nodes = tuples_.size();
    std::vector<std::uint32_t> holders(nodes, 0);
    for (const Hold& hold : holds_) ++holders[hold.held];
    std::sort(holds_.begin(), holds_.end(),
              [](const Hold& a, const Hold& b) { return a.holder < b.holder; });
    std::vector<std::uint32_t> ready;
    for (std::uint32_t i = 0; i < nodes; ++i) {
      if (holders[i] == 0) ready.push_back(i);
    }
    std::vector<std::uint32_t> depth(nodes, 1);
    std::uint32_t deepest = 0;
    for (std::size_t done = 0; done < ready.size(); ++done) {
      const std::uint32_t holder = ready[done];
      deepest = std::max(deepest, depth[holder]);
      auto hold =
          std::lower_bound(holds_.begin(), holds_.end(), holder,
                           [](const Hold& a, std::uint32_t node) { return a.holder < node; });
      for (; hold != holds_.end() && hold->holder == holder; ++hold) {
        depth[hold->held] = std::max(depth[hold->held], depth[holder] + 1);
        if (--holders[hold->held] == 0) ready.push_back(hold->held);
      }
    }
    if (ready.size() < nodes) refuse("a value of it holds itself");
    return deepest;
  }

  struct Hold {
    std::uint32_t holder;
    std::uint32_t held;
  };
  struct Kept {
    std::uint32_t begin = 0;
    std::uint32_t size = 0;
  };

  const StorageBytes* storage_bytes_;
  std::deque<std::string> globals_;
  std::vector<std::string_view> texts_;
  std::vector<PickledValue> kept_;  // what tuples hold, and in debug information lists
  std::vector<Kept> tuples_;        // of each node that is one: its part of kept_
  std::vector<Hold> holds_;
  PickleScan scan_;
};

}  // namespace

PickleScan scan_pickle(std::string_view pickle, const StorageBytes& storage_bytes) {
  return PickleScanner(pickle, &storage_bytes).run();
}

PickleScan scan_debug_info(std::string_view pickle) { return PickleScanner(pickle, nullptr).run(); }

}  // namespace ts_infer
