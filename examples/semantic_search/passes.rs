//! Embedding many texts, as anyone would: tokens, batches, forward. That embeddings come from a
//! cache is to be seen only in what is counted.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use tch::{Device, Tensor};

use crate::args::Args;
use crate::corpus::Entry;
use crate::encoder::Encoder;
use crate::report::{self, Pass};
use crate::tokens::{self, Tokens};

/// A model with its tokenizer.
pub(crate) struct Embedder {
    pub(crate) encoder: Encoder,
    tokens: Tokens,
    batch: usize,
}

impl Embedder {
    /// # Errors
    ///
    /// There is no model, or a message that names the file of it that is wrong.
    pub(crate) fn load(args: &Args) -> Result<Self, String> {
        let model = &args.model;
        if !model.join("config.json").exists() {
            return Err(format!(
                "there is no model in {} (no config.json): `cargo xtask minilm` fetches it, or \
                 name its folder with --model",
                model.display()
            ));
        }
        Ok(Embedder {
            tokens: Tokens::load(&model.join("tokenizer.json"))?,
            encoder: Encoder::load(model, &args.cache_dir)?,
            batch: args.batch,
        })
    }

    /// `[N, 384]` on the CPU, in the order of the texts.
    ///
    /// # Errors
    ///
    /// What the tokenizer says.
    pub(crate) fn embed(&self, texts: &[&str]) -> Result<Tensor, String> {
        self.embed_showing(texts, &ProgressBar::hidden())
    }

    fn embed_showing(&self, texts: &[&str], progress: &ProgressBar) -> Result<Tensor, String> {
        let rows = self.tokens.rows(texts)?;
        let (mut places, mut embeddings) = (Vec::new(), Vec::new());
        for batch in tokens::batches(&rows, self.batch) {
            let embedded = self.encoder.forward(&batch.ids, &batch.mask);
            progress.inc(batch.places.size()[0] as u64);
            embeddings.push(embedded.to_device(Device::Cpu));
            places.push(batch.places);
        }
        // Back from the order of the batches into that of the texts.
        let order = Tensor::cat(&places, 0).argsort(0, false);
        Ok(Tensor::cat(&embeddings, 0).index_select(0, &order))
    }

    /// Embeds the texts of all entries.
    ///
    /// # Errors
    ///
    /// What the tokenizer says.
    pub(crate) fn pass(&self, name: &str, entries: &[Entry]) -> Result<(Pass, Tensor), String> {
        let before = self.encoder.torchcache.stats();
        let progress = bar(name, entries.len());
        let start = Instant::now();
        let embeddings = self.embed_showing(&texts(entries), &progress)?;
        let seconds = start.elapsed().as_secs_f64();
        if std::io::stderr().is_terminal() {
            progress.finish_and_clear();
        }
        eprintln!("{name:<18}  {}", report::seconds(seconds));

        let after = self.encoder.torchcache.stats();
        let pass = Pass {
            name: name.to_owned(),
            seconds,
            from_memory: after.memory_hits - before.memory_hits,
            from_disk: after.disk_hits - before.disk_hits,
            computed: match after.calls > before.calls {
                true => after.misses - before.misses,
                // Nothing is counted of what goes past a cache that is switched off.
                false => entries.len() as u64,
            },
        };
        Ok((pass, embeddings))
    }
}

/// What is embedded of entries.
pub(crate) fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.text.as_str()).collect()
}

/// Without a terminal it draws nothing.
fn bar(name: &str, texts: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}  {bar:30}  {pos}/{len} texts");
    let bar = ProgressBar::new(texts as u64).with_style(style.expect("the template is right"));
    bar.set_message(format!("{name:<18}"));
    bar
}
