#include "archive/golden.h"

#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "archive/archive.h"
#include "archive/pickle_machine.h"
#include "archive/pickle_scan.h"
#include "archive/zip.h"
#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using c10::IValue;

constexpr std::size_t kDeepestGolden = 100;
constexpr int kMostValues = 100000;  // in one list of calls

[[noreturn]] void unreadable(const std::string& what) { throw ModelLoadError(what); }

std::optional<c10::ScalarType> storage_dtype(const std::string& global) {
  static const std::unordered_map<std::string, c10::ScalarType> kStorages = {
      {"torch BoolStorage", c10::kBool},
      {"torch ByteStorage", c10::kByte},
      {"torch CharStorage", c10::kChar},
      {"torch ShortStorage", c10::kShort},
      {"torch IntStorage", c10::kInt},
      {"torch LongStorage", c10::kLong},
      {"torch HalfStorage", c10::kHalf},
      {"torch BFloat16Storage", c10::kBFloat16},
      {"torch FloatStorage", c10::kFloat},
      {"torch DoubleStorage", c10::kDouble},
      {"torch ComplexFloatStorage", c10::kComplexFloat},
      {"torch ComplexDoubleStorage", c10::kComplexDouble},
  };
  const auto found = kStorages.find(global);
  if (found == kStorages.end()) return std::nullopt;
  return found->second;
}

/// The files of a torch.save archive by their names inside its folder.
class SavedFile {
 public:
  explicit SavedFile(std::string_view bytes) : bytes_(bytes), members_(read_zip_directory(bytes)) {}

  std::string_view at(const std::string& name) const {
    for (const ZipMember& member : members_) {
      if (member.name.substr(member.name.find('/') + 1) != name) continue;
      const std::string_view content = bytes_.substr(member.data_offset, member.compressed_size);
      if (member.compression != 0) unreadable(name + " is compressed");
      return content;
    }
    unreadable(name + " is missing");
  }

 private:
  std::string_view bytes_;
  std::vector<ZipMember> members_;
};

/// A machine for the opcodes that pickle protocol 2 writes for plain values and tensors, of a
/// pickle that scan_pickle() has gone through: storages and tensors fit. A global is a string here,
/// which only REDUCE and BINPERSID read as a name.
class Unpickler : PickleMachine<IValue> {
 public:
  explicit Unpickler(const SavedFile& file)
      : PickleMachine(file.at("data.pkl"), "data.pkl", "no pickle"), file_(file) {}

  IValue read() {
    for (;;) {
      const auto opcode = number<std::uint8_t>();
      if (opcode == '.') return pop();
      step(opcode);
    }
  }

