//! BLAKE3's compression of one block in each lane of a vector: 16 or 8 lanes with AVX-512, 8 with AVX2.
//!
//! All share the compression and differ in a dozen operations on vectors. Functions with
//! `#[target_feature]` are called only through [`Avx512`] and [`Avx2`], values that exist only where
//! the CPU has the features.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and functions that need CPU features"
)]

use std::arch::is_x86_feature_detected;

use blake3::{BLOCK_LEN, OUT_LEN};

pub(super) type Block = [u8; BLOCK_LEN];

/// A chaining value in each of `N` lanes, as the vectors hold them: word by word, all lanes of each.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct ChainingValues<const N: usize>([[u32; N]; 8]);

impl<const N: usize> ChainingValues<N> {
    /// The same value in each lane.
    pub(super) fn splat(value: &[u32; 8]) -> Self {
        ChainingValues(value.map(|word| [word; N]))
    }
}

/// What is mixed in with each block of a run of blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockRun {
    pub(super) counter: u64,
    /// Bytes of each block that are not padding.
    pub(super) block_len: u32,
    /// The flags of every block.
    pub(super) flags: u32,
    /// More flags, of the first and of the last block.
    pub(super) first: u32,
    pub(super) last: u32,
}

/// Instructions that compress `N` blocks at once.
pub(super) trait Lanes<const N: usize>: Copy {
    /// Compresses a run of blocks in each lane into `values`.
    ///
    /// # Panics
    ///
    /// If the runs differ in length.
    fn compress(self, values: &mut ChainingValues<N>, runs: &[&[Block]; N], run: BlockRun);

    /// Replaces `left` by the parent of `left` and `right` in each lane.
    fn merge(
        self,
        key: &[u32; 8],
        left: &mut ChainingValues<N>,
        right: &ChainingValues<N>,
        flags: u32,
    );

    /// The chaining value of each lane, as bytes.
    fn digests(self, values: &ChainingValues<N>) -> [[u8; OUT_LEN]; N];
}

/// Proof that this CPU has AVX-512F, AVX-512VL and AVX2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

/// Proof that this CPU has AVX2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2"))
        .then_some(Avx512(()))
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }
}

impl Lanes<16> for Avx512 {
    fn compress(self, values: &mut ChainingValues<16>, runs: &[&[Block]; 16], run: BlockRun) {
        // SAFETY: `self` proves that the CPU has AVX-512F.
        unsafe { avx512::compress(values, runs, run) }
    }

    fn merge(
        self,
        key: &[u32; 8],
        left: &mut ChainingValues<16>,
        right: &ChainingValues<16>,
        flags: u32,
    ) {
        // SAFETY: `self` proves that the CPU has AVX-512F.
        unsafe { avx512::merge(key, left, right, flags) }
    }

    fn digests(self, values: &ChainingValues<16>) -> [[u8; OUT_LEN]; 16] {
        let mut digests = [[0; OUT_LEN]; 16];
        for (half, digests) in digests.as_chunks_mut().0.iter_mut().enumerate() {
            let words = values.0.each_ref().map(|word| &word.as_chunks().0[half]);
            // SAFETY: `self` proves that the CPU has AVX2.
            *digests = unsafe { avx2::digests(words) };
        }
        digests
    }
}

impl Lanes<8> for Avx512 {
    fn compress(self, values: &mut ChainingValues<8>, runs: &[&[Block]; 8], run: BlockRun) {
        // SAFETY: `self` proves that the CPU has AVX2, AVX-512F and AVX-512VL.
        unsafe { avx512vl::compress(values, runs, run) }
    }

    fn merge(
        self,
        key: &[u32; 8],
        left: &mut ChainingValues<8>,
        right: &ChainingValues<8>,
        flags: u32,
    ) {
        // SAFETY: `self` proves that the CPU has AVX2, AVX-512F and AVX-512VL.
        unsafe { avx512vl::merge(key, left, right, flags) }
    }

    fn digests(self, values: &ChainingValues<8>) -> [[u8; OUT_LEN]; 8] {
        // SAFETY: `self` proves that the CPU has AVX2, AVX-512F and AVX-512VL.
        unsafe { avx512vl::digests(values.0.each_ref()) }
    }
}

impl Lanes<8> for Avx2 {
    fn compress(self, values: &mut ChainingValues<8>, runs: &[&[Block]; 8], run: BlockRun) {
        // SAFETY: `self` proves that the CPU has AVX2.
        unsafe { avx2::compress(values, runs, run) }
    }

