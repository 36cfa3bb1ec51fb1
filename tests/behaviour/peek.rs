//! `TorchCache::peek`: which rows of a call are cached, and their keys, without computing any.

use tch::nn::{Module, ModuleT};
use tch::{Tensor, nn};
use torchcache::{Batched, Cached, Error, ErrorKind, PeekedRow, Tier, TorchCache, torchcache};

use crate::persistent_module::kept;
use crate::support::{Scale, counts, device, panic_of, random, same, version};

const MEMORY: Option<Tier> = Some(Tier::Memory);
const DISK: Option<Tier> = Some(Tier::Disk);

fn tiers(rows: &[PeekedRow]) -> Vec<Option<Tier>> {
    rows.iter().map(|row| row.tier).collect()
}

fn keys(rows: &[PeekedRow]) -> Vec<[u8; 32]> {
    rows.iter().map(|row| row.key).collect()
}

#[test]
fn a_peek_finds_what_a_call_would_and_computes_nothing() {
    let model = Scale::by(2.0);
    let xs = random(&[4, 3]);
    let peek = |xs: &Tensor| model.cache.peek(|| model.forward(xs)).unwrap();
    assert_eq!(tiers(&peek(&xs)), [None; 4], "before the first call");
    model.forward(&xs.narrow(0, 1, 2));
    let before = model.cache.stats();
    let rows = peek(&Tensor::cat(&[&xs, &xs.narrow(0, 1, 1)], 0));
    assert_eq!(tiers(&rows), [None, MEMORY, MEMORY, None, MEMORY]);
    assert_eq!(rows[4].key, rows[1].key, "an equal row");
    let digits: String = rows[4]
        .key
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(rows[4].hex_key(), digits);
    assert_eq!(peek(&xs.narrow(0, 0, 0)), []);
    assert_eq!(model.ran.take(), (1, 2), "no body ran");
    let since = model.cache.stats().since(&before);
    assert_eq!((since.calls, since.hits(), since.misses), (0, 0, 0));
    assert!(
        same(&model.forward(&xs), &(&xs * 2.0)),
        "what follows is a call"
    );
    assert_eq!(counts(&model.cache), (4, 2, 0));
}

#[test]
fn keys_are_those_of_the_arguments_and_the_present_weights() {
    let mut vs = nn::VarStore::new(device());
    let net = nn::linear(vs.root(), 3, 2, Default::default());
    vs.freeze();
    let mut weight = net.ws.shallow_clone();
    let net = Cached::new(net, &vs, version("1")).unwrap();
    let xs = random(&[2, 3]);
    let peek = || net.cache().peek(|| net.forward_t(&xs, false)).unwrap();
    net.forward(&xs);
    let first = peek();
    assert_eq!(tiers(&first), [MEMORY; 2]);
    assert_ne!(first[0].key, first[1].key);
    let _ = tch::no_grad(|| weight.g_add_scalar_(1.0));
    let second = peek();
    assert_eq!(tiers(&second), [None; 2]);
    assert!(keys(&second).iter().all(|key| !keys(&first).contains(key)));
    let _ = tch::no_grad(|| weight.g_sub_scalar_(1.0));
    let by_id = |ids: &[i64]| net.cache().peek(|| net.forward_by_id(&xs, ids)).unwrap();
    assert_eq!(by_id(&[7, 8])[1].key, by_id(&[8, 9])[0].key);
    assert_ne!(by_id(&[7, 8])[0].key, first[0].key);
}

#[test]
fn rows_on_disk_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[3, 4]);
    kept(root.path()).forward(&xs.narrow(0, 0, 2)).unwrap();
    let model = kept(root.path());
    let peek = || model.torchcache.peek(|| model.forward(&xs)).unwrap();
    assert_eq!(tiers(&peek()), [DISK, DISK, None]);
    let stats = model.torchcache.stats();
    assert_eq!(
        (stats.memory.rows, stats.disk.hits, stats.disk.rows),
        (0, 0, 2)
    );
    assert_eq!(tiers(&peek()), [DISK, DISK, None], "nor kept in memory");
    model.forward(&xs).unwrap();
    assert_eq!(tiers(&peek()), [MEMORY; 3]);
    assert_eq!(counts(&model.torchcache), (1, 0, 2));
    model.torchcache.clear();
    assert_eq!(tiers(&peek()), [None; 3]);
}

/// With `"lru"`, a hit would keep the oldest row.
#[test]
fn the_order_of_use_stays() {
    #[torchcache(eviction = "lru", max_memory_cache_size = "1 MB")]
    fn double(xs: &Tensor) -> Tensor {
        xs * 2
    }
    let row = || random(&[1, 100_000]);
    let (first, second, third) = (row(), row(), row());
    let peek = |xs: &Tensor| double_cache().peek(|| double(xs)).unwrap()[0].tier;
    double(&first);
    double(&second);
    assert_eq!((peek(&first), peek(&second)), (MEMORY, MEMORY));
    assert_eq!(peek(&first), MEMORY);
    double(&third);
    assert_eq!((peek(&first), peek(&third)), (None, MEMORY));
}