 private:
  void step(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
        if (const int protocol = number<std::uint8_t>(); protocol != 2) {
          unreadable(c10::str("expected pickle protocol 2, got ", protocol));
        }
        return;
      case 'N':
        return push({});
      case 0x88:
        return push(true);
      case 0x89:
        return push(false);
      case 'J':
        return push(std::int64_t{number<std::int32_t>()});
      case 'K':
        return push(std::int64_t{number<std::uint8_t>()});
      case 'M':
        return push(std::int64_t{number<std::uint16_t>()});
      case 0x8a:
        return push(long_integer());
      case 'G':
        return push(big_endian_double());
      case 'X':
        return push(std::string(take(number<std::uint32_t>())));
      case 'c': {
        const std::string module = line();
        return push(module + ' ' + line());
      }
      case ']':
        return push(c10::impl::GenericList(c10::AnyType::get()));
      case '}':
        return push(c10::impl::GenericDict(c10::AnyType::get(), c10::AnyType::get()));
      case ')':
        return push_tuple(0);
      case 0x85:
      case 0x86:
      case 0x87:
        return push_tuple(opcode - 0x84u);
      case '(':
        return mark();
      case 't':
        return push_tuple(above_mark());
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
      case 'R': {
        const IValue arguments = pop();
        const IValue function = pop();
        return push(reduce(text(function), arguments));
      }
      default:
        unreadable(c10::str("opcode ", static_cast<int>(opcode),
                            " is none that torch.save writes for plain values and tensors"));
    }
  }

  double big_endian_double() {
    std::uint64_t bits = 0;
    for (const char byte : take(8)) bits = bits << 8 | static_cast<unsigned char>(byte);
    double value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  void push_tuple(std::size_t count) { push(c10::ivalue::Tuple::create(pop(count))); }

  void append(std::size_t count) {
    const std::vector<IValue> values = pop(count);
    if (!top().isList()) unreadable("expected a list, got " + top().tagKind());
    auto list = top().toList();
    for (const IValue& value : values) list.push_back(value);
  }

  void set_items(std::size_t count) {
    const std::vector<IValue> values = pop(count);
    if (!top().isGenericDict() || count % 2 != 0) {
      unreadable("expected a dict, got " + top().tagKind());
    }
    auto dict = top().toGenericDict();
    for (std::size_t i = 0; i < count; i += 2) {
      const IValue& key = values[i];
      if (!key.isString() && !key.isInt() && !key.isDouble() && !key.isBool()) {
        unreadable("a dict has a key of type " + key.tagKind());
      }
      dict.insert_or_assign(key, values[i + 1]);
    }
  }

  static const std::string& text(const IValue& value) {
    if (!value.isString()) unreadable("expected a name, got " + value.tagKind());
    return value.toStringRef();
  }

  static std::int64_t integer(const IValue& value) {
    if (!value.isInt()) unreadable("expected an integer, got " + value.tagKind());
    return value.toInt();
  }

  static double real(const IValue& value) {
    if (!value.isDouble()) unreadable("expected a float, got " + value.tagKind());
    return value.toDouble();
  }

  static std::vector<IValue> elements(const IValue& value, std::size_t at_least) {
    if (!value.isTuple() || value.toTupleRef().elements().size() < at_least) {
      unreadable(c10::str("expected a tuple of ", at_least, ", got ", value.tagKind()));
    }
    return value.toTupleRef().elements().vec();
  }

  static std::vector<std::int64_t> sizes(const IValue& value) {
    std::vector<std::int64_t> found;
    for (const IValue& element : elements(value, 0)) found.push_back(integer(element));
    return found;
  }

  /// ("storage", type, key, location, elements), as a tensor of one dimension.
  IValue storage(const IValue& id) {
    const std::vector<IValue> parts = elements(id, 5);
    const auto dtype = storage_dtype(text(parts[1]));
    if (!dtype) unreadable(text(parts[1]) + " is no dtype that this version has");
    const std::string& key = text(parts[2]);
    const auto known = storages_.find(key);
    if (known != storages_.end()) return known->second;
    const std::string_view data = file_.at("data/" + key);
    const std::int64_t count = integer(parts[4]);
    const at::Tensor tensor = at::empty({count}, at::TensorOptions(c10::kCPU).dtype(*dtype));
    if (count > 0) std::memcpy(tensor.data_ptr(), data.data(), tensor.nbytes());
    return storages_[key] = tensor;
  }

  static IValue reduce(const std::string& function, const IValue& arguments) {
    if (function == "collections OrderedDict") {
      return c10::impl::GenericDict(c10::AnyType::get(), c10::AnyType::get());
    }
    if (function == "__builtin__ complex") {
      const std::vector<IValue> parts = elements(arguments, 2);
      return c10::complex<double>(real(parts[0]), real(parts[1]));
    }
    if (function != "torch._utils _rebuild_tensor_v2") {
      unreadable(function + " is none of the values that this version reads");
    }
    const std::vector<IValue> parts = elements(arguments, 6);
    if (!parts[0].isTensor()) unreadable("expected a storage, got " + parts[0].tagKind());
    // It checks the bounds: a storage may be mentioned with several numbers of elements.
    return at::as_strided(parts[0].toTensor(), sizes(parts[2]), sizes(parts[3]), integer(parts[1]));
  }

  const SavedFile& file_;
  std::unordered_map<std::string, at::Tensor> storages_;
};

/// What is mentioned again and again may be more than a file could hold.
void count_values(const IValue& value, int& values) {
  if (++values > kMostValues) unreadable(c10::str("it has more than ", kMostValues, " values"));
  if (value.isTuple()) {
    for (const IValue& element : value.toTupleRef().elements()) count_values(element, values);
  } else if (value.isList()) {
    for (const IValue& element : value.toList()) count_values(element, values);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) count_values(entry.value(), values);
  }
}

std::vector<IValue> entry(const IValue& dict, const char* key) {
  if (dict.isGenericDict()) {
    const auto entries = dict.toGenericDict();
    const auto found = entries.find(key);
    if (found != entries.end() && found->value().isList()) return found->value().toListRef().vec();
  }
  unreadable(c10::str("expected a dict with a list \"", key, "\", got ", dict.tagKind()));
}

}  // namespace

std::vector<GoldenCall> read_golden(std::string_view bytes) {
  try {
    const SavedFile file(bytes);
    const auto storage_bytes = [&](const std::string& key) {
      return std::optional<std::uint64_t>(file.at("data/" + key).size());
    };
    const PickleScan scan = scan_pickle(file.at("data.pkl"), storage_bytes);
    if (scan.nesting > kDeepestGolden) unreadable("its values are nested too deep");
    if (scan.has_meta) unreadable("a tensor of it is on the meta device and has no values");
    const IValue root = Unpickler(file).read();
    int values = 0;
    count_values(root, values);
    std::vector<GoldenCall> calls;
    for (const IValue& call : entry(root, "calls")) {
      calls.push_back({entry(call, "inputs"), entry(call, "outputs")});
    }
    return calls;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw ModelLoadError(clean_message(error));
  }
}

std::vector<GoldenCall> golden_calls(const Archive& archive) {
  if (!archive.golden()) return {};
  const std::string& file = archive.golden()->file;
  const std::optional<std::string> bytes = archive.extra_file(file);
  if (!bytes) {
    throw ModelLoadError("its manifest names a golden sample: expected extra/" + file +
                         " in the file, got none; export the model again");
  }
  try {
    return read_golden(*bytes);
  } catch (const ModelLoadError& error) {
    throw ModelLoadError(std::string("its golden sample cannot be read: ") + error.what() +
                         "; export the model again");
  }
}

}  // namespace ts_infer