    fn merge(
        self,
        key: &[u32; 8],
        left: &mut ChainingValues<8>,
        right: &ChainingValues<8>,
        flags: u32,
    ) {
        // SAFETY: `self` proves that the CPU has AVX2.
        unsafe { avx2::merge(key, left, right, flags) }
    }

    fn digests(self, values: &ChainingValues<8>) -> [[u8; OUT_LEN]; 8] {
        // SAFETY: `self` proves that the CPU has AVX2.
        unsafe { avx2::digests(values.0.each_ref()) }
    }
}

/// BLAKE3's initial value.
pub(super) const IV: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

/// The order in which each round takes the words of the message.
const SCHEDULE: [[usize; 16]; 7] = {
    const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    let mut schedule = [[0; 16]; 7];
    let mut word = 0;
    while word < 16 {
        schedule[0][word] = word;
        let mut round = 1;
        while round < 7 {
            schedule[round][word] = PERMUTATION[schedule[round - 1][word]];
            round += 1;
        }
        word += 1;
    }
    schedule
};

/// Quarter rounds on independent words of the state, step by step so that their instructions overlap.
/// Each names four words of the state and two of the message.
macro_rules! quarter_rounds {
    ($v:ident, $m:ident, $round:literal, $([$a:literal $b:literal $c:literal $d:literal] $x:literal $y:literal,)*) => {
        $($v[$a] = add(add($v[$a], $m[SCHEDULE[$round][$x]]), $v[$b]);)*
        $($v[$d] = rotate_right::<16>(xor($v[$d], $v[$a]));)*
        $($v[$c] = add($v[$c], $v[$d]);)*
        $($v[$b] = rotate_right::<12>(xor($v[$b], $v[$c]));)*
        $($v[$a] = add(add($v[$a], $m[SCHEDULE[$round][$y]]), $v[$b]);)*
        $($v[$d] = rotate_right::<8>(xor($v[$d], $v[$a]));)*
        $($v[$c] = add($v[$c], $v[$d]);)*
        $($v[$b] = rotate_right::<7>(xor($v[$b], $v[$c]));)*
    };
}

/// Rounds of the compression.
macro_rules! rounds {
    ($v:ident, $m:ident, $($round:literal)*) => {$(
        quarter_rounds!($v, $m, $round,
            [0 4 8 12] 0 1, [1 5 9 13] 2 3, [2 6 10 14] 4 5, [3 7 11 15] 6 7,);
        quarter_rounds!($v, $m, $round,
            [0 5 10 15] 8 9, [1 6 11 12] 10 11, [2 7 8 13] 12 13, [3 4 9 14] 14 15,);
    )*};
}

/// Compresses a block in each lane into `$state`. This is a macro because a function with
/// `#[target_feature]` cannot be `#[inline(always)]`, and a call would pass the vectors in memory.
macro_rules! mix {
    ($state:ident, $message:ident, $counter:expr, $block_len:expr, $flags:expr) => {
        let mut v = [splat(0); 16];
        v[..8].copy_from_slice(&$state);
        for (word, iv) in v[8..12].iter_mut().zip(IV) {
            *word = splat(iv);
        }
        let counter: u64 = $counter;
        v[12] = splat(counter as u32);
        v[13] = splat((counter >> 32) as u32);
        v[14] = splat($block_len);
        v[15] = splat($flags);
        rounds!(v, $message, 0 1 2 3 4 5 6);
        for (word, state) in $state.iter_mut().enumerate() {
            *state = xor(v[word], v[word + 8]);
        }
    };
}

/// What all widths share. The module that it is used in defines `Vector`, `LANES`, `load`, `store`,
/// `splat`, `add`, `xor`, `rotate_right` and `transposed`.
macro_rules! compression {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn compress(
            values: &mut ChainingValues<LANES>,
            runs: &[&[Block]; LANES],
            run: BlockRun,
        ) {
            let count = runs[0].len();
            assert!(
                runs.iter().all(|run| run.len() == count),
                "runs of equal length"
            );
            let mut state = [splat(0); 8];
            for (word, value) in state.iter_mut().zip(&values.0) {
                *word = load(value);
            }
            let mut flags = run.flags | run.first;
            for block in 0..count {
                if block + 1 == count {
                    flags |= run.last;
                }
                let mut blocks = [&runs[0][0]; LANES];
                for (lane, run) in blocks.iter_mut().zip(runs) {
                    // SAFETY: every run has `count` blocks.
                    *lane = unsafe { run.get_unchecked(block) };
                }
                let message = transposed(&blocks);
                mix!(state, message, run.counter, run.block_len, flags);
                flags = run.flags;
            }
            for (value, word) in values.0.iter_mut().zip(state) {
                store(value, word);
            }
        }

        #[target_feature(enable = $features)]
        pub(super) fn merge(
            key: &[u32; 8],
            left: &mut ChainingValues<LANES>,
            right: &ChainingValues<LANES>,
            flags: u32,
        ) {
            let mut state = [splat(0); 8];
            for (word, key) in state.iter_mut().zip(key) {
                *word = splat(*key);
            }
            let mut message = [splat(0); 16];
            for (word, value) in message.iter_mut().zip(left.0.iter().chain(&right.0)) {
                *word = load(value);
            }
            mix!(state, message, 0, BLOCK_LEN as u32, flags);
            for (value, word) in left.0.iter_mut().zip(state) {
                store(value, word);
            }
        }
    };
}

mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32,
        _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
    };

    use super::{BLOCK_LEN, Block, BlockRun, ChainingValues, IV, SCHEDULE};

    type Vector = __m512i;
    const LANES: usize = 16;

    compression!("avx512f");

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(words: &[u32; LANES]) -> Vector {
        // SAFETY: the reference covers 64 bytes, and the load may be unaligned.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_block(block: &Block) -> Vector {
        // SAFETY: the reference covers 64 bytes, and the load may be unaligned.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(words: &mut [u32; LANES], vector: Vector) {
        // SAFETY: the reference covers 64 bytes, and the store may be unaligned.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn splat(word: u32) -> Vector {
        _mm512_set1_epi32(word as i32)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(a: Vector, b: Vector) -> Vector {
        _mm512_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor(a: Vector, b: Vector) -> Vector {
        _mm512_xor_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rotate_right<const BITS: i32>(a: Vector) -> Vector {
        _mm512_ror_epi32::<BITS>(a)
    }

    /// The words of a block in each lane: word by word, all lanes of each.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transposed(blocks: &[&Block; LANES]) -> [Vector; 16] {
        let mut rows = [splat(0); 16];
        for (row, block) in rows.iter_mut().zip(blocks) {
            *row = load_block(block);
        }
        // First 4 x 4 words within each quarter of four vectors.
        let mut quads = [splat(0); 16];
        for four in 0..4 {
            let r = 4 * four;
            let low01 = _mm512_unpacklo_epi32(rows[r], rows[r + 1]);
            let high01 = _mm512_unpackhi_epi32(rows[r], rows[r + 1]);
            let low23 = _mm512_unpacklo_epi32(rows[r + 2], rows[r + 3]);
            let high23 = _mm512_unpackhi_epi32(rows[r + 2], rows[r + 3]);
            quads[r] = _mm512_unpacklo_epi64(low01, low23);
            quads[r + 1] = _mm512_unpackhi_epi64(low01, low23);
            quads[r + 2] = _mm512_unpacklo_epi64(high01, high23);
            quads[r + 3] = _mm512_unpackhi_epi64(high01, high23);
        }
        // Then the quarters change places: quarter q of `quads[w + 4k]` is word 4q + w of the rows
        // from 4k on.
        let mut words = [splat(0); 16];
        for w in 0..4 {
            let [a, b, c, d] = [quads[w], quads[w + 4], quads[w + 8], quads[w + 12]];
            let ab02 = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            let ab13 = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
            let cd02 = _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d);
            let cd13 = _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d);
            words[w] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab02, cd02);
            words[w + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab13, cd13);
            words[w + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab02, cd02);
            words[w + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab13, cd13);
        }
        words
    }
}

