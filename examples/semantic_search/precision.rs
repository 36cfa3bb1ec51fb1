//! What each `cache_dtype` takes, loses and costs, with features of the model: for the table in `docs/benchmarks.md`.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};
use torchcache_examples::rows_that_differ;

use crate::args::Args;
use crate::corpus;
use crate::encoder::{self, embed};
use crate::passes;
use crate::tokens::{Batch, Tokens};

/// The forward is a lookup by number: a call has nothing to hash, and its hits are all that takes time.
#[torchcache]
#[derive(Debug)]
struct Lookup {
    name: String,
    /// `[N, …]`.
    #[torchcache(skip)]
    features: Tensor,
    torchcache_cache_dtype: Option<Kind>,
    torchcache_max_memory_cache_size: u64,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache: TorchCache,
}

#[torchcache]
impl Lookup {
    fn forward(&self, #[id] places: &Tensor) -> Tensor {
        self.features.index_select(0, places)
    }
}

const DTYPES: [Option<Kind>; 6] = [
    None,
    Some(Kind::Half),
    Some(Kind::BFloat16),
    Some(Kind::Float8e4m3fn),
    Some(Kind::Float8e5m2),
    Some(Kind::QInt8),
];

/// Tokens of a text whose states are features.
const TOKENS: usize = 32;

/// The fastest of so many passes counts.
const PASSES: u64 = 25;

/// Prints the table: of embeddings, and of the states of all tokens.
///
/// # Errors
///
/// There is no model, one of its files is not valid, or a hit differs from the first result in any bit.
pub(crate) fn print_table(args: &Args) -> Result<()> {
    let entries = corpus::entries()?;
    let tokens = Tokens::load(&args.model.join("tokenizer.json"))?;
    let (texts, passes) = match args.quick {
        true => (100, 1),
        false => (args.texts, PASSES),
    };
    let rows = tokens.rows(&passes::texts(&entries[..texts]))?;
    let bert = encoder::load(&args.model)?;
    let all: Vec<usize> = (0..rows.len()).collect();
    let computed = |places: &[usize], length, forward: &dyn Fn(&Batch) -> Tensor| {
        let batches = places.chunks(args.batch);
        let outputs = batches.map(|places| forward(&Batch::new(&rows, places, length)));
        Tensor::cat(&outputs.collect::<Vec<_>>(), 0).to_device(Device::Cpu)
    };
    let is_short = |&place: &usize| rows[place].len() <= TOKENS;
    let short: Vec<usize> = all
        .iter()
        .copied()
        .filter(is_short)
        .take(texts / 8)
        .collect();
    let device = bert.device();
    let states = computed(&short, Some(TOKENS), &|batch| {
        bert.forward(&batch.ids.to_device(device), &batch.mask.to_device(device))
    });
    let embeddings = computed(&all, None, &|batch| embed(&bert, &batch.ids, &batch.mask));

    println!(
        "{} embeddings and the states of {TOKENS} tokens of {} texts, by all-MiniLM-L6-v2, in batches of {}.\n",
        all.len(),
        short.len(),
        args.batch
    );
    println!(
        "| features | `cache_dtype` | bytes a row | mean error | largest error | least cosine | hit in memory | on disk | copy |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for features in [embeddings, states] {
        print_lines(&features, args.batch, passes)?;
    }
    Ok(())
}

/// The caches of features in one kind, and the fastest times of their hits.
struct Measured {
    dtype: Option<Kind>,
    memory: Lookup,
    disk: Lookup,
    /// The features in that kind.
    stored: Tensor,
    /// Seconds of a pass: hits in memory, hits on disk, and the copies.
    fastest: [f64; 3],
}

impl Measured {
    fn new(dtype: Option<Kind>, features: &Tensor, directory: &Path) -> Self {
        let lookup = |is_on_disk: bool| Lookup {
            name: format!("{:?} on disk: {is_on_disk}", features.size()),
            features: features.shallow_clone(),
            torchcache_cache_dtype: dtype,
            torchcache_max_memory_cache_size: if is_on_disk { 0 } else { 1 << 30 },
            torchcache_persistent: is_on_disk,
            torchcache_persistent_cache_dir: directory.to_owned(),
            torchcache: TorchCache::default(),
        };
        Measured {
            dtype,
            memory: lookup(false),
            disk: lookup(true),
            stored: match dtype {
                Some(Kind::QInt8) => (features / features.abs().max() * 127.0).to_kind(Kind::Int8),
                dtype => features.to_kind(dtype.unwrap_or(Kind::Float)),
            },
            fastest: [f64::INFINITY; 3],
        }
    }

