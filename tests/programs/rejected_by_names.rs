//! Programs with two items of one name, or two impls of one trait. See `../programs.rs`.

// error: the name `embed_cache` is defined multiple times
pub mod a_handle_whose_name_is_taken {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * 2
    }

    pub fn embed_cache() {}
}

// error: conflicting implementations of trait `torchcache::__private::OneImplWithForwardPerStruct` for type `Scale`
// error: conflicting implementations of trait `torchcache::__private::CachedMethod<
pub mod two_impls_with_forward {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    impl Scale {
        pub fn forward(&self, xs: &Tensor, by: f64) -> Tensor {
            xs * by
        }
    }
}

// error: conflicting implementations of trait `torchcache::__private::CachedMethod<
// error: duplicate definitions with name `encode`
pub mod two_methods_of_one_name {
    use tch::Tensor;
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Codec {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Codec {
        #[torchcache]
        pub fn encode(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    impl Codec {
        #[torchcache]
        pub fn encode(&self, xs: &Tensor) -> Tensor {
            xs * 3
        }
    }
}
