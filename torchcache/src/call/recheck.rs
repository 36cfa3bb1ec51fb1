//! Verifying: a share of the hits is computed anew and compared with what the cache gave, as far as
//! floating point lets two batches agree. It watches the call and does not take part in it.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use tch::{Kind, TchError, Tensor};

use super::bypass::{self, Reason};
use super::lookup::Batch;
use super::outcome::parts;
use crate::argument::Rows;
use crate::cache::stats::Counters;
use crate::call::{Call, Stop};
use crate::error::{Problem, output};
use crate::output::Output;
use crate::schema::Schema;
use crate::tensor::layout;

impl Call<'_> {
    /// Computes a share of the hits anew, in one forward of their own. No lock is held. Whatever
    /// comes of it, the call returns what the cache gave; only an output that requires grad is
    /// refused, and a panic of the body passes through, as they would on a miss.
    pub(crate) fn verify_some<O: Output>(
        &self,
        batch: &Batch,
        body: &dyn Fn(&Rows) -> O,
    ) -> Result<(), Stop<O>> {
        let drawn = draw(self.options.verify, batch.hits());
        if drawn.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let compared = self.compared(batch, &drawn, body);
        Counters::time(&self.counters.verifying, start);
        let all = |how: &str| (drawn.len(), how.to_owned());
        let (mismatched, how) = match compared {
            Ok(found) => found,
            Err(Stop::Misuse(error)) if matches!(error.problem(), Problem::OutputRequiresGrad) => {
                return Err(Stop::Misuse(error));
            }
            // A fault of the machine says nothing of the rows.
            Err(Stop::Past(Reason::Unreadable(error))) => {
                self.memory_fault(&error);
                return Ok(());
            }
            Err(Stop::Return(_)) => all("the forward failed"),
            Err(Stop::Past(_) | Stop::Misuse(_)) => {
                all("the forward gave another number of rows, or rows of another shape or kind")
            }
        };
        Counters::add(&self.counters.verified, drawn.len());
        if mismatched > 0 {
            Counters::add(&self.counters.mismatched, mismatched);
            let reason = Reason::Mismatch(mismatched, drawn.len(), how);
            bypass::tell_once(self.subject, &reason);
        }
        Ok(())
    }

    /// How many of the drawn rows do not agree when they are computed anew, and how the first of
    /// them does not.
    fn compared<O: Output>(
        &self,
        batch: &Batch,
        drawn: &[usize],
        body: &dyn Fn(&Rows) -> O,
    ) -> Result<(usize, String), Stop<O>> {
        let unreadable = |error| Stop::Past(Reason::Unreadable(error));
        let rows = batch.rows_at(drawn);
        let rows = Rows::selected(self.arguments, &rows).map_err(unreadable)?;
        let (tensors, lengths) = parts(body(&rows), rows.count())?;
        // On the way that a computed row goes into the cache and out of it, rounding included.
        let computed = self.computed(&tensors, &lengths).map_err(Stop::Past)?;
        if !batch.admits(&computed.schema) {
            return Err(Stop::Past(Reason::ChangingShape));
        }
        let again = computed.schema.unpack(&computed.packed, self.home);
        let given = batch.outputs_at(drawn, self.home).map_err(unreadable)?;
        differing(&computed.schema, &given, &again.map_err(unreadable)?).map_err(unreadable)
    }
}

/// Some of the hits, each drawn by itself. Not with torch's generator: the random numbers of the
/// caller do not depend on what is verified.
fn draw(share: f64, hits: impl Iterator<Item = usize>) -> Vec<usize> {
    let random = RandomState::new();
    let number = |hit: &usize| (random.hash_one(hit) >> 11) as f64 / (1u64 << 53) as f64;
    hits.filter(|hit| number(hit) < share).collect()
}

