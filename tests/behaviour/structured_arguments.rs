//! Arguments that are made of several tensors: lists, options, tuples, maps, structs, enums, recurrent states.

use std::collections::{BTreeMap, HashMap};

use tch::{Tensor, nn};
use torchcache::{Argument, Batched, Fingerprint, PlainArgument, TorchCache, torchcache};

use crate::support::{Ran, assert_panics, counts, logged, random, same, warnings};

#[derive(Argument, Batched)]
struct Inputs {
    ids: Tensor,
    mask: Option<Tensor>,
}

#[derive(Argument)]
struct Borrowed<'a, T> {
    ids: &'a Tensor,
    rest: (T, &'a [Tensor]),
    #[argument(plain)]
    pooling: Pooling,
}

#[derive(Clone, Copy, Debug, Fingerprint, PartialEq)]
enum Pooling {
    Mean,
    Max,
}

impl PlainArgument for Pooling {}

#[derive(Argument)]
enum Either {
    Pair(Tensor, Tensor),
    Named { first: Tensor, second: Tensor },
    Nothing,
}

fn inputs(a: &Tensor, b: &Tensor) -> Inputs {
    Inputs {
        ids: a.copy(),
        mask: Some(b.copy()),
    }
}

/// `a + 10 b` of the tensors in an argument of each form.
macro_rules! forms {
    ($($name:ident: $type:ty, |$value:ident| $parts:expr, |$a:ident, $b:ident| $made:expr;)*) => {$(
        mod $name {
            use super::*;

            #[torchcache]
            fn sum(#[skip] ran: &Ran, $value: $type) -> Tensor {
                let (a, b): (&Tensor, &Tensor) = $parts;
                ran.note(a);
                assert!(a.is_contiguous() && b.is_contiguous());
                a + b * 10
            }

            #[test]
            fn is_cut_into_rows() {
                assert_cut_into_rows(sum_cache(), &|ran, $a, $b| sum(ran, $made));
            }
        }
    )*};
}

