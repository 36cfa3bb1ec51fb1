//! The library under another name, which the manifest takes from its workspace.

pub mod a_renamed_dependency {
    use tc::{Batched, Fingerprint, TorchCache, torchcache};
    use tch::{Tensor, nn};

    #[derive(Debug, Fingerprint)]
    pub enum Mode {
        Plain,
        Scaled(f64),
    }

    #[derive(Batched)]
    pub struct Encoded {
        pub rows: Tensor,
    }

    #[torchcache(max_memory_cache_size = "1 GB", eviction = "lru")]
    #[derive(Debug)]
    pub struct Scale<M> {
        pub mode: Mode,
        pub inner: M,
        #[torchcache(skip)]
        pub opaque: fn(f64),
        pub torchcache_enabled: bool,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Scale<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    #[torchcache(version = "1")]
    pub fn encode(xs: &Tensor) -> Encoded {
        let rows = xs * if cfg!(feature = "on") { 2 } else { 3 };
        Encoded { rows }
    }

    pub fn handle() -> &'static TorchCache {
        encode_cache()
    }
}

pub mod a_renamed_dependency_by_path {
    #[tc::torchcache]
    #[derive(Debug)]
    pub struct Scale {
        #[tc::torchcache(skip)]
        pub opaque: fn(f64),
        pub torchcache: tc::TorchCache,
    }

    #[tc::torchcache]
    impl tch::nn::Module for Scale {
        fn forward(&self, xs: &tch::Tensor) -> tch::Tensor {
            xs * 2
        }
    }

    #[tc::torchcache(crate = ::tc, handle = "handle")]
    pub fn named(xs: &tch::Tensor) -> tch::Tensor {
        xs * 2
    }
}
