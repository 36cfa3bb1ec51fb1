//! `#[padded]` arguments: trailing padding is not part of the key, and the forward gets the missing rows without what
//! all of them have of it. `#[id(any_shape)]`, and rows that are lists.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use tch::{Kind, Tensor};
use torchcache::{Error, ErrorKind, Fingerprint, Prefill, TorchCache, torchcache};

use crate::support::{assert_panics, counts, device, logged, random, same, warnings};

/// The sizes of what a forward got.
#[derive(Debug, Default)]
struct Seen(RefCell<Vec<Vec<i64>>>);

impl Seen {
    fn note(&self, tensor: &Tensor) {
        self.0.borrow_mut().push(tensor.size());
    }

    /// Those since the last call of this.
    fn take(&self) -> Vec<Vec<i64>> {
        self.0.take()
    }
}

/// Rows of integers, padded to a length.
fn padded(rows: &[&[i64]], length: usize, value: i64) -> Tensor {
    let pad = |row: &&[i64]| {
        let padding = std::iter::repeat_n(value, length - row.len());
        row.iter().copied().chain(padding).collect::<Vec<_>>()
    };
    let values: Vec<i64> = rows.iter().flat_map(pad).collect();
    let tensor = Tensor::from_slice(&values).view([rows.len() as i64, length as i64]);
    tensor.to_device(device())
}

/// The sum of each row, in one column.
fn sums(ids: &Tensor) -> Tensor {
    ids.sum_dim_intlist(1, true, Kind::Int64)
}

const TEXTS: [&[i64]; 4] = [&[7, 5, 3], &[9, 4], &[2, 0, 0, 6], &[8]];

#[test]
fn a_row_is_a_hit_whatever_its_padding() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor, #[skip] seen: &Seen) -> Tensor {
        seen.note(ids);
        sums(ids)
    }
    let (cache, seen) = (embed_cache(), Seen::default());
    let first = embed(&padded(&TEXTS[..2], 3, 0), &seen);
    assert_eq!(first, padded(&[&[15], &[13]], 1, 0));
    // The whole batch, and for the shape of the output two rows of another length.
    assert_eq!(seen.take(), [[2, 3], [2, 2]]);

    let again = embed(&padded(&[TEXTS[1], TEXTS[0], TEXTS[1]], 9, 0), &seen);
    assert_eq!(again, padded(&[&[13], &[15], &[13]], 1, 0));
    assert_eq!(seen.take(), [[2, 9]], "for the shape of a longer output");
    embed(&padded(&TEXTS[..2], 6, 0), &seen);
    assert_eq!(seen.take(), [[0; 2]; 0]);
    embed(&padded(&TEXTS[1..2], 2, 0), &seen);
    assert_eq!(seen.take(), [[1, 2]], "for the shape of one row");
    assert_eq!(counts(cache), (2, 5, 0));
    assert_eq!(cache.stats().duplicates, 1);
}

#[test]
fn the_forward_gets_the_missing_rows_cut_to_the_longest_of_them() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor, #[skip] seen: &Seen) -> Tensor {
        assert!(ids.is_contiguous());
        seen.note(ids);
        sums(ids)
    }
    let seen = Seen::default();
    // All rows are missing, and end in common padding.
    embed(&padded(&TEXTS[..2], 8, 0), &seen);
    assert_eq!(seen.take(), [[2, 3], [2, 8]]);
    let long: &[i64] = &[1; 7];
    embed(&padded(&[TEXTS[0], long], 8, 0), &seen);
    assert_eq!(seen.take(), [[1, 7]]);
    // The longest one is a hit.
    let embedded = embed(&padded(&[TEXTS[3], long, TEXTS[2]], 7, 0), &seen);
    assert_eq!(embedded, padded(&[&[8], &[7], &[8]], 1, 0));
    assert_eq!(seen.take(), [[2, 4]], "within a row nothing is padding");
    assert_eq!(counts(embed_cache()), (5, 2, 0));
}