forms! {
    vector: Vec<Tensor>, |it| (&it[0], &it[1]), |a, b| vec![a.copy(), b.copy()];
    vector_reference: &Vec<Tensor>, |it| (&it[0], &it[1]), |a, b| &vec![a.copy(), b.copy()];
    vector_of_references: Vec<&Tensor>, |it| (it[0], it[1]), |a, b| vec![a, b];
    slice: &[Tensor], |it| (&it[0], &it[1]), |a, b| &[a.copy(), b.copy()];
    slice_of_references: &[&Tensor], |it| (it[0], it[1]), |a, b| &[a, b];
    slice_of_options: &[Option<Tensor>], |it| (it[0].as_ref().unwrap(), it[2].as_ref().unwrap()),
        |a, b| &[Some(a.copy()), None, Some(b.copy())];
    slice_of_pairs: &[(Tensor, Tensor)], |it| (&it[0].1, &it[1].0),
        |a, b| &[(b.copy(), a.copy()), (b.copy(), a.copy())];
    optional_vector: Option<Vec<Tensor>>, |it| { let it = it.as_ref().unwrap(); (&it[0], &it[1]) },
        |a, b| Some(vec![a.copy(), b.copy()]);
    optional_vector_reference: Option<&Vec<Tensor>>, |it| { let it = it.unwrap(); (&it[0], &it[1]) },
        |a, b| Some(&vec![a.copy(), b.copy()]);
    optional_slice: Option<&[Tensor]>, |it| { let it = it.unwrap(); (&it[0], &it[1]) },
        |a, b| Some(&[a.copy(), b.copy()]);
    past_key_values: Option<&Vec<(Tensor, Tensor)>>, |it| { let it = it.unwrap(); (&it[1].0, &it[0].1) },
        |a, b| Some(&vec![(a.copy(), b.copy()), (a.copy(), b.copy())]);
    pair: (Tensor, Tensor), |it| (&it.0, &it.1), |a, b| (a.copy(), b.copy());
    pair_reference: &(Tensor, Tensor), |it| (&it.0, &it.1), |a, b| &(a.copy(), b.copy());
    pair_of_references: (&Tensor, &Tensor), |it| it, |a, b| (a, b);
    optional_pair: Option<(&Tensor, Tensor)>, |it| { let it = it.as_ref().unwrap(); (it.0, &it.1) },
        |a, b| Some((a, b.copy()));
    mixed_tuple: (&str, Tensor, (f64, Option<&Tensor>)), |it| (&it.1, it.2.1.unwrap()),
        |a, b| ("mixed", a.copy(), (0.5, Some(b)));
    array: [Tensor; 2], |it| (&it[0], &it[1]), |a, b| [a.copy(), b.copy()];
    array_reference: &[Tensor; 2], |it| (&it[0], &it[1]), |a, b| &[a.copy(), b.copy()];
    reference_to_option: (&Option<Tensor>, &Tensor), |it| (it.0.as_ref().unwrap(), it.1),
        |a, b| (&Some(a.copy()), b);
    tree_map: BTreeMap<String, Tensor>, |it| (&it["a"], &it["b"]),
        |a, b| BTreeMap::from([("b".to_owned(), b.copy()), ("a".to_owned(), a.copy())]);
    hash_map: &HashMap<&str, Tensor>, |it| (&it["a"], &it["b"]),
        |a, b| &HashMap::from([("b", b.copy()), ("a", a.copy())]);
    structure: Inputs, |it| (&it.ids, it.mask.as_ref().unwrap()), |a, b| inputs(a, b);
    structure_reference: &Inputs, |it| (&it.ids, it.mask.as_ref().unwrap()), |a, b| &inputs(a, b);
    optional_structure: Option<&Inputs>, |it| { let it = it.unwrap(); (&it.ids, it.mask.as_ref().unwrap()) },
        |a, b| Some(&inputs(a, b));
    slice_of_structures: &[Inputs], |it| (&it[1].ids, it[0].mask.as_ref().unwrap()),
        |a, b| &[inputs(a, b), inputs(a, b)];
    structure_of_references: Borrowed<'_, Tensor>, |it| (it.ids, &it.rest.1[0]),
        |a, b| Borrowed { ids: a, rest: (b.copy(), &[b.copy()]), pooling: Pooling::Mean };
    enumeration: &Either,
        |it| match it { Either::Named { first, second } | Either::Pair(second, first) => (first, second), Either::Nothing => unreachable!() },
        |a, b| &Either::Named { first: a.copy(), second: b.copy() };
}

/// Calls with rows of two tensors: rows that differ in one are two, and the body gets those that are missing.
#[track_caller]
fn assert_cut_into_rows(cache: &TorchCache, call: &dyn Fn(&Ran, &Tensor, &Tensor) -> Tensor) {
    let assert_right = |a: &Tensor, b: &Tensor, computed: (usize, i64)| {
        let ran = Ran::default();
        let output = call(&ran, a, b);
        assert!(same(&output, &(a + b * 10)));
        assert_eq!(ran.take(), computed);
        output
    };
    let (a, b) = (random(&[6, 3]), random(&[6, 3]));
    assert_right(&a, &b, (1, 6));
    // Known rows in another order, one that is new in the first tensor and one that is in the second.
    let index = Tensor::from_slice(&[4i64, 0, 5, 5, 2]).to_device(a.device());
    let [some_a, some_b] = [&a, &b].map(|all| all.index_select(0, &index));
    some_a.get(2).copy_(&random(&[3]));
    some_b.get(3).copy_(&random(&[3]));
    assert_right(&some_a, &some_b, (1, 2));
    assert_right(&some_a, &some_b, (0, 0));
    assert_right(&b, &a, (1, 6));
    assert_eq!((counts(cache), cache.stats().bypassed), ((14, 8, 0), 0));

    let trained = random(&[2, 3]).set_requires_grad(true);
    assert!(assert_right(&trained, &random(&[2, 3]), (1, 2)).requires_grad());
    assert!(assert_right(&random(&[2, 3]), &trained, (1, 2)).requires_grad());
    assert_right(&a.narrow(0, 0, 0), &b.narrow(0, 0, 0), (1, 0));
    assert_eq!((counts(cache), cache.stats().bypassed), ((14, 8, 0), 3));
    assert_panics(&["batch sizes differ"], || {
        call(&Ran::default(), &a, &b.narrow(0, 0, 5))
    });
}

