//! Threads that miss the same rows at the same time compute each of them once.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use tch::nn::{self, Module};
use tch::{CModule, Kind, Tensor};
use torchcache::{Cached, Error, Options, TorchCache, torchcache};

use crate::support::{
    Log, OnEvent, assert_panics, device, events, random, same, version, warnings,
};

const THREADS: usize = 16;

/// Rows that are all different.
fn rows(numbers: impl IntoIterator<Item = i64>) -> Tensor {
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let numbers = Tensor::from_slice(&numbers).to_kind(Kind::Float);
    numbers.to_device(device()).unsqueeze(1) + Tensor::zeros([37], (Kind::Float, device()))
}

/// What a body does while the calls of other threads go on: its first run waits, others go on.
struct Gate {
    runs: AtomicUsize,
    rows: AtomicUsize,
    /// One for each run that waits.
    opened: Mutex<Option<Receiver<()>>>,
}

impl Gate {
    const fn new() -> Self {
        Gate {
            runs: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
            opened: Mutex::new(None),
        }
    }

    /// Closes it for the next run, until the sender is used.
    fn close(&self) -> Sender<()> {
        let (open, opened) = channel();
        *self.opened.lock().unwrap() = Some(opened);
        self.take();
        open
    }

    /// A run of the body. Returns whether it waited.
    fn pass(&self, xs: &Tensor) -> bool {
        self.runs.fetch_add(1, SeqCst);
        self.rows.fetch_add(xs.size()[0] as usize, SeqCst);
        let opened = self.opened.lock().unwrap().take();
        opened.is_some_and(|opened| opened.recv().is_ok())
    }

    /// Runs and rows since the last call of this.
    fn take(&self) -> (usize, usize) {
        (self.runs.swap(0, SeqCst), self.rows.swap(0, SeqCst))
    }
}

/// Runs `call` on a thread, and returns once its body has begun.
fn begin<'s, R: Send + 's>(
    scope: &'s thread::Scope<'s, '_>,
    gate: &'static Gate,
    call: impl FnOnce() -> R + Send + 's,
) -> thread::ScopedJoinHandle<'s, R> {
    let thread = scope.spawn(call);
    while gate.runs.load(SeqCst) == 0 {
        thread::yield_now();
    }
    thread
}

/// Runs `call` on a thread, and returns once it waits for rows that another call computes.
fn wait<'s, R: Send + 's>(
    scope: &'s thread::Scope<'s, '_>,
    call: impl FnOnce() -> R + Send + 's,
) -> thread::ScopedJoinHandle<'s, R> {
    let (send, waits) = channel();
    let thread = scope.spawn(move || {
        let log = OnEvent(move |event: &tracing::Event<'_>| {
            if is_wait(event) {
                let _ = send.send(());
            }
        });
        tracing::subscriber::with_default(log, call)
    });
    waits.recv().expect("the call waits");
    thread
}

fn is_wait(event: &tracing::Event<'_>) -> bool {
    struct Message(bool);
    impl tracing::field::Visit for Message {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0 |= field.name() == "message" && format!("{value:?}").starts_with("waits for");
        }
    }
    let mut message = Message(false);
    event.record(&mut message);
    message.0
}

/// Every row is counted where it came from.
#[track_caller]
fn assert_counted(cache: &TorchCache) {
    let stats = cache.stats();
    assert_eq!(stats.misses + stats.hits(), stats.rows, "{stats}");
}

static DOUBLED: AtomicUsize = AtomicUsize::new(0);

#[torchcache]
fn double(xs: &Tensor) -> Tensor {
    DOUBLED.fetch_add(xs.size()[0] as usize, SeqCst);
    xs * 2
}

/// Batches that overlap, in other orders.
#[test]
fn threads_in_step_compute_each_row_once() {
    const ROUNDS: i64 = 40;
    const DISTINCT: i64 = 24;
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS as i64 {
            let start = &start;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = |row: i64| round * DISTINCT + (thread * 7 + row * 5) % DISTINCT;
                    let xs = rows((0..16).map(number));
                    start.wait();
                    assert!(same(&double(&xs), &(&xs * 2)));
                }
            });
        }
    });
    assert_eq!(DOUBLED.load(SeqCst) as i64, ROUNDS * DISTINCT);
    let stats = double_cache().stats();
    assert_eq!(stats.misses as i64, ROUNDS * DISTINCT);
    assert_eq!(stats.stored as i64, ROUNDS * DISTINCT);
    assert_counted(double_cache());
}

