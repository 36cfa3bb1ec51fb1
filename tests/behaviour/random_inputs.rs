//! Random kinds, shapes, layouts, batches with repetitions, and options: every output equals what the
//! forward computes for that row, from memory, from disk, and after reopening. Changes between calls
//! are tested in `state_machine`.

use std::cell::Cell;
use std::path::PathBuf;

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};
use torchcache::{Eviction, TorchCache, torchcache};

use crate::support::{device, same};

/// Its rows do not depend on the batch: sums of integers are exact.
#[torchcache]
#[derive(Debug)]
struct Random {
    scale: i64,
    weight: Tensor,
    #[torchcache(skip)]
    computed: Cell<i64>,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_zstd_compression: bool,
    torchcache_use_mmap_on_load: bool,
    torchcache_memory_cache_device: Option<Option<Device>>,
    torchcache_max_memory_cache_size: u64,
    torchcache_eviction: Eviction,
    torchcache_cache_dtype: Option<Kind>,
    cache: TorchCache,
}

#[torchcache]
impl Random {
    fn forward(&self, xs: &Tensor, extra: Option<&Tensor>, offset: i64) -> (Tensor, Vec<Tensor>) {
        self.computed.set(self.computed.get() + xs.size()[0]);
        outputs(self, xs, extra, offset)
    }
}

/// What the forward computes, without the cache.
fn outputs(
    model: &Random,
    xs: &Tensor,
    extra: Option<&Tensor>,
    offset: i64,
) -> (Tensor, Vec<Tensor>) {
    let rows = xs.size()[0];
    let real = if xs.is_complex() {
        xs.real() + xs.imag() * 3
    } else {
        xs.shallow_clone()
    };
    let flat = real.reshape([rows, -1]).to_kind(Kind::Double);
    let sums = flat.sum_dim_intlist(1, true, Kind::Double) * model.scale as f64 + offset as f64;
    let wide = &sums * &model.weight;
    let wide = match extra {
        Some(extra) => {
            wide + extra
                .reshape([rows, -1])
                .to_kind(Kind::Double)
                .narrow(1, 0, 1)
        }
        None => wide,
    };
    (
        wide.to_kind(Kind::Float),
        vec![sums.to_kind(Kind::Int64), xs.shallow_clone()],
    )
}

/// What the cache returns for an output.
pub(crate) fn rounded(tensor: &Tensor, dtype: Option<Kind>) -> Tensor {
    match dtype {
        Some(Kind::QInt8) if tensor.is_floating_point() => quantized(tensor),
        Some(dtype) if tensor.is_floating_point() => tensor.to_kind(dtype).to_kind(tensor.kind()),
        _ => tensor.contiguous(),
    }
}

/// Each row as integers from -127 to 127 and their scale, where that is smaller.
fn quantized(tensor: &Tensor) -> Tensor {
    let elements = tensor.numel() / tensor.size()[0] as usize;
    if elements + size_of::<f32>() >= elements * tensor.kind().elt_size_in_bytes() {
        return tensor.contiguous();
    }
    let values = tensor.to_device(Device::Cpu).to_kind(Kind::Float);
    let mut values = Vec::<f32>::try_from(values.contiguous().view(-1)).unwrap();
    for row in values.chunks_mut(elements) {
        let largest = row.iter().fold(0f32, |all, value| all.max(value.abs()));
        let scale = (largest / 127.0).max(f32::MIN_POSITIVE);
        for value in row {
            *value = f32::from((*value / scale).round_ties_even() as i8) * scale;
        }
    }
    let values = Tensor::from_slice(&values).view(tensor.size().as_slice());
    values.to_kind(tensor.kind()).to_device(tensor.device())
}

/// The kinds that tch knows and can compute with.
pub(crate) const KINDS: [Kind; 12] = [
    Kind::Uint8,
    Kind::Int8,
    Kind::Int16,
    Kind::Int,
    Kind::Int64,
    Kind::Half,
    Kind::BFloat16,
    Kind::Float,
    Kind::Double,
    Kind::Bool,
    Kind::ComplexFloat,
    Kind::ComplexDouble,
];

/// Kinds that outputs are rounded to. None of them is beyond the range of `Float8e4m3fn`.
const ROUNDED: [Kind; 5] = [
    Kind::Half,
    Kind::BFloat16,
    Kind::Float8e4m3fn,
    Kind::Float8e5m2,
    Kind::QInt8,
];

/// Everything that a run depends on, so that proptest can repeat and shrink a failure.
#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    kind: usize,
    shape: Vec<i64>,
    batches: Vec<Vec<i64>>,
    transposed: bool,
    extra: bool,
    offset: i64,
    scale: i64,
    persistent: bool,
    zstd: bool,
    mmap: bool,
    memory: u64,
    on_device: bool,
    eviction: Eviction,
    dtype: Option<Kind>,
}