#[test]
fn rows_of_padding_and_of_one_element_are_not_empty() {
    #[torchcache]
    fn embed(#[padded(-1)] ids: &Tensor, #[skip] seen: &Seen) -> Tensor {
        seen.note(ids);
        ids.narrow(1, 0, 1).contiguous()
    }
    let seen = Seen::default();
    let rows: [&[i64]; 3] = [&[], &[4], &[-1]];
    let embedded = embed(&padded(&rows, 5, -1), &seen);
    assert_eq!(embedded, padded(&[&[-1], &[4], &[-1]], 1, 0));
    assert_eq!(seen.take(), [[2, 2], [2, 5]]);
    embed(&padded(&rows, 1, -1), &seen);
    // One element cannot be cut, and a batch without any cannot be cut either.
    embed(&padded(&[&[6]], 1, -1), &seen);
    assert_eq!(seen.take(), [[2, 1], [1, 1], [2, 1]]);
    assert_eq!(counts(embed_cache()), (3, 2, 0));

    #[torchcache]
    fn count(#[padded(0)] ids: &Tensor) -> Tensor {
        Tensor::full([ids.size()[0], 1], ids.size()[1], (Kind::Int64, device()))
    }
    let empty = Tensor::zeros([2, 0], (Kind::Int64, device()));
    for _ in 0..2 {
        assert_eq!(
            count(&empty),
            Tensor::zeros([2, 1], (Kind::Int64, device()))
        );
    }
    assert_eq!(counts(count_cache()), (1, 1, 0));
}

/// Two of these have zeros that are no padding.
#[test]
fn marked_arguments_are_cut_alike_and_lose_no_element() {
    #[torchcache]
    fn embed(
        #[padded(0)] ids: &Tensor,
        #[padded(0)] mask: &Tensor,
        #[padded(-100)] types: Option<&Tensor>,
        #[skip] seen: &Seen,
    ) -> Tensor {
        seen.note(ids);
        assert_eq!(ids.size(), mask.size());
        let types = types.map_or_else(|| ids.zeros_like(), Tensor::shallow_clone);
        sums(&((ids + 10) * mask + types.clamp_min(0)))
    }
    let seen = Seen::default();
    let ids = padded(&[&[5, 0, 0], &[5, 0], &[5]], 6, 0);
    // Of the first row three elements count, of the second two.
    let mask = padded(&[&[1, 1, 1], &[1, 1], &[1]], 6, 0);
    let embedded = embed(&ids, &mask, None, &seen);
    assert_eq!(embedded, padded(&[&[35], &[25], &[15]], 1, 0));
    assert_eq!(seen.take(), [[3, 3], [2, 6]]);
    let types = padded(&[&[], &[0, 0, 0, 0], &[1]], 6, -100);
    let embedded = embed(&ids, &mask, Some(&types), &seen);
    assert_eq!(embedded, padded(&[&[35], &[25], &[16]], 1, 0));
    assert_eq!(seen.take()[0], [3, 4]);
    let part = |tensor: &Tensor| tensor.narrow(1, 0, 4);
    embed(&part(&ids), &part(&mask), None, &seen);
    embed(&part(&ids), &part(&mask), Some(&part(&types)), &seen);
    assert_eq!(counts(embed_cache()), (6, 6, 0));
    // The mask alone tells these apart.
    embed(&part(&ids), &part(&(mask * 2)), None, &seen);
    assert_eq!(counts(embed_cache()), (9, 6, 0));
}

/// Texts of these lengths, padded.
fn texts(lengths: &[usize], padded_to: usize) -> Tensor {
    let rows: Vec<Vec<i64>> = (1..)
        .zip(lengths)
        .map(|(row, length)| vec![row; *length])
        .collect();
    let rows: Vec<&[i64]> = rows.iter().map(Vec::as_slice).collect();
    padded(&rows, padded_to, 0)
}

