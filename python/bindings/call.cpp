#include "call.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/tensor_numpy.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gil.h"
#include "input_nodes.h"
#include "model_access.h"
#include "tensor_access.h"
#include "ts_infer/error.h"
#include "ts_infer/torch.h"

namespace ts_infer::python {
namespace {

using torch::jit::toIValue;
using torch::jit::toPyObject;

constexpr int kDeepest = 100;  // containers in what may be of any type

bool is_numpy_array(py::handle object) {
  // An array can exist only where numpy was imported; it is never imported for the sake of asking.
  static PyObject* array_type = nullptr;
  if (array_type == nullptr) {
    const auto numpy =
        py::reinterpret_borrow<py::object>(PyDict_GetItemString(PyImport_GetModuleDict(), "numpy"));
    if (!numpy || !py::hasattr(numpy, "ndarray")) return false;
    array_type = numpy.attr("ndarray").cast<py::object>().release().ptr();
  }
  return PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(array_type));
}

// Of any library but torch, whose tensors need no conversion.
bool is_array(py::handle object) {
  return !THPVariable_Check(object.ptr()) && !PyType_Check(object.ptr()) &&
         (is_numpy_array(object) || py::hasattr(object, "__dlpack__"));
}

bool is_writable(py::handle array) {
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_STRIDES | PyBUF_WRITABLE) != 0) {
    PyErr_Clear();
    return false;
  }
  PyBuffer_Release(&view);
  return true;
}

// Looks into what an object hands out, which torch takes as it is.
py::object checked_dlpack(py::handle array, const py::kwargs& arguments) {
  py::object capsule = array.attr("__dlpack__")(**arguments);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    const auto* const managed =
        static_cast<const DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    detail::check_dlpack(managed->dl_tensor);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    const auto* const versioned = static_cast<const DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    detail::check_dlpack(versioned->dl_tensor);
  }
  return capsule;
}

at::Tensor tensor_from_dlpack(py::handle array) {
  const auto stand_in = py::module_::import("types").attr("SimpleNamespace")(
      py::arg("__dlpack_device__") = array.attr("__dlpack_device__"),
      py::arg("__dlpack__") = py::cpp_function(
          [array](const py::kwargs& arguments) { return checked_dlpack(array, arguments); }));
  return py::module_::import("torch").attr("from_dlpack")(stand_in).cast<at::Tensor>();
}

at::Tensor tensor_from_array(py::handle array) {
  if (!is_numpy_array(array)) return tensor_from_dlpack(array);
  // Read-only memory is not shared: a model may write to its inputs.
  if (is_writable(array)) {
    try {
      return torch::utils::tensor_from_numpy(array.ptr(), false);
    } catch (const std::exception&) {
      // Strides or a byte order that torch does not have: a copy has neither.
      PyErr_Clear();
    }
  }
  const py::object copy =
      array.attr("astype")(array.attr("dtype").attr("newbyteorder")("="), py::arg("order") = "C");
  return torch::utils::tensor_from_numpy(copy.ptr(), false);
}

bool holds_tensor(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) return true;
  for (const c10::TypePtr& contained : type->containedTypes()) {
    if (holds_tensor(contained)) return true;
  }
  return false;
}

// The object with every array that stands for a tensor replaced by one. What does not fit the type
// is left for toIValue to refuse, but for None, which it would take for an undefined tensor.
py::object with_tensors(py::handle object, const c10::TypePtr& type) {
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      if (object.is_none()) throw py::cast_error("None is no Tensor");
      [[fallthrough]];
    case c10::TypeKind::UnionType:
      if (holds_tensor(type) && is_array(object)) {
        return py::cast(tensor_from_array(object));
      }
      break;
    case c10::TypeKind::OptionalType:
      if (!object.is_none()) {
        return with_tensors(object, type->expectRef<c10::OptionalType>().getElementType());
      }
      break;
    case c10::TypeKind::ListType:
      if ((PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())) && holds_tensor(type)) {
        const c10::TypePtr& element = type->expectRef<c10::ListType>().getElementType();
        py::list result;
        for (const py::handle item : object) result.append(with_tensors(item, element));
        return result;
      }
      break;
    case c10::TypeKind::TupleType:
      if (PyTuple_Check(object.ptr()) && holds_tensor(type)) {
        const auto elements = type->expectRef<c10::TupleType>().elements();
        const auto items = py::reinterpret_borrow<py::tuple>(object);
        if (items.size() != elements.size()) break;
        py::tuple result(items.size());
        for (std::size_t i = 0; i < items.size(); ++i) {
          result[i] = with_tensors(items[i], elements[i]);
        }
        return result;
      }
      break;
    case c10::TypeKind::DictType:
      if (PyDict_Check(object.ptr()) && holds_tensor(type)) {
        const c10::TypePtr& value_type = type->expectRef<c10::DictType>().getValueType();
        py::dict result;
        for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(object)) {
          result[key] = with_tensors(value, value_type);
        }
        return result;
      }
      break;
    default:
      break;
  }
  return py::reinterpret_borrow<py::object>(object);
}

