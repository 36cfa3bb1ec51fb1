//! A crate that gives its users the library.

pub use tch;
pub use torchcache;

pub mod a_module_of_the_same_crate {
    pub mod cache {
        pub use torchcache::*;
    }

    #[cache::torchcache(crate = cache)]
    pub fn embed(xs: &tch::Tensor) -> tch::Tensor {
        xs * 2
    }
}
