//! Rows that are keyed by ids instead of their content.

use std::cell::RefCell;
use std::path::PathBuf;

use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Error, ErrorKind, TorchCache, torchcache};

use crate::support::{Ran, assert_panics, counts, device, random, same, version};

/// `xs * 2`; records the ids that the body received. `test` gives each test its own identity: rows
/// are keyed by id alone.
#[torchcache]
#[derive(Debug)]
struct Known {
    test: &'static str,
    #[torchcache(skip)]
    ran: Ran,
    #[torchcache(skip)]
    seen: RefCell<Vec<i64>>,
    torchcache_verify: f64,
    cache: TorchCache,
}

impl Known {
    fn for_test(test: &'static str) -> Self {
        Known {
            test,
            ran: Ran::default(),
            seen: RefCell::default(),
            torchcache_verify: 0.0,
            cache: TorchCache::default(),
        }
    }
}

#[torchcache]
impl Known {
    fn forward(&self, xs: &Tensor, #[id] ids: &[i64]) -> Result<Tensor, Error> {
        assert_eq!(xs.size()[0] as usize, ids.len());
        self.ran.note(xs);
        self.seen.borrow_mut().extend(ids);
        Ok(xs * 2)
    }
}

/// Augmented images are rows of their own, as many as there are views.
#[test]
fn each_view_of_a_sample_is_computed_once() {
    thread_local!(static COMPUTED: RefCell<Vec<(i64, u8)>> = RefCell::default());
    #[torchcache]
    fn embed(
        #[id] samples: &[(i64, u8)],
        #[skip]
        #[shared]
        images: &Tensor,
    ) -> Tensor {
        COMPUTED.with_borrow_mut(|computed| computed.extend(samples));
        let view = |&(id, view): &(i64, u8)| images.get(id) * (f64::from(view) + 1.0);
        Tensor::stack(&samples.iter().map(view).collect::<Vec<_>>(), 0)
    }
    const VIEWS: u8 = 3;
    let images = random(&[10, 5]);
    for epoch in 0..9u8 {
        let samples: Vec<_> = (0..10).map(|id| (id, (id as u8 + epoch) % VIEWS)).collect();
        for samples in samples.chunks(4) {
            let rows = embed(samples, &images);
            for (row, &(id, view)) in samples.iter().enumerate() {
                let expected = images.get(id) * (f64::from(view) + 1.0);
                assert!(same(&rows.get(row as i64), &expected), "{id}, {view}");
            }
        }
    }
    let mut computed = COMPUTED.take();
    computed.sort_unstable();
    let all = (0..10).flat_map(|id| (0..VIEWS).map(move |view| (id, view)));
    // The last batch of the first epoch has two rows, and none has one row alone.
    assert_eq!(computed, all.collect::<Vec<_>>());
    assert_eq!(counts(embed_cache()), (30, 60, 0));
}

#[test]
fn a_known_id_is_a_hit_whatever_the_row_holds() {
    let model = Known::for_test("hit");
    let xs = random(&[3, 4]);
    let first = model.forward(&xs, &[10, 20, 30]).unwrap();
    assert!(same(&first, &(&xs * 2)));
    assert_eq!(model.ran.take(), (1, 3));
    let other = random(&[3, 4]);
    let second = model.forward(&other, &[30, 40, 10]).unwrap();
    assert_eq!(model.ran.take(), (1, 1));
    assert!(same(&second.get(0), &first.get(2)));
    assert!(same(&second.get(1), &(other.get(1) * 2)));
    assert!(same(&second.get(2), &first.get(0)));
    // The body received the ids of its rows only.
    assert_eq!(*model.seen.borrow(), [10, 20, 30, 40]);
}

#[test]
fn row_shape_and_kind_are_part_of_the_key_next_to_the_id() {
    let model = Known::for_test("shape");
    model.forward(&random(&[1, 4]), &[1]).unwrap();
    model.forward(&random(&[1, 5]), &[1]).unwrap();
    model
        .forward(&random(&[1, 4]).to_kind(Kind::Double), &[1])
        .unwrap();
    // The first one is computed twice as well, to show its shape.
    assert_eq!(model.ran.take(), (4, 5));
    assert_eq!(
        model.forward(&random(&[1, 5]), &[1]).unwrap().size(),
        [1, 5]
    );
    assert_eq!(model.ran.take(), (0, 0));
}

