// A CUDA device made of the processor, for a PyTorch built without CUDA.
//
// Tensors say cuda:0, but lie in the processor's memory and are computed with by the processor's kernels. Each call of
// an operator is refused where it mixes devices, reported where a real device would be waited for, and its allocations
// are counted as CUDA's allocator rounds them. In hollow mode the kernels are those of meta tensors: nothing is
// computed or stored, allocations alone are counted, so models of any size fit.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

namespace {
using namespace c10;

const Device DEVICE(DeviceType::CUDA, 0);
constexpr long long ALLOCATION_BYTES = 512;  // CUDA's allocator rounds up to multiples of it
constexpr long long PAGE_BYTES = 4096;
constexpr long long STAGED_BYTES = 65536;  // up to it, CUDA copies pageable memory aside and returns

std::atomic<bool> hollow{false};
std::atomic<long long> allocated_bytes{0}, peak_bytes{0};

using Listener = void (*)(const char* event, const char* op, long long bytes);
std::atomic<Listener> listener{nullptr};

void report(const char* event, const std::string& op, long long bytes = 0) {
  if (auto listen = listener.load()) listen(event, op.c_str(), bytes);
}

long long rounded(long long bytes) {
  return (bytes + ALLOCATION_BYTES - 1) / ALLOCATION_BYTES * ALLOCATION_BYTES;
}

void count_allocation(long long bytes) {
  long long now = (allocated_bytes += rounded(bytes)), peak = peak_bytes.load();
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

void count_release(long long bytes) { allocated_bytes -= rounded(bytes); }

// One stream, on which everything is finished when a call returns.
struct Guard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return DEVICE; }
  Device getDevice() const override { return DEVICE; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, DEVICE); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, DEVICE); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return Stream(Stream::DEFAULT, DEVICE); }
  Stream exchangeStream(Stream) const override { return Stream(Stream::DEFAULT, DEVICE); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
  void synchronizeEvent(void*) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

std::mutex pinned_lock;
std::set<const void*> pinned_pointers;

struct PinnedAllocator final : Allocator {
  static void release(void* pointer) {
    {
      std::lock_guard<std::mutex> locked(pinned_lock);
      pinned_pointers.erase(pointer);
    }
    std::free(pointer);
  }
  DataPtr allocate(size_t bytes) override {
    void* pointer = std::aligned_alloc(PAGE_BYTES, (bytes / PAGE_BYTES + 1) * PAGE_BYTES);
    std::lock_guard<std::mutex> locked(pinned_lock);
    pinned_pointers.insert(pointer);
    return {pointer, pointer, &release, Device(DeviceType::CPU)};
  }
  DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
} pinned_memory;

struct DeviceAllocator final : Allocator {
  struct Block {
    void* pointer;
    long long bytes;
  };
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    count_release(block->bytes);
    std::free(block->pointer);
    delete block;
  }
  // In hollow mode the memory is never touched, so the system gives none.
  DataPtr allocate(size_t bytes) override {
    void* pointer = bytes ? std::aligned_alloc(ALLOCATION_BYTES, rounded(bytes)) : nullptr;
    count_allocation(bytes);
    return {pointer, new Block{pointer, static_cast<long long>(bytes)}, &release, DEVICE};
  }
  DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
} device_memory;

// Draws what a generator of the processor draws.
struct DeviceGenerator final : GeneratorImpl {
  at::Generator inner;
  explicit DeviceGenerator(at::Generator generator)
      : GeneratorImpl(DEVICE, DispatchKeySet(DispatchKey::CUDA)), inner(std::move(generator)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const TensorImpl& state) override {
    auto copy = intrusive_ptr<TensorImpl>::reclaim_copy(const_cast<TensorImpl*>(&state));
    inner.set_state(at::Tensor(std::move(copy)));
  }
  intrusive_ptr<TensorImpl> get_state() const override { return inner.get_state().getIntrusivePtr(); }
  DeviceGenerator* clone_impl() const override { return new DeviceGenerator(inner.clone()); }
};

