//! Comparing recomputed rows with cached ones, within what floating point allows rows of two batches
//! to differ.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use tch::{Kind, TchError, Tensor};

use crate::error::output;
use crate::schema::TensorSchema;
use crate::tensor::layout;

/// How recomputed rows compare with cached ones.
#[derive(Debug, PartialEq)]
pub(crate) struct Comparison {
    /// How many rows differ.
    pub(crate) mismatched: usize,
    /// The first difference; empty where there is none.
    pub(crate) example: String,
}

impl Comparison {
    /// Every row of a sample differs, for one reason.
    pub(crate) fn all_differ(sample: &[usize], reason: &str) -> Self {
        Comparison {
            mismatched: sample.len(),
            example: reason.to_owned(),
        }
    }
}

thread_local! {
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, this thread recomputes rows to verify them: the caches of modules inside the
/// verified one compute their rows as well, since a wrong row of theirs would confirm itself.
#[derive(Debug)]
pub(crate) struct Recomputing {
    outer: bool,
}

impl Recomputing {
    pub(crate) fn start() -> Self {
        let outer = RECOMPUTING.replace(true);
        Recomputing { outer }
    }

    /// Whether this thread recomputes rows.
    pub(crate) fn is_active() -> bool {
        RECOMPUTING.get()
    }
}

impl Drop for Recomputing {
    fn drop(&mut self) {
        RECOMPUTING.set(self.outer);
    }
}

/// Samples the hits, each independently. Not with torch's generator, so that verifying does not
/// change the caller's random numbers.
pub(crate) fn sample(share: f64, hits: impl Iterator<Item = usize>) -> Vec<usize> {
    let random = RandomState::new();
    let number = |hit: &usize| (random.hash_one(hit) >> 11) as f64 / (1u64 << 53) as f64;
    hits.filter(|hit| number(hit) < share).collect()
}

/// Compares the tensors of cached rows with those of the same rows computed again.
pub(crate) fn compare(
    schema: &TensorSchema,
    cached: &[Tensor],
    recomputed: &[Tensor],
) -> Result<Comparison, TchError> {
    let (mut differs, mut example) = (Vec::new(), String::new());
    let columns = schema.kinds().zip(schema.names()).zip(quantized(schema));
    for (((kinds, name), quantized), (cached, recomputed)) in
        columns.zip(cached.iter().zip(recomputed))
    {
        let rows = cached.size()[0] as usize;
        differs.resize(rows, false);
        let (cached, recomputed) = (numbers(cached)?, numbers(recomputed)?);
        if cached.is_empty() {
            continue;
        }
        let tolerance = Tolerance::for_kind(kinds.0).coarser(Tolerance::for_kind(kinds.1));
        let length = cached.len() / rows;
        let pairs = cached.chunks(length).zip(recomputed.chunks(length));
        for (differs, (cached, recomputed)) in differs.iter_mut().zip(pairs) {
            let quantized = quantized.filter(|_| largest(cached) >= LEAST_RANGE);
            let tolerance = quantized.unwrap_or(tolerance);
            let difference = tolerance.first_difference(cached, recomputed);
            let Some((cached, recomputed)) = difference else {
                continue;
            };
            *differs = true;
            if example.is_empty() {
                let output = output(&name);
                example = format!("{output} has {cached} where {recomputed} is computed now");
            }
        }
    }
    Ok(Comparison {
        mismatched: differs.iter().filter(|&&differs| differs).count(),
        example,
    })
}

/// The elements of a tensor in order. Complex elements are two numbers each, and so are 64-bit
/// integers, which an `f64` cannot hold exactly.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    let tensor = layout::on_cpu(tensor)?;
    let real = match tensor.f_kind()? {
        Kind::ComplexHalf | Kind::ComplexFloat | Kind::ComplexDouble => tensor.f_view_as_real()?,
        Kind::Int64 => tensor.f_view_dtype(Kind::Int)?,
        _ => tensor,
    };
    Vec::try_from(real.f_to_kind(Kind::Double)?.f_view(-1)?)
}

/// Integers of a smaller range are taken for classes, which are compared exactly: that of four bits.
const LEAST_RANGE: f64 = 7.0;

