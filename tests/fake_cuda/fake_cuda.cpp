// A CUDA device made of host memory. Preloaded into a program that does not load libtorch_cuda, it runs
// what the program does with tensors on `cuda:0` on the CPU, one operation at a time.
//
// As on a GPU, device memory cannot be used by the host: it is protected between libtorch's operations, and
// an access outside of them ends the process with SIGSEGV. Operations on tensors of several devices fail, and
// copies between host and device are counted. A copy from pinned memory that the host does not wait for is made
// when the next operation of its stream runs. A test can set the current stream; on another one than the default one,
// of number 0 or 1, copies within the device are made as late, also those of rows by their numbers. Number 2 is that of
// another stream on each thread.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/FakeGuardImpl.h>
#include <torch/library.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

// Of the fake driver, where that is preloaded as well.
extern "C" __attribute__((weak)) void fake_driver_start();

namespace {

// Copies between host and device, also those that an operation makes to return a value to the host.
struct Copies {
    std::atomic<uint64_t> count, bytes;

    void add(size_t n) {
        count++;
        bytes += n;
    }
};
Copies to_device, from_device;

// Copies from the device that fail: of those since the last setting, from one number up to another one. And how many did.
std::atomic<uint64_t> downloads = 0, first_failing = UINT64_MAX, end_failing = UINT64_MAX, failed = 0;
// Whether no copy fails that this thread makes.
thread_local bool is_exempt = false;

// A copy from the device, which an error of earlier work on the device may prevent.
void download(size_t bytes) {
    if (is_exempt) return from_device.add(bytes);
    const uint64_t number = downloads++;
    if (number >= first_failing && number < end_failing) {
        failed++;
        TORCH_CHECK(false, "CUDA error: an illegal memory access was encountered (fake device)");
    }
    from_device.add(bytes);
}

// Copies to the device that the host waited for, and how often it waited for the device.
std::atomic<uint64_t> waits, synchronizations;

// The current stream of each thread: its handle, and a number that no other stream has.
thread_local uint64_t stream_handle = 0, stream = 0;

uint64_t number_of_stream(uint64_t handle) {
    static std::atomic<uint64_t> last_number = UINT64_C(1) << 63;
    static thread_local const uint64_t own_number = ++last_number;
    return handle == 1 ? 0 : handle == 2 ? own_number : handle;
}

// The memory of the device: a range of addresses, whose first `used` bytes were handed out at some time. It is
// protected in one call, however many allocations it has, and in huge pages, of which there are few.
class Memory {
    static constexpr size_t RESERVED = size_t(1) << 36, PAGE = 2 << 20, ALIGNMENT = 512;

    std::mutex mutex;
    char *const base;
    size_t used = 0;
    std::map<size_t, size_t> taken, unused; // bytes at each offset
    size_t left = RESERVED;
    int running = 0;