#[torchcache]
fn states(
    #[skip] ran: &Ran,
    xs: &Tensor,
    gru: &nn::GRUState,
    lstm: Option<(i64, nn::LSTMState)>,
) -> (nn::GRUState, Vec<nn::LSTMState>) {
    ran.note(xs);
    assert!(gru.0.is_contiguous());
    assert_eq!(
        gru.0.size()[1],
        xs.size()[0],
        "the batch is the second dimension"
    );
    let next = |h: &Tensor| h * 2 + xs.unsqueeze(0);
    let lstm = lstm.map(|(by, lstm)| nn::LSTMState((next(&lstm.h()), next(&lstm.c()) * by)));
    (nn::GRUState(next(&gru.0)), lstm.into_iter().collect())
}

#[test]
fn recurrent_states_are_cut_in_their_second_dimension() {
    let ran = Ran::default();
    let (xs, h, c) = (random(&[5, 3]), random(&[2, 5, 3]), random(&[2, 5, 3]));
    let assert_right = |xs: &Tensor, h: &Tensor, c: &Tensor, missing: (usize, i64)| {
        let lstm = nn::LSTMState((h.copy(), c.copy()));
        let (gru, lstm) = states(&ran, xs, &nn::GRUState(h.copy()), Some((3, lstm)));
        let next = |h: &Tensor| h * 2 + xs.unsqueeze(0);
        assert!(gru.0.is_contiguous() && lstm[0].c().is_contiguous());
        assert!(same(&gru.0, &next(h)));
        assert!(same(&lstm[0].h(), &next(h)) && same(&lstm[0].c(), &(next(c) * 3)));
        assert_eq!(ran.take(), missing);
    };
    assert_right(&xs, &h, &c, (1, 5));
    assert_right(&xs, &h, &c, (0, 0));
    // One row has another state of the second layer.
    h.get(1).get(2).copy_(&random(&[3]));
    assert_right(&xs, &h, &c, (1, 1));
    c.get(0).get(4).copy_(&random(&[3]));
    let part = |of: &Tensor| of.narrow(1, 1, 4);
    assert_right(&xs.narrow(0, 1, 4), &part(&h), &part(&c), (1, 1));
    // A state that has the same bytes in other places.
    assert_right(&xs, &h.flip([0]), &c.flip([0]), (1, 5));
    let (gru, lstm) = states(&ran, &xs, &nn::GRUState(h.copy()), None);
    assert!(lstm.is_empty() && gru.0.size() == [2, 5, 3]);
    assert_eq!(ran.take(), (1, 5));
}

#[test]
fn a_state_of_another_batch_is_an_error() {
    let call = |state: &Tensor| {
        let state = nn::GRUState(state.shallow_clone());
        states(&Ran::default(), &random(&[2, 3]), &state, None)
    };
    assert_panics(&["argument `xs` has 2 rows, argument `gru` has 3"], || {
        call(&random(&[2, 3, 3]))
    });
    assert_panics(&["argument `gru` has 4"], || call(&random(&[4])));
}

#[test]
fn an_undefined_state_bypasses_the_cache() {
    #[torchcache]
    fn ignored(xs: &Tensor, state: &nn::LSTMState) -> Tensor {
        assert!(!state.h().defined());
        xs * 2
    }
    let xs = random(&[2, 2]);
    let state = nn::LSTMState((Tensor::new(), Tensor::new()));
    assert!(same(&ignored(&xs, &state), &(&xs * 2)));
    assert_eq!(ignored_cache().stats().bypassed, 1);
}

/// A write to a state that is not contiguous reaches the caller's tensor, also where the cache hands over all of it.
#[test]
fn a_write_to_a_state_bypasses_the_cache() {
    #[torchcache]
    fn written(state: &nn::GRUState) -> Tensor {
        let _ = state.0.shallow_clone().g_add_scalar_(1);
        state.0.sum_dim_intlist(0, false, None)
    }
    let memory = random(&[4, 2, 3]);
    let before = memory.copy();
    let state = nn::GRUState(memory.transpose(0, 1));
    for times in 1..3 {
        written(&state);
        assert!(same(
            &memory,
            &(0..times).fold(before.copy(), |sum, _| sum + 1)
        ));
    }
    let stats = written_cache().stats();
    assert_eq!((stats.bypassed, stats.misses), (2, 0));
}