/// For each tensor of an output how far its integers may be off, if they are quantized: those of 8 or 16
/// bits with a float for several of them, their scale, in the same output. They are off by the noise of
/// the scaled values and then by rounding, which is one unit, or two where the offset of the values was
/// rounded as well.
fn quantized(schema: &TensorSchema) -> Vec<Option<Tolerance>> {
    let lengths = schema.tensors.iter();
    let lengths = lengths.map(|spec| spec.shape.iter().product::<i64>());
    let parts: Vec<(Kind, i64)> = schema.kinds().map(|(_, kind)| kind).zip(lengths).collect();
    let of_part = |&(kind, length): &(Kind, i64)| {
        if !matches!(kind, Kind::Int8 | Kind::Uint8 | Kind::Int16) {
            return None;
        }
        // Offsets are as many as scales, and of the kind of the values.
        let same = || parts.iter().filter(move |(other, _)| *other == kind);
        let values = same().map(|&(_, length)| length).max()?;
        let scales = parts.iter().filter_map(|&(kind, scales)| {
            let tolerance = Tolerance::for_kind(kind);
            let is_scale = tolerance.relative > 0.0 && scales < values && scales <= length;
            is_scale.then_some(tolerance)
        });
        let Tolerance { relative, .. } = scales.reduce(Tolerance::coarser)?;
        let has_offset = same().any(|&(_, other)| other < length);
        let absolute = if has_offset { 2.0 } else { 1.0 };
        Some(Tolerance { absolute, relative })
    };
    parts.iter().map(of_part).collect()
}

/// The largest finite absolute value.
fn largest(row: &[f64]) -> f64 {
    let finite = row.iter().filter(|value| value.is_finite());
    finite.fold(0.0, |largest: f64, value| largest.max(value.abs()))
}

/// How far a recomputed value may be from the cached one.
///
/// In another batch PyTorch computes other last bits of a row, since sums are taken in another
/// order. The noise was measured on a CPU, for batches of 64 rows (or 16 images of 224×224) against
/// the same rows in batches of 1 to 63: linear layers (2048 to 2048 and to 1, with and without a
/// softmax, for inputs of size 0.001 to 1000), 20 linear layers with ReLU, one and six transformer
/// layers, ResNet-18 and ResNet-50, with random weights of three seeds. The table also has the
/// smallest change that must be noticed: dropout of 1 % before or after a linear layer or in a
/// transformer layer, a mean over the batch subtracted, batch norm in train mode (ResNet-18, 64 rows
/// against 16 and 2). Both are relative to the largest value of the row:
///
/// | kind | largest noise | smallest change | allowed |
/// | --- | --- | --- | --- |
/// | `Double` | 2.6e-12 | 0.1 | 1e-7, as in `torch.testing.assert_close` |
/// | `Float` | 5.4e-5 | 0.1 | 2.6e-4, 200 times as much as there |
/// | `BFloat16` | 3.2e-3 | 0.1 | 3.2e-2, twice as much as there |
/// | `Half` | 2.8e-3 | 0.1 | 2e-2, 20 times as much as there |
///
/// The noise of `Double` and `Float` is that of rows with a single value near zero; without those it
/// is 3.4e-14 and 3.3e-6. The difference is relative to the largest value of the row, and not to each
/// value as in `assert_close`, because the noise of a sum is that of its terms: where they nearly
/// cancel, it was 60,000 times what `assert_close` allows. The absolute difference is that of
/// `assert_close`; it matters for rows with a single value near zero.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tolerance {
    absolute: f64,
    /// Of the largest value of the row.
    relative: f64,
}

impl Tolerance {
    fn for_kind(kind: Kind) -> Self {
        let (absolute, relative) = match kind {
            Kind::Double | Kind::ComplexDouble => (1e-7, 1e-7),
            Kind::Float | Kind::ComplexFloat => (1e-5, 2.6e-4),
            Kind::BFloat16 => (1e-5, 3.2e-2),
            Kind::Half | Kind::ComplexHalf => (1e-5, 2e-2),
            // One unit in the last place.
            Kind::Float8e4m3fn | Kind::Float8e4m3fnuz => (1e-5, 0.125),
            Kind::Float8e5m2 | Kind::Float8e5m2fnuz => (1e-5, 0.25),
            _ => (0.0, 0.0),
        };
        Tolerance { absolute, relative }
    }

    /// The coarser of both.
    fn coarser(self, other: Self) -> Self {
        Tolerance {
            absolute: self.absolute.max(other.absolute),
            relative: self.relative.max(other.relative),
        }
    }

