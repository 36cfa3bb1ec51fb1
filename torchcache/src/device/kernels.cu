// The kernels of the device: BLAKE3 digests, copies of rows, and sums of sampled memory.
//
// `cargo xtask kernels` compiles this file to kernels.ptx. Defining KERNELS_ON_HOST first, with the macros
// below, makes it C++ for the host (tests/fake_cuda/kernels_on_host.h).
//
// Every block has BLOCK threads. `THREADS(t) { … }` is what thread `t` does up to the next BARRIER; a variable
// outside of it has the same value in every thread. On the host it is a loop over the threads.
//
// Addresses in tables need no alignment. Memory that a kernel reads is not written while it runs.

#define BLOCK 128

#ifndef KERNELS_ON_HOST
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define UNROLL _Pragma("unroll")
#define BLOCK_INDEX ((u64)blockIdx.x)
#define BLOCKS ((u64)gridDim.x)
#define THREADS(t) for (u32 t = threadIdx.x, pending_ = 1; pending_; pending_ = 0)
#define BARRIER __syncthreads()
DEVICE u8 load_1(const void *from) { return *(const u8 *)from; }
DEVICE u32 load_4(const void *from) { return *(const u32 *)from; }
DEVICE u64 load_8(const void *from) { return *(const u64 *)from; }
DEVICE void load_16(u32 to[4], const void *from) {
    uint4 words = *(const uint4 *)from;
    to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
}
DEVICE void store_4(void *to, u32 from) { *(u32 *)to = from; }
DEVICE void store_16(void *to, const u32 from[4]) {
    *(uint4 *)to = make_uint4(from[0], from[1], from[2], from[3]);
}
#endif

// The 16 little-endian words of `bytes` (at most 64) bytes, with zeros after them.
DEVICE void load_words(u32 words[16], const u8 *from, u32 bytes) {
    u32 misaligned = (u32)(u64)from;
    if (bytes == 64 && misaligned % 16 == 0) {
        UNROLL for (u32 w = 0; w < 16; w += 4) load_16(words + w, from + 4 * w);
    } else if (misaligned % 4 == 0) {
        u32 whole = bytes / 4, rest = 0;
        for (u32 byte = 0; byte < bytes % 4; byte++) rest |= (u32)load_1(from + 4 * whole + byte) << (8 * byte);
        UNROLL for (u32 w = 0; w < 16; w++) words[w] = w < whole ? load_4(from + 4 * w) : w == whole ? rest : 0;
    } else {
        UNROLL for (u32 w = 0; w < 16; w++) {
            words[w] = 0;
            UNROLL for (u32 byte = 0; byte < 4; byte++)
                if (4 * w + byte < bytes) words[w] |= (u32)load_1(from + 4 * w + byte) << (8 * byte);
        }
    }
}

// BLAKE3: a row is cut into chunks of 1,024 bytes. The chaining values of neighbours, of chunks first, are joined two
// by two, an odd one moving up as it is, until one is left: the digest.

#define CHUNK_BYTES 1024

enum Flags { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 };

struct ChainingValue { u32 words[8]; };

DEVICE ChainingValue initial_value() {
    return {{0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19}};
}

DEVICE u32 rotate_right(u32 value, u32 bits) { return value >> bits | value << (32 - bits); }

DEVICE void quarter_round(u32 &a, u32 &b, u32 &c, u32 &d, u32 x, u32 y) {
    a += b + x, d = rotate_right(d ^ a, 16);
    c += d, b = rotate_right(b ^ c, 12);
    a += b + y, d = rotate_right(d ^ a, 8);
    c += d, b = rotate_right(b ^ c, 7);
}

// The chaining value after `value` and a block of `bytes` bytes. `words` is permuted.
DEVICE ChainingValue compress(const ChainingValue &value, u32 words[16], u64 counter, u32 bytes, u32 flags) {
    const u32 permutation[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    ChainingValue initial = initial_value();
    u32 v[16];
    UNROLL for (u32 w = 0; w < 8; w++) v[w] = value.words[w];
    UNROLL for (u32 w = 0; w < 4; w++) v[w + 8] = initial.words[w];
    v[12] = (u32)counter, v[13] = (u32)(counter >> 32), v[14] = bytes, v[15] = flags;
    UNROLL for (u32 round = 0; round < 7; round++) {
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 turn = i / 4; // the columns, then the diagonals
            u32 &b = v[4 + (i + turn) % 4], &c = v[8 + (i + 2 * turn) % 4], &d = v[12 + (i + 3 * turn) % 4];
            quarter_round(v[i % 4], b, c, d, words[2 * i], words[2 * i + 1]);
        }
        u32 permuted[16];
        UNROLL for (u32 w = 0; w < 16; w++) permuted[w] = words[permutation[w]];
        UNROLL for (u32 w = 0; w < 16; w++) words[w] = permuted[w];
    }
    ChainingValue next;
    UNROLL for (u32 w = 0; w < 8; w++) next.words[w] = v[w] ^ v[w + 8];
    return next;
}