/// What a call of each function with some structure returns.
mod structures {
    use super::*;

    macro_rules! told_apart {
        ($($name:ident: $type:ty, |$value:ident| $factor:expr;)*) => {$(
            #[torchcache]
            pub(super) fn $name(xs: &Tensor, $value: $type) -> Tensor {
                let factor: i64 = $factor;
                xs * factor
            }
        )*};
    }

    told_apart! {
        options: &[Option<Tensor>],
            |it| it.iter().fold(it.len() as i64, |sum, it| sum * 10 + i64::from(it.is_some()));
        nested: Option<Option<Tensor>>,
            |it| match it { None => 1, Some(None) => 2, Some(Some(_)) => 3 };
        list: Option<Vec<Tensor>>, |it| it.map_or(1, |it| it.len() as i64 + 2);
        lists: (&[Tensor], &[Tensor]), |it| (it.0.len() * 10 + it.1.len()) as i64;
        numbers: (i64, Option<&Tensor>, Vec<(bool, i64)>),
            |it| it.2.iter().fold(it.0, |sum, it| sum * 100 + i64::from(it.0) * 10 + it.1);
        map: BTreeMap<&str, Tensor>, |it| it.keys().map(|key| key.len() as i64).sum();
        either: Either, |it| match it { Either::Pair(..) => 1, Either::Named { .. } => 2, Either::Nothing => 3 };
        pooling: &Borrowed<'_, i64>, |it| it.rest.0 * if it.pooling == Pooling::Max { 10 } else { 1 };
    }
}

#[test]
fn arguments_of_different_structure_have_different_keys() {
    fn assert_distinct<A>(
        cache: &TorchCache,
        values: &[&dyn Fn() -> A],
        call: impl Fn(A) -> Tensor,
    ) {
        let mut seen = Vec::new();
        for (place, make) in values.iter().enumerate() {
            let output = call(make());
            assert!(!seen.iter().any(|before| same(before, &output)), "{place}");
            assert!(same(&call(make()), &output));
            seen.push(output);
        }
        let rows = 2 * values.len() as u64;
        assert_eq!(counts(cache), (rows, rows, 0));
    }
    let xs = &random(&[2, 3]);
    let t = || xs.copy();
    assert_distinct::<Vec<Option<Tensor>>>(
        structures::options_cache(),
        &[
            &|| vec![None, Some(t())],
            &|| vec![Some(t()), None],
            &|| vec![Some(t())],
            &|| vec![],
            &|| vec![None],
            &|| vec![None, None],
            &|| vec![Some(t()), Some(t())],
        ],
        |it| structures::options(xs, &it),
    );
    assert_distinct::<Option<Option<Tensor>>>(
        structures::nested_cache(),
        &[&|| None, &|| Some(None), &|| Some(Some(t()))],
        |it| structures::nested(xs, it),
    );
    assert_distinct::<Option<Vec<Tensor>>>(
        structures::list_cache(),
        &[&|| None, &|| Some(vec![]), &|| Some(vec![t()])],
        |it| structures::list(xs, it),
    );
    assert_distinct::<[Vec<Tensor>; 2]>(
        structures::lists_cache(),
        &[
            &|| [vec![t()], vec![t(), t()]],
            &|| [vec![t(), t()], vec![t()]],
            &|| [vec![], vec![t(), t(), t()]],
        ],
        |[a, b]| structures::lists(xs, (&a, &b)),
    );
    assert_distinct::<(i64, Vec<(bool, i64)>)>(
        structures::numbers_cache(),
        &[
            &|| (7, vec![]),
            &|| (8, vec![]),
            &|| (7, vec![(false, 1)]),
            &|| (7, vec![(true, 1)]),
            &|| (7, vec![(true, 2)]),
            &|| (7, vec![(true, 2), (false, 1)]),
            &|| (7, vec![(false, 1), (true, 2)]),
        ],
        |(by, rest)| structures::numbers(xs, (by, Some(xs), rest)),
    );
    assert_distinct::<BTreeMap<&str, Tensor>>(
        structures::map_cache(),
        &[
            &|| BTreeMap::from([("a", t())]),
            &|| BTreeMap::from([("ab", t())]),
            &|| BTreeMap::from([("a", t()), ("bc", t())]),
        ],
        |it| structures::map(xs, it),
    );
    assert_distinct::<Either>(
        structures::either_cache(),
        &[
            &|| Either::Pair(t(), t()),
            &|| Either::Named {
                first: t(),
                second: t(),
            },
            &|| Either::Nothing,
        ],
        |it| structures::either(xs, it),
    );
    let borrowed = |by: i64, pooling| Borrowed {
        ids: xs,
        rest: (by, &[]),
        pooling,
    };
    assert_distinct::<Borrowed<'_, i64>>(
        structures::pooling_cache(),
        &[
            &|| borrowed(1, Pooling::Mean),
            &|| borrowed(1, Pooling::Max),
            &|| borrowed(2, Pooling::Mean),
        ],
        |it| structures::pooling(xs, &it),
    );
}

