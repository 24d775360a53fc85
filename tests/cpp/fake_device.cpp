#include "fake_device.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <vector>

#include "fake_memory.h"
#include "fake_worker.h"
#include "ivalues.h"

namespace ts_infer::testing {
namespace {

using Clock = std::chrono::steady_clock;
using Stack = torch::jit::Stack;

std::atomic<std::size_t> waits{0};
std::atomic<std::size_t> pinned_copies{0};
std::atomic<std::size_t> pageable_copies{0};

/// The streams of a device: 0 is its default one, the others' ids are their workers' addresses.
struct DeviceState {
  Worker default_worker;
  std::mutex mutex;
  std::vector<Worker*> pool;
};

DeviceState& state_of(c10::DeviceIndex index) {
  static auto* const states = new std::array<DeviceState, kDevices>();
  return states->at(static_cast<std::size_t>(index));
}

std::vector<Worker*> workers_of(c10::DeviceIndex index) {
  DeviceState& state = state_of(index);
  const std::lock_guard<std::mutex> lock(state.mutex);
  std::vector<Worker*> workers = state.pool;
  workers.push_back(&state.default_worker);
  return workers;
}

thread_local c10::DeviceIndex current_index = 0;
thread_local std::array<c10::StreamId, kDevices> current_ids = {};

c10::DeviceIndex index_of(c10::Device device) {
  return device.has_index() ? device.index() : current_index;
}

c10::Stream stream_of(c10::DeviceIndex index, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kFake, index), id);
}

void wait_for(Worker& worker) {
  waits.fetch_add(1);
  worker.synchronize();
}

}  // namespace

struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Clock::time_point when;
  std::shared_ptr<Failure> failure;  // of what came before it

  void mark(std::shared_ptr<Failure> failed = nullptr) {
    const std::lock_guard<std::mutex> lock(mutex);
    done = true;
    failure = std::move(failed);
    when = Clock::now();
    changed.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return done; });
  }
};

namespace {

using EventPointer = std::shared_ptr<EventState>;

EventState& event_of(void* event) { return **static_cast<EventPointer*>(event); }

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kFake; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }

  c10::Device getDevice() const override { return {kFake, current_index}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < kDevices, "no such device: ", device);
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_index = index_of(device);
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device previous = getDevice();
    setDevice(device);
    return previous;
  }

  c10::Stream getStream(c10::Device device) const override {
    const c10::DeviceIndex index = index_of(device);
    return stream_of(index, current_ids.at(static_cast<std::size_t>(index)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream_of(index_of(device), 0);
  }
  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    return getStreamFromGlobalPool(device, false);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high*/) const override {
    const c10::DeviceIndex index = index_of(device);
    DeviceState& state = state_of(index);
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.pool.push_back(new Worker());
    return stream_of(index, reinterpret_cast<c10::StreamId>(state.pool.back()));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream previous = getStream(stream.device());
    current_ids.at(static_cast<std::size_t>(stream.device_index())) = stream.id();
    return previous;
  }
  void* getStreamNativeHandle(c10::Stream stream) const override {
    return reinterpret_cast<void*>(stream.id());
  }
  bool queryStream(const c10::Stream& stream) const override { return worker_of(stream).is_idle(); }
  void synchronizeStream(const c10::Stream& stream) const override { wait_for(worker_of(stream)); }
  void synchronizeDevice(c10::DeviceIndex index) const override {
    waits.fetch_add(1);
    for (Worker* worker : workers_of(index)) worker->synchronize();
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex /*index*/,
              c10::EventFlag /*flag*/) const override {
    if (!*event) *event = new EventPointer();
    auto& pointer = *static_cast<EventPointer*>(*event);
    pointer = std::make_shared<EventState>();  // who waits for the version before goes on so
    Worker& worker = worker_of(stream);
    worker.enqueue([&worker, version = pointer] { version->mark(worker.failure()); });
  }
  void block(void* event, const c10::Stream& stream) const override {
    Worker& worker = worker_of(stream);
    worker.enqueue([&worker, version = *static_cast<EventPointer*>(event)] {
      version->wait();
      worker.add(version->failure);  // who waits for what failed has failed
    });
  }
  bool queryEvent(void* event) const override {
    EventState& state = event_of(event);
    const std::lock_guard<std::mutex> lock(state.mutex);
    return state.done;
  }
  void synchronizeEvent(void* event) const override {
    waits.fetch_add(1);
    event_of(event).wait();
    Failure::report(event_of(event).failure);
  }
  double elapsedTime(void* start, void* end, c10::DeviceIndex /*index*/) const override {
    return std::chrono::duration<double, std::milli>(event_of(end).when - event_of(start).when)
        .count();
  }
  void destroyEvent(void* event, c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<EventPointer*>(event);
  }

  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    record_use(data, worker_of(stream));
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current_index; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &host_allocator(); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
};

