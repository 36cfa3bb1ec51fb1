//! A crate that has the library from another crate.

pub mod behind_a_facade {
    use facade::tch::{Tensor, nn};
    use facade::torchcache::{Argument, Batched, Fingerprint, TorchCache, torchcache};

    #[derive(Debug, Fingerprint)]
    #[fingerprint(crate = facade::torchcache)]
    pub enum Mode {
        Plain,
        Scaled(f64),
    }

    #[derive(Debug, Fingerprint)]
    #[fingerprint(version = "1", crate = "facade::torchcache")]
    pub struct Versioned(pub Tensor);

    #[derive(Batched)]
    #[batched(crate = facade::torchcache)]
    pub struct Encoded {
        pub rows: Tensor,
    }

    #[derive(Argument)]
    #[argument(crate = facade::torchcache)]
    pub struct Inputs<'a> {
        pub ids: &'a Tensor,
    }

    #[torchcache(crate = facade::torchcache, max_memory_cache_size = "1 GB")]
    #[derive(Debug)]
    pub struct Scale<M> {
        pub mode: Mode,
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache(crate = facade::torchcache)]
    impl<M: nn::Module> nn::Module for Scale<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    #[torchcache(persistent = true, crate = "::facade::torchcache")]
    pub fn encode(inputs: Inputs<'_>) -> Encoded {
        let rows = inputs.ids * 2;
        Encoded { rows }
    }
}