#[test]
fn the_number_of_ids_must_equal_the_rows() {
    let model = Known::for_test("count");
    for ids in [&[][..], &[1], &[1, 2, 3]] {
        let error = model.forward(&random(&[2, 4]), ids).unwrap_err();
        let given = ids.len();
        assert_eq!(error.kind(), ErrorKind::IdCountMismatch);
        let message = format!("argument `ids` has {given} ids for 2 rows");
        assert!(error.to_string().contains(&message), "{error}");
    }
    assert_eq!(model.ran.take(), (0, 0));
    assert_eq!(model.forward(&random(&[0, 4]), &[]).unwrap().size(), [0, 4]);
}

#[test]
fn equal_rows_with_one_id_are_computed_once() {
    let model = Known::for_test("twice");
    let row = random(&[1, 4]);
    let xs = Tensor::cat(&[&row, &random(&[1, 4]), &row], 0);
    let ys = model.forward(&xs, &[7, 8, 7]).unwrap();
    assert!(same(&ys, &(&xs * 2)));
    assert_eq!(model.ran.take(), (1, 2));
    assert_eq!(model.cache.stats().duplicates, 1);
}

#[test]
fn different_rows_with_one_id_are_an_error() {
    let model = Known::for_test("different");
    let xs = random(&[4, 11]);
    let error = model.forward(&xs, &[7, 8, 9, 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DuplicateId);
    let message = "rows 1 and 3 have the same id in `ids` but differ in argument `xs`";
    assert!(error.to_string().contains(message), "{error}");
    // The same holds if all rows are cached.
    model.forward(&xs, &[7, 8, 9, 10]).unwrap();
    assert!(model.forward(&xs, &[7, 8, 9, 8]).is_err());
    assert_eq!(model.ran.take(), (1, 4));
    // Zero and minus zero are equal numbers, but not equal rows.
    let zeros = Tensor::from_slice(&[0.0f32, -0.0]).to_device(device());
    assert!(model.forward(&zeros, &[1, 1]).is_err());
}

#[test]
fn the_error_names_the_list_element_that_differs() {
    #[torchcache]
    fn both(xs: &[Tensor], #[id] ids: &[i64]) -> Tensor {
        assert_eq!(xs[0].size()[0] as usize, ids.len());
        &xs[0] + &xs[1]
    }
    let equal = random(&[1, 4]).repeat([2, 1]);
    let text = "differ in argument `xs[1]`";
    assert_panics(&[text], || both(&[equal, random(&[2, 4])], &[7, 7]));
}

#[test]
fn verify_finds_an_id_with_another_sample() {
    let mut model = Known::for_test("verified");
    model.torchcache_verify = 1.0;
    model.forward(&random(&[2, 4]), &[1, 2]).unwrap();
    model.forward(&random(&[2, 4]), &[1, 2]).unwrap();
    assert_eq!(model.cache.stats().mismatched, 2);
}

#[torchcache]
fn by_name(xs: &Tensor, #[id] names: &[&str], scale: f64) -> Tensor {
    assert_eq!(xs.size()[0] as usize, names.len());
    xs * scale
}

/// Takes `&Vec`, which Clippy would have as a slice.
#[torchcache]
fn by_vector(xs: &Tensor, #[id] names: &Vec<String>) -> Tensor {
    assert_eq!(xs.size()[0] as usize, names.len());
    xs * 3
}

#[torchcache]
fn by_owned_name(xs: &Tensor, #[id] names: &[String]) -> Tensor {
    assert_eq!(xs.size()[0] as usize, names.len());
    xs * 3
}

#[torchcache]
fn by_number(xs: &Tensor, #[id] numbers: &[u32]) -> Tensor {
    assert_eq!(xs.size()[0] as usize, numbers.len());
    xs * 4
}

#[torchcache]
fn by_tensor(xs: &Tensor, #[id] ids: &Tensor) -> Tensor {
    assert_eq!(xs.size()[0], ids.size()[0]);
    xs * ids.unsqueeze(1)
}

#[test]
fn ids_are_strings_integers_or_a_tensor() {
    let xs = random(&[3, 2]);
    let vector = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    by_vector(&xs.narrow(0, 0, 2), &vector[..2].to_vec());
    by_vector(&xs, &vector);
    assert_eq!(by_vector_cache().stats().memory.hits, 2);
    let part = xs.narrow(0, 1, 2);
    by_name(&xs, &["a", "b", ""], 0.5);
    by_name(&xs, &["a", "b", ""], 0.25);
    let hit = by_name(&part, &["", "c"], 0.5);
    assert!(same(&hit.get(0), &(xs.get(2) * 0.5)));
    assert_eq!(counts(by_name_cache()), (7, 1, 0));

    let names = ["a", "b", "c"].map(str::to_owned);
    by_owned_name(&xs, &names);
    by_owned_name(&part, &names[1..]);
    assert_eq!(by_owned_name_cache().stats().memory.hits, 2);

    by_number(&xs, &[1, 2, 3]);
    by_number(&part, &[3, 9]);
    assert_eq!(by_number_cache().stats().memory.hits, 1);

    let ids = Tensor::from_slice(&[5i64, 6, 7]).to_device(device());
    by_tensor(&xs, &ids);
    let others = Tensor::from_slice(&[7i32, 8]).to_device(device());
    let ys = by_tensor(&part, &others);
    assert!(same(&ys.get(0), &(xs.get(2) * 7)));
    assert!(same(&ys.get(1), &(xs.get(2) * 8)));
    assert_eq!(by_tensor_cache().stats().memory.hits, 1);
}

#[test]
fn ids_are_paths_bytes_or_tuples() {
    #[torchcache]
    fn by_path(xs: &Tensor, #[id] paths: &[PathBuf]) -> Tensor {
        xs * paths[0].as_os_str().len() as f64
    }
    #[torchcache]
    fn by_uuid(xs: &Tensor, #[id] uuids: &[[u8; 16]]) -> Tensor {
        assert_eq!(xs.size()[0] as usize, uuids.len());
        xs * 2
    }
    #[torchcache]
    fn by_uuid_number(xs: &Tensor, #[id] uuids: &[u128]) -> Tensor {
        assert_eq!(xs.size()[0] as usize, uuids.len());
        xs * 3
    }
    #[torchcache]
    fn by_uuid_bytes(xs: &Tensor, #[id] uuids: &[&[u8; 16]]) -> Tensor {
        assert_eq!(xs.size()[0] as usize, uuids.len());
        xs * 4
    }
    #[torchcache]
    fn by_view(xs: &Tensor, #[id] views: &[(String, u8)]) -> Tensor {
        assert_eq!(xs.size()[0] as usize, views.len());
        xs * f64::from(views[0].1)
    }
    let xs = random(&[3, 2]);
    let part = xs.narrow(0, 1, 2);
    let paths = ["a.png", "b.png", "c.png"].map(PathBuf::from);
    by_path(&xs, &paths);
    assert!(same(&by_path(&part, &paths[1..]), &(&part * 5.0)));
    assert_eq!(counts(by_path_cache()), (3, 2, 0));
    by_uuid(&xs, &[[0; 16], [1; 16], [2; 16]]);
    by_uuid(&part, &[[2; 16], [3; 16]]);
    assert_eq!(counts(by_uuid_cache()), (4, 1, 0));
    // As the crate `uuid` returns them from `as_u128` and `as_bytes`.
    let numbers = [1 << 127, (1 << 127) + 1, u128::MAX];
    by_uuid_number(&xs, &numbers);
    by_uuid_number(&part, &[numbers[2], 1]);
    assert_eq!(counts(by_uuid_number_cache()), (4, 1, 0));
    let bytes = numbers.map(u128::to_be_bytes);
    by_uuid_bytes(&xs, &bytes.each_ref());
    by_uuid_bytes(&part, &[&bytes[2], &[1; 16]]);
    assert_eq!(counts(by_uuid_bytes_cache()), (4, 1, 0));
    let view = |name: &str, view| (name.to_owned(), view);
    by_view(&xs, &[view("ab", 1), view("a", 1), view("ab", 2)]);
    by_view(&part, &[view("ab", 2), view("b", 1)]);
    assert_eq!(counts(by_view_cache()), (4, 1, 0));
}

#[test]
fn an_id_tensor_must_be_one_dimension_of_integers() {
    let xs = random(&[2, 2]);
    for ids in [
        Tensor::from_slice(&[1.0f32, 2.0]),
        Tensor::from_slice(&[1i64, 2]).view([2, 1]),
        Tensor::from_slice(&[true, false]),
        Tensor::from_slice(&[1i64, 2]).to_sparse(None, None::<&[i64]>, None),
    ] {
        let texts = ["argument `ids` holds ids", "integers of shape [rows]"];
        assert_panics(&texts, || by_tensor(&xs, &ids));
    }
}

/// Ids without tensors.
#[torchcache]
fn read_and_embed(#[id] paths: &[&str]) -> Tensor {
    let lengths: Vec<f32> = paths.iter().map(|path| path.len() as f32).collect();
    Tensor::from_slice(&lengths).to_device(device())
}

#[test]
fn a_function_of_ids_alone_runs_for_missing_ids_only() {
    let ys = read_and_embed(&["one", "three"]);
    assert!(same(
        &ys,
        &Tensor::from_slice(&[3.0f32, 5.0]).to_device(device())
    ));
    let ys = read_and_embed(&["three", "fourteen", "three"]);
    assert!(same(
        &ys,
        &Tensor::from_slice(&[5.0f32, 8.0, 5.0]).to_device(device())
    ));
    assert_eq!(counts(read_and_embed_cache()), (3, 1, 0));
    assert_eq!(read_and_embed_cache().stats().duplicates, 1);
    assert_eq!(read_and_embed(&[]).size(), [0]);
}

#[test]
fn forward_by_id_does_not_share_with_forward() {
    let net = nn::func(|xs| xs * 2);
    let net = Cached::new(net, (), version("ids")).unwrap();
    let misses = || net.cache().stats().misses;
    let xs = random(&[2, 3]);
    net.forward(&xs);
    net.forward_by_id(&xs, [1i64, 2].as_slice());
    assert_eq!(misses(), 4, "a key of content is never a key of an id");
    let ys = net.forward_by_id(&random(&[1, 3]), &Tensor::from_slice(&[2i64]));
    assert!(same(&ys.get(0), &(xs.get(1) * 2)));
    assert_eq!(misses(), 4);
    net.forward_by_id(&xs, &vec![2u8, 3]);
    assert_eq!(misses(), 5);
    assert_panics(&["1 ids for 2 rows"], || {
        net.forward_by_id(&xs, ["a"].as_slice())
    });
}

/// A persistent module with `forward_t`.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Kept {
    #[torchcache(skip)]
    ran: Ran,
    torchcache_enabled: bool,
    torchcache_persistent_cache_dir: std::path::PathBuf,
    cache: TorchCache,
}

