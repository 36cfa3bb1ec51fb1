//! The subscriber of this program.

use std::cell::Cell;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Calls a function for each event, with the directory or file that the event names.
struct Calling(fn(&Path));

thread_local! {
    /// Events of the calls themselves lead to no calls.
    static IS_CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Makes calls whose own events lead to no calls.
pub(crate) fn calling(calls: impl FnOnce()) {
    IS_CALLING.set(true);
    calls();
    IS_CALLING.set(false);
}

/// Calls a function for the events of all threads.
pub(crate) fn install(on_event: fn(&Path)) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing::subscriber::set_global_default(Calling(on_event)).expect("it is the only one");
    });
}

/// The directory or file that an event names.
#[derive(Default)]
struct Named(String);

impl Visit for Named {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if matches!(field.name(), "path" | "dir") {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Calling {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("torchcache_store")
    }

    fn event(&self, event: &Event<'_>) {
        let mut named = Named::default();
        event.record(&mut named);
        if !IS_CALLING.get() {
            (self.0)(Path::new(&named.0));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
