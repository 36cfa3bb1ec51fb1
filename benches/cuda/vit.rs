//! A vision transformer, the encoder of ViT-B/16.

use tch::Tensor;
use tch::nn::{self, Module};

const WIDTH: i64 = 768;
const HEADS: i64 = 12;
/// Pixels of a side of a patch.
const PATCH: i64 = 16;

/// `[B, 3, side, side]` images in, `[B, 768]` features out.
#[derive(Debug)]
pub(crate) struct Vit {
    patches: nn::Conv2D,
    class: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: nn::LayerNorm,
}

#[derive(Debug)]
struct Block {
    attention_norm: nn::LayerNorm,
    query_key_value: nn::Linear,
    output: nn::Linear,
    feed_norm: nn::LayerNorm,
    up: nn::Linear,
    down: nn::Linear,
}

impl Vit {
    pub(crate) fn base(path: &nn::Path<'_>, side: i64) -> Self {
        let strided = nn::ConvConfig {
            stride: PATCH,
            ..Default::default()
        };
        let tokens = (side / PATCH).pow(2) + 1;
        Vit {
            patches: nn::conv2d(path / "patches", 3, WIDTH, PATCH, strided),
            class: path.randn("class", &[1, 1, WIDTH], 0.0, 0.02),
            positions: path.randn("positions", &[1, tokens, WIDTH], 0.0, 0.02),
            blocks: (0..12).map(|number| Block::new(&(path / number))).collect(),
            norm: norm(path / "norm"),
        }
    }
}

fn norm(path: nn::Path<'_>) -> nn::LayerNorm {
    nn::layer_norm(path, vec![WIDTH], Default::default())
}

impl Block {
    fn new(path: &nn::Path<'_>) -> Self {
        let linear =
            |name, inputs, outputs| nn::linear(path / name, inputs, outputs, Default::default());
        Block {
            attention_norm: norm(path / "attention_norm"),
            query_key_value: linear("query_key_value", WIDTH, 3 * WIDTH),
            output: linear("output", WIDTH, WIDTH),
            feed_norm: norm(path / "feed_norm"),
            up: linear("up", WIDTH, 4 * WIDTH),
            down: linear("down", 4 * WIDTH, WIDTH),
        }
    }
}

impl Module for Vit {
    fn forward(&self, images: &Tensor) -> Tensor {
        let patches = images.apply(&self.patches).flatten(2, 3).transpose(1, 2);
        let class = self.class.expand([images.size()[0], 1, WIDTH], false);
        let tokens = Tensor::cat(&[class, patches], 1) + &self.positions;
        let encoded = self.blocks.iter().fold(tokens, |xs, block| xs.apply(block));
        encoded.select(1, 0).apply(&self.norm)
    }
}

impl Module for Block {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, tokens, width) = xs.size3().expect("[B, tokens, width]");
        let heads = xs.apply(&self.attention_norm).apply(&self.query_key_value);
        let heads = heads.view([batch, tokens, 3, HEADS, width / HEADS]);
        let heads = heads.permute([2, 0, 3, 1, 4]);
        let [query, key, value] = [0, 1, 2].map(|part| heads.select(0, part));
        let attended = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<Tensor>,
            0.0,
            false,
            None,
            false,
        );
        let attended = attended.transpose(1, 2).reshape([batch, tokens, width]);
        let xs = xs + attended.apply(&self.output);
        let fed = xs.apply(&self.feed_norm).apply(&self.up).gelu("none");
        xs + fed.apply(&self.down)
    }
}