// How many chunks a row has: an empty one has one.
DEVICE u64 chunks_of(u64 bytes) { return bytes == 0 ? 1 : (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES; }

// The chaining value of one chunk of the `bytes` bytes of a row.
DEVICE ChainingValue hash_chunk(const u8 *row, u64 bytes, u64 chunk) {
    const u8 *from = row + chunk * CHUNK_BYTES;
    u64 left = bytes - chunk * CHUNK_BYTES;
    u32 length = left < CHUNK_BYTES ? (u32)left : CHUNK_BYTES;
    u32 last = length == 0 ? 0 : (length - 1) / 64;
    u32 end = CHUNK_END | (bytes <= CHUNK_BYTES ? ROOT : 0);
    ChainingValue value = initial_value();
    for (u32 block = 0; block <= last; block++) {
        u32 words[16], in_block = block == last ? length - 64 * block : 64;
        load_words(words, from + 64 * block, in_block);
        value = compress(value, words, chunk, in_block, (block == 0 ? CHUNK_START : 0) | (block == last ? end : 0));
    }
    return value;
}

// What a thread works on: one of the `count` neighbouring nodes of a row that a group of threads joins into one.
struct Node {
    u64 row, index;  // `index` in the row
    u64 group;       // of all groups
    u32 lane, count; // in the group; a thread has a node if `lane < count`
};

// The node of a thread, where groups of `width` threads, a power of two, share each row of `nodes` nodes.
DEVICE Node node_of(u32 t, u32 width, u64 rows, u64 nodes) {
    u64 groups = (nodes + width - 1) / width;
    u64 group = BLOCK_INDEX * (BLOCK / width) + t / width;
    u64 row = group / groups, first = group % groups * width;
    u64 left = row < rows ? nodes - first : 0;
    u32 lane = t % width;
    return {row, first + lane, group, lane, left < width ? (u32)left : width};
}

// The chaining values of the threads of a block, word by word: neighbours access neighbouring banks.
typedef u32 Values[8][BLOCK];

DEVICE void put(Values &values, u32 t, const ChainingValue &value) {
    UNROLL for (u32 w = 0; w < 8; w++) values[w][t] = value.words[w];
}

// Joins the values of each group of up to `width` of the `nodes` nodes of a row, and writes one value a group.
template <class NodeOf> DEVICE void join(Values &values, u32 width, u64 nodes, u32 *out, NodeOf node) {
    for (u32 step = 1; step < width; step *= 2) {
        BARRIER;
        THREADS(t) {
            Node own = node(t);
            if (own.lane % (2 * step) == 0 && own.lane + step < own.count) {
                u32 words[16];
                UNROLL for (u32 w = 0; w < 8; w++) words[w] = values[w][t], words[w + 8] = values[w][t + step];
                bool is_root = own.count == nodes && 2 * step >= own.count;
                put(values, t, compress(initial_value(), words, 0, 64, PARENT | (is_root ? ROOT : 0)));
            }
        }
    }
    THREADS(t) { // which has written the value itself
        Node own = node(t);
        if (own.lane == 0 && own.count > 0)
            UNROLL for (u32 w = 0; w < 8; w++) out[8 * own.group + w] = values[w][t];
    }
}

// Joins the chunks of each row in groups of `width`. A row begins `stride` bytes after the one before.
// `out`: a value a group, row by row; digests if a group has all chunks of its row.
KERNEL blake3_chunks(const u8 *bytes, u64 rows, u64 row_bytes, u64 stride, u32 width, u32 *out) {
    SHARED Values values;
    u64 chunks = chunks_of(row_bytes);
    auto node = [&](u32 t) { return node_of(t, width, rows, chunks); };
    THREADS(t) {
        Node chunk = node(t);
        if (chunk.lane < chunk.count)
            put(values, t, hash_chunk(bytes + chunk.row * stride, row_bytes, chunk.index));
    }
    join(values, width, chunks, out, node);
}

// Joins the `nodes` values, at least two, that an earlier launch wrote for each row, in groups of `width`.
KERNEL blake3_nodes(const u32 *in, u64 rows, u64 nodes, u32 width, u32 *out) {
    SHARED Values values;
    auto node = [&](u32 t) { return node_of(t, width, rows, nodes); };
    THREADS(t) {
        Node child = node(t);
        if (child.lane < child.count)
            UNROLL for (u32 w = 0; w < 8; w++)
                values[w][t] = load_4(in + 8 * (child.row * nodes + child.index) + w);
    }
    join(values, width, nodes, out, node);
}

struct Span { u64 address, bytes; };

// The digests of `pieces` pieces of memory, of at most BLOCK chunks each: one block a piece.
KERNEL blake3_pieces(const Span *table, u64 pieces, u32 *out) {
    SHARED Values values;
    u64 piece = BLOCK_INDEX;
    if (piece >= pieces) return;
    const u8 *from = (const u8 *)load_8(&table[piece].address);
    u64 bytes = load_8(&table[piece].bytes), chunks = chunks_of(bytes);
    auto node = [&](u32 t) { return Node{piece, t, piece, t, (u32)chunks}; };
    THREADS(t) {
        if (t < chunks) put(values, t, hash_chunk(from, bytes, t));
    }
    join(values, BLOCK, chunks, out, node);
}

// What a group of threads copies at a time.
#define SEGMENT_BYTES 16384

// Copies the bytes from `begin` to `end` in words, `lane` of `width` threads.
template <u32 WORD> DEVICE void copy_words(u8 *to, const u8 *from, u64 begin, u64 end, u32 lane, u32 width) {
    for (u64 at = begin + lane * WORD; at < end; at += width * WORD) {
        if (WORD == 16) {
            u32 words[4];
            load_16(words, from + at);
            store_16(to + at, words);
        } else if (WORD == 4) {
            store_4(to + at, load_4(from + at));
        } else {
            to[at] = load_1(from + at);
        }
    }
}

struct Move { u64 from, to; };

// Copies `rows` rows of `row_bytes` bytes each. Threads in groups, of a power of two that follows from the length,
// copy a segment after the other, so that any number of blocks will do. The rows that are written overlap no other.
KERNEL copy_rows(const Move *table, u64 rows, u64 row_bytes) {
    u32 width = 1;
    while (width < BLOCK && 16 * width < row_bytes) width *= 2;
    u64 segments = (row_bytes + SEGMENT_BYTES - 1) / SEGMENT_BYTES;
    THREADS(t) {
        u64 group = BLOCK_INDEX * (BLOCK / width) + t / width;
        for (u64 index = group; index < rows * segments; index += BLOCKS * (BLOCK / width)) {
            u64 row = segments == 1 ? index : index / segments;
            u64 begin = (index - row * segments) * SEGMENT_BYTES;
            u64 end = row_bytes - begin < SEGMENT_BYTES ? row_bytes : begin + SEGMENT_BYTES;
            u64 from = load_8(&table[row].from), to = load_8(&table[row].to);
            u32 misaligned = (u32)(from | to | row_bytes);
            if (misaligned % 16 == 0) copy_words<16>((u8 *)to, (const u8 *)from, begin, end, t % width, width);
            else if (misaligned % 4 == 0) copy_words<4>((u8 *)to, (const u8 *)from, begin, end, t % width, width);
            else copy_words<1>((u8 *)to, (const u8 *)from, begin, end, t % width, width);
        }
    }
}

// Sums lines of at most 64 bytes, one a thread: word `w` of line `l` of a block counts `factors[16 * l + w]` times,
// modulo 2^64. `out`: a sum a block. With odd factors, the sum depends on each bit of each word.
KERNEL line_sums(const Span *table, u64 lines, const u64 *factors, u64 *out) {
    SHARED u64 sums[BLOCK];
    THREADS(t) {
        u64 line = BLOCK_INDEX * BLOCK + t, sum = 0;
        if (line < lines) {
            u32 words[16];
            load_words(words, (const u8 *)load_8(&table[line].address), (u32)load_8(&table[line].bytes));
            UNROLL for (u32 w = 0; w < 16; w++) sum += words[w] * load_8(&factors[16 * t + w]);
        }
        sums[t] = sum;
    }
    for (u32 step = BLOCK / 2; step > 0; step /= 2) {
        BARRIER;
        THREADS(t) {
            if (t < step) sums[t] += sums[t + step];
        }
    }
    THREADS(t) {
        if (t == 0) out[BLOCK_INDEX] = sums[0];
    }
}
