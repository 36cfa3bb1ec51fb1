//! `#[skip]` arguments: not part of the key, and not read by a hit.

use std::cell::RefCell;
use std::rc::Rc;

use tch::{Kind, Tensor};
use torchcache::{
    Error, ErrorKind, Fingerprint, Fingerprinter, PlainArgument, TorchCache, torchcache,
};

use crate::support::{Ran, assert_panics, counts, random, same};

/// Has no fingerprint, and cannot be cloned.
#[derive(Debug, Default)]
struct Log(RefCell<Vec<i64>>);

/// Its fingerprint must not be asked for.
#[derive(Clone)]
struct Unhashed;

impl Fingerprint for Unhashed {
    fn fingerprint(&self, _: &mut Fingerprinter<'_>) {
        panic!("a skipped argument is not hashed");
    }
}

impl PlainArgument for Unhashed {}

#[torchcache]
#[derive(Debug, Default)]
struct Net {
    cache: TorchCache,
}

#[torchcache]
impl Net {
    #[torchcache]
    fn encode(
        &self,
        xs: &Tensor,
        #[skip] log: &Log,
        #[skip] on_rows: &dyn Fn(&Tensor),
        #[skip] name: Rc<str>,
        #[skip] (chunk, _): (usize, Unhashed),
        scale: f64,
    ) -> Tensor {
        log.0.borrow_mut().push(xs.size()[0]);
        on_rows(xs);
        assert!(chunk > 0 && !name.is_empty());
        xs * scale
    }
}

#[test]
fn values_of_any_type_are_left_out_of_the_key() {
    let (net, log, ran) = (Net::default(), Log::default(), Ran::default());
    let encode = |xs: &Tensor, name: &str, chunk, scale| {
        net.encode(
            xs,
            &log,
            &|rows| ran.note(rows),
            name.into(),
            (chunk, Unhashed),
            scale,
        )
    };
    let xs = random(&[6, 11]);
    let first = encode(&xs.narrow(0, 0, 4), "first", 1, 2.0);
    let second = encode(&xs, "second", 2, 2.0);
    assert!(same(&second, &(&xs * 2.0)) && same(&second.narrow(0, 0, 4), &first));
    assert_eq!(*log.0.borrow(), [4, 2], "the rows that were computed");
    encode(&xs, "third", 3, 2.0);
    assert_eq!((ran.take(), counts(&net.cache)), ((2, 6), (6, 10, 0)));
    encode(&xs, "third", 3, 3.0);
    assert_eq!(ran.take(), (1, 6), "later arguments keep their positions");
}

#[test]
fn a_skipped_tensor_is_cut_and_one_that_is_shared_as_well_is_passed_whole() {
    type Rows<'a> = &'a Tensor;
    #[torchcache]
    fn encode<'a>(
        xs: &'a Tensor,
        #[skip] same_rows: &'a Tensor,
        #[skip] alias: Rows<'a>,
        #[skip] all: &[&Tensor],
        #[skip] maybe: Option<Tensor>,
        #[skip]
        #[shared]
        table: &Tensor,
    ) -> Tensor {
        assert_eq!(table.size(), [3]);
        let cut = [same_rows, alias].into_iter().chain(all.iter().copied());
        for rows in cut.chain(&maybe) {
            assert!(same(rows, &(xs + 1)), "rows of the same samples");
        }
        xs * 2
    }
    let xs = random(&[5, 4]);
    let (ys, table) = (&xs + 1, random(&[3]));
    encode(
        &xs.narrow(0, 1, 2),
        &ys.narrow(0, 1, 2),
        &ys.narrow(0, 1, 2),
        &[],
        None,
        &table,
    );
    let zs = encode(&xs, &ys, &ys, &[&ys, &ys], Some(ys.copy()), &(&table + 1));
    assert!(same(&zs, &(&xs * 2)));
    assert_eq!(counts(encode_cache()), (5, 2, 0));
    // Their kind and shape are no part of the key either.
    let other = ys.to_kind(Kind::Double).unsqueeze(1);
    let zs = encode(&xs, &other, &other, &[], None, &table);
    assert!(same(&zs, &(&xs * 2)));
    assert_eq!(counts(encode_cache()), (5, 7, 0));
}