// PyTorch looks for a class of this name.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  Device getDeviceFromPtr(void*) const override { return DEVICE; }
  void deviceSynchronize(DeviceIndex) const override {}
  bool isPinnedPtr(const void* pointer) const override {
    std::lock_guard<std::mutex> locked(pinned_lock);
    return pinned_pointers.count(pointer) > 0;
  }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  Allocator* getCUDADeviceAllocator() const override { return &device_memory; }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    static at::Generator generator = at::make_generator<DeviceGenerator>(at::detail::getDefaultCPUGenerator());
    return generator;
  }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::make_generator<DeviceGenerator>(at::detail::createCPUGenerator());
  }
};
}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

namespace {

bool on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.device().is_cuda(); }

void same_view(const at::Tensor& tensor, const at::Tensor& as) {
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(as.sizes(), as.strides(), as.storage_offset());
}

at::Tensor tensor_over(Storage storage, DispatchKey key, const at::Tensor& like) {
  auto made = at::detail::make_tensor<TensorImpl>(std::move(storage), DispatchKeySet(key), like.dtype());
  same_view(made, like);
  made._set_conj(like.is_conj());
  made._set_neg(like.is_neg());
  return made;
}

// Device memory that a kernel of the processor has allocated: counted as the device's, and freed with it.
Storage adopted(const Storage& cpu) {
  struct Held {
    Storage storage;
    long long bytes;
  };
  const long long bytes = cpu.nbytes();
  count_allocation(bytes);
  auto release = [](void* context) {
    auto* held = static_cast<Held*>(context);
    count_release(held->bytes);
    delete held;
  };
  DataPtr data(cpu.mutable_data(), new Held{cpu, bytes}, release, DEVICE);
  return Storage(Storage::use_byte_size_t(), bytes, std::move(data), &device_memory, true);
}

// The tensors of one call of an operator, as the device has them and as the processor's kernel is given them.
struct Call {
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
  std::unordered_map<void*, size_t> index_of;
  std::unordered_map<void*, Storage> meta_storages;
  std::string cpu_tensor;  // type and shape of one that is on the processor and not a number

  at::Tensor given(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!on_device(tensor)) {
      if (tensor.device().is_cpu() && tensor.dim() > 0) {
        std::ostringstream words;
        words << tensor.dtype() << tensor.sizes();
        cpu_tensor = words.str();
      }
      return tensor;
    }
    auto* impl = tensor.unsafeGetTensorImpl();
    if (auto found = index_of.find(impl); found != index_of.end()) return pairs[found->second].second;
    auto inner = tensor_over(inner_storage(tensor.storage()), hollow ? DispatchKey::Meta : DispatchKey::CPU, tensor);
    if (impl->is_wrapped_number()) inner.unsafeGetTensorImpl()->set_wrapped_number(true);
    index_of[impl] = pairs.size();
    pairs.emplace_back(tensor, inner);
    return inner;
  }

  Storage inner_storage(const Storage& storage) {
    if (!hollow) {
      DataPtr data(storage.mutable_data(), Device(DeviceType::CPU));
      return Storage(Storage::use_byte_size_t(), storage.nbytes(), std::move(data), GetCPUAllocator(), true);
    }
    auto& meta = meta_storages[storage.unsafeGetStorageImpl()];
    if (!meta) {
      DataPtr nothing(nullptr, Device(DeviceType::Meta));
      auto* allocator = GetAllocator(DeviceType::Meta);
      meta = Storage(Storage::use_byte_size_t(), storage.nbytes(), std::move(nothing), allocator, true);
    }
    return meta;
  }

  // A kernel may have resized what it was given.
  void follow_resizes() {
    for (auto& [outer, inner] : pairs) {
      auto* storage = outer.storage().unsafeGetStorageImpl();
      if (hollow && inner.storage().nbytes() > storage->nbytes()) {
        storage->set_data_ptr(device_memory.allocate(inner.storage().nbytes()));
        storage->set_nbytes(inner.storage().nbytes());
      } else if (!hollow && inner.storage().data() != storage->data()) {
        auto fresh = adopted(inner.storage());
        storage->set_data_ptr(std::move(fresh.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()));
        storage->set_nbytes(inner.storage().nbytes());
      }
      if (outer.sizes() != inner.sizes() || outer.strides() != inner.strides() ||
          outer.storage_offset() != inner.storage_offset())
        same_view(outer, inner);
    }
  }

  at::Tensor returned(const at::Tensor& tensor) {
    if (!tensor.defined() || !(tensor.device().is_cpu() || tensor.device().is_meta()) || tensor.is_sparse())
      return tensor;
    for (auto& [outer, inner] : pairs)
      if (inner.unsafeGetTensorImpl() == tensor.unsafeGetTensorImpl()) return outer;
    auto* storage = tensor.storage().unsafeGetStorageImpl();
    for (auto& [outer, inner] : pairs)
      if (inner.storage().unsafeGetStorageImpl() == storage)
        return tensor_over(outer.storage(), DispatchKey::CUDA, tensor);
    if (!tensor.device().is_meta()) return tensor_over(adopted(tensor.storage()), DispatchKey::CUDA, tensor);
    const long long bytes = tensor.storage().nbytes();
    Storage fresh(Storage::use_byte_size_t(), bytes, device_memory.allocate(bytes), &device_memory, true);
    return tensor_over(std::move(fresh), DispatchKey::CUDA, tensor);
  }
};