/// Texts of one length and of several, with padding in common and without, and where the length is that of another
/// dimension of the output.
const BATCHES: [(&[usize], usize); 7] = [
    (&[3, 5, 4], 7),
    (&[2, 5, 4], 5),
    (&[5, 5], 5),
    (&[3, 3, 3], 3),
    (&[4, 2], 8),
    (&[1], 1),
    (&[2, 2], 2),
];

#[test]
fn an_output_whose_shape_follows_the_length_is_not_cached() {
    /// `batch` makes each a first call.
    #[torchcache]
    fn states(#[padded(0)] ids: &Tensor, batch: i64) -> Tensor {
        ids.unsqueeze(-1).repeat([1, 1, 3]) * batch
    }
    let before = || states_cache().stats().bypassed;
    let ((), lines) = logged(|| {
        for (batch, (lengths, padded_to)) in (1..).zip(BATCHES) {
            let ids = texts(lengths, padded_to);
            let bypassed = before();
            for _ in 0..2 {
                let output = states(&ids, batch);
                assert!(same(
                    &output,
                    &(ids.unsqueeze(-1).repeat([1, 1, 3]) * batch)
                ));
            }
            assert_eq!(before() - bypassed, 2, "{lengths:?} to {padded_to}");
        }
    });
    let stats = states_cache().stats();
    assert_eq!((stats.memory.rows, stats.hits(), stats.stored), (0, 0, 0));
    let words = "the shape of an output row follows that of the input";
    assert_eq!(warnings(&lines, words), 1, "{lines:?}");
}

/// The shapes of these are equal for some lengths, and not for others.
#[test]
fn an_output_whose_shape_follows_the_length_from_some_on_is_right() {
    #[torchcache]
    fn halves(#[padded(0)] ids: &Tensor, least: i64) -> Tensor {
        sums(ids).expand([-1, (ids.size()[1] / 2).max(least)], false)
    }
    for least in [0, 4] {
        // Of the first call, both lengths that are tried have outputs of one shape.
        for (lengths, padded_to) in [
            (&[5usize, 5][..], 5),
            (&[5, 4], 5),
            (&[5, 5], 9),
            (&[5, 5], 14),
            (&[8, 4], 8),
            (&[14, 4], 14),
            (&[5, 5], 5),
        ] {
            let ids = texts(lengths, padded_to);
            let width = (padded_to as i64 / 2).max(least);
            let expected = sums(&ids).expand([-1, width], false);
            let output = halves(&ids, least);
            assert!(
                same(&output, &expected),
                "{lengths:?} to {padded_to}, {least}"
            );
        }
    }
    assert!(halves_cache().stats().bypassed > 0);
}

#[test]
fn a_plain_argument_decides_whether_the_shape_follows_the_length() {
    #[torchcache]
    fn encode(#[padded(0)] ids: &Tensor, pooled: bool) -> Tensor {
        match pooled {
            true => sums(ids),
            false => ids * 2,
        }
    }
    for padded_to in [4, 6, 5] {
        let ids = texts(&[3, 4], padded_to);
        assert!(same(&encode(&ids, true), &sums(&ids)));
        assert!(same(&encode(&ids, false), &(&ids * 2)));
    }
    assert_eq!(counts(encode_cache()), (2, 4, 0));
    assert_eq!(encode_cache().stats().bypassed, 3);
}

/// What an encoder makes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Fingerprint)]
enum Output {
    Sum,
    /// As often as it has elements, or half of that.
    Sums,
    HalfOfSums,
    /// Of batches of four.
    SumOfFour,
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Encoder {
    output: Output,
    #[torchcache(skip)]
    seen: Seen,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_verify: f64,
    cache: TorchCache,
}

#[torchcache]
impl Encoder {
    const PADDING: i64 = -1;

