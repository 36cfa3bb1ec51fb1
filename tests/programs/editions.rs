//! The crates of earlier editions. See `../programs.rs`.

extern crate tch;
extern crate torchcache;

/// Every kind of item.
pub mod every_kind_of_item {
    use tch::{Tensor, nn};
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    #[derive(Debug, Fingerprint)]
    pub enum Mode {
        Plain,
        Scaled(f64),
        Named { async_: i64 },
    }

    #[derive(Batched)]
    pub struct Encoded {
        pub rows: Tensor,
    }

    #[torchcache(max_memory_cache_size = "1 GB", eviction = "never")]
    #[derive(Debug)]
    pub struct Scale<M> {
        pub mode: Mode,
        pub inner: M,
        #[cfg_attr(feature = "on", torchcache(skip))]
        pub opaque: fn(f64),
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Scale<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    #[torchcache]
    pub fn encode(xs: &Tensor, #[id] ids: &[i64], (low, high): (f64, f64), train: bool) -> Encoded {
        let rows = xs.clamp(low, high).dropout(0.5, train) * ids.len() as i64;
        let rows = rows * if cfg!(feature = "on") { 2 } else { 3 };
        Encoded { rows }
    }

    pub fn handle() -> &'static TorchCache {
        encode_cache()
    }
}