    /// What a pass over all rows returns from memory.
    ///
    /// # Errors
    ///
    /// Rows of a hit differ from what was returned when they were computed.
    fn fill(&self, batches: &[Tensor]) -> Result<Tensor> {
        let pass = |lookup: &Lookup| {
            let outputs: Vec<_> = batches
                .iter()
                .map(|places| lookup.forward(places))
                .collect();
            Tensor::cat(&outputs, 0).flatten(1, -1)
        };
        let computed = pass(&self.memory);
        let on_disk = pass(&self.disk);
        self.disk.torchcache.flush()?;
        for again in [on_disk, pass(&self.memory), pass(&self.disk)] {
            let differ = rows_that_differ(&again, &computed);
            ensure!(
                differ == 0,
                "{:?}: {differ} rows of hits differ",
                self.dtype
            );
        }
        Ok(computed)
    }

    /// Times a pass of each kind.
    fn pass(&mut self, batches: &[Tensor]) {
        let hits = |lookup: &Lookup| {
            let start = Instant::now();
            for places in batches {
                drop(black_box(lookup.forward(places)));
            }
            start.elapsed().as_secs_f64()
        };
        let times = [hits(&self.memory), hits(&self.disk), self.copies(batches)];
        for (fastest, time) in self.fastest.iter_mut().zip(times) {
            *fastest = fastest.min(time);
        }
    }

    /// No hit can be faster than its bytes are converted, which lie in one tensor here.
    fn copies(&self, batches: &[Tensor]) -> f64 {
        let rows = batches[0].size()[0];
        let parts = self.stored.split(rows, 0);
        let start = Instant::now();
        for part in &parts {
            drop(black_box(match self.dtype {
                None => part.copy(),
                Some(_) => part.to_kind(Kind::Float),
            }));
        }
        start.elapsed().as_secs_f64()
    }
}

fn print_lines(features: &Tensor, batch: usize, passes: u64) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let count = features.size()[0];
    let places = Tensor::arange(count, tch::kind::INT64_CPU);
    let batches = places.split(batch as i64, 0);
    let mut all = DTYPES.map(|dtype| Measured::new(dtype, features, directory.path()));
    let mut returned = Vec::new();
    for measured in &all {
        returned.push(measured.fill(&batches)?);
    }
    // They take turns, so that all meet the same interference.
    for _ in 0..passes {
        all.iter_mut().for_each(|measured| measured.pass(&batches));
    }
    let shape: Vec<_> = features.size()[1..]
        .iter()
        .map(ToString::to_string)
        .collect();
    for (measured, returned) in all.iter().zip(returned) {
        let [memory, disk] = [&measured.memory, &measured.disk].map(|it| it.torchcache.stats());
        let hits = count as u64 * (passes + 1);
        ensure!(
            (memory.memory.hits, disk.disk.hits) == (hits, hits),
            "expected {hits} hits in each tier: {memory}\n{disk}"
        );
        let losses = Losses::new(features, &returned);
        let dtype = measured
            .dtype
            .map_or("none".into(), |kind| format!("`{kind:?}`"));
        let [memory, on_disk, copy] = measured.fastest.map(|pass| time(pass / count as f64));
        println!(
            "| {} | {dtype} | {} | {} | {:.6} | {memory} | {on_disk} | {copy} |",
            shape.join(" × "),
            disk.disk.bytes / count as u64,
            losses.errors(),
            losses.least_cosine,
        );
    }
    Ok(())
}

/// Microseconds of a row.
fn time(seconds: f64) -> String {
    format!("{:.2} µs", seconds * 1e6)
}

/// How far rows are from the features.
struct Losses {
    mean: f64,
    largest: f64,
    least_cosine: f64,
}

impl Losses {
    /// Errors are relative to the norm of their row.
    fn new(features: &Tensor, returned: &Tensor) -> Self {
        let (before, after) = (features.flatten(1, -1), returned);
        let (before, after) = (before.to_kind(Kind::Double), after.to_kind(Kind::Double));
        let norm = |rows: &Tensor| rows.norm_scalaropt_dim(2.0, [1], false);
        let errors = norm(&(&before - &after)) / norm(&before);
        let cosines = (&before * &after).sum_dim_intlist(1, false, Kind::Double);
        let cosines = cosines / (norm(&before) * norm(&after));
        Losses {
            mean: errors.mean(Kind::Double).double_value(&[]),
            largest: errors.max().double_value(&[]),
            least_cosine: cosines.min().double_value(&[]),
        }
    }

    /// Two cells.
    fn errors(&self) -> String {
        let cell = |error: f64| match error {
            0.0 => "0".to_owned(),
            error => format!("{:.3} %", error * 100.0),
        };
        format!("{} | {}", cell(self.mean), cell(self.largest))
    }
}