    fn forward(&self, #[padded(Self::PADDING)] ids: &Tensor) -> Result<Tensor, Error> {
        self.seen.note(ids);
        let sums = sums(&ids.clamp_min(0));
        let length = ids.size()[1];
        Ok(match self.output {
            Output::Sum => sums,
            Output::Sums => sums.expand([-1, length], false),
            Output::HalfOfSums => sums.expand([-1, length / 2], false),
            Output::SumOfFour => sums.view([4, 1]),
        })
    }

    #[torchcache]
    fn by_id(&self, #[padded(-1)] ids: &Tensor, #[id] names: &[&str]) -> Tensor {
        assert_eq!(names.len() as i64, ids.size()[0]);
        self.seen.note(ids);
        sums(&ids.clamp_min(0))
    }
}

impl Encoder {
    fn in_dir(dir: &Path, output: Output) -> Self {
        Encoder {
            output,
            seen: Seen::default(),
            torchcache_persistent_cache_dir: dir.to_owned(),
            torchcache_verify: 0.0,
            cache: TorchCache::default(),
        }
    }
}

#[test]
fn rows_on_disk_are_hits_of_later_programs_whatever_their_padding() {
    let dir = tempfile::tempdir().unwrap();
    let first = Encoder::in_dir(dir.path(), Output::Sum);
    let expected = first.forward(&padded(&TEXTS, 4, -1)).unwrap();
    first.cache.flush().unwrap();
    drop(first);
    let again = Encoder::in_dir(dir.path(), Output::Sum);
    for length in [9, 4, 6] {
        let output = again.forward(&padded(&TEXTS, length, -1)).unwrap();
        assert!(same(&output, &expected));
    }
    assert_eq!(
        (again.cache.stats().misses, again.cache.stats().disk.hits),
        (0, 4)
    );
    assert_eq!(again.seen.take(), [[2, 9], [2, 4]], "the shapes of outputs");

    // The module changed: its outputs have the shape of the input.
    let states = Encoder::in_dir(dir.path(), Output::Sums);
    for length in [9, 4] {
        let output = states.forward(&padded(&TEXTS, length, -1)).unwrap();
        assert_eq!(output.size(), [4, length as i64]);
    }
    assert_eq!(states.cache.stats().bypassed, 2);
}

#[test]
fn rows_on_disk_of_another_shape_are_not_returned() {
    let dir = tempfile::tempdir().unwrap();
    let ten = texts(&[11, 10], 11);
    let first = Encoder::in_dir(dir.path(), Output::HalfOfSums);
    assert_eq!(first.forward(&ten).unwrap().size(), [2, 5]);
    first.cache.flush().unwrap();
    drop(first);
    // Both lengths that it has tried when it finds the rows have outputs of another shape.
    let again = Encoder::in_dir(dir.path(), Output::HalfOfSums);
    assert_eq!(
        again.forward(&texts(&[21, 20], 21)).unwrap().size(),
        [2, 10]
    );
    let padding = Tensor::full([2, 9], -1, (Kind::Int64, device()));
    let padded = Tensor::cat(&[ten, padding], 1);
    assert_eq!(again.forward(&padded).unwrap().size(), [2, 10]);
    assert_eq!(again.cache.stats().bypassed, 1);
}

#[test]
fn a_forward_that_needs_whole_batches_shows_its_shape_on_one() {
    let dir = tempfile::tempdir().unwrap();
    let ids = padded(&TEXTS, 4, -1);
    let first = Encoder::in_dir(dir.path(), Output::SumOfFour);
    first.forward(&ids).unwrap();
    first.cache.flush().unwrap();
    drop(first);
    let again = Encoder::in_dir(dir.path(), Output::SumOfFour);
    for _ in 0..2 {
        assert!(same(
            &again.forward(&ids).unwrap(),
            &sums(&ids.clamp_min(0))
        ));
    }
    assert_eq!(again.seen.take(), [[2, 4], [4, 4]]);
    let stats = again.cache.stats();
    assert_eq!((stats.hits(), stats.bypassed), (8, 0));
}

#[test]
fn keys_of_ids_leave_the_length_out_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = Encoder::in_dir(dir.path(), Output::Sum);
    let first = encoder.by_id(&padded(&TEXTS, 4, -1), &["a", "b", "c", "d"]);
    assert_eq!(encoder.seen.take(), [[4, 4], [2, 2]]);
    let part = padded(&[TEXTS[3], TEXTS[1], &[5, 5]], 7, -1);
    let second = encoder.by_id(&part, &["d", "b", "e"]);
    assert_eq!(encoder.seen.take(), [[1, 2], [2, 7]]);
    assert_eq!(second.get(0), first.get(3));
    assert_eq!(second, padded(&[&[8], &[13], &[10]], 1, -1));
    assert_eq!(counts(&encoder.cache), (5, 2, 0));
}

