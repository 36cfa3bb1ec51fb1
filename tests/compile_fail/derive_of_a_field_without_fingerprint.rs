//! A derived fingerprint of a type whose field has none.

use tch::nn;
use torchcache::Fingerprint;

#[derive(Fingerprint)]
struct Head {
    layers: nn::Sequential,
    #[torchcache(skipp)]
    label: String,
}

#[derive(Fingerprint)]
struct Tail {
    layers: nn::Sequential,
}

#[derive(Fingerprint)]
union Bits {
    float: f32,
    whole: u32,
}

fn main() {}