#[torchcache]
impl Kept {
    fn forward_t(
        &self,
        xs: &Tensor,
        #[id] ids: &[&str],
        #[shared] add: &Tensor,
        train: bool,
    ) -> Tensor {
        assert!(!ids.is_empty());
        self.ran.note(xs);
        if train { xs.neg() } else { xs + add }
    }
}

#[test]
fn rows_by_id_persist_and_training_ignores_them() {
    let dir = tempfile::tempdir().unwrap();
    let open = |enabled| Kept {
        ran: Ran::default(),
        torchcache_enabled: enabled,
        torchcache_persistent_cache_dir: dir.path().to_owned(),
        cache: TorchCache::default(),
    };
    let (xs, one) = (random(&[2, 3]), random(&[3]));
    let first = open(true);
    let ys = first.forward_t(&xs, &["a", "b"], &one, false);
    first.cache.flush().unwrap();
    drop(first);

    let again = open(true);
    let other = random(&[2, 3]);
    let hit = again.forward_t(&other, &["b", "a"], &one, false);
    assert_eq!(again.ran.take(), (0, 0));
    assert_eq!(again.cache.stats().disk.hits, 2);
    assert!(same(&hit.get(0), &ys.get(1)) && same(&hit.get(1), &ys.get(0)));
    // Another shared tensor has other rows.
    let shifted = again.forward_t(&other, &["a", "b"], &(&one + 1.0), false);
    assert!(same(&shifted, &(&other + (&one + 1.0))));
    assert_eq!(again.ran.take(), (1, 2));

    for _ in 0..2 {
        assert!(same(
            &again.forward_t(&other, &["a", "b"], &one, true),
            &other.neg()
        ));
    }
    assert_eq!(again.ran.take(), (2, 4), "training bypasses the cache");
    let off = open(false);
    assert!(same(
        &off.forward_t(&other, &["a", "b"], &one, false),
        &(&other + &one)
    ));
    assert_eq!(off.ran.take(), (1, 2));

    let grad = random(&[2, 3]).set_requires_grad(true);
    assert!(
        again
            .forward_t(&grad, &["a", "b"], &one, false)
            .requires_grad()
    );
    assert_eq!(
        again.ran.take(),
        (1, 2),
        "an input that requires grad bypasses it too"
    );
}