prop_compose! {
    fn cases()(
        seed in any::<u64>(),
        kind in 0..KINDS.len(),
        shape in prop::collection::vec(0i64..4, 0..3),
        batches in prop::collection::vec(prop::collection::vec(0i64..12, 1..10), 2..6),
        transposed in any::<bool>(),
        extra in any::<bool>(),
        offset in -2i64..2,
        scale in 1i64..3,
        persistent in any::<bool>(),
        zstd in any::<bool>(),
        mmap in any::<bool>(),
        memory in prop::sample::select(vec![0u64, 700, 3_000, 1_000_000]),
        on_device in any::<bool>(),
        eviction in prop::sample::select(vec![Eviction::Lru, Eviction::Never, Eviction::Auto]),
        dtype in prop::option::of(prop::sample::select(&ROUNDED[..])),
    ) -> Case {
        Case {
            seed,
            kind,
            shape,
            batches,
            transposed,
            extra,
            offset,
            scale,
            persistent,
            zstd: zstd && persistent,
            mmap,
            memory,
            on_device,
            eviction,
            dtype,
        }
    }
}

fn build(case: &Case, directory: &std::path::Path) -> Random {
    Random {
        scale: case.scale,
        weight: Tensor::from_slice(&[1.0f64, 0.5, -3.0]).to_device(device()),
        computed: Cell::new(0),
        torchcache_persistent: case.persistent,
        torchcache_persistent_cache_dir: directory.to_owned(),
        torchcache_zstd_compression: case.zstd,
        torchcache_use_mmap_on_load: case.mmap,
        torchcache_memory_cache_device: Some((!case.on_device).then_some(Device::Cpu)),
        torchcache_max_memory_cache_size: case.memory,
        torchcache_eviction: case.eviction,
        torchcache_cache_dtype: case.dtype,
        cache: TorchCache::default(),
    }
}

/// Twelve rows to draw from. Values are small, so that every kind can hold them and rows collide in
/// an inexact hash. They depend on the seed alone: all tests of the process share torch's generator.
fn pool(case: &Case) -> Tensor {
    let shape: Vec<i64> = std::iter::once(12)
        .chain(case.shape.iter().copied())
        .collect();
    let count: i64 = shape.iter().product();
    let mut state = case.seed;
    let mut values = || {
        let values: Vec<i64> = (0..count).map(|_| below_three(&mut state)).collect();
        Tensor::from_slice(&values)
            .to_device(device())
            .view(shape.as_slice())
    };
    let kind = KINDS[case.kind];
    let part = match kind {
        Kind::ComplexFloat => Kind::Float,
        Kind::ComplexDouble => Kind::Double,
        _ => return values().to_kind(kind),
    };
    Tensor::complex(&values().to_kind(part), &values().to_kind(part))
}

/// 0, 1 or 2: the high bits of a linear congruential generator with Knuth's constants.
fn below_three(state: &mut u64) -> i64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) % 3) as i64
}

fn check(model: &Random, case: &Case, pool: &Tensor, batch: &[i64]) -> Result<(), TestCaseError> {
    let index = Tensor::from_slice(batch).to_device(device());
    let mut xs = pool.index_select(0, &index);
    if case.transposed && xs.dim() >= 3 {
        xs = xs.transpose(1, 2).contiguous().transpose(1, 2);
    }
    let extra = case.extra.then(|| index.unsqueeze(1));
    let (wide, rest) = model.forward(&xs, extra.as_ref(), case.offset);
    let (expected_wide, expected_rest) = outputs(model, &xs, extra.as_ref(), case.offset);
    let dtype = model.torchcache_cache_dtype;
    prop_assert!(same(&wide, &rounded(&expected_wide, dtype)));
    prop_assert_eq!(rest.len(), 2);
    for (part, expected) in rest.iter().zip(&expected_rest) {
        prop_assert!(same(part, &rounded(expected, dtype)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_output_equals_the_uncached_forward(case in cases()) {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(&case);
        let all = |model: &Random| {
            let mut batches = case.batches.iter();
            batches.try_for_each(|batch| check(model, &case, &pool, batch))
        };
        let model = build(&case, directory.path());
        all(&model)?;
        if case.memory == 1_000_000 || case.persistent {
            model.computed.set(0);
            all(&model)?;
            prop_assert_eq!(model.computed.get(), 0, "every row is a hit");
        }
        if case.persistent {
            drop(model);
            let reopened = build(&case, directory.path());
            all(&reopened)?;
            // A row alone is computed, once, to show its shape.
            prop_assert!(reopened.computed.get() <= 1, "from disk");
        }
    }
}
