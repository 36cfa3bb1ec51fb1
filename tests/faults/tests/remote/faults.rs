//! Faults of a kind in every request, one after the other.

use torchcache_faults::cases::series;
use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_store::remote::ObjectErrorKind;

use crate::common::{Machine, bucket, unknown};

/// Writes, reads, restarts, and reads again, with one fault at the request of this number. Returns whether it occurred.
fn run(nth: u64, fault: ObjectFault, applies: fn(Request) -> bool) -> bool {
    let bucket = bucket();
    let (writer, mut reader) = (Machine::new(&bucket), Machine::new(&bucket));
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    for machine in [&writer, &reader] {
        let seen = seen.clone();
        machine.objects.set_faults(move |request| {
            let number = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            (number == nth && applies(request)).then_some(fault)
        });
    }
    for first in [0, 10] {
        writer.compute(first..first + 10, 300);
        // A put without an answer takes the whole time of a flush.
        let flushed = writer.flush().or_else(|_| writer.flush());
        flushed.expect("one fault is survived");
        reader.remote.locate(&[unknown()]);
        reader.work(1);
        reader.count(0..20);
        reader.work(310);
        writer.work(10);
    }
    reader.restart();
    // A fault may have hidden a change of the hint, or lasted to the end of the first refresh.
    for _ in 0..2 {
        reader.work(31);
        reader.remote.locate(&[unknown()]);
    }
    let got = reader.count(0..20);
    reader.work(31);
    let again = reader.count(0..20);
    let total = seen.load(std::sync::atomic::Ordering::SeqCst);
    let is_removal = fault == ObjectFault::Removed;
    assert!(is_removal || got.max(again) == 20, "{got} and {again}");
    nth <= total
}

#[test]
fn one_fault_anywhere_costs_no_acknowledged_row() {
    fn any(_: Request) -> bool {
        true
    }
    fn bodies(request: Request) -> bool {
        matches!(request, Request::Read)
    }
    for kind in ObjectErrorKind::ALL {
        if !matches!(
            kind,
            ObjectErrorKind::NotFound | ObjectErrorKind::AlreadyExists | ObjectErrorKind::NotMade
        ) {
            series(format_args!("{kind:?}"), |nth| {
                run(nth, ObjectFault::Error(*kind), any)
            });
        }
    }
    for fault in [ObjectFault::Hangs, ObjectFault::LostReply] {
        series(format_args!("{fault:?}"), |nth| run(nth, fault, any));
    }
    for fault in [
        ObjectFault::CutBody,
        ObjectFault::FlippedBit,
        ObjectFault::WrongRange,
        ObjectFault::WholeObject,
        ObjectFault::Removed,
    ] {
        series(format_args!("{fault:?}"), |nth| run(nth, fault, bodies));
    }
}
