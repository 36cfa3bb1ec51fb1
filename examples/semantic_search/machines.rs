//! Several machines and one bucket: what the first one computed, the others read. A machine is a process with a directory
//! of its own. The bucket is one of a server that this program starts, behind a proxy that delays each answer, or the one
//! that `--remote` names.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use torchcache_examples::{rows_that_differ, seconds};
use torchcache_servers::{Fault, FaultProxy, SeaweedFs, Server, WRITER, variables};

use crate::args::{Args, Work};
use crate::corpus;
use crate::passes::{self, Embedder};
use crate::tokens::Batch;

/// How long after a request the answer begins. A bucket in the region of its reader takes about as long for the first byte.
const LATENCY: Duration = Duration::from_millis(30);

/// How many batches are read ahead: what is done with one takes less time than its answer.
const BATCHES_AHEAD: usize = 4;

/// How long a machine tries to upload what it computed.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Dollars for a request by the list prices of S3 Standard in us-east-1.
const DOLLARS_PER_PUT_OR_LIST: f64 = 0.005 / 1000.0;
const DOLLARS_PER_GET: f64 = 0.0004 / 1000.0;

/// How many texts there are at most with `--quick`.
const QUICK_TEXTS: usize = 400;

/// What a machine did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    seconds: f64,
    /// The time in which calls waited for rows of the remote.
    fetching: f64,
    computed: u64,
    from_remote: u64,
    /// Found on its own disk: the rest of a segment is fetched in the background.
    from_disk: u64,
    lists: u64,
    gets: u64,
    puts: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Machine {
    fn dollars(&self) -> f64 {
        let put_or_list = (self.puts + self.lists) as f64;
        put_or_list * DOLLARS_PER_PUT_OR_LIST + self.gets as f64 * DOLLARS_PER_GET
    }
}

/// A process of `--machines`: embeds the texts, uploads what it computed, and prints what it did.
///
/// # Errors
///
/// There is no model, or computed rows are not uploaded in time.
pub(crate) fn run_as_machine(args: &Args, work: Work) -> Result<()> {
    let all = corpus::entries()?;
    let edited = corpus::edited(&all, args.texts);
    let entries = match args.edited {
        true => &edited.entries[..],
        false => &all[..args.texts],
    };
    let embedder = Embedder::load(args)?;
    let cache = &embedder.encoder.torchcache;
    let mut head = Head::new();
    let start = Instant::now();
    let embeddings = embedder.embed_batches(&passes::texts(entries), |batches, number| {
        let Batch { ids, mask, .. } = &batches[number];
        let embedded = embedder.encoder.forward(ids, mask);
        if work == Work::HeadAndReadAhead {
            // All of them at first, then one more each time.
            let first = if number == 0 {
                1
            } else {
                number + BATCHES_AHEAD
            };
            let end = batches.len().min(number + BATCHES_AHEAD + 1);
            for next in batches.get(first..end).unwrap_or_default() {
                cache.read_ahead(|| embedder.encoder.forward(&next.ids, &next.mask))?;
            }
        }
        if work != Work::None {
            head.train(&embedded);
        }
        Ok(embedded)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    cache.flush_remote(UPLOAD_TIMEOUT)?;
    if let Some(file) = &args.embeddings {
        embeddings.save(file)?;
    }
    let stats = cache.stats();
    let machine = Machine {
        seconds,
        fetching: stats.time.fetching.as_secs_f64(),
        computed: stats.misses,
        from_remote: stats.remote.hits,
        from_disk: stats.disk.hits,
        lists: stats.remote.lists,
        gets: stats.remote.gets,
        puts: stats.remote.puts,
        bytes_in: stats.remote.bytes_in,
        bytes_out: stats.remote.bytes_out,
    };
    println!("{}", serde_json::to_string(&machine)?);
    Ok(())
}

/// Two layers that learn to return the embeddings: a stand-in for what a program does with a batch.
struct Head {
    layers: nn::Sequential,
    optimizer: nn::Optimizer,
}

impl Head {
    const WIDTH: i64 = 384;
    const STEPS: usize = 4;

    fn new() -> Head {
        let vs = nn::VarStore::new(Device::Cpu);
        let linear = |name: &str| {
            nn::linear(
                vs.root() / name,
                Head::WIDTH,
                Head::WIDTH,
                Default::default(),
            )
        };
        let layers = nn::seq()
            .add(linear("first"))
            .add_fn(Tensor::relu)
            .add(linear("second"));
        let optimizer = nn::Sgd::default().build(&vs, 0.01);
        Head {
            layers,
            optimizer: optimizer.expect("the store has variables"),
        }
    }

    fn train(&mut self, embedded: &Tensor) {
        let embedded = embedded.to_device(Device::Cpu);
        for _ in 0..Head::STEPS {
            let loss = (self.layers.forward(&embedded) - &embedded)
                .square()
                .mean(Kind::Float);
            self.optimizer.backward_step(&loss);
        }
    }
}

/// The bucket of a run, with what serves it.
struct Bucket {
    url: String,
    variables: Vec<(String, String)>,
    _server: Option<(FaultProxy, SeaweedFs)>,
}

impl Bucket {
    fn start(args: &Args, dir: &Path) -> Result<Bucket> {
        if let Some(url) = &args.remote {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
            return Ok(Bucket {
                // A run finds nothing that an earlier one left.
                url: format!("{}/{}", url.trim_end_matches('/'), since_1970.as_secs()),
                variables: Vec::new(),
                _server: None,
            });
        }
        let server = SeaweedFs::start(&dir.join("server"))?;
        server.create_bucket("team")?;
        let proxy = FaultProxy::start(server.address())?;
        proxy.set_fault(Fault::Delay(LATENCY));
        Ok(Bucket {
            url: "s3://team/semantic_search".to_owned(),
            variables: variables(&proxy.endpoint(), WRITER),
            _server: Some((proxy, server)),
        })
    }
}

/// A run of `--machines`.
struct Run<'a> {
    args: &'a Args,
    texts: usize,
    dir: TempDir,
    bucket: Bucket,
    lines: String,
    /// Embeddings that differ from those of the first machine with the same texts.
    rows_that_differ: i64,
    is_right: bool,
}

impl Run<'_> {
    fn embeddings(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).with_extension("pt")
    }

    /// Starts a process with an empty directory.
    fn start(&self, name: &str, is_edited: bool, work: Work) -> Result<Child> {
        let mut command = Command::new(env::current_exe()?);
        command
            .envs(self.bucket.variables.iter().cloned())
            .env("TORCHCACHE_REMOTE", &self.bucket.url)
            .arg("--model")
            .arg(&self.args.model)
            .args(["--texts", &self.texts.to_string()])
            .args(["--batch", &self.args.batch.to_string()])
            .arg("--cache-dir")
            .arg(self.dir.path().join(name))
            .arg("--embeddings")
            .arg(self.embeddings(name))
            .args(is_edited.then_some("--edited"))
            .args(["--machine", work.name()]);
        let child = command.stdout(Stdio::piped()).spawn();
        child.context("starting a machine")
    }

    /// Waits for a machine, adds its line, and compares its embeddings with those of another one.
    fn finish(
        &mut self,
        child: Child,
        name: &str,
        computed: usize,
        same_as: &str,
    ) -> Result<Machine> {
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "the machine {name:?} failed: {}",
            output.status
        );
        let machine: Machine = serde_json::from_slice(&output.stdout)?;
        let expected = Tensor::load(self.embeddings(same_as))?;
        let got = Tensor::load(self.embeddings(name))?;
        self.rows_that_differ += rows_that_differ(&got, &expected);
        self.is_right &= machine.computed == computed as u64;
        self.add_line(name, &machine);
        Ok(machine)
    }

    fn machine(
        &mut self,
        name: &str,
        is_edited: bool,
        work: Work,
        computed: usize,
        same_as: &str,
    ) -> Result<Machine> {
        let child = self.start(name, is_edited, work)?;
        self.finish(child, name, computed, same_as)
    }

    fn add_line(&mut self, name: &str, machine: &Machine) {
        let line = writeln!(
            self.lines,
            "| {name} | {} | {} | {} | {} | {} | {} | {:.1} MB | {:.1} MB | {} | {} | ${:.6} |",
            machine.computed,
            machine.from_remote,
            machine.from_disk,
            machine.gets,
            machine.puts,
            machine.lists,
            machine.bytes_in as f64 / 1e6,
            machine.bytes_out as f64 / 1e6,
            seconds(machine.seconds),
            seconds(machine.fetching),
            machine.dollars(),
        );
        line.expect("text takes what is written");
    }
}