#[test]
fn rows_with_equal_ids_may_differ_in_a_skipped_tensor() {
    #[torchcache]
    fn encode(#[id] ids: &[i64], xs: &Tensor, #[skip] noise: &Tensor) -> Tensor {
        assert_eq!(noise.size()[0] as usize, ids.len());
        xs * 2
    }
    let (xs, noise) = (random(&[1, 4]), random(&[2, 4]));
    encode(&[7, 7], &Tensor::cat(&[&xs, &xs], 0), &noise);
    assert_eq!(counts(encode_cache()), (1, 0, 0));
}

#[test]
fn misuse_of_skipped_tensors_is_reported() {
    type Rows<'a> = &'a Tensor;
    #[torchcache]
    fn encode(xs: Rows, #[skip] ys: &Tensor) -> Result<Tensor, Error> {
        Ok(xs + ys.sum(Kind::Float))
    }
    let error = encode(&random(&[4, 2]), &random(&[3, 2])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BatchSizeMismatch);
    assert!(error.to_string().contains("`#[shared]`"), "{error}");

    #[torchcache]
    fn skipped(xs: Option<&Tensor>, #[skip] ys: &Tensor) -> Tensor {
        xs.unwrap_or(ys) * 2
    }
    assert_panics(&["no tensor argument"], || skipped(None, &random(&[4, 2])));
}

#[test]
fn a_skipped_tensor_that_requires_grad_bypasses() {
    #[torchcache]
    fn encode(
        xs: &Tensor,
        #[skip] ys: &Tensor,
        #[skip]
        #[shared]
        by: &Tensor,
    ) -> Tensor {
        xs * ys * by
    }
    let [xs, ys, by] = [(); 3].map(|()| random(&[2, 2]));
    let leaf = || random(&[2, 2]).set_requires_grad(true);
    assert!(encode(&xs, &leaf(), &by).requires_grad());
    assert!(encode(&xs, &ys, &leaf()).requires_grad());
    assert_eq!(encode_cache().stats().bypassed, 2);
}

#[test]
fn a_write_to_a_skipped_tensor_is_not_kept_from_the_program() {
    #[torchcache]
    fn encode(
        xs: &Tensor,
        #[skip]
        #[shared]
        sums: &Tensor,
    ) -> Tensor {
        let _ = sums.shallow_clone().g_add_scalar_(1.0);
        xs * 2
    }
    let (xs, sums) = (random(&[2, 2]), random(&[2]));
    encode(&xs, &sums);
    encode(&xs, &sums);
    let stats = encode_cache().stats();
    assert_eq!((stats.bypassed, stats.memory.hits), (2, 0));
}

#[test]
fn verify_finds_outputs_that_depend_on_a_skipped_argument() {
    #[torchcache(verify = 1.0)]
    fn scaled(xs: &Tensor, #[skip] by: f64) -> Tensor {
        xs * by
    }
    let xs = random(&[3, 2]);
    let first = scaled(&xs, 2.0);
    assert!(same(&scaled(&xs, 3.0), &first));
    assert_eq!(scaled_cache().stats().mismatched, 3);
}

/// Every type has methods of the names that generated code might use.
#[test]
fn traits_of_every_type_do_not_take_part() {
    trait Everything: Sized {
        fn argument(self) -> Self {
            self
        }
        fn skipped(self) -> Self {
            self
        }
        fn pass(self) -> Self {
            self
        }
    }
    impl<T> Everything for T {}
    #[torchcache]
    fn encode(xs: &Tensor, #[skip] log: &Log) -> Tensor {
        log.0.borrow_mut().push(xs.size()[0]);
        xs * 2
    }
    let log = Log::default();
    encode(&random(&[3, 2]).argument().skipped().pass(), &log);
    assert_eq!(*log.0.borrow(), [3]);
}
