//! Statistics, log events, and the methods of a handle.

use tch::nn::Module;
use torchcache::TorchCache;

use crate::support::{Scale, counts, events, logged, random};

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
        ("DEBUG", "memory=3 disk=0 computed=1", 1),
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