#[test]
fn the_tensor_that_does_not_fit_is_named() {
    #[torchcache]
    fn named(it: (Tensor, Tensor)) -> Tensor {
        it.0 + it.1
    }
    let [two, three] = [2, 3].map(|rows| random(&[rows, 3]));
    assert_panics(
        &["argument `it[0]` has 2 rows, argument `it[1]` has 3"],
        || named((two.copy(), three.copy())),
    );
}

/// The state of one call is an argument of the next.
#[test]
fn an_output_may_be_an_argument() {
    #[torchcache]
    fn step(inputs: &Inputs) -> Inputs {
        let mask = inputs.mask.as_ref().map(|mask| mask + 1);
        Inputs {
            ids: &inputs.ids * 2,
            mask,
        }
    }
    let first = inputs(&random(&[3, 2]), &random(&[3, 2]));
    for _ in 0..2 {
        let second = step(&step(&first));
        assert!(same(&second.ids, &(&first.ids * 2 * 2)));
        assert!(same(
            &second.mask.unwrap(),
            &(first.mask.as_ref().unwrap() + 1 + 1)
        ));
    }
    assert_eq!(counts(step_cache()), (6, 6, 0));
}

#[torchcache]
fn shared_lists(
    xs: &Tensor,
    #[shared] first: &Vec<Tensor>,
    #[shared] second: Vec<Tensor>,
) -> Tensor {
    first
        .iter()
        .chain(&second)
        .fold(xs + 0, |sum, one| sum + one)
}

#[test]
fn vectors_may_be_shared() {
    let xs = random(&[3, 2]);
    let (a, b) = (random(&[2]), random(&[2]));
    let call = |first: &[&Tensor], second: &[&Tensor]| {
        let copies = |all: &[&Tensor]| all.iter().map(|one| one.copy()).collect::<Vec<_>>();
        shared_lists(&xs, &copies(first), copies(second))
    };
    for _ in 0..2 {
        assert!(same(&call(&[&a, &b], &[]), &(&xs + 0 + &a + &b)));
        assert!(same(&call(&[&a], &[&b]), &(&xs + 0 + &a + &b)));
    }
    assert_eq!(counts(shared_lists_cache()), (6, 6, 0));
}

#[torchcache]
fn through_layers(
    xs: &Tensor,
    linear: &nn::Linear,
    convs: &[nn::Conv1D],
    norm: Option<&nn::LayerNorm>,
) -> Tensor {
    let ys = xs.apply(linear).unsqueeze(1);
    let ys = convs
        .iter()
        .fold(ys, |ys, conv| ys.apply(conv))
        .squeeze_dim(1);
    norm.map_or(ys.shallow_clone(), |norm| ys.apply(norm))
}

