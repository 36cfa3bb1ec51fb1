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

// error: conflicting implementations of trait `torchcache::__private::OneAnnotatedImplPerStruct` for type `Scale`
pub mod two_annotated_impls {
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
