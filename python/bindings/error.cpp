#include "ts_infer/error.h"

#include <c10/util/Exception.h>

#include <string>

#include "bindings.h"
#include "text.h"

namespace ts_infer::python {
namespace {

void set_error(const char* class_name, const std::string& message) {
  const py::object type = py::module_::import("ts_infer._errors").attr(class_name);
  PyErr_SetObject(type.ptr(), message_text(message).ptr());
}

}  // namespace

void set_python_error(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const ModelNotFoundError& e) {
    set_error("ModelNotFoundError", e.what());
  } catch (const ModelLoadError& e) {
    set_error("ModelLoadError", e.what());
  } catch (const InputError& e) {
    set_error("InputError", e.what());
  } catch (const ExecutionError& e) {
    set_error("ExecutionError", e.what());
  } catch (const Error& e) {
    set_error("Error", e.what());
  } catch (const c10::Error& e) {
    set_error("Error", e.what_without_backtrace());
  }
}

void bind_error(py::module_&) { py::register_local_exception_translator(&set_python_error); }

}  // namespace ts_infer::python