// torch would take the truth of anything that has one, None's too.
bool is_bool(py::handle object) {
  if (PyBool_Check(object.ptr())) return true;
  const std::string_view type = Py_TYPE(object.ptr())->tp_name;
  return type == "numpy.bool" || type == "numpy.bool_";
}

// torch would cast an array to one, and take the whole part of what is no int.
bool is_number(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::BoolType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::ComplexType:
      return true;
    default:
      return false;
  }
}

bool holds_any(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::AnyType) return true;
  const auto contained = type->containedTypes();
  return std::any_of(contained.begin(), contained.end(), holds_any);
}

// What holds itself, too. torch guesses the type of a value that may be any by calling itself.
bool is_deeper_than(py::handle object, int levels) {
  if (levels < 0) return true;
  const auto is_too_deep = [&](py::handle item) { return is_deeper_than(item, levels - 1); };
  if (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())) {
    return std::any_of(object.begin(), object.end(), is_too_deep);
  }
  if (!PyDict_Check(object.ptr())) return false;
  for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(object)) {
    if (is_too_deep(key) || is_too_deep(value)) return true;
  }
  return false;
}

// A conversion that succeeded, or the reason why not.
struct Conversion {
  std::optional<c10::IValue> value;
  std::string reason;
};

Conversion convert(py::handle object, const c10::TypePtr& type, std::optional<std::int32_t> size) {
  Conversion result;
  if (is_number(*type) && (THPVariable_Check(object.ptr()) || is_numpy_array(object))) {
    result.reason = "an array is no number; pass its item()";
    return result;
  }
  if (type->kind() == c10::TypeKind::IntType && PyNumber_Check(object.ptr()) != 0 &&
      !PyIndex_Check(object.ptr())) {
    result.reason = "pass an int";
    return result;
  }
  if (type->kind() == c10::TypeKind::BoolType && !is_bool(object)) {
    result.reason = "pass True or False";
    return result;
  }
  if (type->kind() == c10::TypeKind::StringType && PyBytes_Check(object.ptr())) {
    result.reason = "decode it first";
    return result;
  }
  if (holds_any(type) && is_deeper_than(object, kDeepest)) {
    result.reason = "its containers nest more than " + std::to_string(kDeepest) + " deep";
    return result;
  }
  try {
    const bool is_plain = type->kind() == c10::TypeKind::TensorType && is_array(object);
    result.value = is_plain ? c10::IValue(tensor_from_array(object))
                            : toIValue(with_tensors(object, type), type, size);
    return result;
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception) || error.matches(PyExc_MemoryError)) throw;
    result.reason = py::str(error.value()).cast<std::string>();
  } catch (const c10::Error& error) {
    result.reason = error.what_without_backtrace();
  } catch (const std::exception& error) {
    result.reason = error.what();
  }
  // Some of torch's helpers throw with Python's error indicator set.
  if (PyErr_Occurred() != nullptr) {
    py::error_already_set pending;
    if (!pending.matches(PyExc_Exception)) throw pending;
    result.reason = py::str(pending.value()).cast<std::string>();
  }
  return result;
}

std::string kind_of(py::handle object) {
  if (object.is_none()) return "None";
  std::string name = py::type::handle_of(object).attr("__name__").cast<std::string>();
  if (is_numpy_array(object)) {
    return "a numpy array of dtype " + py::str(object.attr("dtype")).cast<std::string>();
  }
  if (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())) {
    name += " of " + std::to_string(py::len(object));
  }
  int overflow = 0;
  if (PyLong_Check(object.ptr())) PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
  if (overflow != 0) return "one of more than 64 bits";
  if (PyUnicode_Check(object.ptr()) && PyUnicode_AsUTF8(object.ptr()) == nullptr) {
    PyErr_Clear();
    return "one that UTF-8 cannot write";
  }
  return name;
}

// What a dict's key adds to the path of what it holds.
std::string step_of(py::handle key, const c10::TypePtr& type) {
  const Conversion converted = convert(key, type, std::nullopt);
  return converted.value ? path_step(*converted.value)
                         : "[" + py::repr(key).cast<std::string>() + "]";
}