/// Runs the machines and prints what each one computed, read and requested. Returns whether that is as it has to be.
///
/// # Errors
///
/// There is no model or no server, or a machine fails.
pub(crate) fn print_table(args: &Args) -> Result<bool> {
    let texts = match args.quick {
        true => args.texts.min(QUICK_TEXTS),
        false => args.texts,
    };
    let dir = tempfile::tempdir()?;
    let bucket = Bucket::start(args, dir.path())?;
    let mut run = Run {
        args,
        texts,
        dir,
        bucket,
        lines: String::new(),
        rows_that_differ: 0,
        is_right: true,
    };
    let first = "the first";
    run.machine(first, false, Work::None, texts, first)?;

    let others = ["three others, at once", "the second of them", "the third"];
    let started: Result<Vec<Child>> = others
        .iter()
        .map(|name| run.start(name, false, Work::None))
        .collect();
    for (child, name) in started?.into_iter().zip(others) {
        run.finish(child, name, 0, first)?;
    }

    let edited = "1 % changed";
    let changed = texts / 100;
    run.machine(edited, true, Work::None, changed, edited)?;
    run.machine("1 % changed, one more", true, Work::None, 0, edited)?;

    let waiting = run.machine("a head on each batch", false, Work::Head, 0, first)?;
    let ahead = run.machine(
        "a head, read ahead",
        false,
        Work::HeadAndReadAhead,
        0,
        first,
    )?;
    let hidden = 1.0 - ahead.fetching / waiting.fetching;

    println!(
        "| machine | computed | from the remote | from disk | GET | PUT | LIST | received | sent | time | waited for the remote | requests cost |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n{}",
        run.lines
    );
    println!(
        "{} definitions in batches of {}. {} embeddings differ in any bit from those of the first machine with the same \
         texts. Reading ahead took {:.0} % of the time off in which calls waited for the remote.",
        texts,
        args.batch,
        run.rows_that_differ,
        100.0 * hidden
    );
    Ok(run.is_right && run.rows_that_differ == 0)
}
