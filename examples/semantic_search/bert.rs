//! BERT in `tch::nn`: embeddings, self-attention, layer norm, GELU. Layers are named as in the files of
//! Hugging Face's transformers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tch::nn::{Embedding, LayerNorm, Linear, Module};
use tch::{Device, Kind, Tensor, nn};
use torchcache::Fingerprint;

/// The fields of `config.json` that are used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) model_type: String,
    pub(crate) hidden_act: String,
    pub(crate) position_embedding_type: String,
    pub(crate) vocab_size: i64,
    pub(crate) max_position_embeddings: i64,
    pub(crate) type_vocab_size: i64,
    pub(crate) hidden_size: i64,
    pub(crate) num_hidden_layers: i64,
    pub(crate) num_attention_heads: i64,
    pub(crate) intermediate_size: i64,
    pub(crate) layer_norm_eps: f64,
}

impl Config {
    /// # Errors
    ///
    /// The file cannot be read, or describes another kind of model.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let read = || {
            let config: Config = serde_json::from_str(&fs::read_to_string(file)?)?;
            for (name, found, expected) in [
                ("model_type", &config.model_type, "bert"),
                ("hidden_act", &config.hidden_act, "gelu"),
                (
                    "position_embedding_type",
                    &config.position_embedding_type,
                    "absolute",
                ),
            ] {
                ensure!(
                    found == expected,
                    "{name} is {found:?}; expected {expected:?}"
                );
            }
            let (size, heads) = (config.hidden_size, config.num_attention_heads);
            ensure!(
                heads >= 1 && size % heads == 0,
                "hidden_size {size} cannot be shared by {heads} attention heads"
            );
            Ok(config)
        };
        read().with_context(|| file.display().to_string())
    }
}

/// Token ids in, a state for each token out.
///
/// The cache does not see its code: increase the version if it changes.
#[derive(Debug, Fingerprint)]
#[fingerprint(version = "1")]
pub(crate) struct Bert {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Creates a model with zero weights, which a file then fills.
    pub(crate) fn new(vs: &nn::Path<'_>, config: &Config) -> Self {
        let embeddings = vs / "embeddings";
        let table = |name: &str, rows| {
            let zeros = nn::EmbeddingConfig {
                ws_init: nn::Init::Const(0.0),
                ..Default::default()
            };
            nn::embedding(&embeddings / name, rows, config.hidden_size, zeros)
        };
        let layers = vs / "encoder" / "layer";
        Bert {
            words: table("word_embeddings", config.vocab_size),
            positions: table("position_embeddings", config.max_position_embeddings),
            types: table("token_type_embeddings", config.type_vocab_size),
            norm: norm(&embeddings / "LayerNorm", config),
            layers: (0..config.num_hidden_layers)
                .map(|number| Layer::new(&(&layers / number), config))
                .collect(),
        }
    }

    pub(crate) fn device(&self) -> Device {
        self.words.ws.device()
    }

    /// `[B, L]` ids and their mask, 1 for a token and 0 for padding, to `[B, L, hidden]` states.
    pub(crate) fn forward(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        let positions = Tensor::arange(ids.size()[1], (Kind::Int64, ids.device()));
        // All tokens are of the first text, which is type 0.
        let embedded =
            ids.apply(&self.words) + self.types.ws.get(0) + positions.apply(&self.positions);
        // Added to the attention scores of every head and token: hides padding.
        let hidden = mask
            .zeros_like()
            .to_kind(Kind::Float)
            .masked_fill(&mask.eq(0), f64::NEG_INFINITY)
            .unsqueeze(1)
            .unsqueeze(1);
        self.layers
            .iter()
            .fold(embedded.apply(&self.norm), |states, layer| {
                layer.forward(&states, &hidden)
            })
    }
}

/// Self-attention, then two linear layers, each with a residual connection.
#[derive(Debug, Fingerprint)]
#[fingerprint(version = "1")]
struct Layer {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    wide: Linear,
    narrow: Linear,
    norm: LayerNorm,
}

impl Layer {
    fn new(vs: &nn::Path<'_>, config: &Config) -> Self {
        let (size, wide) = (config.hidden_size, config.intermediate_size);
        let attention = vs / "attention";
        let inner = &attention / "self";
        let attended = &attention / "output";
        let output = vs / "output";
        Layer {
            heads: config.num_attention_heads,
            query: linear(&inner / "query", size, size),
            key: linear(&inner / "key", size, size),
            value: linear(&inner / "value", size, size),
            attended: linear(&attended / "dense", size, size),
            attended_norm: norm(&attended / "LayerNorm", config),
            wide: linear(vs / "intermediate" / "dense", size, wide),
            narrow: linear(&output / "dense", wide, size),
            norm: norm(&output / "LayerNorm", config),
        }
    }

    fn forward(&self, states: &Tensor, hidden: &Tensor) -> Tensor {
        let attended = self.attend(states, hidden).apply(&self.attended) + states;
        let attended = attended.apply(&self.attended_norm);
        let wide = attended.apply(&self.wide).gelu("none");
        (wide.apply(&self.narrow) + attended).apply(&self.norm)
    }

    fn attend(&self, states: &Tensor, hidden: &Tensor) -> Tensor {
        let (batch, length, size) = states.size3().expect("[B, L, hidden]");
        let head_size = size / self.heads;
        let split = |linear: &Linear| {
            linear
                .forward(states)
                .view([batch, length, self.heads, head_size])
                .transpose(1, 2)
        };
        let (query, key, value) = (split(&self.query), split(&self.key), split(&self.value));
        let scores = query.matmul(&key.transpose(-2, -1)) / (head_size as f64).sqrt();
        let shares = (scores + hidden).softmax(-1, Kind::Float);
        shares
            .matmul(&value)
            .transpose(1, 2)
            .reshape([batch, length, size])
    }
}

fn linear(vs: nn::Path<'_>, from: i64, to: i64) -> Linear {
    let zeros = nn::LinearConfig {
        ws_init: nn::Init::Const(0.0),
        bs_init: Some(nn::Init::Const(0.0)),
        bias: true,
    };
    nn::linear(vs, from, to, zeros)
}

fn norm(vs: nn::Path<'_>, config: &Config) -> LayerNorm {
    let eps = nn::LayerNormConfig {
        eps: config.layer_norm_eps,
        ..Default::default()
    };
    nn::layer_norm(vs, vec![config.hidden_size], eps)
}