    static char *reserve() {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *reserved = mmap(nullptr, RESERVED + PAGE, PROT_NONE, flags, -1, 0);
        TORCH_CHECK(reserved != MAP_FAILED, "fake CUDA: cannot reserve addresses");
        auto *base = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(reserved) + PAGE - 1) / PAGE * PAGE);
        madvise(base, RESERVED, MADV_HUGEPAGE); // Only faster.
        return base;
    }

    void protect(size_t from, size_t to, int protection) {
        TORCH_CHECK(from == to || mprotect(base + from, to - from, protection) == 0,
                    "fake CUDA: mprotect failed");
    }

    void add_unused(size_t offset, size_t bytes) {
        auto next = unused.lower_bound(offset);
        if (next != unused.end() && next->first == offset + bytes) {
            bytes += next->second;
            next = unused.erase(next);
        }
        if (next != unused.begin()) {
            auto previous = std::prev(next);
            if (previous->first + previous->second == offset) {
                previous->second += bytes;
                return;
            }
        }
        unused[offset] = bytes;
    }

  public:
    Memory() : base(reserve()) {}

    void start_operation() {
        std::lock_guard<std::mutex> guard(mutex);
        if (running++ == 0) protect(0, used, PROT_READ | PROT_WRITE);
    }

    void end_operation() {
        std::lock_guard<std::mutex> guard(mutex);
        if (--running == 0) protect(0, used, PROT_NONE);
    }

    void leave(size_t bytes) {
        std::lock_guard<std::mutex> guard(mutex);
        left = std::min(bytes, RESERVED);
    }

    void *allocate(size_t bytes) {
        std::lock_guard<std::mutex> guard(mutex);
        TORCH_CHECK_WITH(OutOfMemoryError, bytes < left, "CUDA out of memory (fake device)");
        bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        auto fits = [&](auto &block) { return block.second >= bytes; };
        auto found = std::find_if(unused.begin(), unused.end(), fits);
        if (found == unused.end()) {
            const size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
            TORCH_CHECK_WITH(OutOfMemoryError, pages <= RESERVED - used, "CUDA out of memory (fake device)");
            if (running > 0) protect(used, used + pages, PROT_READ | PROT_WRITE);
            add_unused(used, pages);
            used += pages;
            found = std::find_if(unused.begin(), unused.end(), fits);
        }
        const auto [offset, length] = *found;
        unused.erase(found);
        if (length > bytes) unused[offset + bytes] = length - bytes;
        taken[offset] = bytes;
        left -= std::min(bytes, left);
        return base + offset;
    }

    // The addresses where allocations begin and end, of as many as there is room for; returns how many there are.
    size_t allocations(uint64_t *bounds, size_t room) {
        std::lock_guard<std::mutex> guard(mutex);
        size_t count = 0;
        for (const auto &[offset, bytes] : taken) {
            if (count++ >= room) continue;
            *bounds++ = reinterpret_cast<uint64_t>(base + offset);
            *bounds++ = reinterpret_cast<uint64_t>(base + offset + bytes);
        }
        return count;
    }

    void free(void *address) {
        std::lock_guard<std::mutex> guard(mutex);
        auto found = taken.find(static_cast<char *>(address) - base);
        if (found == taken.end()) return;
        const auto [offset, bytes] = *found;
        taken.erase(found);
        left += bytes;
        add_unused(offset, bytes);
        // The system gets whole pages back.
        const size_t from = (offset + PAGE - 1) / PAGE * PAGE, to = (offset + bytes) / PAGE * PAGE;
        if (from < to) madvise(base + from, to - from, MADV_DONTNEED);
    }
};

// Never destroyed: tensors are freed until the process ends.
Memory &memory() {
    static Memory &memory = *new Memory;
    return memory;
}