// ---- Operators

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype,
                 std::optional<c10::Layout> /*layout*/, std::optional<c10::Device> device,
                 std::optional<bool> /*pin_memory*/, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(fake_device(current_index)));
  return at::detail::empty_generic(size, &device_allocator(),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout> /*layout*/, std::optional<c10::Device> device,
                         std::optional<bool> /*pin_memory*/) {
  const c10::DeviceGuard guard(device.value_or(fake_device(current_index)));
  return at::detail::empty_strided_generic(size, stride, &device_allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

/// A host tensor over the same memory, which it does not keep: the stream's order must.
at::Tensor over_memory_of(const at::Tensor& tensor) {
  const c10::InferenceMode inference;
  const c10::Storage& storage = tensor.storage();
  c10::Storage borrowed(c10::Storage::use_byte_size_t(), storage.nbytes(),
                        c10::DataPtr(const_cast<void*>(storage.data()), c10::kCPU));
  at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
      std::move(borrowed), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                      tensor.storage_offset());
  if (tensor.is_conj()) result._set_conj(true);
  if (tensor.is_neg()) result._set_neg(true);
  return result;
}

at::Tensor zeros_like_on_host(const at::Tensor& tensor) {
  const auto bytes =
      at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.dtype().itemsize());
  const auto elements = static_cast<std::int64_t>(bytes / tensor.dtype().itemsize());
  return at::zeros({elements}, tensor.scalar_type()).as_strided(tensor.sizes(), tensor.strides());
}

void resize_to(const at::Tensor& tensor, const at::Tensor& model) {
  if (tensor.sizes() == model.sizes()) return;
  const at::Tensor fresh =
      empty_strided(model.sizes(), model.strides(), tensor.scalar_type(), {}, tensor.device(), {});
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(c10::Storage(fresh.storage()));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(fresh.sizes(), fresh.strides(), 0);
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef size,
                          std::optional<c10::MemoryFormat> /*format*/) {
  const std::vector<std::int64_t> strides(size.size(), 0);
  resize_to(self, at::zeros({}, self.scalar_type()).expand(size).contiguous());
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& destination, bool non_blocking) {
  const bool from_host = self.is_cpu();
  const bool to_host = destination.is_cpu();
  Worker& worker = current_worker((from_host ? destination : self).device());
  bool wait = from_host || to_host ? !non_blocking : self.device() != destination.device();
  at::Tensor source = over_memory_of(self);
  if (from_host || to_host) {
    const bool pinned = is_pinned((from_host ? self : destination).storage().data());
    ++(pinned ? pinned_copies : pageable_copies);
    if (from_host && !pinned) source = self.clone();
    wait = wait || (to_host && !pinned);
  }
  worker.enqueue_work(
      [from = std::move(source), to = over_memory_of(destination)] { to.copy_(from); });
  if (wait) wait_for(worker);
  return destination;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& destination) {
  TORCH_CHECK(self.sizes() == destination.sizes(), "fake device: cannot resize ",
              destination.device());
  return copy_from(self, destination, false);
}

c10::Scalar local_scalar_dense(const at::Tensor& self) {
  wait_for(current_worker(self.device()));
  return at::_local_scalar_dense(over_memory_of(self));
}

void record_stream(at::Tensor& self, c10::Stream stream) {
  Guard().recordDataPtrOnStream(self.storage().data_ptr(), stream);
}

c10::IValue to_host_argument(const c10::IValue& value,
                             const std::function<at::Tensor(const at::Tensor&)>& convert) {
  if (value.isDevice()) return c10::Device(c10::kCPU);
  return map_tensors(value, [&](const at::Tensor& tensor) {
    return tensor.is_cpu() ? tensor.clone() : convert(tensor);
  });
}

Stack to_host_arguments(const Stack& arguments,
                        const std::function<at::Tensor(const at::Tensor&)>& convert) {
  Stack converted;
  for (const c10::IValue& value : arguments) converted.push_back(to_host_argument(value, convert));
  return converted;
}

