//! Threads of a process, and machines that work at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use torchcache_faults::cases::duration;
use torchcache_faults::objects::ObjectFault;
use torchcache_faults::rows::keys;
use torchcache_faults::sim::Sim;
use torchcache_store::remote::{Clock, Remote, RemoteConfig, SystemClock};

use crate::common::{HASH, LocalRows, Machine, PREFIX, SEGMENTS, bucket};

#[test]
fn a_call_waits_for_the_first_catalog_until_its_deadline() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    let now = reader.clock.now();
    assert!(!reader.remote.wait_for_catalog(now));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let is_known = reader
                .remote
                .wait_for_catalog(now + Duration::from_secs(3600));
            (is_known, reader.located(0..10))
        });
        reader.work(1);
        assert_eq!(waiting.join().expect("it does not panic"), (true, 10));
    });
    assert!(
        reader.remote.wait_for_catalog(now),
        "it does not wait again"
    );
}

#[test]
fn one_cache_of_a_process_waits_for_a_store_that_does_not_answer() {
    let objects = Arc::new(bucket().with_faults(|_| None));
    let open = || {
        let config = RemoteConfig::new(PREFIX, HASH, "/footers".into());
        let disk = Arc::new(Sim::new());
        Remote::new(objects.clone(), Arc::new(SystemClock), disk, config)
    };
    let waits = |cache: &Remote| {
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(!cache.wait_for_catalog(deadline));
        Instant::now() >= deadline
    };
    // None makes a request, so none is answered.
    let caches = [(); 10].map(|()| open());
    assert_eq!(caches.iter().filter(|it| waits(it)).count(), 1);
    caches[3].work(&LocalRows::default());
    assert!(caches[3].wait_for_catalog(Instant::now()));
    assert!(waits(&caches[4]), "the store answers again");
}

#[test]
fn rows_are_right_while_all_threads_of_all_machines_work() {
    let bucket = bucket();
    bucket.set_page(5);
    let machines: Vec<Machine> = (0..2).map(|_| Machine::new(&bucket)).collect();
    for (seed, machine) in (0..).zip(&machines) {
        let mut rng = Rng::with_seed(seed);
        machine.objects.set_faults(move |request| {
            (rng.u32(..100) < 5).then(|| ObjectFault::any(request, &mut rng))
        });
    }
    let is_over = AtomicBool::new(false);
    let run = |mut step: Box<dyn FnMut(&mut Rng) + Send>, seed| {
        let is_over = &is_over;
        move || {
            let mut rng = Rng::with_seed(seed);
            while !is_over.load(Ordering::Relaxed) {
                step(&mut rng);
            }
        }
    };
    let rows = |rng: &mut Rng| {
        let first = rng.u64(..500);
        first..first + rng.u64(1..20)
    };
    let hits = thread::scope(|scope| {
        for (seed, machine) in (10..).step_by(10).zip(&machines) {
            for n in 0..2 {
                let read = move |rng: &mut Rng| {
                    let deadline = machine.clock.now() + Duration::from_secs(100_000);
                    machine.get_until(&keys(rows(rng)), deadline);
                };
                scope.spawn(run(Box::new(read), seed + n));
            }
            let write = move |rng: &mut Rng| {
                machine.compute(rows(rng), 300);
                // That it fails is not unusual here.
                let _ = machine.flush_within(Duration::from_secs(20));
            };
            scope.spawn(run(Box::new(write), seed + 2));
            scope.spawn(run(Box::new(move |_| machine.work(1)), seed + 3));
        }
        let remove = |rng: &mut Rng| {
            let objects = bucket.objects(SEGMENTS);
            if objects.len() > 20 {
                bucket.take(&objects[rng.usize(..objects.len())].0);
            }
            thread::sleep(Duration::from_millis(1));
        };
        scope.spawn(run(Box::new(remove), 1));
        thread::sleep(duration());
        is_over.store(true, Ordering::Relaxed);
        machines.iter().map(|machine| machine.stats().hits)
    });
    assert!(hits.sum::<u64>() > 0);
    for machine in &machines {
        machine.heal();
        machine.work(700);
        assert_eq!(machine.stats().uploads.pending_rows, 0);
    }
}
