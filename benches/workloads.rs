//! The three workloads: our cache, the Python package and the least that any cache must do, in
//! turn, round after round, so that whatever else the machine does in between hits all alike.
//!
//! Run by `cargo xtask bench`, which has the Python package. `cargo bench -p torchcache-benches
//! --bench workloads` does without, unless `TORCHCACHE_PEER_PYTHON` names a Python that has it.

use std::fs;

use torchcache_benches::args::Args;
use torchcache_benches::bars::summary;
use torchcache_benches::clock;
use torchcache_benches::figures::Figures;
use torchcache_benches::floor::Floor;
use torchcache_benches::ours;
use torchcache_benches::peer::{Answers, Peer};
use torchcache_benches::report::Report;
use torchcache_benches::workload::{WORKLOADS, Workload};

/// How often everything is done: rounds over all sides, and passes within a round where a pass
/// leaves things as they were.
struct Effort {
    rounds: usize,
    passes: usize,
}

fn main() {
    let args = Args::read();
    let effort = match args.quick {
        true => Effort {
            rounds: 1,
            passes: 1,
        },
        false => Effort {
            rounds: 5,
            passes: 5,
        },
    };
    let threads = tch::get_num_threads() as usize;
    let mut peer = Running::start(threads);
    let versions = peer.versions();

    let measured = WORKLOADS.each_ref().map(|workload| {
        let batches = if args.quick { 2 } else { workload.batches };
        measure(workload, batches, &effort, &mut peer)
    });

    println!("{}", introduction(&effort, threads, &versions));
    let verdicts: Vec<_> = measured.iter().flat_map(Report::verdicts).collect();
    println!("{}", summary(&verdicts));
    for report in &measured {
        println!("{}", report.markdown());
    }
    if let Some(file) = &args.figures {
        let groups: Vec<_> = measured.iter().flat_map(Report::chart).collect();
        let text = serde_json::Value::from(groups).to_string();
        fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

fn introduction(effort: &Effort, threads: usize, versions: &str) -> String {
    let Effort { rounds, passes } = effort;
    format!(
        "{versions} Device {:?}, {threads} threads on every side.

Times are of one call, averaged over a pass over all batches. The limits, torchcache and the Python
package took turns in each of {rounds} rounds, and the fastest round counts on every side; of memory
hits, the fastest of {passes} passes in it. The forward costs next to nothing, so that what is timed
is the cache.

* *memory hit*: every row from memory. The limit is reading one input and writing one output by
  numpy and torch, the same ones again and again, so that most of it stays in the processor's cache;
  in the second line, reading and writing the same batches as the calls, on one core or all,
  whichever is faster.
* *disk hit*: a fresh cache on a full directory, page cache warm: every row from disk, and into
  memory. The limit is our memory hit and a `pread` of the rows.
* *cold pass*: every row computed and kept; the time of the forward is taken off. The limit is
  BLAKE3 of the input and one copy of the output.
* *bytes a row*: all files, over the rows in them. The limit is the key, or with zstd the data.
",
        clock::device()
    )
}

fn measure<'a>(
    workload: &'a Workload,
    batches: usize,
    effort: &Effort,
    peer: &mut Running,
) -> Report<'a> {
    let data = workload.data(batches, clock::device());
    let mut report = Report {
        workload,
        row_bytes: data[0].output_bytes.len() as f64 / workload.batch as f64,
        ours: Figures::default(),
        peer: Answers::default(),
        floor: Floor::measure(&data, effort.passes),
    };
    peer.turn(|peer| peer.load(workload.name, batches));
    for round in 0..effort.rounds {
        eprintln!(
            "{}: round {} of {}",
            workload.name,
            round + 1,
            effort.rounds
        );
        peer.turn(|peer| peer.limit(&mut report.peer));
        report.floor = report.floor.least(Floor::measure(&data, effort.passes));
        ours::round(workload, &data, round, effort.passes, &mut report.ours);
        peer.turn(|peer| peer.round(effort.passes, &mut report.peer));
    }
    report
}

/// The peer for as long as it answers. Without it, everything else is still measured.
struct Running {
    peer: Option<Peer>,
    /// Why there is none.
    absent: String,
}

impl Running {
    fn start(threads: usize) -> Self {
        let mut running = Running {
            peer: None,
            absent: String::new(),
        };
        if clock::device() != tch::Device::Cpu {
            running.stop("it is timed on the CPU only".into());
            return running;
        }
        match Peer::start(threads) {
            Ok(peer) => running.peer = Some(peer),
            Err(reason) => running.stop(reason),
        }
        running
    }

    fn stop(&mut self, reason: String) {
        eprintln!("the Python package is not run: {reason}");
        self.absent = reason;
        self.peer = None;
    }

    fn turn(&mut self, ask: impl FnOnce(&mut Peer) -> Result<(), String>) {
        if let Some(Err(reason)) = self.peer.as_mut().map(ask) {
            self.stop(reason);
        }
    }

    fn versions(&mut self) -> String {
        let mut versions = String::new();
        self.turn(|peer| peer.versions().map(|found| versions = found));
        match self.peer {
            Some(_) => format!("{versions}."),
            None => format!("The Python package was not run: {}.", self.absent),
        }
    }
}