// As on CUDA, which takes indices from the processor and copies between devices.
const std::unordered_set<std::string> MAY_MIX = {
    "aten::copy_",         "aten::_copy_from",          "aten::index",    "aten::index_put_",
    "aten::index_put",     "aten::_index_put_impl_",    "aten::_to_copy", "aten::_unsafe_index",
    "aten::_unsafe_index_put", "aten::_copy_from_and_resize"};
// Their result, or its shape, is needed on the processor.
const std::unordered_set<std::string> WAITS = {
    "aten::_local_scalar_dense", "aten::nonzero",           "aten::masked_select", "aten::equal",
    "aten::_unique2",            "aten::unique_dim",        "aten::bincount",      "aten::repeat_interleave",
    "aten::unique_consecutive",  "aten::is_nonzero",        "aten::linalg_eigh"};

// Gives the processor's kernel its own tensors, device and generator; returns whether a device was named.
bool hand_over(Call& call, torch::jit::Stack& stack, size_t begin) {
  bool names_device = false;
  for (size_t i = begin; i < stack.size(); i++) {
    IValue& value = stack[i];
    if (value.isTensor()) {
      value = call.given(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(call.given(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional<at::Tensor>(call.given(*tensor)) : tensor);
      value = list;
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      value = Device(hollow ? DeviceType::Meta : DeviceType::CPU);
      names_device = true;
    }
  }
  return names_device;
}

void hand_over_generators(const Call& call, torch::jit::Stack& stack, size_t begin, bool on_the_device,
                          const std::string& op) {
  for (size_t i = begin; i < stack.size(); i++) {
    if (!stack[i].isGenerator()) continue;
    auto generator = stack[i].toGenerator();
    if (auto* own = dynamic_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl()))
      stack[i] = own->inner;
    else
      TORCH_CHECK(!on_the_device, "Expected a 'cuda' device type for generator but found '",
                  generator.device().type(), "' in ", op);
  }
}

// What CUDA's kernels work with besides what they return: flash attention adds up the queries' gradients in fp32.
DataPtr scratch_of(const std::string& op, const torch::jit::Stack& stack, size_t begin) {
  if (!hollow || op != "aten::_scaled_dot_product_flash_attention_backward") return DataPtr();
  auto queries = stack[begin + 1].toTensor();
  auto padded = [](long long n, long long to) { return (n + to - 1) / to * to; };
  return device_memory.allocate(queries.size(0) * queries.size(1) * padded(queries.size(2), 128) *
                                padded(queries.size(3), 32) * sizeof(float));
}

void compute(const OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  const auto begin = stack->size() - op.schema().arguments().size();
  Call call;
  const bool names_device = hand_over(call, *stack, begin);
  hand_over_generators(call, *stack, begin, names_device || !call.pairs.empty(), name);
  TORCH_CHECK(call.cpu_tensor.empty() || call.pairs.empty() || MAY_MIX.count(name),
              "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (", name,
              ", ", call.cpu_tensor, " is on the cpu)");
  if (WAITS.count(name)) report("waits", name);
  if (hollow && name == "aten::_local_scalar_dense") {
    const auto type = (*stack)[begin].toTensor().scalar_type();
    stack->pop_back();
    if (type == ScalarType::Bool)
      stack->emplace_back(at::Scalar(true));
    else
      stack->emplace_back(isFloatingType(type) ? at::Scalar(1.0) : at::Scalar(1));
    return;
  }
  const DataPtr scratch = scratch_of(name, *stack, begin);
  op.redispatchBoxed(DispatchKeySet(hollow ? DispatchKey::Meta : DispatchKey::CPU), stack);
  call.follow_resizes();
  for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); i++) {
    IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.returned(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(call.returned(tensor));
      value = list;
    }
  }
}