// What was wrong, said of the innermost element that does not convert by itself.
std::string mismatch(const std::string& path, py::handle object, const c10::TypePtr& type,
                     const std::string& reason) {
  const auto inside = [](const std::string& item_path, py::handle item,
                         const c10::TypePtr& item_type) -> std::optional<std::string> {
    const Conversion item_conversion = convert(item, item_type, std::nullopt);
    if (item_conversion.value) return std::nullopt;
    return mismatch(item_path, item, item_type, item_conversion.reason);
  };
  const auto at = [&path](std::size_t index) { return path + "[" + std::to_string(index) + "]"; };
  if (const auto optional = type->cast<c10::OptionalType>(); optional && !object.is_none()) {
    // Optional[Tensor] is named whole; of an optional container the element to blame is.
    if (!optional->getElementType()->containedTypes().empty()) {
      return mismatch(path, object, optional->getElementType(), reason);
    }
  } else if (const auto list = type->cast<c10::ListType>();
             list && (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr()))) {
    std::size_t index = 0;
    for (const py::handle item : object) {
      if (auto found = inside(at(index++), item, list->getElementType())) return *found;
    }
  } else if (const auto tuple = type->cast<c10::TupleType>();
             tuple && PyTuple_Check(object.ptr()) && py::len(object) == tuple->elements().size()) {
    std::size_t index = 0;
    for (const py::handle item : object) {
      const std::string item_path =
          tuple->schema() ? path + "." + tuple->schema()->arguments()[index].name() : at(index);
      const c10::TypePtr& item_type = tuple->elements()[index++];
      if (auto found = inside(item_path, item, item_type)) return *found;
    }
  } else if (const auto dict = type->cast<c10::DictType>(); dict && PyDict_Check(object.ptr())) {
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(object)) {
      if (auto found = inside(path + " (a key)", key, dict->getKeyType())) return *found;
      const std::string item_path = path + step_of(key, dict->getKeyType());
      if (auto found = inside(item_path, value, dict->getValueType())) return *found;
    }
  }
  std::string text =
      "input \"" + path + "\": expected " + type->annotation_str() + ", got " + kind_of(object);
  const bool says_why = is_number(*type) && reason.rfind("Unable to cast", 0) != 0;
  if (is_array(object) || says_why || type->kind() == c10::TypeKind::AnyType) {
    text += " (" + reason + ")";
  } else if (type->isSubtypeOf(*c10::OptionalType::ofTensor())) {
    text += "; pass a torch.Tensor, a numpy array or an object with __dlpack__";
  }
  return text;
}

std::string signature_text(const Model& model, const std::string& method,
                           const c10::FunctionSchema& schema) {
  if (method == "forward") return model.signature().to_string();
  std::string text;
  for (std::size_t i = 1; i < schema.arguments().size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    text += "  " + argument.name() + ": " + argument.type()->annotation_str() + "\n";
  }
  return text;
}

c10::IValue argument_value(const Model& model, const std::string& method,
                           const c10::FunctionSchema& schema, const c10::Argument& argument,
                           py::handle object) {
  const c10::TypePtr& type = argument.real_type();
  if (type->kind() == c10::TypeKind::TensorType && THPVariable_Check(object.ptr())) {
    return THPVariable_Unpack(object.ptr());
  }
  Conversion conversion = convert(object, type, argument.N());
  if (conversion.value) return *std::move(conversion.value);
  throw InputError("[call] " + model.info().name + ": " +
                   mismatch(argument.name(), object, type, conversion.reason) + "\n" +
                   signature_text(model, method, schema));
}

// Of a keyword; what UTF-8 cannot write is no name of an input.
std::string name_of(py::handle keyword) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(keyword.ptr(), &size);
  if (text != nullptr) return {text, static_cast<std::size_t>(size)};
  PyErr_Clear();
  return py::repr(keyword).cast<std::string>();
}

}  // namespace

py::object call_method(Model& model, const std::string& method, py::handle args, py::handle kwargs,
                       const RunOptions& options) {
  const c10::FunctionSchema& schema = ModelAccess::schema(model, method);
  const std::vector<c10::Argument>& arguments = schema.arguments();

  // An argument that the schema does not have stays None: the library then says what is wrong in
  // the words that every door uses.
  const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(args.ptr()));
  std::vector<c10::IValue> positional(count);
  for (std::size_t i = 0; i < count && i + 1 < arguments.size(); ++i) {
    positional[i] = argument_value(model, method, schema, arguments[i + 1],
                                   PyTuple_GET_ITEM(args.ptr(), static_cast<py::ssize_t>(i)));
  }
  std::unordered_map<std::string, c10::IValue> named;
  if (kwargs) {
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(kwargs)) {
      std::string name = name_of(key);
      const std::optional<int> index = schema.argumentIndexWithName(name);
      named.emplace(std::move(name), index && *index > 0 ? argument_value(model, method, schema,
                                                                          arguments[*index], value)
                                                         : c10::IValue());
    }
  }

  // The last reference to a Python tensor on the C++ side takes the GIL to go: it stays until then.
  const std::vector<c10::IValue> held = positional;
  c10::IValue result;
  {
    const GilRelease release;
    result = ModelAccess::call(model, method, std::move(positional), named, options);
  }
  std::string reason;
  try {
    return toPyObject(std::move(result));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_UnicodeDecodeError)) throw;
    reason = "expected strings that are UTF-8, got one that is not (" +
             py::str(error.value()).cast<std::string>() +
             "); TorchScript counts and cuts strings by bytes";
  } catch (const c10::Error& error) {
    reason = error.what_without_backtrace();
  } catch (const std::runtime_error& error) {
    reason = error.what();
  }
  throw ExecutionError("[call] " + model.info().name + ": the result of " + method +
                       " has no form in Python: " + reason);
}

}  // namespace ts_infer::python