// The memory of a tensor as a tensor on the CPU.
at::Tensor on_host(const at::Tensor &tensor) {
    if (!tensor.is_cuda()) return tensor;
    auto *data = const_cast<void *>(tensor.const_data_ptr());
    return at::from_blob(data, tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

// Copies that are not made yet. They keep their tensors: libtorch uses neither memory of the device again before
// what was queued on its stream is done, nor pinned memory.
class Queue {
    struct Copy {
        uint64_t stream;
        std::function<void()> make;
    };

    std::mutex mutex;
    std::vector<Copy> copies;

    void finish(const std::function<bool(uint64_t)> &runs) {
        std::vector<Copy> done;
        std::lock_guard<std::mutex> guard(mutex);
        if (copies.empty()) return;
        memory().start_operation();
        for (auto copy = copies.begin(); copy != copies.end();) {
            if (runs(copy->stream)) {
                copy->make();
                done.push_back(std::move(*copy));
                copy = copies.erase(copy);
            } else {
                ++copy;
            }
        }
        memory().end_operation();
    }

  public:
    void add(std::function<void()> make) {
        std::lock_guard<std::mutex> guard(mutex);
        copies.push_back({stream, std::move(make)});
    }

    void finish_current_stream() {
        finish([](uint64_t other) { return other == stream; });
    }

    void finish_all() {
        finish([](uint64_t) { return true; });
    }
};

Queue &queue() {
    static Queue &queue = *new Queue;
    return queue;
}

// An operation of the device: while one runs, its memory can be used.
struct Operation {
    Operation() {
        queue().finish_current_stream();
        memory().start_operation();
    }
    ~Operation() { memory().end_operation(); }
    Operation(const Operation &) = delete;
};

// Whether this thread is in libtorch's fallback to the CPU, which copies all tensors: a GPU would not.
thread_local bool in_fallback = false;

struct Allocator final : c10::Allocator {
    static void free(void *address) { memory().free(address); }

    c10::DataPtr allocate(size_t bytes) override {
        const c10::Device device(c10::kCUDA, 0);
        if (bytes == 0) return {nullptr, nullptr, &free, device};
        // libtorch starts the driver when it is first needed.
        static const bool is_started = fake_driver_start && (fake_driver_start(), true);
        (void)is_started;
        void *address = memory().allocate(bytes);
        return {address, address, &free, device};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &free; }

    void copy_data(void *to, const void *from, size_t bytes) const override {
        Operation operation;
        std::memcpy(to, from, bytes);
    }
};
Allocator allocator;

// Memory of the host that the device reads by itself. What is freed is overwritten.
class PinnedAllocator final : public c10::Allocator {
    static inline std::mutex mutex;
    static inline std::map<const char *, size_t> blocks;
    static inline size_t left = SIZE_MAX;

    static void free(void *address) {
        std::lock_guard<std::mutex> guard(mutex);
        auto found = blocks.find(static_cast<char *>(address));
        if (found == blocks.end()) return;
        std::memset(address, 0xee, found->second);
        blocks.erase(found);
        std::free(address);
    }

  public:
    c10::DataPtr allocate(size_t bytes) override {
        std::lock_guard<std::mutex> guard(mutex);
        TORCH_CHECK_WITH(OutOfMemoryError, bytes < left, "no pinned memory is left (fake CUDA)");
        if (bytes == 0) return {nullptr, nullptr, &free, at::kCPU};
        void *address = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
        blocks[static_cast<char *>(address)] = bytes;
        return {address, address, &free, at::kCPU};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &free; }

    void copy_data(void *to, const void *from, size_t bytes) const override { std::memcpy(to, from, bytes); }

    static bool has(const void *address) {
        std::lock_guard<std::mutex> guard(mutex);
        auto *byte = static_cast<const char *>(address);
        auto next = blocks.upper_bound(byte);
        return next != blocks.begin() && byte < std::prev(next)->first + std::prev(next)->second;
    }

    static void leave(size_t bytes) {
        std::lock_guard<std::mutex> guard(mutex);
        left = bytes;
    }
};
PinnedAllocator pinned_allocator;

// libtorch finds it by its name.
struct CUDAHooks : at::CUDAHooksInterface {
    explicit CUDAHooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool hasCUDA() const override { return true; }
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    int getNumGPUs() const override { return 1; }
    c10::DeviceIndex current_device() const override { return 0; }
    void deviceSynchronize(c10::DeviceIndex) const override {
        synchronizations++;
        queue().finish_all();
    }
    const at::Generator &getDefaultGenerator(c10::DeviceIndex) const override {
        return at::detail::getDefaultCPUGenerator();
    }
    at::Generator getNewGenerator(c10::DeviceIndex) const override {
        return at::detail::createCPUGenerator();
    }
    c10::Allocator *getPinnedMemoryAllocator() const override { return &pinned_allocator; }
    bool isPinnedPtr(const void *address) const override { return PinnedAllocator::has(address); }
    c10::Allocator *getCUDADeviceAllocator() const override { return &allocator; }
    at::Device getDeviceFromPtr(void *) const override { return at::Device(at::kCUDA, 0); }
};

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
    const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
    return at::detail::empty_generic(size, &allocator, keys, c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
    const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
    return at::detail::empty_strided_generic(size, stride, &allocator, keys, c10::dtype_or_default(type));
}

at::Tensor &copy_(at::Tensor &self, const at::Tensor &source, bool non_blocking) {
    const bool is_upload = self.is_cuda() && !source.is_cuda();
    if (self.numel() > 0 && !in_fallback && self.is_cuda() != source.is_cuda())
        is_upload ? to_device.add(self.nbytes()) : download(self.nbytes());
    const bool is_pinned = is_upload && PinnedAllocator::has(source.const_data_ptr());
    if (!in_fallback && (is_upload ? non_blocking && is_pinned : self.is_cuda() && stream != 0)) {
        queue().add([self, source] { on_host(self).copy_(on_host(source)); });
        return self;
    }
    if (!in_fallback && is_upload && self.numel() > 0) waits++;
    Operation operation;
    on_host(self).copy_(on_host(source), non_blocking);
    return self;
}

// The result of an operation on the host, on the device.
at::Tensor on_device(const at::Tensor &result) {
    Operation operation;
    at::Tensor tensor = at::empty(result.sizes(), result.options().device(at::kCUDA));
    on_host(tensor).copy_(result);
    return tensor;
}

at::Tensor copy_from_and_resize(const at::Tensor &from, const at::Tensor &to) {
    if (to.sizes() != from.sizes()) to.resize_(from.sizes());
    Operation operation;
    on_host(to).copy_(on_host(from));
    return to;
}

// The fallback copies all arguments: many of `cat`, and overlapping ones, which take much memory, of
// `index_select`. It does not copy running statistics back, since the schema does not say that they change.
at::Tensor cat(const at::ITensorListRef &tensors, int64_t dimension) {
    std::vector<at::Tensor> all;
    for (const at::Tensor &tensor : tensors) {
        TORCH_CHECK(tensor.is_cuda(), "Expected all tensors to be on the same device (fake CUDA: aten::cat)");
        all.push_back(on_host(tensor));
    }
    Operation operation;
    return on_device(at::cat(all, dimension));
}

// Makes a copy within the device, or queues it.
void make_copy(const std::function<void()> &make) {
    if (stream != 0) return queue().add(make);
    Operation operation;
    make();
}

at::Tensor index_select(const at::Tensor &self, int64_t dimension, const at::Tensor &index) {
    TORCH_CHECK(index.is_cuda(), "Expected all tensors to be on the same device (fake CUDA: aten::index_select)");
    Operation operation;
    return on_device(at::index_select(on_host(self), dimension, on_host(index)));
}

at::Tensor &index_select_out(const at::Tensor &self, int64_t dimension, const at::Tensor &index, at::Tensor &out) {
    TORCH_CHECK(index.is_cuda() && out.is_cuda(),
                "Expected all tensors to be on the same device (fake CUDA: aten::index_select)");
    make_copy([self, dimension, index, out] {
        on_host(out).copy_(at::index_select(on_host(self), dimension, on_host(index)));
    });
    return out;
}

at::Tensor &index_copy_(at::Tensor &self, int64_t dimension, const at::Tensor &index, const at::Tensor &source) {
    TORCH_CHECK(index.is_cuda() && source.is_cuda(),
                "Expected all tensors to be on the same device (fake CUDA: aten::index_copy_)");
    make_copy([self, dimension, index, source] {
        on_host(self).index_copy_(dimension, on_host(index), on_host(source));
    });
    return self;
}

using MaybeTensor = std::optional<at::Tensor>;

std::tuple<at::Tensor, at::Tensor, at::Tensor>
native_batch_norm(const at::Tensor &input, const MaybeTensor &weight, const MaybeTensor &bias,
                  const MaybeTensor &mean, const MaybeTensor &variance, bool training, double momentum,
                  double epsilon) {
    auto there = [](const MaybeTensor &tensor) {
        return tensor && tensor->defined() ? MaybeTensor(on_host(*tensor)) : MaybeTensor();
    };
    Operation operation;
    auto [output, saved, saved_inverse] =
        at::native_batch_norm(on_host(input), there(weight), there(bias), there(mean), there(variance), training,
                              momentum, epsilon);
    return {on_device(output), on_device(saved), on_device(saved_inverse)};
}

const at::Tensor &resize_(const at::Tensor &self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
    auto *tensor = self.unsafeGetTensorImpl();
    tensor->set_sizes_contiguous(size);
    const size_t bytes = tensor->numel() * tensor->itemsize() + tensor->storage_offset() * tensor->itemsize();
    auto &storage = tensor->unsafe_storage();
    if (storage.nbytes() < bytes) {
        Operation operation;
        auto data = allocator.allocate(bytes);
        if (storage.nbytes() > 0) std::memcpy(data.get(), storage.data(), storage.nbytes());
        storage.set_data_ptr(std::move(data));
        storage.set_nbytes(bytes);
    }
    return self;
}

at::Tensor &set_storage(at::Tensor &self, at::Storage storage, int64_t offset, c10::IntArrayRef size,
                        c10::IntArrayRef stride) {
    auto *tensor = self.unsafeGetTensorImpl();
    tensor->set_storage_keep_dtype(std::move(storage));
    tensor->set_storage_offset(offset);
    const bool contiguous = stride.empty() && !size.empty();
    const auto strides = contiguous ? at::detail::defaultStrides(size) : std::vector<int64_t>();
    tensor->set_sizes_and_strides(size, contiguous ? c10::IntArrayRef(strides) : stride);
    return self;
}

// Fails as CUDA's kernels do. Indexing takes indices on the CPU as well.
void check_devices(const std::string &name, c10::ArrayRef<c10::IValue> arguments) {
    constexpr std::array<std::string_view, 4> indexing = {"aten::index", "aten::index_put_",
                                                          "aten::_index_put_impl_", "aten::_unsafe_index"};
    if (std::find(indexing.begin(), indexing.end(), name) != indexing.end()) return;
    for (const auto &argument : arguments) {
        if (!argument.isTensor()) continue;
        const auto &tensor = argument.toTensor();
        TORCH_CHECK(!tensor.defined() || tensor.is_cuda() || tensor.dim() == 0,
                    "Expected all tensors to be on the same device (fake CUDA: ", name, ")");
    }
}

// What such an operation returns to the host, or needs there, is copied from the device.
void count_result(const std::string &name) {
    constexpr std::array<std::string_view, 4> on_host = {"aten::_local_scalar_dense", "aten::equal",
                                                         "aten::nonzero", "aten::masked_select"};
    if (std::find(on_host.begin(), on_host.end(), name) != on_host.end()) download(8);
}

void fallback(const c10::OperatorHandle &op, torch::jit::Stack *stack) {
    const auto &name = op.schema().operator_name().name;
    check_devices(name, torch::jit::last(*stack, op.schema().arguments().size()));
    if (!in_fallback) count_result(name);
    struct InFallback {
        bool before = std::exchange(in_fallback, true);
        ~InFallback() { in_fallback = before; }
    };
    Operation operation;
    InFallback inside;
    at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
    using at::Tensor;
    using Ints = c10::IntArrayRef;
    library.impl("empty.memory_format", &empty);
    library.impl("empty_strided", &empty_strided);
    library.impl("copy_", &copy_);
    library.impl("_copy_from_and_resize", &copy_from_and_resize);
    library.impl("cat", &cat);
    library.impl("index_select", &index_select);
    library.impl("index_select.out", &index_select_out);
    library.impl("index_copy_", &index_copy_);
    library.impl("native_batch_norm", &native_batch_norm);
    library.impl("resize_", &resize_);
    library.impl("set_.source_Storage_storage_offset", &set_storage);
    // Views read no element.
    library.impl("as_strided", [](const Tensor &self, Ints size, Ints stride, std::optional<int64_t> offset) {
        return at::native::as_strided_tensorimpl(self, size, stride, offset);
    });
    library.impl("view", [](const Tensor &self, Ints size) { return at::native::view(self, size); });
    library.impl("_reshape_alias", [](const Tensor &self, Ints size, Ints stride) {
        return at::native::_reshape_alias(self, size, stride);
    });
    library.impl("view_as_real", [](const Tensor &self) { return at::native::view_as_real(self); });
    library.impl("view_as_complex", [](const Tensor &self) { return at::native::view_as_complex(self); });
    library.impl("unfold", [](const Tensor &self, int64_t dimension, int64_t size, int64_t step) {
        return at::native::unfold(self, dimension, size, step);
    });
}

REGISTER_ALLOCATOR(c10::kCUDA, &allocator)
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>)

} // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
} // namespace at