#[test]
fn ids_of_any_shape_find_rows_of_another() {
    #[torchcache]
    fn brightness(images: &Tensor, #[id(any_shape)] names: &[&str], #[skip] seen: &Seen) -> Tensor {
        assert_eq!(names.len() as i64, images.size()[0]);
        seen.note(images);
        images.flatten(1, -1).amax([1], true)
    }
    let seen = Seen::default();
    let small = random(&[3, 2, 2]);
    let first = brightness(&small, &["a", "b", "c"], &seen);
    assert_eq!(seen.take(), [[3, 2, 2]]);
    let hits = brightness(&random(&[2, 4, 8]), &["c", "a"], &seen);
    assert!(same(
        &hits,
        &Tensor::cat(&[first.get(2), first.get(0)], 0).unsqueeze(1)
    ));
    assert_eq!(seen.take(), [[2, 4, 8]], "for the shape of the output");
    // Between two shapes that are known.
    brightness(&random(&[2, 3, 5]), &["a", "b"], &seen);
    let large = random(&[2, 4, 8]);
    let mixed = brightness(&large, &["a", "d"], &seen);
    assert!(same(&mixed.get(1), &large.get(1).max().unsqueeze(0)));
    assert_eq!(seen.take(), [[1, 4, 8]]);
    // The kind is still part of the key.
    brightness(&large.to_kind(Kind::Double), &["a", "b"], &seen);
    assert_eq!(counts(brightness_cache()), (6, 5, 0));
}

#[test]
fn ids_of_any_shape_bypass_where_outputs_follow_it() {
    #[torchcache]
    fn doubled(images: &Tensor, #[id(any_shape)] ids: &[i64]) -> Tensor {
        assert!(!ids.is_empty());
        images * 2
    }
    let small = random(&[2, 3]);
    assert!(same(&doubled(&small, &[1, 2]), &(&small * 2)));
    assert!(same(&doubled(&small, &[2, 1]), &(&small.flip([0]) * 2)));
    let ((), lines) = logged(|| {
        for (shape, ids) in [([2, 5], [1, 2]), ([2, 3], [1, 2]), ([2, 4], [8, 9])] {
            let large = random(&shape);
            assert!(same(&doubled(&large, &ids), &(&large * 2)));
        }
    });
    assert_eq!(doubled_cache().stats().bypassed, 3);
    assert_eq!(warnings(&lines, "`#[id(any_shape)]`"), 1);
    // Rows that are all new.
    #[torchcache]
    fn halved(images: &Tensor, #[id(any_shape)] ids: &[i64]) -> Tensor {
        assert!(!ids.is_empty());
        images / 2
    }
    for (length, ids) in [(3, [1, 2]), (5, [3, 4]), (3, [1, 2])] {
        let images = random(&[2, length]);
        assert!(same(&halved(&images, &ids), &(&images / 2)), "{length}");
    }
    assert_eq!(halved_cache().stats().bypassed, 2);
}

