//! The three workloads: our cache, the Python package and the least that any cache must do, in
//! turn, round after round, so that whatever else the machine does in between hits all alike.
//!
//! Run by `cargo xtask bench`, which has the Python package. `cargo bench -p torchcache-benches
//! --bench workloads` does without, unless `TORCHCACHE_PEER_PYTHON` names a Python that has it.

use std::fs;

use serde_json::json;
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

    let measured = WORKLOADS.each_ref().map(|workload| {
        let batches = if args.quick { 2 } else { workload.batches };
        measure(workload, batches, &effort, &mut peer)
    });

    println!("{}", introduction(&effort, threads, &peer));
    let verdicts: Vec<_> = measured.iter().flat_map(Report::verdicts).collect();
    println!("{}", summary(&verdicts));
    for report in &measured {
        println!("{}", report.markdown());
    }
    if let Some(file) = &args.figures {
        let groups: Vec<_> = measured.iter().flat_map(Report::chart).collect();
        let figures = json!({ "without_peer": peer.peer.err(), "groups": groups });
        fs::write(file, figures.to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

fn introduction(effort: &Effort, threads: usize, peer: &Running) -> String {
    let Effort { rounds, passes } = effort;
    format!(
        "{peer} Device {device:?}, {threads} threads on every side.

Times are of one call, averaged over a pass over all batches. The limits, torchcache and the Python
package took turns in each of {rounds} rounds, and the fastest round counts on every side; of memory
hits, the fastest of {passes} passes in it. The forward costs next to nothing, so that what is timed
is the cache.

* *memory hit*: every row from memory. The limit is reading one input and writing one output by
  numpy and torch, the same ones again and again, so that most of it stays in the processor's cache;
  in the second line, reading and writing the same batches as the calls, on one core or all,
  whichever is faster.
* *memory hit, by id*: the same where the caller gives an id for each row, so that the input is not
  looked at. The limit is one copy of the output. The Python package has no such thing.
* *disk hit*: a fresh cache on a full directory, page cache warm: every row from disk, and into
  memory. The limit is our memory hit and a `pread` of the rows.
* *cold pass*: every row computed and kept; the time of the forward is taken off. The limit is
  BLAKE3 of the input and one copy of the output.
* *cold pass, until it is on disk*: the same pass and a `flush()` after it. torchcache writes behind
  the calls, which the other rows leave out, and syncs what it writes; the Python package writes
  within the call, without syncing, so that its figure is that of its persistent pass. The limit is
  that of a cold pass and writing the output to a file in the page cache.
* *bytes a row*: all files, over the rows in them. The limit is the key, or with zstd the data.
",
        peer = peer.describe(),
        device = clock::device()
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
    /// Or why there is none, or none any more.
    peer: Result<Peer, String>,
    versions: String,
}

impl Running {
    fn start(threads: usize) -> Self {
        let peer = match clock::device() {
            tch::Device::Cpu => Peer::start(threads),
            _ => Err("it is timed on the CPU only".into()),
        };
        let mut running = Running {
            peer,
            versions: String::new(),
        };
        if let Err(reason) = &running.peer {
            eprintln!("the Python package is not run: {reason}");
        }
        let mut versions = String::new();
        running.turn(|peer| peer.versions().map(|found| versions = found));
        Running {
            versions,
            ..running
        }
    }

    fn turn(&mut self, ask: impl FnOnce(&mut Peer) -> Result<(), String>) {
        if let Ok(peer) = &mut self.peer
            && let Err(reason) = ask(peer)
        {
            eprintln!("the Python package is run no further: {reason}");
            self.peer = Err(reason);
        }
    }

    fn describe(&self) -> String {
        match &self.peer {
            Ok(_) => format!("{}.", self.versions),
            Err(reason) => {
                format!("**The Python package did not run, or not to the end: {reason}.**")
            }
        }
    }
}
