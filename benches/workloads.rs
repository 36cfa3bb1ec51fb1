//! Three workloads by torchcache, by the Python package, and by work that any cache must do. They take
//! turns in each round, so that interference of the machine hits all alike.
//!
//! `cargo xtask bench workloads` installs the Python package. `cargo bench -p torchcache-benches --bench
//! workloads` runs without it, unless `TORCHCACHE_PEER_PYTHON` names a Python that has it.

use std::fs;

use clap::Parser;
use serde_json::json;
use torchcache_benches::args::Args;
use torchcache_benches::clock;
use torchcache_benches::figures::Figures;
use torchcache_benches::limits::Limits;
use torchcache_benches::ours;
use torchcache_benches::peer::{Answers, Peer};
use torchcache_benches::report::Report;
use torchcache_benches::workload::{WORKLOADS, Workload};

/// Rounds over all sides, and passes within a round where a pass can be repeated.
struct Effort {
    rounds: usize,
    passes: usize,
}

fn main() {
    let args = Args::parse();
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

    let Effort { rounds, passes } = effort;
    println!(
        "{} Device {:?}, {threads} threads, {rounds} rounds of {passes} passes.\n",
        peer.describe(),
        clock::device()
    );
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
        limits: Limits::measure(&data, effort.passes),
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
        report.limits = report.limits.min(Limits::measure(&data, effort.passes));
        ours::round(workload, &data, round, effort.passes, &mut report.ours);
        peer.turn(|peer| peer.round(effort.passes, &mut report.peer));
    }
    report
}

/// The peer, as long as it answers. The other sides are measured without it.
struct Running {
    /// Or why it is not, or no longer, run.
    peer: Result<Peer, String>,
    versions: String,
}

impl Running {
    fn start(threads: usize) -> Self {
        let mut running = Running {
            peer: Peer::start(threads, clock::device()),
            versions: String::new(),
        };
        if let Err(reason) = &running.peer {
            eprintln!("running without the Python package: {reason}");
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
            eprintln!("continuing without the Python package: {reason}");
            self.peer = Err(reason);
        }
    }

    fn describe(&self) -> String {
        match &self.peer {
            Ok(_) => format!("{}.", self.versions),
            Err(reason) => {
                format!("**The Python package did not run to the end: {reason}.**")
            }
        }
    }
}
