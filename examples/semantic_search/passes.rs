//! Embeds many texts: tokens, batches, forward. Only the counts show the cache.

use std::time::Instant;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use tch::{Device, Tensor};
use torchcache_examples::Progress;

use crate::args::Args;
use crate::corpus::Entry;
use crate::encoder::Encoder;
use crate::report::Pass;
use crate::tokens::{self, Batch, Tokens};

/// A model with its tokenizer.
pub(crate) struct Embedder {
    pub(crate) encoder: Encoder,
    tokens: Tokens,
    batch: usize,
}

impl Embedder {
    /// # Errors
    ///
    /// There is no model, or one of its files is not valid.
    pub(crate) fn load(args: &Args) -> Result<Self> {
        let model = &args.model;
        ensure!(
            model.join("config.json").exists(),
            "no model in {} (no config.json): `cargo xtask minilm` fetches it, or name its folder with \
             --model",
            model.display()
        );
        Ok(Embedder {
            tokens: Tokens::load(&model.join("tokenizer.json"))?,
            encoder: Encoder::load(model, &args.cache_dir)?,
            batch: args.batch,
        })
    }

    /// Returns `[N, 384]` on the CPU, in the order of the texts.
    ///
    /// # Errors
    ///
    /// The tokenizer fails.
    pub(crate) fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        self.embed_showing(texts, &ProgressBar::hidden())
    }

    fn embed_showing(&self, texts: &[&str], progress: &ProgressBar) -> Result<Tensor> {
        self.embed_batches(texts, |batches, number| {
            let Batch { places, ids, mask } = &batches[number];
            let embedded = self.encoder.forward(ids, mask);
            progress.inc(places.size()[0] as u64);
            Ok(embedded)
        })
    }

    /// Returns `[N, 384]` on the CPU, in the order of the texts. `embed` returns the embeddings of the batch of a number.
    ///
    /// # Errors
    ///
    /// The tokenizer or `embed` fails.
    pub(crate) fn embed_batches(
        &self,
        texts: &[&str],
        mut embed: impl FnMut(&[Batch], usize) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let batches = tokens::batches(&self.tokens.rows(texts)?, self.batch);
        let embed = |number| Ok(embed(&batches, number)?.to_device(Device::Cpu));
        let embeddings: Vec<Tensor> = (0..batches.len()).map(embed).collect::<Result<_>>()?;
        let places: Vec<&Tensor> = batches.iter().map(|batch| &batch.places).collect();
        // From the order of the batches to that of the texts.
        let order = Tensor::cat(&places, 0).argsort(0, false);
        Ok(Tensor::cat(&embeddings, 0).index_select(0, &order))
    }

    /// Embeds the texts of all entries.
    ///
    /// # Errors
    ///
    /// The tokenizer fails.
    pub(crate) fn pass(&self, name: &str, entries: &[Entry]) -> Result<(Pass, Tensor)> {
        let before = self.encoder.torchcache.stats();
        let progress = Progress::new(format!("{name:<18}"), entries.len(), "texts");
        let start = Instant::now();
        let embeddings = self.embed_showing(&texts(entries), &progress.bar)?;
        let seconds = start.elapsed().as_secs_f64();
        progress.finish(seconds);

        let after = self.encoder.torchcache.stats();
        let pass = Pass {
            name: name.to_owned(),
            seconds,
            from_memory: after.memory.hits - before.memory.hits,
            from_disk: after.disk.hits - before.disk.hits,
            computed: match after.calls > before.calls {
                true => after.misses - before.misses,
                // A disabled cache counts nothing.
                false => entries.len() as u64,
            },
        };
        Ok((pass, embeddings))
    }
}

/// The texts to embed of entries.
pub(crate) fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.text.as_str()).collect()
}