/// How many rows do not agree, and a value of the first of them.
fn differing(
    schema: &Schema,
    given: &[Tensor],
    again: &[Tensor],
) -> Result<(usize, String), TchError> {
    let (mut rows, mut how) = (Vec::new(), String::new());
    let parts = schema.kinds().zip(schema.names());
    for ((kinds, name), (given, again)) in parts.zip(given.iter().zip(again)) {
        let count = given.size()[0] as usize;
        rows.resize(count, false);
        let (given, again) = (numbers(given)?, numbers(again)?);
        if given.is_empty() {
            continue;
        }
        let tolerance = Tolerance::of(kinds.0).or(Tolerance::of(kinds.1));
        let length = given.len() / count;
        let pairs = given.chunks(length).zip(again.chunks(length));
        for (differs, (given, again)) in rows.iter_mut().zip(pairs) {
            let Some((given, again)) = tolerance.disagreement(given, again) else {
                continue;
            };
            *differs = true;
            if how.is_empty() {
                how = format!(
                    "{} has {given} where {again} is computed now",
                    output(&name)
                );
            }
        }
    }
    Ok((rows.iter().filter(|&&differs| differs).count(), how))
}

/// The elements of a tensor in order; complex ones are two each, and so are integers of 64 bits,
/// which have more digits than an `f64`.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    let tensor = layout::on_cpu(tensor)?;
    let real = match tensor.f_kind()? {
        Kind::ComplexHalf | Kind::ComplexFloat | Kind::ComplexDouble => tensor.f_view_as_real()?,
        Kind::Int64 => tensor.f_view_dtype(Kind::Int)?,
        _ => tensor,
    };
    Vec::try_from(real.f_to_kind(Kind::Double)?.f_view(-1)?)
}

/// How far a value may be from the one it was.
///
/// PyTorch gives a row other last bits in another batch: sums are taken in another order. What that
/// comes to was measured on a CPU, for batches of 64 rows (or 16 images of 224×224) against the same
/// rows in parts of 1 to 63: linear layers (2048 to 2048 and to 1, with and without a softmax, for
/// inputs of size 0.001 to 1000), 20 linear layers with ReLU, one and six transformer layers,
/// ResNet-18 and ResNet-50, with random weights of three seeds. Beside it stands the least of the
/// changes that must be noticed: dropout of 1 % before or after a linear layer or in a transformer
/// layer, a mean over the batch taken off, batch norm that trains (ResNet-18, 64 rows against 16 and
/// 2). Both relative to the largest value of the row:
///
/// | kind | most noise | least change | allowed |
/// | --- | --- | --- | --- |
/// | `Double` | 2.6e-12 | 0.1 | 1e-7, as in `torch.testing.assert_close` |
/// | `Float` | 5.4e-5 | 0.1 | 2.6e-4, 200 times as much as there |
/// | `BFloat16` | 3.2e-3 | 0.1 | 3.2e-2, twice as much as there |
/// | `Half` | 2.8e-3 | 0.1 | 2e-2, 20 times as much as there |
///
/// The noise of `Double` and `Float` is that of rows of a single value that happens to be near zero;
/// without those it is 3.4e-14 and 3.3e-6. The largest value of the row counts, and not each value
/// by itself as in `assert_close`, because the noise of a sum is that of its terms: where they nearly
/// cancel, it came to 60,000 times of what is allowed there. The absolute difference that always
/// agrees is that of `assert_close`; it is for rows of a single such value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tolerance {
    absolute: f64,
    /// Of the largest value of the row.
    relative: f64,
}

impl Tolerance {
    fn of(kind: Kind) -> Self {
        let (absolute, relative) = match kind {
            Kind::Double | Kind::ComplexDouble => (1e-7, 1e-7),
            Kind::Float | Kind::ComplexFloat => (1e-5, 2.6e-4),
            Kind::BFloat16 => (1e-5, 3.2e-2),
            Kind::Half | Kind::ComplexHalf => (1e-5, 2e-2),
            // One step of the last place.
            Kind::Float8e4m3fn | Kind::Float8e4m3fnuz => (1e-5, 0.125),
            Kind::Float8e5m2 | Kind::Float8e5m2fnuz => (1e-5, 0.25),
            _ => (0.0, 0.0),
        };
        Tolerance { absolute, relative }
    }

