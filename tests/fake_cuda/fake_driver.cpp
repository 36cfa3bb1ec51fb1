// The driver of the fake CUDA device: what the library uses of libcuda.so.1, preloaded with fake_cuda.cpp. Kernels
// run on the host, from their source or, where a test says so, as the test runs their PTX.
//
// As a driver it refuses what was not initialised, calls without a current context, handles that it did not make, and
// launches beyond the limits of a device. It ends in an exit hook, and so does its compiler, which it loads for the first
// module: a module that is loaded then or later is an error of the program, which ends by SIGABRT.
#include "kernels_on_host.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

extern "C" {
// Defined in fake_cuda.cpp.
void fake_cuda_start_operation();
void fake_cuda_end_operation();
std::int32_t aoti_torch_get_current_cuda_stream(std::int32_t device, void **stream);

// Runs a kernel of a module, given as PTX.
typedef void (*RunKernel)(const char *ptx, const char *name, unsigned blocks, unsigned threads, void **parameters);
}

namespace {

enum Result { SUCCESS, INVALID_VALUE, NOT_INITIALIZED = 3, INVALID_PTX = 218, INVALID_DEVICE = 101,
              INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, LAUNCH_OUT_OF_RESOURCES = 701 };

struct Context {} primary;

struct Module {
    std::string ptx;
};

struct Function {
    const Module *module;
    std::string name;
};

std::mutex mutex;
// They are never unloaded, and stay where they are.
std::deque<Module> modules;
std::deque<Function> functions;

std::atomic<bool> is_initialized = false;
std::atomic<std::uint64_t> launches = 0, first_refused = UINT64_MAX;
std::atomic<RunKernel> run_kernel = nullptr;
std::string wrong_kernel;

// Whether loading a module waits, unless it is short, and how many are loaded now. Whether the driver has ended.
bool is_held = false, has_ended = false;
int loading = 0;
std::condition_variable released;

thread_local std::vector<const Context *> contexts;

template <class T> const T *known(const std::deque<T> &all, const void *handle) {
    auto found = std::find_if(all.begin(), all.end(), [&](const T &it) { return &it == handle; });
    return found == all.end() ? nullptr : &*found;
}

// Has the driver end with the process, before what was registered earlier.
void end_at_exit() {
    std::atexit([] {
        std::lock_guard<std::mutex> guard(mutex);
        has_ended = true;
        if (loading > 0) std::abort();
    });
}

// While it lives, the memory of the device can be used.
struct Operation {
    Operation() { fake_cuda_start_operation(); }
    ~Operation() { fake_cuda_end_operation(); }
};

// Changes a bit of what a kernel has written.
void flip(const std::string &name, void **parameters) {
    auto pointer = [&](int parameter) { return *static_cast<std::uint64_t **>(parameters[parameter]); };
    if (name == "copy_rows") {
        // The row of the first move.
        *reinterpret_cast<unsigned char *>(pointer(0)[1]) ^= 1;
        return;
    }
    const int out = name == "blake3_chunks" ? 5 : name == "blake3_nodes" ? 4 : name == "line_sums" ? 3 : 2;
    *pointer(out) ^= 1;
}

} // namespace

extern "C" {

int cuInit(unsigned flags) {
    if (flags != 0) return INVALID_VALUE;
    is_initialized = true;
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    if (!is_initialized) return NOT_INITIALIZED;
    if (ordinal != 0) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (!is_initialized) return NOT_INITIALIZED;
    if (device != 0) return INVALID_DEVICE;
    *context = &primary;
    return SUCCESS;
}

int cuCtxPushCurrent_v2(void *context) {
    if (context != &primary) return INVALID_CONTEXT;
    contexts.push_back(&primary);
    return SUCCESS;
}

int cuCtxPopCurrent_v2(void **context) {
    if (contexts.empty()) return INVALID_CONTEXT;
    *context = const_cast<Context *>(contexts.back());
    contexts.pop_back();
    return SUCCESS;
}

int cuModuleLoadData(void **module, const void *image) {
    if (contexts.empty()) return INVALID_CONTEXT;
    std::string ptx = static_cast<const char *>(image);
    if (ptx.find(".version ") == std::string::npos) return INVALID_PTX;
    std::unique_lock<std::mutex> guard(mutex);
    if (has_ended) std::abort();
    static const bool has_compiler = (end_at_exit(), true);
    (void)has_compiler;
    loading++;
    released.wait(guard, [&] { return !is_held || ptx.size() < 1'000; });
    loading--;
    *module = &modules.emplace_back(Module{std::move(ptx)});
    return SUCCESS;
}

int cuModuleGetFunction(void **function, void *handle, const char *name) {
    if (contexts.empty()) return INVALID_CONTEXT;
    std::lock_guard<std::mutex> guard(mutex);
    const Module *module = known(modules, handle);
    if (!module) return INVALID_HANDLE;
    if (module->ptx.find(std::string(".entry ") + name + "(") == std::string::npos) return NOT_FOUND;
    *function = &functions.emplace_back(Function{module, name});
    return SUCCESS;
}

int cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, void *stream, void **parameters, void **extra) {
    if (contexts.empty()) return INVALID_CONTEXT;
    const Function *function;
    {
        std::lock_guard<std::mutex> guard(mutex);
        function = known(functions, handle);
    }
    void *current;
    if (!function || aoti_torch_get_current_cuda_stream(0, &current) != 0) return INVALID_HANDLE;
    // Both of these are the default stream.
    auto handle_of = [](void *stream) { return stream == reinterpret_cast<void *>(1) ? nullptr : stream; };
    if (handle_of(stream) != handle_of(current)) return INVALID_HANDLE;
    if (grid_x == 0 || grid_x > INT32_MAX || block_x == 0 || block_x > 1024) return INVALID_VALUE;
    if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || shared_bytes != 0 || extra) return INVALID_VALUE;
    if (launches++ >= first_refused) return LAUNCH_OUT_OF_RESOURCES;
    Operation operation;
    if (RunKernel run = run_kernel) {
        run(function->module->ptx.c_str(), function->name.c_str(), grid_x, block_x, parameters);
    } else if (!kernels_on_host::launch(function->name, grid_x, block_x, parameters)) {
        return INVALID_VALUE;
    }
    if (function->name == wrong_kernel) flip(function->name, parameters);
    return SUCCESS;
}

int cuGetErrorName(int error, const char **name) {
    switch (error) {
    case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case LAUNCH_OUT_OF_RESOURCES: *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"; break;
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}

// Starts the driver.
void fake_driver_start() { end_at_exit(); }

// The launches since the start, those that were refused too.
std::uint64_t fake_driver_launches() { return launches; }

// Refuses launches after so many more.
void fake_driver_refuse_after(std::uint64_t more) { first_refused = launches + more; }

// From now on, a kernel writes a wrong bit. To be called before the first launch.
void fake_driver_break(const char *kernel) { wrong_kernel = kernel; }

// Whether loading a module waits from now on, until it does not.
void fake_driver_hold_loading(bool hold) {
    std::lock_guard<std::mutex> guard(mutex);
    is_held = hold;
    released.notify_all();
}

// How many modules are loaded now.
std::uint64_t fake_driver_loading() {
    std::lock_guard<std::mutex> guard(mutex);
    return loading;
}

// How many contexts are pushed on this thread.
std::uint64_t fake_driver_contexts() { return contexts.size(); }

// From now on, this runs the kernels.
void fake_driver_run_with(RunKernel run) { run_kernel = run; }

} // extern "C"