Stack run_on_host(const c10::OperatorHandle& op, Stack arguments) {
  const at::AutoDispatchBelowADInplaceOrView below;
  op.callBoxed(&arguments);
  return arguments;
}

/// What the host must wait for: a value that is no tensor, or a size that depends on values.
bool needs_values(const c10::OperatorHandle& op, const Stack& arguments) {
  static const std::set<std::string> kSizedByValues = {
      "aten::nonzero",    "aten::masked_select",      "aten::_unique2",
      "aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave"};
  if (kSizedByValues.count(op.schema().name())) return true;
  for (const c10::Argument& result : op.schema().returns()) {
    const auto kind = result.type()->kind();
    if (kind != c10::TypeKind::TensorType && kind != c10::TypeKind::ListType) return true;
  }
  bool has_mask = false;
  if (op.schema().name() == "aten::index") {
    for_each_leaf(arguments[1], [&](const c10::IValue& leaf) {
      has_mask = has_mask || (leaf.isTensor() && leaf.toTensor().defined() &&
                              leaf.toTensor().scalar_type() == c10::kBool);
    });
  }
  return has_mask;
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() && argument.alias_info()->isWrite();
}

/// The argument that an operator returns after writing to it.
const c10::IValue& written_argument(const c10::FunctionSchema& schema, const c10::Argument& result,
                                    const Stack& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    if (is_written(argument) &&
        argument.alias_info()->beforeSets() == result.alias_info()->beforeSets()) {
      return arguments[i];
    }
  }
  TORCH_CHECK(false, "fake device: ", schema.name(), " is a view, and not one that it knows");
}

/// The host's operator, run when the stream gets to it. Sizes come from running it on zeros.
void run_on_stream(const c10::OperatorHandle& op, Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const auto first = stack->end() - static_cast<std::ptrdiff_t>(schema.arguments().size());
  const Stack arguments(first, stack->end());
  stack->erase(first, stack->end());

  std::optional<c10::Device> device;
  for (const c10::IValue& argument : arguments) {
    for_each_leaf(argument, [&](const c10::IValue& leaf) {
      if (leaf.isDevice() && !device) device = leaf.toDevice();
      if (!leaf.isTensor() || !leaf.toTensor().defined() || leaf.toTensor().is_cpu()) return;
      TORCH_CHECK(!device || *device == leaf.toTensor().device(), "fake device: ", schema.name(),
                  ": expected all tensors on one device, got ", *device, " and ",
                  leaf.toTensor().device());
      device = leaf.toTensor().device();
    });
  }
  TORCH_CHECK(device, "fake device: ", schema.name(), " names no device");
  Worker& worker = current_worker(*device);

  const bool wait = needs_values(op, arguments);
  if (wait) wait_for(worker);
  const Stack tried_with = to_host_arguments(arguments, wait ? over_memory_of : zeros_like_on_host);
  const Stack tried = run_on_host(op, tried_with);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (!wait && is_written(schema.arguments()[i]) && arguments[i].isTensor()) {
      resize_to(arguments[i].toTensor(), tried_with[i].toTensor());
    }
  }

  Stack results;
  for (std::size_t i = 0; i < tried.size(); ++i) {
    const c10::Argument& result = schema.returns()[i];
    if (result.alias_info()) {
      results.push_back(written_argument(schema, result, arguments));
      continue;
    }
    results.push_back(map_tensors(tried[i], [&](const at::Tensor& model) {
      return empty_strided(model.sizes(), model.strides(), model.scalar_type(), {}, device, {});
    }));
  }

  const auto deliver = [](const c10::IValue& from, const c10::IValue& to) {
    std::vector<at::Tensor> sources;
    for_each_leaf(from, [&](const c10::IValue& leaf) {
      if (leaf.isTensor() && leaf.toTensor().defined()) sources.push_back(leaf.toTensor());
    });
    std::size_t next = 0;
    for_each_leaf(to, [&](const c10::IValue& leaf) {
      if (!leaf.isTensor() || !leaf.toTensor().defined()) return;
      const at::Tensor& source = sources.at(next++);
      if (!source.is_same(leaf.toTensor())) leaf.toTensor().copy_(source);
    });
  };
  Stack written;  // the results, as host tensors over their memory; nothing for those in place
  for (std::size_t i = 0; i < results.size(); ++i) {
    const bool in_place = schema.returns()[i].alias_info() != nullptr;
    written.push_back(in_place ? c10::IValue() : map_tensors(results[i], over_memory_of));
  }
  const auto deliver_all = [deliver, written](const Stack& computed) {
    for (std::size_t i = 0; i < written.size(); ++i) {
      if (!written[i].isNone()) deliver(computed[i], written[i]);
    }
  };
  if (wait) {
    worker.enqueue([deliver_all, tried] { deliver_all(tried); });
  } else {
    worker.enqueue_work(
        [op, deliver_all, host_arguments = to_host_arguments(arguments, over_memory_of)] {
          deliver_all(run_on_host(op, host_arguments));
        });
  }
  for (c10::IValue& result : results) stack->push_back(std::move(result));
}