/// A script: only its misses are counted.
#[test]
fn a_wrapped_script_in_threads_computes_each_row_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script.pt");
    let mut triple = |inputs: &[Tensor]| vec![&inputs[0] * 3];
    let module = CModule::create_by_tracing("M", "forward", &[random(&[1, 3])], &mut triple);
    module.unwrap().save(&path).unwrap();
    let module = CModule::load_on_device(&path, device()).unwrap();
    let script = Arc::new(Cached::new(module, (), version("single flight")).unwrap());
    let start = Arc::new(Barrier::new(THREADS));
    let threads = (0..THREADS).map(|_| {
        let (script, start) = (script.clone(), start.clone());
        thread::spawn(move || {
            for round in 0..20 {
                let xs = rows(round * 4..round * 4 + 4);
                start.wait();
                assert!(same(&script.forward(&xs), &(&xs * 3)));
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|it| it.join().unwrap());
    assert_eq!(script.cache().stats().misses, 80);
    assert_counted(script.cache());
}

static FORGETFUL: Gate = Gate::new();

/// No tier keeps its rows.
#[torchcache(max_memory_cache_size = 0)]
fn forgetful(xs: &Tensor, half: bool) -> (Tensor, Tensor) {
    FORGETFUL.pass(xs);
    let kind = if half { Kind::Half } else { Kind::Int64 };
    (xs * 2, xs.to_kind(kind))
}

#[test]
fn rows_that_no_tier_keeps_are_handed_over() {
    let expected = |xs: &Tensor| (xs * 2, xs.to_kind(Kind::Half));
    let is_right = |(double, half): &(Tensor, Tensor), xs: &Tensor| {
        let expected = expected(xs);
        same(double, &expected.0) && same(half, &expected.1)
    };
    thread::scope(|scope| {
        let open = FORGETFUL.close();
        let first = begin(scope, &FORGETFUL, || forgetful(&rows(0..4), true));
        // Some rows in another order, one twice, and one of its own.
        let all = [3, 1, 9, 1];
        let second = wait(scope, || forgetful(&rows([1, 2]), true));
        let third = wait(scope, move || forgetful(&rows(all), true));
        open.send(()).unwrap();
        let (first, mut second, third) = (
            first.join().unwrap(),
            second.join().unwrap(),
            third.join().unwrap(),
        );
        assert!(is_right(&second, &rows([1, 2])) && is_right(&third, &rows(all)));
        // Each caller owns its output.
        let _ = second.0.fill_(7.0);
        assert!(is_right(&first, &rows(0..4)) && is_right(&third, &rows(all)));
    });
    assert_eq!(FORGETFUL.take(), (2, 5));
    let stats = forgetful_cache().stats();
    assert_eq!((stats.misses, stats.awaited, stats.duplicates), (5, 4, 1));
    assert_eq!((stats.memory.hits, stats.rows), (0, 10));
    assert!(
        stats.to_string().contains("awaited             4"),
        "{stats}"
    );
    assert!(!stats.time.waiting.is_zero());
}

/// `x * factor`, by a module whose instances share rows.
#[torchcache]
#[derive(Debug)]
struct Gated {
    weights: nn::VarStore,
    #[torchcache(skip)]
    gate: &'static Gate,
    torchcache_single_flight_timeout: f64,
    torchcache: TorchCache,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gated {
    fn by(factor: f64, gate: &'static Gate) -> Self {
        let mut weights = nn::VarStore::new(device());
        weights.root().var("factor", &[1], nn::Init::Const(factor));
        weights.freeze();
        Gated {
            weights,
            gate,
            torchcache_single_flight_timeout: 600.0,
            torchcache: TorchCache::default(),
        }
    }

    fn factor(&self) -> Tensor {
        self.weights.variables()["factor"].shallow_clone()
    }
}

#[torchcache]
impl nn::Module for Gated {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.gate.pass(xs);
        xs * self.factor()
    }
}

#[test]
fn instances_with_equal_weights_compute_each_row_once() {
    static GATE: Gate = Gate::new();
    let (one, other) = (Gated::by(41.0, &GATE), Gated::by(41.0, &GATE));
    thread::scope(|scope| {
        let open = GATE.close();
        let first = begin(scope, &GATE, || one.forward(&rows(0..3)));
        let second = wait(scope, || other.forward(&rows(0..3)));
        open.send(()).unwrap();
        assert!(same(&first.join().unwrap(), &second.join().unwrap()));
    });
    assert_eq!(GATE.take(), (1, 3));
    assert_eq!(one.torchcache.stats().awaited, 0);
    let stats = other.torchcache.stats();
    assert_eq!((stats.awaited, stats.misses, stats.stored), (3, 0, 0));
}

/// Rows of before `clear` are not found by calls of after it.
#[test]
fn a_call_after_clear_does_not_wait_for_one_of_before() {
    static GATE: Gate = Gate::new();
    let mut model = Gated::by(42.0, &GATE);
    model.torchcache_single_flight_timeout = 30.0;
    model.forward(&rows(5..6));
    thread::scope(|scope| {
        let open = GATE.close();
        let first = begin(scope, &GATE, || model.forward(&rows(0..3)));
        let before = wait(scope, || model.forward(&rows(0..3)));
        model.torchcache.clear();
        assert!(same(&model.forward(&rows(0..3)), &(rows(0..3) * 42.0)));
        assert!(model.torchcache.stats().time.waiting.is_zero());
        assert_eq!(GATE.take(), (2, 6));
        open.send(()).unwrap();
        for thread in [first, before] {
            assert!(same(&thread.join().unwrap(), &(rows(0..3) * 42.0)));
        }
    });
    assert_eq!(GATE.take(), (0, 0));
    assert_eq!(model.torchcache.stats().awaited, 3);
    assert_counted(&model.torchcache);
}

/// One row was found before the change, and the other is awaited.
#[test]
fn a_weight_written_while_a_call_waits_is_noticed() {
    static GATE: Gate = Gate::new();
    let model = Gated::by(43.0, &GATE);
    model.forward(&rows(0..1));
    let mut weight = model.factor();
    thread::scope(|scope| {
        let open = GATE.close();
        let first = begin(scope, &GATE, || model.forward(&rows(1..2)));
        let second = wait(scope, || model.forward(&rows(0..2)));
        tch::no_grad(|| weight.fill_(-1.0));
        open.send(()).unwrap();
        assert!(same(&first.join().unwrap(), &-rows(1..2)));
        assert!(same(&second.join().unwrap(), &-rows(0..2)));
    });
    assert_eq!(GATE.take(), (2, 3));
    assert!(same(&model.forward(&rows(0..2)), &-rows(0..2)));
    assert_eq!(GATE.take(), (1, 2), "no row of the change was kept");
    assert_counted(&model.torchcache);
}

/// The call that has rows of another one to wait for computes its own ones while the weight is written.
#[test]
fn a_weight_written_before_a_call_waits_is_noticed() {
    static GATE: Gate = Gate::new();
    static OWN: Gate = Gate::new();
    let (first, second) = (Gated::by(44.0, &GATE), Gated::by(44.0, &OWN));
    let mut weight = second.factor();
    thread::scope(|scope| {
        let (open, open_own) = (GATE.close(), OWN.close());
        let first = begin(scope, &GATE, || first.forward(&rows(2..4)));
        let second = begin(scope, &OWN, || second.forward(&rows(0..4)));
        tch::no_grad(|| weight.fill_(-1.0));
        open_own.send(()).unwrap();
        assert!(same(&second.join().unwrap(), &-rows(0..4)));
        open.send(()).unwrap();
        assert!(same(&first.join().unwrap(), &(rows(2..4) * 44.0)));
    });
    assert_eq!(OWN.take(), (2, 6), "its own rows, and the whole batch");
    assert_eq!(GATE.take(), (1, 2));
    assert_eq!(second.torchcache.stats().bypassed, 1);
}

#[test]
fn a_call_waits_until_the_timeout_and_then_computes() {
    static GATE: Gate = Gate::new();
    let mut model = Gated::by(45.0, &GATE);
    model.torchcache_single_flight_timeout = 0.02;
    let log = Log::default();
    thread::scope(|scope| {
        let open = GATE.close();
        let first = begin(scope, &GATE, || model.forward(&rows(0..2)));
        log.during(|| {
            // After one that waits in vain, the next ones do not wait.
            for _ in 0..3 {
                assert!(same(&model.forward(&rows(0..2)), &(rows(0..2) * 45.0)));
                model.forward(&rows(0..2));
            }
        });
        open.send(()).unwrap();
        first.join().unwrap();
    });
    assert_eq!(GATE.take(), (2, 4));
    assert_eq!(warnings(&log.lines(), "a call waited 20ms for rows"), 1);
    let stats = model.torchcache.stats();
    assert_eq!((stats.awaited, stats.misses, stats.memory.hits), (0, 4, 10));
}

#[test]
fn without_a_timeout_calls_do_not_wait() {
    static GATE: Gate = Gate::new();
    let mut model = Gated::by(46.0, &GATE);
    model.torchcache_single_flight_timeout = 0.0;
    thread::scope(|scope| {
        let open = GATE.close();
        let first = begin(scope, &GATE, || model.forward(&rows(0..2)));
        model.forward(&rows(0..2));
        open.send(()).unwrap();
        first.join().unwrap();
    });
    assert_eq!(GATE.take(), (2, 4));
    assert!(model.torchcache.stats().time.waiting.is_zero());
}

#[torchcache(whole_batch = true)]
fn of_whole_batches(xs: &Tensor) -> Tensor {
    OF_WHOLE.pass(xs);
    xs * 2
}

static OF_WHOLE: Gate = Gate::new();

/// One that runs on the whole batch has the rows that others compute as well.
#[test]
fn a_forward_over_the_whole_batch_waits_only_where_others_compute_all() {
    thread::scope(|scope| {
        let open = OF_WHOLE.close();
        let first = begin(scope, &OF_WHOLE, || of_whole_batches(&rows(0..3)));
        assert!(same(&of_whole_batches(&rows(2..4)), &(rows(2..4) * 2)));
        let third = wait(scope, || of_whole_batches(&rows(0..2)));
        open.send(()).unwrap();
        first.join().unwrap();
        assert!(same(&third.join().unwrap(), &(rows(0..2) * 2)));
    });
    assert_eq!(OF_WHOLE.take(), (2, 5));
    assert_counted(of_whole_batches_cache());
}

static PADDED: Gate = Gate::new();

/// The code of the body does not show it.
fn without_padding(xs: &Tensor) -> Tensor {
    xs.squeeze_dim(0)
}

#[torchcache]
fn of_two_or_more(xs: &Tensor) -> Tensor {
    PADDED.pass(xs);
    without_padding(xs) * 2
}

/// The program never passes one row, whose output would have another shape.
#[test]
fn a_single_row_is_not_computed_before_those_that_show_its_shape() {
    let rows = |numbers| rows(numbers).unsqueeze(1);
    thread::scope(|scope| {
        let open = PADDED.close();
        let first = begin(scope, &PADDED, || of_two_or_more(&rows(0..2)));
        let second = wait(scope, || of_two_or_more(&rows(1..3)));
        assert_eq!(PADDED.take(), (1, 2));
        open.send(()).unwrap();
        first.join().unwrap();
        assert!(same(&second.join().unwrap(), &(rows(1..3) * 2)));
    });
    assert!(same(&of_two_or_more(&rows(2..4)), &(rows(2..4) * 2)));
    // The row alone, and the whole batch.
    assert_eq!(PADDED.take(), (3, 5));
}

/// Its first run fails, once it goes on.
#[torchcache(single_flight_timeout = 600.0)]
#[derive(Debug)]
struct Failing {
    panics: bool,
    torchcache: TorchCache,
}

static FAILING: Gate = Gate::new();

#[torchcache]
impl Failing {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        if FAILING.pass(xs) {
            assert!(!self.panics, "the first one");
            xs.f_view([-1, 100])?;
        }
        Ok(xs * 2)
    }
}

/// A failure is that of its own call; the others compute what it did not.
#[test]
fn rows_of_a_call_that_fails_are_computed_by_those_that_wait() {
    for panics in [true, false] {
        let model = Failing {
            panics,
            torchcache: TorchCache::default(),
        };
        let call = || model.forward(&rows(0..2));
        thread::scope(|scope| {
            let open = FAILING.close();
            let first = begin(scope, &FAILING, || match panics {
                true => assert_panics(&["the first one"], call),
                false => assert!(call().is_err()),
            });
            let waiting = [(); 3].map(|()| wait(scope, || call().unwrap()));
            open.send(()).unwrap();
            first.join().unwrap();
            for thread in waiting {
                assert!(same(&thread.join().unwrap(), &(rows(0..2) * 2)));
            }
        });
        assert_eq!(FAILING.take(), (2, 4));
        call().unwrap();
        assert_eq!(FAILING.take(), (0, 0));
        assert_counted(&model.torchcache);
    }
}

static BOTH_INSIDE: Barrier = Barrier::new(2);

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Each calls the other for the same rows, once both are being computed.
#[torchcache(single_flight_timeout = 2.0)]
fn ping(xs: &Tensor) -> Tensor {
    if IS_INSIDE.replace(true) {
        return xs * 2;
    }
    BOTH_INSIDE.wait();
    pong(xs)
}

#[torchcache(single_flight_timeout = 2.0)]
fn pong(xs: &Tensor) -> Tensor {
    if IS_INSIDE.replace(true) {
        return xs * 2;
    }
    BOTH_INSIDE.wait();
    ping(xs)
}

/// The threads would wait for each other.
#[test]
fn calls_inside_a_body_do_not_wait() {
    thread::scope(|scope| {
        let one = scope.spawn(|| ping(&rows(0..2)));
        let other = scope.spawn(|| pong(&rows(0..2)));
        for thread in [one, other] {
            assert!(same(&thread.join().unwrap(), &(rows(0..2) * 2)));
        }
    });
    for cache in [ping_cache(), pong_cache()] {
        assert!(cache.stats().time.waiting.is_zero());
        assert_counted(cache);
    }
}

static INNER: Gate = Gate::new();

#[torchcache(single_flight_timeout = 2.0)]
fn inner(xs: &Tensor) -> Tensor {
    INNER.pass(xs);
    xs * 2
}

#[torchcache(single_flight_timeout = 2.0)]
fn outer(xs: &Tensor) -> Tensor {
    inner(xs) + 1
}

static LEARNING: Gate = Gate::new();

#[torchcache]
fn learned(xs: &Tensor) -> Tensor {
    xs * 2
}

fn call_learned(xs: &Tensor) -> Tensor {
    learned(xs)
}

#[torchcache(single_flight_timeout = 600.0)]
fn learning(xs: &Tensor) -> Tensor {
    LEARNING.pass(xs);
    call_learned(xs) + 1
}

/// The first call stores rows by keys that have the code of what it called.
#[test]
fn the_first_rows_of_a_body_that_calls_cached_functions_are_computed_once() {
    thread::scope(|scope| {
        let open = LEARNING.close();
        let first = begin(scope, &LEARNING, || learning(&rows(0..2)));
        let waiting = [(); 3].map(|()| wait(scope, || learning(&rows(0..2))));
        open.send(()).unwrap();
        first.join().unwrap();
        for thread in waiting {
            assert!(same(&thread.join().unwrap(), &(rows(0..2) * 2 + 1)));
        }
    });
    assert_eq!(LEARNING.take(), (1, 2));
    assert_counted(learning_cache());
}

/// The thread that computes the inner rows may need something that the outer call has.
#[test]
fn a_call_inside_a_body_computes_rows_that_another_thread_computes() {
    thread::scope(|scope| {
        let open = INNER.close();
        let first = begin(scope, &INNER, || inner(&rows(0..2)));
        assert!(same(&outer(&rows(0..2)), &(rows(0..2) * 2 + 1)));
        assert_eq!(INNER.take(), (2, 4));
        open.send(()).unwrap();
        first.join().unwrap();
    });
    let stats = inner_cache().stats();
    assert_eq!((stats.misses, stats.awaited), (4, 0));
    assert!(stats.time.waiting.is_zero());
}

#[torchcache(verify = 1.0)]
fn verified(xs: &Tensor) -> Tensor {
    VERIFIED.pass(xs);
    xs * 2
}

static VERIFIED: Gate = Gate::new();

#[test]
fn awaited_rows_are_verified_as_hits_are() {
    thread::scope(|scope| {
        let open = VERIFIED.close();
        let first = begin(scope, &VERIFIED, || verified(&rows(0..2)));
        let second = wait(scope, || verified(&rows(0..2)));
        open.send(()).unwrap();
        first.join().unwrap();
        second.join().unwrap();
    });
    let stats = verified_cache().stats();
    assert_eq!((stats.awaited, stats.verified, stats.mismatched), (2, 2, 0));
    assert_eq!(VERIFIED.take(), (2, 4));
}

static STORED: Gate = Gate::new();

#[torchcache(persistent = true, max_memory_cache_size = 0)]
fn on_disk(xs: &Tensor) -> Tensor {
    STORED.pass(xs);
    xs * 2
}

#[test]
fn awaited_rows_are_on_disk_once() {
    thread::scope(|scope| {
        let open = STORED.close();
        let first = begin(scope, &STORED, || on_disk(&rows(0..2)));
        let second = wait(scope, || on_disk(&rows(0..3)));
        open.send(()).unwrap();
        first.join().unwrap();
        assert!(same(&second.join().unwrap(), &(rows(0..3) * 2)));
    });
    on_disk_cache().flush().unwrap();
    let stats = on_disk_cache().stats();
    assert_eq!((stats.disk.rows, stats.stored, stats.awaited), (3, 3, 2));
    on_disk(&rows(0..3));
    assert_eq!(STORED.take(), (2, 3));
}

#[test]
fn the_options_default_to_a_bounded_wait() {
    assert_eq!(Options::default().single_flight_timeout(), 10.0);
}

static OF_FOUR: Gate = Gate::new();

#[torchcache(single_flight_timeout = 2.0)]
fn of_four(xs: &Tensor) -> Tensor {
    OF_FOUR.pass(xs);
    assert_eq!(xs.size()[0], 4, "batches have four rows");
    xs * 2
}

/// Its body failed on a part of a batch.
#[test]
fn a_forward_that_takes_the_whole_batch_again_does_not_wait() {
    of_four(&rows(0..4));
    of_four(&rows(2..6));
    thread::scope(|scope| {
        let open = OF_FOUR.close();
        let first = begin(scope, &OF_FOUR, || of_four(&rows(10..14)));
        assert!(same(&of_four(&rows(12..16)), &(rows(12..16) * 2)));
        open.send(()).unwrap();
        first.join().unwrap();
    });
    assert_eq!(OF_FOUR.take(), (2, 8));
    let stats = of_four_cache().stats();
    assert!(stats.time.waiting.is_zero());
    assert_eq!((stats.awaited, stats.bypassed, stats.misses), (0, 1, 12));
}

#[test]
fn calls_wait_less_and_less_often_where_it_is_in_vain() {
    static GATE: Gate = Gate::new();
    let mut model = Gated::by(47.0, &GATE);
    model.torchcache_single_flight_timeout = 0.01;
    let log = Log::default();
    thread::scope(|scope| {
        let open = GATE.close();
        let first = begin(scope, &GATE, || model.forward(&rows(0..40)));
        log.during(|| {
            for call in 0..17 {
                model.forward(&rows(2 * call..2 * call + 2));
            }
        });
        open.send(()).unwrap();
        first.join().unwrap();
    });
    assert_eq!(GATE.take(), (18, 74));
    // The first one, the fourth and the ninth: 2, 4 and 8 are left out.
    assert_eq!(events(&log.lines(), "DEBUG", "waits for rows"), 3);
    assert_eq!(model.torchcache.stats().awaited, 0);
}

/// The method overrides the timeout of its module.
#[torchcache(single_flight_timeout = 600.0)]
#[derive(Debug, Default)]
struct Methods {
    torchcache: TorchCache,
}

static APART: Gate = Gate::new();
static TOGETHER: Gate = Gate::new();

#[torchcache]
impl Methods {
    #[torchcache(single_flight_timeout = 0)]
    fn apart(&self, xs: &Tensor) -> Tensor {
        APART.pass(xs);
        xs * 2
    }

    #[torchcache]
    fn together(&self, xs: &Tensor) -> Tensor {
        TOGETHER.pass(xs);
        xs * 2
    }
}

#[test]
fn a_method_has_a_timeout_of_its_own() {
    let model = Methods::default();
    thread::scope(|scope| {
        let open = [APART.close(), TOGETHER.close()];
        let firsts = [
            begin(scope, &APART, || model.apart(&rows(0..2))),
            begin(scope, &TOGETHER, || model.together(&rows(0..2))),
        ];
        model.apart(&rows(0..2));
        let second = wait(scope, || model.together(&rows(0..2)));
        open.map(|open| open.send(()).unwrap());
        firsts.map(|thread| thread.join().unwrap());
        second.join().unwrap();
    });
    assert_eq!((APART.take(), TOGETHER.take()), ((2, 4), (1, 2)));
    let stats = model.torchcache.stats_by_method();
    assert_eq!((stats["apart"].awaited, stats["together"].awaited), (0, 2));
}

static WITHIN: Gate = Gate::new();

#[torchcache(single_flight_timeout = 600.0)]
fn within(xs: &Tensor) -> Tensor {
    WITHIN.pass(xs);
    xs * 2
}

#[torchcache(single_flight_timeout = 0.0)]
fn not_awaited(xs: &Tensor) -> Tensor {
    within(xs) + 1
}

/// The outer call has no flight.
#[test]
fn a_call_inside_a_body_that_no_other_waits_for_waits() {
    thread::scope(|scope| {
        let open = WITHIN.close();
        let first = begin(scope, &WITHIN, || within(&rows(0..2)));
        let outer = wait(scope, || not_awaited(&rows(0..2)));
        open.send(()).unwrap();
        first.join().unwrap();
        assert!(same(&outer.join().unwrap(), &(rows(0..2) * 2 + 1)));
    });
    assert_eq!(WITHIN.take(), (1, 2));
    assert_eq!(within_cache().stats().awaited, 2);
}

static OF_HANDLES: Gate = Gate::new();
static BOTH_COMPUTE: Barrier = Barrier::new(2);

#[torchcache(single_flight_timeout = 2.0)]
#[derive(Debug, Default)]
struct Learning {
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Learning {
    fn forward(&self, xs: &Tensor) -> Tensor {
        if !OF_HANDLES.pass(xs) {
            BOTH_COMPUTE.wait();
        }
        call_learned(xs) + 1
    }
}

/// The rows of the first one have keys that the others do not know before their own bodies ran.
#[test]
fn handles_learn_callees_at_the_same_time() {
    let models = [(); 3].map(|()| Learning::default());
    let [first, second, third] = &models;
    let log = Log::default();
    let waits = || events(&log.lines(), "DEBUG", "waits for rows");
    thread::scope(|scope| {
        let open = OF_HANDLES.close();
        let first = begin(scope, &OF_HANDLES, || first.forward(&rows(0..2)));
        let others = [second, third].map(|model| {
            let log = log.clone();
            scope.spawn(move || log.during(|| model.forward(&rows(0..2))))
        });
        while waits() < 2 {
            thread::yield_now();
        }
        open.send(()).unwrap();
        first.join().unwrap();
        for thread in others {
            assert!(same(&thread.join().unwrap(), &(rows(0..2) * 2 + 1)));
        }
    });
    assert_eq!((OF_HANDLES.take(), waits()), ((3, 6), 2));
}
