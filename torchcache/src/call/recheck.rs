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

/// A tensor of an output, in the rows that are compared.
struct ComparedTensor {
    kind: Kind,
    tolerance: Tolerance,
    /// How many numbers a row has.
    length: usize,
    cached: Vec<f64>,
    recomputed: Vec<f64>,
}

impl ComparedTensor {
    /// The cached and the recomputed numbers of a row.
    fn row(&self, row: usize) -> (&[f64], &[f64]) {
        let numbers = row * self.length..(row + 1) * self.length;
        (&self.cached[numbers.clone()], &self.recomputed[numbers])
    }
}

/// Compares the tensors of cached rows with those of the same rows computed again.
pub(crate) fn compare(
    schema: &TensorSchema,
    cached: &[Tensor],
    recomputed: &[Tensor],
) -> Result<Comparison, TchError> {
    let rows = cached.first().map_or(0, |tensor| tensor.size()[0] as usize);
    let tensors = schema.kinds().zip(cached.iter().zip(recomputed));
    let column = |((stored, kind), (cached, recomputed))| {
        let (cached, recomputed) = (numbers(cached)?, numbers(recomputed)?);
        Ok(ComparedTensor {
            kind,
            tolerance: Tolerance::for_kind(stored).coarser(Tolerance::for_kind(kind)),
            length: cached.len() / rows.max(1),
            cached,
            recomputed,
        })
    };
    let columns: Vec<ComparedTensor> = tensors.map(column).collect::<Result<_, TchError>>()?;
    let mut differs = vec![false; rows];
    // Of the first tensor that differs, in its first row.
    let mut example = String::new();
    for (column, name) in columns.iter().zip(schema.names()) {
        for (row, differs) in differs.iter_mut().enumerate() {
            let tolerance = quantized(column, &columns, row).unwrap_or(column.tolerance);
            let (cached, recomputed) = column.row(row);
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

/// How far the integers of a row may be off, if they are quantized: off by the noise of the scaled values and
/// then by rounding, which is one unit, or two where the offset of the values was rounded as well. Other
/// integers, such as classes and masks, are compared exactly.
///
/// A row is quantized if it uses the whole range of 8 or 16 bits, as the largest value of a row or group does by
/// which it was scaled, and the output has its scales: positive floats, one or as many as divide the row.
/// Offsets are as many as scales, and of the kind of the values. In a map of classes of `Uint8`, 255 often stands
/// for no class: the upper half of its range must have another value.
fn quantized(column: &ComparedTensor, columns: &[ComparedTensor], row: usize) -> Option<Tolerance> {
    let range = match column.kind {
        Kind::Int8 => 127.0,
        // One less, if the offset was rounded down.
        Kind::Uint8 => 254.0,
        Kind::Int16 => 32_767.0,
        _ => return None,
    };
    let is_full = |column: &ComparedTensor| {
        let values = column.row(row).0;
        let largest = largest(values);
        let is_next = |value: &f64| *value < largest && *value > range / 2.0;
        largest >= range && (column.kind != Kind::Uint8 || values.iter().any(is_next))
    };
    let same = || columns.iter().filter(|other| other.kind == column.kind);
    let values = match is_full(column) {
        true => column,
        // An offset does not use the range.
        false => same().find(|other| other.length > column.length && is_full(other))?,
    };
    let is_scale = |scales: &&ComparedTensor| {
        let is_valid = |scale: &f64| scale.is_finite() && *scale > 0.0;
        scales.tolerance.relative > 0.0
            && (1..values.length).contains(&scales.length)
            && values.length.is_multiple_of(scales.length)
            && (std::ptr::eq(values, column) || scales.length == column.length)
            && scales.row(row).0.iter().all(is_valid)
    };
    let scales = || columns.iter().filter(is_scale);
    let tolerances = scales().map(|scales| scales.tolerance);
    let Tolerance { relative, .. } = tolerances.reduce(Tolerance::coarser)?;
    let is_offset = |other: &ComparedTensor| scales().any(|scales| scales.length == other.length);
    let has_offset = same().any(|other| other.length < column.length && is_offset(other));
    let absolute = if has_offset { 2.0 } else { 1.0 };
    Some(Tolerance { absolute, relative })
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
            // One unit, and twice the tolerance of `Float`, whose noise is in the scale as well.
            Kind::QInt8 => (1e-5, 1.0 / 127.0 + 5.2e-4),
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
    use crate::schema::CallDevices;
    use tch::Device;

    /// How many rows of one tensor differ.
    fn mismatched(given: &Tensor, again: &Tensor, cache_dtype: Option<Kind>) -> usize {
        let one = std::slice::from_ref(given);
        let schema =
            TensorSchema::from_outputs("T", one, Vec::new(), cache_dtype, &CallDevices::CPU)
                .unwrap();
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
            TensorSchema::from_outputs(&parts, given, Vec::new(), None, &CallDevices::CPU).unwrap();
        compare(&schema, given, again).unwrap().mismatched
    }

    const SMALL_INTEGERS: [(Kind, i64); 3] =
        [(Kind::Int8, 127), (Kind::Uint8, 255), (Kind::Int16, 32_767)];

    fn row_of(values: &[i64], kind: Kind) -> Tensor {
        Tensor::from_slice(values).to_kind(kind).unsqueeze(0)
    }

    /// Whether integers differ next to the same floats.
    fn differ(kind: Kind, cached: &[i64], again: &[i64], floats: &Tensor) -> bool {
        let output = |values| [row_of(values, kind), floats.shallow_clone()];
        mismatched_of(&output(cached), &output(again)) > 0
    }

    #[test]
    fn integers_with_a_scale_a_row_are_off_by_rounding() {
        let scales = |values: &[f64], kind| Tensor::from_slice(values).to_kind(kind).unsqueeze(0);
        for (kind, full) in SMALL_INTEGERS {
            // A map of classes with pixels of none has no other large value.
            let next = if kind == Kind::Uint8 { 128 } else { 7 };
            let cached = [full, 3, next, 0];
            let differs = |again: &[i64], scales: &Tensor| differ(kind, &cached, again, scales);
            let float = scales(&[0.013], Kind::Float);
            let relative = full / 3_800;
            assert!(
                !differs(&[full - 1, 4, next, 1 + relative], &float),
                "{kind:?}"
            );
            assert!(differs(&[full, 3, next, 2 + relative], &float), "{kind:?}");
            // The values were scaled by a coarser kind.
            let half = scales(&[0.013], Kind::Half);
            assert!(!differs(&[full - full / 50, 3, next, 0], &half), "{kind:?}");
            assert!(differs(&[full - full / 12, 3, next, 0], &half), "{kind:?}");
            // A scale for every two.
            let pair = scales(&[0.013, 0.5], Kind::Float);
            assert!(!differs(&[full, 4, next, 0], &pair), "{kind:?}");
            // No scales: one for each, and none that divides the row.
            for count in [3, 4, 5] {
                let scores = scales(&[0.1; 5][..count], Kind::Float);
                assert!(
                    differs(&[full - 1, 3, next, 0], &scores),
                    "{kind:?}, {count}"
                );
            }
        }
        // Wide integers.
        for kind in [Kind::Int, Kind::Int64] {
            let float = scales(&[0.013], Kind::Float);
            assert!(differ(kind, &[127, 3, 7, 0], &[126, 3, 7, 0], &float));
        }
    }

    #[test]
    fn classes_next_to_floats_compare_exactly() {
        let logits = |values: &[f32]| Tensor::from_slice(values).unsqueeze(0);
        for (kind, full) in SMALL_INTEGERS {
            for floats in [
                logits(&[0.9]),
                logits(&[0.2, 0.8]),
                logits(&[1.5, -0.3, 0.1]),
                logits(&[-2.0]),
                logits(&[0.0; 8]),
            ] {
                let is_noticed = |classes: [i64; 8], again: [i64; 8]| {
                    assert!(differ(kind, &classes, &again, &floats), "{kind:?}");
                };
                // Of 2, 8, 21 and 120 classes.
                is_noticed([1, 0, 1, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0, 1, 1]);
                is_noticed([7, 3, 0, 1, 2, 5, 6, 7], [6, 3, 0, 1, 2, 5, 6, 7]);
                is_noticed([20, 3, 0, 1, 2, 5, 6, 7], [20, 3, 0, 1, 2, 5, 6, 8]);
                is_noticed([119, 3, 0, 1, 2, 5, 6, 7], [118, 3, 0, 1, 2, 5, 6, 7]);
            }
            // A class at the limit of its kind, next to what is no scale.
            for floats in [logits(&[-2.0]), logits(&[0.0, 1.0]), logits(&[f32::NAN])] {
                assert!(differ(kind, &[full, 3], &[full, 4], &floats), "{kind:?}");
                assert!(differ(kind, &[full, 3, 1, 0], &[full, 4, 1, 0], &floats));
            }
        }
        // Pixels of no class, of 21 and 128 classes.
        for (ignored, largest) in [(255, 20), (255, 127), (254, 127)] {
            for scores in [Kind::Float, Kind::Half].map(|kind| logits(&[0.9]).to_kind(kind)) {
                let is_noticed = |cached: [i64; 4], again: [i64; 4]| {
                    assert!(differ(Kind::Uint8, &cached, &again, &scores), "{cached:?}");
                };
                is_noticed([ignored, 3, largest, 0], [ignored, 4, largest, 0]);
                is_noticed([ignored, ignored, 0, largest], [ignored, ignored, 0, 9]);
                is_noticed([ignored, 3, largest, 0], [ignored - 1, 3, largest, 0]);
            }
        }
        // A class of a row whose values are quantized, by another number of scales.
        let output = |class: u8| {
            [
                Tensor::from_slice(&[255u8, 0, 130, 9]).unsqueeze(0),
                Tensor::from_slice(&[0.02f32, 0.5]).unsqueeze(0),
                Tensor::from_slice(&[class]),
            ]
        };
        assert_eq!(mismatched_of(&output(8), &output(9)), 1);
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
            TensorSchema::from_outputs("(TTT)", &given, Vec::new(), None, &CallDevices::CPU)
                .unwrap();
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
