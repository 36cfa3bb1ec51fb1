//! Embeds a few thousand definitions of English words with all-MiniLM-L6-v2: without the cache, with it,
//! again, after 1 % of them changed, and in a second process. Then finds words by descriptions.
//!
//! Look for the times and hits, and for the checks below them: the embeddings are those of the Python
//! package sentence-transformers, and a hit equals the first result in every bit.
//!
//! `cargo xtask minilm` fetches the model; then run
//! `cargo run --release --example semantic_search -- "a room to cook in"`. Run it twice: the second
//! time nothing is computed. `README.md` has more.
//!
//! `encoder.rs` has the cache; `bert.rs` is the model, `weights.rs` loads its weights, `tokens.rs`
//! prepares its input, `passes.rs` embeds, `report.rs` compares. `padding.rs`, `precision.rs` and `machines.rs` print
//! other tables.

mod args;
mod bert;
mod corpus;
mod encoder;
mod machines;
mod padding;
mod passes;
mod precision;
mod report;
mod search;
mod tokens;
mod weights;

use std::process::ExitCode;

use anyhow::Result;
use args::Args;
use clap::Parser;
use corpus::Entry;
use passes::Embedder;
use report::{Checks, Pass};
use tch::Tensor;
use torchcache_examples::rows_that_differ;

fn main() -> Result<ExitCode> {
    Ok(match run(&Args::parse())? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Returns whether every embedding is right.
fn run(args: &Args) -> Result<bool> {
    // Ctrl-C writes the embeddings that are still queued.
    torchcache::flush_on_signals()?;
    if args.padding {
        padding::print_table(args)?;
        return Ok(true);
    }
    if args.precision {
        precision::print_table(args)?;
        return Ok(true);
    }
    if args.machines {
        return machines::print_table(args);
    }
    if let Some(work) = args.machine {
        machines::run_as_machine(args, work)?;
        return Ok(true);
    }
    let all = corpus::entries()?;
    let entries = &all[..args.texts];
    let mut embedder = Embedder::load(args)?;
    if let Some(expected) = &args.second_process {
        // Prints its results for the first process.
        let (pass, embeddings) = embedder.pass("a second process", entries)?;
        let differ = rows_that_differ(&embeddings, &Tensor::load(expected)?);
        println!("{}", serde_json::to_string(&(pass, differ))?);
        return Ok(true);
    }
    let edited = corpus::edited(&all, args.texts);
    println!(
        "{} definitions, embedded with the model in {}; cached in {}",
        entries.len(),
        args.model.display(),
        args.cache_dir.display()
    );

    embedder.encoder.torchcache_enabled = false;
    let (plain, computed) = embedder.pass("without the cache", entries)?;
    let new_computed = embedder.embed(&passes::texts(edited.new))?;

    embedder.encoder.torchcache_enabled = true;
    let (cached, first) = embedder.pass("with the cache", entries)?;
    let (again, repeated) = embedder.pass("again", entries)?;
    let (changed, after) = embedder.pass("1 % changed", &edited.entries)?;
    embedder.encoder.torchcache.flush()?;
    let (second, second_differ): (Pass, i64) = torchcache_examples::second_process(&first, &[])?;

    let (sample, expected) = corpus::sample()?;
    let sample: Vec<_> = sample.iter().map(String::as_str).collect();
    let kept = |embeddings: &Tensor| embeddings.index_select(0, &edited.kept);
    let checks = Checks {
        sample: sample.len(),
        agreement: report::difference(&embedder.embed(&sample)?, &expected),
        first: report::difference(&first, &computed),
        edited: report::difference(&after.index_select(0, &edited.changed), &new_computed),
        changed_rows: rows_that_differ(&repeated, &first)
            + rows_that_differ(&kept(&after), &kept(&first))
            + second_differ,
    };
    let table = report::table(&[plain, cached, again, changed, second]);
    println!("\n{table}\n{checks}");
    for query in &args.queries {
        let embedded = embedder.embed(&[query])?;
        println!("\n{query}");
        for (place, cosine) in search::nearest(&embedded, &after, 3) {
            let Entry { word, text } = &edited.entries[place];
            println!("  {cosine:.2}  {word}: {text}");
        }
    }
    Ok(checks.hold())
}