    /// The first values of a row that differ.
    fn first_difference(self, cached: &[f64], recomputed: &[f64]) -> Option<(f64, f64)> {
        let allowed = self.absolute + self.relative * largest(cached);
        let agree = |a: f64, b: f64| {
            // Equal infinities have no difference.
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= allowed
        };
        let mut pairs = cached.iter().copied().zip(recomputed.iter().copied());
        pairs.find(|&(cached, recomputed)| !agree(cached, recomputed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// How many rows of one tensor differ.
    fn mismatched(given: &Tensor, again: &Tensor, cache_dtype: Option<Kind>) -> usize {
        let one = std::slice::from_ref(given);
        let schema =
            TensorSchema::from_outputs("T", one, Vec::new(), cache_dtype, Device::Cpu).unwrap();
        let again = std::slice::from_ref(again);
        let comparison = compare(&schema, one, again).unwrap();
        let Comparison {
            mismatched,
            example,
        } = comparison;
        assert_eq!(mismatched == 0, example.is_empty());
        mismatched
    }

    fn agree(given: &[f64], again: &[f64], kind: Kind) -> bool {
        let row = |values: &[f64]| Tensor::from_slice(values).to_kind(kind).unsqueeze(0);
        mismatched(&row(given), &row(again), None) == 0
    }

    #[test]
    fn tolerance_is_relative_to_the_largest_value_of_a_row() {
        for (kind, allowed) in [
            (Kind::Double, 1e-7),
            (Kind::Float, 2.6e-4),
            (Kind::BFloat16, 3.2e-2),
            (Kind::Half, 2e-2),
            (Kind::Float8e4m3fn, 0.125),
            (Kind::Float8e5m2, 0.25),
        ] {
            for scale in [-100.0, 1.0, 50.0] {
                let off = |by: f64| [scale, by * allowed * scale];
                assert!(agree(&off(0.0), &off(0.8), kind), "{kind:?}, {scale}");
                assert!(!agree(&off(0.0), &off(2.5), kind), "{kind:?}, {scale}");
            }
        }
        assert!(agree(&[0.0], &[0.9e-5], Kind::Float), "absolute");
        assert!(!agree(&[0.0], &[1.1e-5], Kind::Float), "absolute");
    }

    #[test]
    fn integers_and_bools_compare_exactly() {
        for kind in [Kind::Uint8, Kind::Int8, Kind::Int16, Kind::Int, Kind::Int64] {
            assert!(agree(&[100.0, 3.0], &[100.0, 3.0], kind), "{kind:?}");
            assert!(!agree(&[100.0, 3.0], &[100.0, 4.0], kind), "{kind:?}");
        }
        assert!(!agree(&[1.0, 1.0], &[1.0, 0.0], Kind::Bool));
        let large = Tensor::from_slice(&[i64::MAX, i64::MAX, i64::MIN]);
        let other = Tensor::from_slice(&[i64::MAX, i64::MAX - 1, i64::MIN + 1]);
        assert_eq!(mismatched(&large, &large, None), 0);
        assert_eq!(mismatched(&large, &other, None), 2, "by one in 2^63");
    }

    /// How many rows of an output of several tensors differ.
    fn mismatched_of(given: &[Tensor], again: &[Tensor]) -> usize {
        let parts = format!("({})", "T".repeat(given.len()));
        let schema =
            TensorSchema::from_outputs(&parts, given, Vec::new(), None, Device::Cpu).unwrap();
        compare(&schema, given, again).unwrap().mismatched
    }

    #[test]
    fn integers_with_a_scale_a_row_are_off_by_rounding() {
        let row = |values: &[i64], kind| Tensor::from_slice(values).to_kind(kind).unsqueeze(0);
        let scale = |kind| Tensor::from_slice(&[0.013f64]).to_kind(kind);
        for kind in [Kind::Int8, Kind::Uint8, Kind::Int16] {
            let cached = || row(&[100, 3, 7, 0], kind);
            let differs = |again: &[i64], scale: &Tensor| {
                let given = [cached(), scale.shallow_clone()];
                mismatched_of(&given, &[row(again, kind), scale.shallow_clone()]) > 0
            };
            let float = scale(Kind::Float);
            assert!(!differs(&[99, 4, 7, 1], &float), "{kind:?}");
            assert!(differs(&[98, 3, 7, 0], &float), "{kind:?}");
            // The values were scaled by a coarser kind.
            assert!(!differs(&[98, 3, 7, 0], &scale(Kind::Half)), "{kind:?}");
            assert!(differs(&[90, 3, 7, 0], &scale(Kind::Half)), "{kind:?}");
            // A float for each of them is no scale.
            let scores = Tensor::from_slice(&[0.1f32, 0.2, 0.3, 0.4]).unsqueeze(0);
            assert!(differs(&[99, 3, 7, 0], &scores), "{kind:?}");
        }
        let float = scale(Kind::Float);
        // Classes, a mask, and wide integers.
        for (kind, cached, again) in [
            (Kind::Uint8, [6, 0, 1, 2], [5, 0, 1, 2]),
            (Kind::Int8, [1, 0, 1, 0], [1, 1, 1, 0]),
            (Kind::Int64, [100, 3, 7, 0], [99, 3, 7, 0]),
            (Kind::Int, [100, 3, 7, 0], [99, 3, 7, 0]),
        ] {
            let output = |values: &[i64]| [row(values, kind), float.shallow_clone()];
            assert_eq!(
                mismatched_of(&output(&cached), &output(&again)),
                1,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_offset_a_row_is_off_by_one_and_its_values_by_two() {
        let output = |values: &[u8], offset: u8| {
            [
                Tensor::from_slice(values).unsqueeze(0),
                Tensor::from_slice(&[0.02f32]),
                Tensor::from_slice(&[offset]),
            ]
        };
        let cached = output(&[255, 0, 130], 128);
        assert_eq!(mismatched_of(&cached, &output(&[254, 2, 129], 127)), 0);
        assert_eq!(mismatched_of(&cached, &output(&[252, 0, 130], 128)), 1);
        assert_eq!(mismatched_of(&cached, &output(&[255, 0, 130], 126)), 1);
    }

    #[test]
    fn nan_equals_nan_and_infinities_compare_by_sign() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        for kind in [Kind::Half, Kind::Float, Kind::Double] {
            let row = [nan, infinity, -infinity, 1.0];
            assert!(agree(&row, &row, kind));
            for other in [
                [1.0, infinity, -infinity, 1.0],
                [nan, -infinity, -infinity, 1.0],
                [nan, 1.0, -infinity, 1.0],
                [nan, infinity, nan, 1.0],
                [nan, infinity, -infinity, 2.0],
            ] {
                assert!(!agree(&row, &other, kind), "{other:?}");
                assert!(!agree(&other, &row, kind), "{other:?}");
            }
        }
    }

    #[test]
    fn complex_numbers_compare_by_component() {
        let complex = |imaginary: f32| {
            let parts = [1.0f32, imaginary].map(|part| Tensor::from_slice(&[part]));
            Tensor::complex(&parts[0], &parts[1])
        };
        assert_eq!(mismatched(&complex(2.0), &complex(2.0001), None), 0);
        assert_eq!(mismatched(&complex(2.0), &complex(-2.0), None), 1);
    }

    #[test]
    fn a_rounded_output_compares_by_the_coarser_kind() {
        let given = Tensor::from_slice(&[1.0f32]);
        let again = Tensor::from_slice(&[1.01f32]);
        assert_eq!(mismatched(&given, &again, None), 1);
        assert_eq!(mismatched(&given, &again, Some(Kind::Half)), 0);
        assert_eq!(mismatched(&given, &again, Some(Kind::Double)), 1);
        let again = Tensor::from_slice(&[1.000_1f32]);
        assert_eq!(mismatched(&given, &again, Some(Kind::Double)), 0);
    }

    #[test]
    fn a_row_that_differs_in_two_tensors_counts_once() {
        let given = [
            Tensor::from_slice(&[1i64, 2, 3]),
            Tensor::zeros([3, 0], (Kind::Float, Device::Cpu)),
            Tensor::from_slice(&[0.0f32, 0.5, 0.0]),
        ];
        let again = [
            Tensor::from_slice(&[1i64, 2, 5]),
            given[1].copy(),
            Tensor::from_slice(&[0.0f32, 1.5, 1.0]),
        ];
        let schema =
            TensorSchema::from_outputs("(TTT)", &given, Vec::new(), None, Device::Cpu).unwrap();
        let comparison = compare(&schema, &given, &again).unwrap();
        assert_eq!(
            comparison,
            Comparison {
                mismatched: 2,
                example: "output `0` has 3 where 5 is computed now".to_owned(),
            }
        );
    }

    #[test]
    fn hits_are_sampled_independently() {
        assert_eq!(sample(1.0, 0..5), [0, 1, 2, 3, 4]);
        assert!(sample(0.0, 0..1000).is_empty());
        // One in ten within six standard deviations, in calls of one row each and in one call.
        let single: usize = (0..10_000).map(|_| sample(0.1, 0..1).len()).sum();
        let at_once = sample(0.1, 0..10_000).len();
        for sampled in [single, at_once] {
            assert!((820..1180).contains(&sampled), "{sampled}");
        }
        assert_ne!(sample(0.5, 0..100), sample(0.5, 0..100));
    }
}