void convolution(const c10::OperatorHandle& /*op*/, Stack* stack) {
  run_on_stream(c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", ""), stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_stream>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  m.impl("record_stream", TORCH_FN(record_stream));
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

const bool registered = [] {
  c10::register_privateuse1_backend("fake");
  c10::SetAllocator(kFake, &device_allocator());
  at::setHostAllocator(kFake, &host_allocator());
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  at::globalContext().lazyInitDevice(kFake);
  return true;
}();

c10::impl::VirtualGuardImpl guard_impl() { return c10::impl::VirtualGuardImpl(kFake); }

}  // namespace

Worker& worker_of(c10::Stream stream) {
  if (stream.id() == 0) return state_of(stream.device_index()).default_worker;
  return *reinterpret_cast<Worker*>(stream.id());
}

Worker& current_worker(c10::Device device) { return worker_of(current_stream(device)); }

c10::DeviceIndex current_device_index() { return current_index; }

struct Hold::Latch {
  EventState opened;
};

Hold::Hold(c10::Stream stream) : latch_(std::make_shared<Latch>()) {
  worker_of(stream).enqueue([latch = latch_] { latch->opened.wait(); });
}

Hold::~Hold() { release(); }

void Hold::release() { latch_->opened.mark(); }

Delay::Delay(std::chrono::milliseconds each) : stream_(current_stream()), all_(true) {
  delay_of_all_ms = each.count();
}

Delay::Delay(c10::Stream stream, std::chrono::milliseconds each) : stream_(stream), all_(false) {
  worker_of(stream).delay_ms = each.count();
}

Delay::~Delay() {
  if (all_) {
    delay_of_all_ms = 0;
  } else {
    worker_of(stream_).delay_ms = 0;
  }
}

Fault::Fault(std::size_t nth) { work_until_fault = static_cast<std::int64_t>(nth); }

Fault::~Fault() { work_until_fault = 0; }

bool Fault::is_taken() const { return work_until_fault <= 0; }

MemoryLimit::MemoryLimit(std::size_t bytes, c10::Device device)
    : device_(device), previous_(memory_limit(device.index())) {
  set_memory_limit(device.index(), bytes);
}

MemoryLimit::~MemoryLimit() { set_memory_limit(device_.index(), previous_); }

NoPinnedMemory::NoPinnedMemory() { pinned_memory_is_used_up = true; }

NoPinnedMemory::~NoPinnedMemory() { pinned_memory_is_used_up = false; }

c10::Device fake_device(int index) { return {kFake, static_cast<c10::DeviceIndex>(index)}; }

c10::Stream current_stream(c10::Device device) { return guard_impl().getStream(device); }

c10::Stream new_stream(c10::Device device) { return guard_impl().getStreamFromGlobalPool(device); }

void* native_handle(c10::Stream stream) { return guard_impl().getStreamNativeHandle(stream); }

bool is_idle(c10::Stream stream) { return worker_of(stream).is_idle(); }

bool all_idle() {
  for (c10::DeviceIndex i = 0; i < kDevices; ++i) {
    for (Worker* worker : workers_of(i)) {
      if (!worker->is_idle()) return false;
    }
  }
  return true;
}

void synchronize(c10::Stream stream) { worker_of(stream).synchronize(); }

void synchronize_all() {
  for (c10::DeviceIndex i = 0; i < kDevices; ++i) guard_impl().synchronizeDevice(i);
}

std::size_t host_waits() { return waits.load(); }

std::size_t work_so_far(c10::Stream stream) { return worker_of(stream).work_so_far(); }

HostCopies host_copies() { return {pinned_copies, pageable_copies}; }

bool free_memory_is_untouched() {
  synchronize_all();
  return free_memory_is_poison();
}

}  // namespace ts_infer::testing