// The copies since the start: their number and bytes to the device, and from it.
extern "C" void fake_cuda_copies(uint64_t copies[4]) {
    copies[0] = to_device.count;
    copies[1] = to_device.bytes;
    copies[2] = from_device.count;
    copies[3] = from_device.bytes;
}

// From now on the device has so many bytes left.
extern "C" void fake_cuda_leave(uint64_t bytes) { memory().leave(bytes); }

// From now on so many bytes can be pinned.
extern "C" void fake_cuda_leave_pinned(uint64_t bytes) { PinnedAllocator::leave(bytes); }

// From now on, of the copies from the device those from one number up to another one fail.
extern "C" void fake_cuda_fail_downloads(uint64_t first, uint64_t end) {
    downloads = failed = 0;
    first_failing = first;
    end_failing = end;
}

// Whether no copy fails from now on that this thread makes from the device.
extern "C" void fake_cuda_exempt(uint64_t exempt) { is_exempt = exempt; }

// How many copies from the device failed since the last call of fake_cuda_fail_downloads.
extern "C" uint64_t fake_cuda_failed_downloads() { return failed; }

// How often the host waited since the start: for a copy to the device, and for all work on the device.
extern "C" void fake_cuda_waits(uint64_t counts[2]) {
    counts[0] = waits;
    counts[1] = synchronizations;
}

// The stream of this thread from now on.
extern "C" void fake_cuda_set_stream(uint64_t handle) {
    stream_handle = handle;
    stream = number_of_stream(handle);
}

// For the driver: between these, the memory of the device can be used.
extern "C" void fake_cuda_start_operation() {
    queue().finish_current_stream();
    memory().start_operation();
}
extern "C" void fake_cuda_end_operation() { memory().end_operation(); }

// The addresses where allocations begin and end.
extern "C" size_t fake_cuda_allocations(uint64_t *bounds, size_t room) {
    return memory().allocations(bounds, room);
}

// libtorch's function of this name.
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t device, void **current) {
    *current = reinterpret_cast<void *>(stream_handle);
    return device != 0;
}
