//! Statistics, log events, and the methods of a handle.

use tch::nn::{self, Module};
use tch::{Device, Kind};
use torchcache::{Cached, TorchCache};

use crate::support::{Scale, counts, device, events, logged, random, version};

// Tests use different factors, because equal identities share rows.

#[test]
fn calls_log_at_debug_and_identities_at_info() {
    let model = Scale::by(101.0);
    let xs = random(&[4, 2]);
    let (_, lines) = logged(|| {
        model.forward(&xs.narrow(0, 0, 3));
        model.forward(&xs);
    });
    let hash = model.cache.module_hash().unwrap();
    for (level, words, times) in [
        ("INFO", "", 1),
        ("INFO", hash.as_str(), 1),
        ("INFO", "support::Scale", 1),
        ("DEBUG", "", 2),
        ("DEBUG", "memory=3 disk=0 remote=0 computed=1", 1),
    ] {
        assert_eq!(events(&lines, level, words), times, "{words}: {lines:#?}");
    }
}

#[test]
fn statistics_add_up_and_print_as_a_table() {
    let model = Scale::by(102.0);
    let xs = random(&[10, 2]);
    model.forward(&xs);
    model.forward(&tch::Tensor::cat(&[&xs, &xs], 0));
    let stats = model.cache.stats();
    assert_eq!(
        (stats.calls, stats.rows, stats.stored, stats.memory.rows),
        (2, 30, 10, 10)
    );
    assert_eq!((counts(&model.cache), stats.duplicates), ((10, 10, 0), 10));
    assert_eq!(stats.hits() + stats.misses, stats.rows);
    assert_eq!(stats.faults.total(), 0);
    assert!(
        stats.time_saved().is_some()
            && !stats.time.forward.is_zero()
            && !stats.time.hashing.is_zero()
    );
    let table = stats.to_string();
    for line in [
        "memory             10    33.3 %",
        "repeated           10    33.3 %",
        "computed           10    33.3 %",
    ] {
        assert!(table.contains(line), "{table}");
    }
}

/// Neither is part of another stage: a hit of a large module is nearly all watching.
#[test]
fn the_time_of_watching_and_attaching_is_counted() {
    let weight = random(&[20_000, 64]);
    let vs = nn::VarStore::new(weight.device());
    vs.root().var_copy("weight", &weight);
    let xs = random(&[4, 2]);
    let double = nn::func(|xs| xs * 2);
    let double = Cached::new(double, &vs, version("watched")).unwrap();
    let wrapped = double.cache().stats().time;
    assert!(
        !wrapped.attaching.is_zero(),
        "it is hashed when it is wrapped"
    );
    assert!(wrapped.watching.is_zero());
    let _guard = tch::no_grad_guard();
    double.forward(&xs);
    let first = double.cache().stats().time;
    double.forward(&xs);
    let hit = double.cache().stats();
    assert!(hit.time.watching > first.watching);
    assert_eq!(hit.time.attaching, first.attaching, "nothing changed");
    let since = hit.time.watching - first.watching;
    assert!(since > hit.time.hashing - first.hashing, "{hit}");
    let table = hit.to_string();
    for line in ["\nwatching ", "\nattaching "] {
        assert!(table.contains(line), "{table}");
    }
}

/// Hashing takes as long as there are weights: the first call does not repeat it.
#[test]
fn a_module_hashed_when_it_is_wrapped_is_not_hashed_again() {
    let vs = nn::VarStore::new(device());
    // Of a quantized tensor no element is compared.
    let weight = tch::Tensor::zeros([4_000, 8_000], (Kind::Float, Device::Cpu));
    let mut weight = weight.quantize_per_tensor(0.5, 0, Kind::QInt8);
    let mut variables = vs.variables_.lock().unwrap();
    let named = &mut variables.named_variables;
    named.insert("weight".to_owned(), weight.shallow_clone());
    drop(variables);
    let double = nn::func(|xs| xs * 2);
    let double = Cached::new(double, &vs, version("hashed early")).unwrap();
    let wrapped = double.cache().stats().time.attaching;
    double.forward(&random(&[4, 2]));
    let first = double.cache().stats().time.attaching - wrapped;
    assert!(first < wrapped / 2, "{first:?} after {wrapped:?}");
    // A change in between is noticed.
    let triple = nn::func(|xs| xs * 3);
    let triple = Cached::new(triple, &vs, version("changed early")).unwrap();
    let _ = weight.fill_(1.0);
    triple.forward(&random(&[4, 2]));
    let hash = triple.cache().module_hash();
    triple.cache().refresh();
    triple.forward(&random(&[4, 2]));
    assert_eq!(triple.cache().module_hash(), hash);
}

/// How long hashing took is part of the event.
#[test]
fn attaching_logs_the_time_of_hashing() {
    let model = Scale::by(105.0);
    let (_, lines) = logged(|| model.forward(&random(&[4, 2])));
    assert_eq!(events(&lines, "INFO", "hashed_in="), 1, "{lines:#?}");
}

#[test]
fn an_unattached_handle_answers() {
    let handle = TorchCache::default();
    assert_eq!(handle.module_hash(), None);
    assert_eq!(handle.stats().calls, 0);
    handle.flush().unwrap();
    handle.clear();
    handle.refresh();
    assert!(handle.effective_options().enabled());
    assert_eq!(
        format!("{handle:?}"),
        "TorchCache { module_hash: None, .. }"
    );
}

#[test]
fn clear_removes_the_rows_of_one_identity() {
    let (two, three) = (Scale::by(103.0), Scale::by(104.0));
    let xs = random(&[4, 2]);
    two.forward(&xs);
    three.forward(&xs);
    two.cache.clear();
    let memory = two.cache.stats().memory;
    assert_eq!((memory.rows, memory.bytes), (0, 0));
    two.ran.take();
    three.ran.take();
    two.forward(&xs);
    three.forward(&xs);
    assert_eq!((two.ran.take(), three.ran.take()), ((1, 4), (0, 0)));
}