#[derive(Batched)]
struct Parts {
    rows: Tensor,
    layers: Vec<Tensor>,
    maybe: Option<Tensor>,
    pair: [Tensor; 2],
}

#[test]
fn outputs_of_every_type_have_a_placeholder() {
    #[torchcache]
    fn parts(xs: &Tensor) -> Result<Parts, Error> {
        let [rows, one, two] = [1, 2, 3].map(|by| xs * by);
        Ok(Parts {
            layers: vec![xs + 1],
            maybe: Some(xs + 2),
            pair: [one, two],
            rows,
        })
    }
    let xs = random(&[2, 2]);
    let peek = || {
        let call = || {
            let parts = parts(&xs).unwrap();
            assert!(!parts.rows.defined() && !parts.pair[1].defined());
            assert!(parts.layers.is_empty() && parts.maybe.is_none());
        };
        tiers(&parts_cache().peek(call).unwrap())
    };
    assert_eq!(peek(), [None; 2]);
    assert!(same(&parts(&xs).unwrap().layers[0], &(&xs + 1)));
    assert_eq!(peek(), [MEMORY; 2]);
}

#[test]
fn only_calls_of_the_closure_itself_are_peeked() {
    #[torchcache]
    fn inner(xs: &Tensor) -> Tensor {
        xs * 2
    }
    #[torchcache]
    fn outer(xs: &Tensor) -> Tensor {
        inner(xs) + 1
    }
    #[torchcache]
    fn listed(#[id] ids: &[i64], list: &[Tensor]) -> Tensor {
        Tensor::from_slice(ids) * (list.len() as i64 + 1)
    }
    let (xs, ys) = (random(&[2, 11]), random(&[1, 11]));
    let error = inner_cache().peek(|| outer(&xs)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoCall);
    assert_eq!(
        counts(inner_cache()),
        (2, 0, 0),
        "a call inside another one is made"
    );
    assert!(same(&outer(&xs), &(&xs * 2 + 1)));
    // Several calls, one after the other.
    let rows = inner_cache().peek(|| (inner(&ys), inner(&xs))).unwrap();
    assert_eq!(tiers(&rows), [None, MEMORY, MEMORY]);
    // What is computed after a placeholder is kept nowhere.
    let call = || {
        let _ = inner(&xs);
        outer(&ys);
        listed(&[3], &[]);
    };
    assert_eq!(inner_cache().peek(call).unwrap().len(), 2);
    let rows = |cache: &TorchCache| cache.stats().memory.rows;
    assert_eq!(
        (
            rows(inner_cache()),
            rows(outer_cache()),
            rows(listed_cache())
        ),
        (2, 2, 0)
    );
    // A peek ends with its closure, by a panic as well.
    panic_of(|| inner_cache().peek(|| panic!("on purpose")));
    assert!(same(&inner(&ys), &(&ys * 2)));
}

#[test]
fn calls_without_keys_are_errors() {
    #[torchcache]
    #[derive(Debug, Default)]
    struct Net {
        torchcache_enabled: Option<bool>,
        cache: TorchCache,
    }
    #[torchcache]
    impl nn::ModuleT for Net {
        fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
            xs.dropout(0.5, train)
        }
    }
    let mut net = Net::default();
    let xs = random(&[2, 2]);
    let peek = |net: &Net, xs: &Tensor, train| {
        let error = net.cache.peek(|| net.forward_t(xs, train)).unwrap_err();
        (error.kind(), error.to_string())
    };
    let (kind, text) = peek(&net, &xs, true);
    assert_eq!(kind, ErrorKind::Bypassed);
    assert!(
        text.contains("Net") && text.ends_with("is being trained"),
        "{text}"
    );
    let (kind, text) = peek(&net, &xs.set_requires_grad(true), false);
    assert_eq!(kind, ErrorKind::Bypassed);
    assert!(text.contains("argument `xs` requires grad"), "{text}");
    let (kind, _) = peek(&net, &Tensor::from(1.0f32), false);
    assert_eq!(kind, ErrorKind::ZeroDimensionalArgument);
    net.torchcache_enabled = Some(false);
    let (kind, text) = peek(&net, &random(&[2, 2]), false);
    assert_eq!(kind, ErrorKind::Bypassed);
    assert!(text.ends_with("it is disabled"), "{text}");
    assert_eq!(net.cache.peek(|| ()).unwrap_err().kind(), ErrorKind::NoCall);
    assert_eq!(net.cache.stats().bypassed, 0);
}
