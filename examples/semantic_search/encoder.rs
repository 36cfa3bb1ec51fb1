//! Token ids to embeddings, with the cache.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{TorchCache, torchcache};

use crate::bert::{Bert, Config};
use crate::tokens::PADDING;
use crate::weights;

/// BERT, the mean over the tokens of a text, normalised to length one, as in sentence-transformers.
///
/// The code of functions that it calls is not part of the identity: increase `version` if it changes.
#[torchcache(persistent = true, version = "1")]
#[derive(Debug)]
pub(crate) struct Encoder {
    bert: Bert,
    pub(crate) torchcache_enabled: bool,
    pub(crate) torchcache_persistent_cache_dir: PathBuf,
    pub(crate) torchcache: TorchCache,
}

#[torchcache]
impl Encoder {
    /// `[B, L]` token ids and their mask, 1 for a token and 0 for padding, to `[B, 384]`. A text with more padding or
    /// less is the same row.
    pub(crate) fn forward(
        &self,
        #[padded(PADDING)] ids: &Tensor,
        #[padded(0)] mask: &Tensor,
    ) -> Tensor {
        embed(&self.bert, ids, mask)
    }
}

/// The mean over the tokens, normalised to length one.
pub(crate) fn embed(bert: &Bert, ids: &Tensor, mask: &Tensor) -> Tensor {
    let device = bert.device();
    let mask = mask.to_device(device);
    let states = bert.forward(&ids.to_device(device), &mask);
    let shares = mask.unsqueeze(-1).to_kind(Kind::Float);
    let sum = (states * &shares).sum_dim_intlist(1, false, Kind::Float);
    let mean = sum / shares.sum_dim_intlist(1, false, Kind::Float);
    let length = mean.norm_scalaropt_dim(2.0, [-1], true);
    // The minimum of PyTorch's `normalize`.
    mean / length.clamp_min(1e-12)
}

impl Encoder {
    /// Loads the model of a folder, with its cache in another.
    ///
    /// # Errors
    ///
    /// A file is missing or not valid.
    pub(crate) fn load(model: &Path, cache_dir: &Path) -> Result<Self> {
        Ok(Encoder {
            bert: load(model)?,
            torchcache_enabled: true,
            torchcache_persistent_cache_dir: cache_dir.to_owned(),
            torchcache: TorchCache::default(),
        })
    }
}

/// Loads the model of a folder.
///
/// # Errors
///
/// A file is missing or not valid.
pub(crate) fn load(model: &Path) -> Result<Bert> {
    let config = Config::read(&model.join("config.json"))?;
    let mut vs = nn::VarStore::new(Device::cuda_if_available());
    let bert = Bert::new(&vs.root(), &config);
    weights::load(&vs, &model.join("model.safetensors"))?;
    vs.freeze();
    Ok(bert)
}