    /// The coarser of both.
    fn or(self, other: Self) -> Self {
        Tolerance {
            absolute: self.absolute.max(other.absolute),
            relative: self.relative.max(other.relative),
        }
    }

    /// The first values of a row that do not agree.
    fn disagreement(self, given: &[f64], again: &[f64]) -> Option<(f64, f64)> {
        let finite = given.iter().filter(|value| value.is_finite());
        let largest = finite.fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let allowed = self.absolute + self.relative * largest;
        let agree = |a: f64, b: f64| {
            // The first is for infinities, which have no difference.
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= allowed
        };
        let pairs = given.iter().copied().zip(again.iter().copied());
        pairs
            .into_iter()
            .find(|&(given, again)| !agree(given, again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// How many rows of one part do not agree.
    fn mismatched(given: &Tensor, again: &Tensor, cache_dtype: Option<Kind>) -> usize {
        let one = std::slice::from_ref(given);
        let schema = Schema::of("T", one, Vec::new(), cache_dtype, Device::Cpu).unwrap();
        let again = std::slice::from_ref(again);
        let (rows, how) = differing(&schema, one, again).unwrap();
        assert_eq!(rows == 0, how.is_empty());
        rows
    }

    fn agree(given: &[f64], again: &[f64], kind: Kind) -> bool {
        let row = |values: &[f64]| Tensor::from_slice(values).to_kind(kind).unsqueeze(0);
        mismatched(&row(given), &row(again), None) == 0
    }

    #[test]
    fn each_kind_has_its_tolerance_of_the_largest_value_of_the_row() {
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
    fn integers_and_bools_are_exact() {
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

    #[test]
    fn nan_agrees_with_nan_and_infinities_by_their_sign() {
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
    fn complex_numbers_go_by_their_parts() {
        let complex = |imaginary: f32| {
            let parts = [1.0f32, imaginary].map(|part| Tensor::from_slice(&[part]));
            Tensor::complex(&parts[0], &parts[1])
        };
        assert_eq!(mismatched(&complex(2.0), &complex(2.0001), None), 0);
        assert_eq!(mismatched(&complex(2.0), &complex(-2.0), None), 1);
    }

    #[test]
    fn a_rounded_output_goes_by_the_coarser_kind() {
        let given = Tensor::from_slice(&[1.0f32]);
        let again = Tensor::from_slice(&[1.01f32]);
        assert_eq!(mismatched(&given, &again, None), 1);
        assert_eq!(mismatched(&given, &again, Some(Kind::Half)), 0);
        assert_eq!(mismatched(&given, &again, Some(Kind::Double)), 1);
        let again = Tensor::from_slice(&[1.000_1f32]);
        assert_eq!(mismatched(&given, &again, Some(Kind::Double)), 0);
    }

    #[test]
    fn rows_of_several_parts_are_counted_once_and_the_first_is_told() {
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
        let schema = Schema::of("(TTT)", &given, Vec::new(), None, Device::Cpu).unwrap();
        assert_eq!(
            differing(&schema, &given, &again).unwrap(),
            (2, "output `0` has 3 where 5 is computed now".to_owned())
        );
    }

    #[test]
    fn each_hit_is_drawn_by_itself() {
        assert_eq!(draw(1.0, 0..5), [0, 1, 2, 3, 4]);
        assert!(draw(0.0, 0..1000).is_empty());
        // Of calls of one row each as of one call of many, about one in ten: six standard deviations.
        let single: usize = (0..10_000).map(|_| draw(0.1, 0..1).len()).sum();
        let at_once = draw(0.1, 0..10_000).len();
        for drawn in [single, at_once] {
            assert!((820..1180).contains(&drawn), "{drawn}");
        }
        assert_ne!(draw(0.5, 0..100), draw(0.5, 0..100));
    }
}