#[test]
fn skipped_tensors_are_cut_with_the_others_and_not_in_the_key() {
    #[torchcache]
    fn embed(
        #[padded(0)] ids: &Tensor,
        #[skip]
        #[padded(false)]
        mask: &Tensor,
        #[shared] factors: &Tensor,
    ) -> Tensor {
        assert_eq!(ids.size(), mask.size());
        sums(&(ids * mask)) * factors
    }
    let factors = Tensor::from_slice(&[2i64, 3]).to_device(device());
    for length in [4, 6, 5] {
        let ids = padded(&TEXTS, length, 0);
        let embedded = embed(&ids, &ids.not_equal(0), &factors);
        assert!(same(&embedded, &(sums(&ids) * &factors)));
    }
    assert_eq!(counts(embed_cache()), (4, 8, 0));
    // A mask that needs more is not cut short.
    let ids = padded(&[&[6]], 5, 0);
    let mask = padded(&[&[1, 1, 1]], 5, 0).to_kind(Kind::Bool);
    assert_eq!(embed(&ids, &mask, &factors), padded(&[&[12, 18]], 2, 0));
}

#[test]
fn rows_of_floats_with_several_features_are_cut() {
    #[torchcache]
    fn pooled(#[padded(f32::NAN)] frames: &Tensor, #[skip] seen: &Seen) -> Tensor {
        seen.note(frames);
        frames.nan_to_num(0.0, None, None).amax([1], false)
    }
    let seen = Seen::default();
    let frames = Tensor::full([2, 6, 3], f64::NAN, (Kind::Float, device()));
    let content = random(&[2, 4, 3]).abs();
    frames.narrow(1, 0, 4).copy_(&content);
    // One feature of the third frame is left.
    let _ = frames.narrow(0, 1, 1).narrow(1, 2, 2).fill_(f64::NAN);
    let _ = frames
        .narrow(0, 1, 1)
        .narrow(1, 2, 1)
        .narrow(2, 1, 1)
        .fill_(9.0);
    let expected = frames.nan_to_num(0.0, None, None).amax([1], false);
    assert!(same(&pooled(&frames, &seen), &expected));
    assert_eq!(seen.take(), [[2, 4, 3], [2, 6, 3]]);
    let part = frames.narrow(0, 1, 1).narrow(1, 0, 3);
    assert!(same(&pooled(&part, &seen), &expected.narrow(0, 1, 1)));
    assert_eq!(seen.take(), [[2, 3, 3], [1, 3, 3]]);
    assert_eq!(counts(pooled_cache()), (2, 1, 0));
}

#[test]
fn lists_and_views_of_tensors_have_the_keys_of_their_copies() {
    #[torchcache]
    fn embed(#[padded(0)] parts: &[&Tensor]) -> Tensor {
        sums(parts[0]) - sums(parts[1])
    }
    let [ids, mask] = [padded(&TEXTS, 5, 0), padded(&TEXTS, 5, 0).ones_like()];
    let expected = embed(&[&ids, &mask]);
    let strided = |tensor: &Tensor| tensor.tr().contiguous().tr();
    assert!(same(&embed(&[&strided(&ids), &strided(&mask)]), &expected));
    let expanded = Tensor::ones([1, 1], (Kind::Int64, device())).expand([4, 5], false);
    assert!(same(&embed(&[&ids, &expanded]), &expected));
    assert_eq!(counts(embed_cache()), (4, 8, 0));
    let texts = [
        "lengths differ",
        "`parts[0]`",
        "length 5",
        "`parts[1]` of 4",
    ];
    assert_panics(&texts, || embed(&[&ids, &mask.narrow(1, 0, 4)]));
}