at::Tensor empty(SymIntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>, std::optional<Device>,
                 std::optional<bool>, std::optional<MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &device_memory, DispatchKeySet(DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(SymIntArrayRef size, SymIntArrayRef stride, std::optional<ScalarType> dtype,
                         std::optional<Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           &device_memory, DispatchKeySet(DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

// As CUDA has it: a copy waits unless it is asked not to and the processor's side is pinned, or is read from and small.
at::Tensor& copy_(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  if (to.is_same(from)) return to;
  const long long bytes = to.nbytes();
  if (on_device(to) && !on_device(from)) {
    const bool pinned = from.is_pinned(), staged = bytes <= STAGED_BYTES;
    const char* how = pinned ? "to device, pinned" : "to device, staged";
    report(non_blocking && (pinned || staged) ? how : "to device, waits", "aten::copy_", bytes);
  } else if (on_device(from) && !on_device(to)) {
    report(non_blocking && to.is_pinned() ? "to host, pinned" : "to host, waits", "aten::copy_", bytes);
  }
  if (hollow) {
    at::infer_size(to.sizes(), from.sizes());
    return to;
  }
  Call call;
  auto inner_to = call.given(to), inner_from = call.given(from);
  at::AutoDispatchBelowADInplaceOrView below;
  inner_to.copy_(inner_from);
  return to;
}

at::Tensor& set_view(at::Tensor& self, at::Storage storage, SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                                    offset.guard_int(__FILE__, __LINE__));
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage) {
  const int64_t numbers = storage.nbytes() / self.dtype().itemsize();
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(IntArrayRef{numbers}, IntArrayRef{1}, 0);
  return self;
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& other) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(other.storage());
  same_view(self, other);
  return self;
}

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("copy_", copy_);
  // Otherwise decomposed before the fallback is asked, into other kernels than the processor's own.
  for (auto name : {"convolution", "convolution_backward", "native_group_norm", "native_layer_norm"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&compute>());
  library.impl("set_.source_Storage_storage_offset", set_view);
  library.impl("set_.source_Storage", set_storage);
  library.impl("set_.source_Tensor", set_tensor);
}
}  // namespace

extern "C" {
void pretend_listen(Listener listen) { listener = listen; }
long long pretend_allocated() { return allocated_bytes; }
long long pretend_peak() { return peak_bytes; }
void pretend_reset_peak() { peak_bytes = allocated_bytes.load(); }
void pretend_hollow(int on) { hollow = on != 0; }
}
