// The kernels of the library as C++ for the host: block after block and, up to each barrier, thread after thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

namespace kernels_on_host {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

inline thread_local u64 block_index, blocks;

#define KERNELS_ON_HOST
#define KERNEL inline void
#define DEVICE inline
#define SHARED static thread_local
#define UNROLL
#define BLOCK_INDEX block_index
#define BLOCKS blocks
#define THREADS(t) for (u32 t = 0; t < BLOCK; t++)
#define BARRIER

template <class Word> Word load(const void *from) {
    Word word;
    std::memcpy(&word, from, sizeof word);
    return word;
}
inline u8 load_1(const void *from) { return load<u8>(from); }
inline u32 load_4(const void *from) { return load<u32>(from); }
inline u64 load_8(const void *from) { return load<u64>(from); }
inline void load_16(u32 to[4], const void *from) { std::memcpy(to, from, 16); }
inline void store_4(void *to, u32 from) { std::memcpy(to, &from, 4); }
inline void store_16(void *to, const u32 from[4]) { std::memcpy(to, from, 16); }

#include "../../torchcache/src/device/kernels.cu"

template <class... Params, std::size_t... I>
void call(void (*kernel)(Params...), void **params, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<Params> *>(params[I])...);
}

template <class... Params> bool launch(void (*kernel)(Params...), void **params) {
    for (block_index = 0; block_index < blocks; block_index++)
        call(kernel, params, std::index_sequence_for<Params...>());
    return true;
}

// Runs a kernel, with parameters as the driver takes them. False if no kernel has this name, or if it cannot run in
// blocks of so many threads.
inline bool launch(std::string_view name, u32 grid, u32 threads, void **params) {
    if (grid == 0 || threads != BLOCK) return false;
    blocks = grid;
    if (name == "blake3_chunks") return launch(blake3_chunks, params);
    if (name == "blake3_nodes") return launch(blake3_nodes, params);
    if (name == "blake3_pieces") return launch(blake3_pieces, params);
    if (name == "copy_rows") return launch(copy_rows, params);
    if (name == "line_sums") return launch(line_sums, params);
    return false;
}

#undef KERNELS_ON_HOST
#undef KERNEL
#undef DEVICE
#undef SHARED
#undef UNROLL
#undef BLOCK_INDEX
#undef BLOCKS
#undef THREADS
#undef BARRIER
#undef BLOCK
#undef CHUNK_BYTES
#undef SEGMENT_BYTES

} // namespace kernels_on_host