#[test]
fn samples_of_rows_of_two_lengths_have_two_keys() {
    #[torchcache(subsample_count = 2)]
    fn embed(#[padded(0)] ids: &Tensor) -> Tensor {
        sums(ids)
    }
    // The first and the middle element are equal.
    let ids = padded(&[&[1, 2, 3, 4], &[1, 9, 3, 4], &[1, 9, 9, 3, 9, 9]], 6, 0);
    embed(&ids);
    embed(&padded(&[&[1, 5, 3, 5]], 4, 0));
    assert_eq!(counts(embed_cache()), (2, 1, 0));
    assert_eq!(embed_cache().stats().duplicates, 1);
}

#[test]
fn peek_and_prefill_know_rows_of_other_lengths() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor) -> Tensor {
        sums(ids)
    }
    let batches = [padded(&TEXTS[..2], 3, 0), padded(&TEXTS[2..3], 4, 0)];
    let stats = Prefill::new(embed_cache()).run(&batches, |ids| embed(ids));
    assert_eq!(stats.misses, 3);
    let rows = |length| {
        embed_cache()
            .peek(|| embed(&padded(&TEXTS, length, 0)))
            .unwrap()
    };
    let cached = |length| {
        rows(length)
            .iter()
            .map(|row| row.is_cached())
            .collect::<Vec<_>>()
    };
    assert_eq!(cached(4), [true, true, true, false]);
    let keys = |length| rows(length).iter().map(|row| row.key).collect::<Vec<_>>();
    assert_eq!(keys(9), keys(4));

    #[torchcache]
    fn states(#[padded(0)] ids: &Tensor) -> Result<Tensor, Error> {
        Ok(ids * 2)
    }
    states(&batches[0]).unwrap();
    let error = states_cache().peek(|| states(&batches[0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bypassed);
}

#[test]
fn verify_finds_outputs_that_depend_on_padding() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = Encoder::in_dir(dir.path(), Output::Sum);
    encoder.torchcache_verify = 1.0;
    for length in [4, 8] {
        encoder.forward(&padded(&TEXTS, length, -1)).unwrap();
    }
    let stats = encoder.cache.stats();
    assert_eq!((stats.verified, stats.mismatched), (4, 0));

    #[torchcache(verify = 1.0)]
    fn mean(#[padded(0)] ids: &Tensor) -> Tensor {
        ids.mean_dim(1, true, Kind::Float)
    }
    mean(&padded(&TEXTS[..2], 3, 0));
    mean(&padded(&[TEXTS[1], TEXTS[3]], 3, 0));
    let stats = mean_cache().stats();
    assert_eq!((stats.verified, stats.mismatched), (1, 1));
}

#[test]
fn threads_compute_a_row_of_several_lengths_once() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor) -> Tensor {
        sums(ids)
    }
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for length in [4, 5, 6, 9] {
            let start = &start;
            scope.spawn(move || {
                let ids = padded(&TEXTS, length, 0);
                start.wait();
                assert!(same(&embed(&ids), &sums(&ids)));
            });
        }
    });
    assert_eq!(counts(embed_cache()).0, 4);
}

#[test]
fn a_forward_that_needs_its_length_gets_the_whole_batch() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor, mask: &Tensor) -> Tensor {
        sums(&(ids * mask))
    }
    let mask = padded(&TEXTS, 6, 0).ones_like();
    let ids = padded(&TEXTS, 6, 0);
    let (output, lines) = logged(|| embed(&ids, &mask));
    assert!(same(&output, &sums(&ids)));
    assert_eq!(
        warnings(
            &lines,
            "on 4 of the 4 rows of a batch, cut to 4 of 6 places"
        ),
        1,
        "{lines:?}"
    );

    #[torchcache(whole_batch = true)]
    fn whole(#[padded(0)] ids: &Tensor, #[skip] seen: &Seen) -> Tensor {
        seen.note(ids);
        sums(ids)
    }
    let seen = Seen::default();
    whole(&ids, &seen);
    whole(&padded(&[TEXTS[0], &[7]], 7, 0), &seen);
    assert_eq!(seen.take()[0], [4, 6]);
    assert!(whole(&padded(&TEXTS, 4, 0), &seen).equal(&sums(&ids)));
    assert_eq!(counts(whole_cache()), (5, 5, 0));
}