/// Everything of a module with 8 lanes but `rotate_right`.
macro_rules! eight_lanes {
    ($features:literal) => {
        use std::arch::x86_64::{
            __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_permute2x128_si256,
            _mm256_set1_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
            _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
        };

        use crate::tensor::blake3_batch::simd::{
            BLOCK_LEN, Block, BlockRun, ChainingValues, IV, OUT_LEN, SCHEDULE,
        };

        type Vector = __m256i;
        const LANES: usize = 8;

        compression!($features);

        #[inline]
        #[target_feature(enable = $features)]
        fn load(words: &[u32; LANES]) -> Vector {
            // SAFETY: the reference covers 32 bytes, and the load may be unaligned.
            unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn load_bytes(bytes: &[u8; 4 * LANES]) -> Vector {
            // SAFETY: the reference covers 32 bytes, and the load may be unaligned.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn store(words: &mut [u32; LANES], vector: Vector) {
            // SAFETY: the reference covers 32 bytes, and the store may be unaligned.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn splat(word: u32) -> Vector {
            _mm256_set1_epi32(word as i32)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add(a: Vector, b: Vector) -> Vector {
            _mm256_add_epi32(a, b)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn xor(a: Vector, b: Vector) -> Vector {
            _mm256_xor_si256(a, b)
        }

        /// The words of a block in each lane: word by word, all lanes of each.
        #[inline]
        #[target_feature(enable = $features)]
        fn transposed(blocks: &[&Block; LANES]) -> [Vector; 16] {
            let mut words = [splat(0); 16];
            for (half, words) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let mut rows = [splat(0); 8];
                for (row, block) in rows.iter_mut().zip(blocks) {
                    *row = load_bytes(&block.as_chunks().0[half]);
                }
                *words = transposed_square(rows);
            }
            words
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn transposed_square(rows: [Vector; 8]) -> [Vector; 8] {
            let mut quads = [splat(0); 8];
            for four in 0..2 {
                let r = 4 * four;
                let low01 = _mm256_unpacklo_epi32(rows[r], rows[r + 1]);
                let high01 = _mm256_unpackhi_epi32(rows[r], rows[r + 1]);
                let low23 = _mm256_unpacklo_epi32(rows[r + 2], rows[r + 3]);
                let high23 = _mm256_unpackhi_epi32(rows[r + 2], rows[r + 3]);
                quads[r] = _mm256_unpacklo_epi64(low01, low23);
                quads[r + 1] = _mm256_unpackhi_epi64(low01, low23);
                quads[r + 2] = _mm256_unpacklo_epi64(high01, high23);
                quads[r + 3] = _mm256_unpackhi_epi64(high01, high23);
            }
            let mut words = [splat(0); 8];
            for w in 0..4 {
                words[w] = _mm256_permute2x128_si256::<0x20>(quads[w], quads[w + 4]);
                words[w + 4] = _mm256_permute2x128_si256::<0x31>(quads[w], quads[w + 4]);
            }
            words
        }

        #[target_feature(enable = $features)]
        pub(super) fn digests(values: [&[u32; LANES]; 8]) -> [[u8; OUT_LEN]; LANES] {
            let mut rows = [splat(0); 8];
            for (row, value) in rows.iter_mut().zip(values) {
                *row = load(value);
            }
            let mut digests = [[0; OUT_LEN]; LANES];
            for (digest, words) in digests.iter_mut().zip(transposed_square(rows)) {
                // SAFETY: the reference covers 32 bytes, and the store may be unaligned.
                unsafe { _mm256_storeu_si256(digest.as_mut_ptr().cast(), words) }
            }
            digests
        }
    };
}

mod avx2 {
    use std::arch::asm;
    use std::arch::x86_64::{_mm256_or_si256, _mm256_sllv_epi32, _mm256_srli_epi32};

    eight_lanes!("avx2");

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate_right<const BITS: i32>(a: Vector) -> Vector {
        if BITS == 16 {
            return swap_halves(a);
        }
        let left = _mm256_sllv_epi32(a, _mm256_set1_epi32(32 - BITS));
        _mm256_or_si256(_mm256_srli_epi32::<BITS>(a), left)
    }

    /// Swaps the 16-bit halves of each word. LLVM writes rotations by 16 and by 8 as byte shuffles
    /// and moves one through the xor to join it with the other, which takes more of them in all.
    /// `asm!` keeps it from that.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn swap_halves(a: Vector) -> Vector {
        const BYTES: [u8; 32] = {
            let mut bytes = [0; 32];
            let mut byte = 0;
            while byte < 32 {
                bytes[byte] = (byte as u8 ^ 2) % 16;
                byte += 1;
            }
            bytes
        };
        let bytes = load_bytes(&BYTES);
        let swapped;
        // SAFETY: the instruction is one of AVX2 and touches nothing but its registers.
        unsafe {
            asm!(
                "vpshufb {swapped}, {a}, {bytes}",
                swapped = out(ymm_reg) swapped,
                a = in(ymm_reg) a,
                bytes = in(ymm_reg) bytes,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        swapped
    }
}

/// Vectors of 8 words with the rotations and the registers of AVX-512.
mod avx512vl {
    use std::arch::x86_64::_mm256_ror_epi32;

    eight_lanes!("avx2,avx512f,avx512vl");

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512vl")]
    fn rotate_right<const BITS: i32>(a: Vector) -> Vector {
        _mm256_ror_epi32::<BITS>(a)
    }
}
