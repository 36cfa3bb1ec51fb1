//! Statistics, log events, and the methods of a handle.

use tch::nn::Module;
use torchcache::TorchCache;

use crate::support::{Scale, logged, random};

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
    let info: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("INFO"))
        .collect();
    assert_eq!(info.len(), 1, "{lines:#?}");
    assert!(
        info[0].contains(&hash) && info[0].contains("support::Scale"),
        "{info:?}"
    );
    let debug: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("DEBUG"))
        .collect();
    assert_eq!(debug.len(), 2, "{lines:#?}");
    assert!(
        debug[1].contains("memory=3") && debug[1].contains("computed=1"),
        "{debug:?}"
    );
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
    assert_eq!(
        (
            stats.memory.hits,
            stats.disk.hits,
            stats.duplicates,
            stats.misses
        ),
        (10, 0, 10, 10)
    );
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
    assert_eq!(
        (
            two.cache.stats().memory.rows,
            two.cache.stats().memory.bytes
        ),
        (0, 0)
    );
    two.ran.take();
    three.ran.take();
    two.forward(&xs);
    three.forward(&xs);
    assert_eq!((two.ran.take(), three.ran.take()), ((1, 4), (0, 0)));
}