#[test]
fn a_write_to_padded_rows_is_that_of_the_program() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor) -> Tensor {
        let _ = ids.shallow_clone().g_add_scalar_(1);
        sums(ids)
    }
    for length in [4, 6] {
        let ids = padded(&TEXTS, length, 0);
        embed(&ids);
        assert_eq!(ids, padded(&TEXTS, length, 0) + 1);
    }
    let stats = embed_cache().stats();
    assert_eq!((stats.bypassed, stats.stored), (2, 0));
}

#[test]
fn misuse_of_padding_is_reported() {
    #[torchcache]
    fn embed(
        #[padded(0.5)] xs: &Tensor,
        #[padded(0)] ys: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        assert!(ys.is_none());
        Ok(xs * 2)
    }
    let invalid = |xs: &Tensor, ys: Option<&Tensor>, text: &str| {
        let error = embed(xs, ys).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPadding);
        assert!(error.to_string().contains(text), "{error}");
    };
    invalid(
        &random(&[3]),
        None,
        "`xs` is marked `#[padded]` and has shape [3]; expected [rows, length, …]",
    );
    let text = "`xs` is marked `#[padded(0.5)]`, and its elements of kind Int64 have no such value";
    invalid(&padded(&TEXTS, 4, 0), None, text);
    let text = "argument `xs` has rows of length 4, argument `ys` of 5";
    invalid(&random(&[2, 4]), Some(&random(&[2, 5])), text);
}

#[test]
fn lists_of_integers_are_rows() {
    #[torchcache]
    fn embed(#[id] texts: &[Vec<i64>], #[skip] ran: &RefCell<Vec<usize>>) -> Tensor {
        ran.borrow_mut().push(texts.len());
        let sums: Vec<i64> = texts.iter().map(|text| text.iter().sum()).collect();
        Tensor::from_slice(&sums).to_device(device())
    }
    let texts = TEXTS.map(<[i64]>::to_vec);
    let ran = RefCell::default();
    embed(&texts[..2], &ran);
    let sums = embed(&texts, &ran);
    assert_eq!(
        sums,
        Tensor::from_slice(&[15i64, 13, 8, 8]).to_device(device())
    );
    assert_eq!(ran.take(), [2, 2]);
    // Zeros count, and so does the place of a number.
    embed(&[vec![9, 4, 0], vec![4, 9], vec![], vec![9, 4]], &ran);
    assert_eq!(ran.take(), [3]);
    assert_eq!(counts(embed_cache()), (7, 3, 0));
}

/// Of few values and lengths, so that many rows are equal up to padding.
#[test]
fn random_batches_have_the_outputs_of_the_function() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor, #[padded(1)] types: &Tensor) -> Tensor {
        // Each place has another weight, and padding none.
        let places = Tensor::arange_start(1, ids.size()[1] + 1, (Kind::Int64, device()));
        sums(&((ids * 3 + (types - 1) * 100) * places))
    }
    let plain = |ids: &Tensor, types: &Tensor| {
        let places = Tensor::arange_start(1, ids.size()[1] + 1, (Kind::Int64, device()));
        sums(&((ids * 3 + (types - 1) * 100) * places))
    };
    for step in 0..300 {
        let (rows, length) = (1 + step % 5, 1 + step * 7 % 6);
        let draw = || Tensor::randint(2, [rows, length], (Kind::Int64, device()));
        let (ids, types) = (draw(), draw());
        assert!(
            same(&embed(&ids, &types), &plain(&ids, &types)),
            "step {step}"
        );
    }
    let stats = embed_cache().stats();
    assert!(stats.hits() > stats.misses, "{stats}");
    assert_eq!(stats.bypassed, 0);
}