#[test]
fn each_weight_of_a_layer_is_part_of_the_key() {
    let mut vs = nn::VarStore::new(crate::support::device());
    let root = vs.root();
    let linear = nn::linear(&root, 4, 4, Default::default());
    let convs = [1, 3].map(|size| nn::conv1d(&root / size, 1, 1, size, Default::default()));
    let padded = nn::ConvConfig {
        padding: 1,
        ..Default::default()
    };
    let other = [nn::conv1d(&root / "other", 1, 1, 3, padded)];
    let norm = nn::layer_norm(&root / "norm", vec![2], Default::default());
    let wide = nn::layer_norm(&root / "wide", vec![4], Default::default());
    vs.freeze();
    let xs = random(&[3, 4]);
    let convs = &convs[..];
    let check = |convs: &[nn::Conv1D], norm: Option<&nn::LayerNorm>| {
        let (misses, hits, _) = counts(through_layers_cache());
        for _ in 0..2 {
            let ys = xs.apply(&linear).unsqueeze(1);
            let ys = convs
                .iter()
                .fold(ys, |ys, conv| ys.apply(conv))
                .squeeze_dim(1);
            let ys = norm.map_or(ys.shallow_clone(), |norm| ys.apply(norm));
            assert!(same(&through_layers(&xs, &linear, convs, norm), &ys));
        }
        assert_eq!(counts(through_layers_cache()), (misses + 3, hits + 3, 0));
    };
    check(convs, None);
    check(convs, Some(&norm));
    check(&other, Some(&wide));
    tch::no_grad(|| linear.ws.shallow_clone().fill_(0.25));
    check(convs, None);
    tch::no_grad(|| convs[1].ws.shallow_clone().fill_(0.5));
    check(convs, None);
    tch::no_grad(|| norm.bs.as_ref().unwrap().shallow_clone().fill_(0.5));
    check(convs, Some(&norm));
}

#[test]
fn a_layer_that_is_trained_bypasses_the_cache() {
    #[torchcache]
    fn look_up(xs: &Tensor, table: &nn::Embedding) -> Tensor {
        xs.apply(table)
    }
    let vs = nn::VarStore::new(crate::support::device());
    let table = nn::embedding(vs.root(), 5, 2, Default::default());
    let xs = Tensor::from_slice(&[1i64, 4]).to_device(crate::support::device());
    let (ys, lines) = logged(|| look_up(&xs, &table));
    assert!(ys.requires_grad());
    assert_eq!(warnings(&lines, "argument `table` requires grad"), 1);
    let _guard = tch::no_grad_guard();
    look_up(&xs, &table);
    look_up(&xs, &table);
    let stats = look_up_cache().stats();
    assert_eq!((stats.bypassed, stats.misses, stats.memory.hits), (1, 2, 2));
}

/// A module of the program, which its attribute gives an identity.
#[torchcache]
#[derive(Debug)]
struct Vae {
    decoder: nn::Linear,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Vae {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.decoder)
    }
}

#[torchcache]
fn decode(xs: &Tensor, vae: &Vae, head: &torchcache::Cached<nn::Sequential>) -> Tensor {
    xs.apply(&vae.decoder).apply(head.module())
}

#[test]
fn a_module_may_be_an_argument() {
    let mut vs = nn::VarStore::new(crate::support::device());
    let decoder = nn::linear(vs.root() / "vae", 3, 2, Default::default());
    let head = nn::linear(vs.root() / "head", 2, 2, Default::default());
    let weights = [decoder.ws.shallow_clone(), head.ws.shallow_clone()];
    vs.freeze();
    let vae = Vae {
        decoder,
        torchcache: TorchCache::default(),
    };
    let head = nn::seq().add(head).add_fn(|xs| xs.tanh());
    let options = crate::support::version("head");
    let head = torchcache::Cached::new(head, &vs, options).unwrap();
    let xs = random(&[4, 3]);
    let mut seen: Vec<Tensor> = Vec::new();
    for change in [None, Some(0), Some(1)] {
        if let Some(which) = change {
            let _ = tch::no_grad(|| weights[which].shallow_clone().g_add_scalar_(0.5));
        }
        let ys = xs.apply(&vae.decoder).apply(head.module());
        assert!(!seen.iter().any(|before| same(before, &ys)));
        for _ in 0..2 {
            assert!(same(&decode(&xs, &vae, &head), &ys));
        }
        seen.push(ys);
    }
    assert_eq!(counts(decode_cache()), (12, 12, 0));
}
