//! Programs that do not compile, and what the compiler says. See `../programs.rs`.

// error: unknown option `persistant`; did you mean `persistent`?
// error: unknown option `persistant`; did you mean `persistent`?
pub mod an_unknown_option {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache(persistant = true)]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(handle = "rows", persistant = true)]
    pub fn named(xs: &Tensor) -> Tensor {
        xs * 2
    }

    pub fn use_them() {
        embed_cache().clear();
        rows().clear();
    }
}

// error: `handle` names the function that returns the handle of a function; the handle of a module is its field
pub mod a_handle_of_a_struct {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache(handle = "rows")]
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
}

// error: expected a name: write `handle = "embed_rows"`
// error: expected a path: write `handle = "embed_rows"`
// error: `handle` has no value; write `handle = "embed_rows"`
// error: `handle` is given twice; remove one
// error: expected a path: write `crate = facade::torchcache`
// error: `crate` has no value; write `crate = facade::torchcache`
pub mod handles_and_crates_that_are_no_paths {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache(handle = rows::handle)]
    pub fn a(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(handle = 3)]
    pub fn b(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(handle)]
    pub fn c(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(handle = "one", handle = "two")]
    pub fn d(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(crate = 3)]
    pub fn e(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(crate)]
    pub fn f(xs: &Tensor) -> Tensor {
        xs * 2
    }
}

// error: options go on the struct; on the impl write `#[torchcache]` alone
pub mod options_on_an_impl {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache(persistent = true)]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

// error: this struct has `#[torchcache]` twice; write all options into one
pub mod a_struct_annotated_twice {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache(persistent = true)]
    #[torchcache(version = "2")]
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
}

// error: this impl of `Display` has neither `forward` nor `forward_t`, and no method with `#[torchcache]`, so there is nothing to cache; put `#[torchcache]` on the methods to cache as well
pub mod an_impl_of_another_trait {
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl std::fmt::Display for Scale {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("scale")
        }
    }
}

// error: unknown field attribute `skipp`; did you mean `skip`?
pub mod a_misspelt_skip_in_a_condition {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        #[cfg_attr(feature = "on", torchcache(skipp))]
        pub by: f64,
        #[cfg_attr(feature = "off", torchcache(skippp))]
        pub other: f64,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }
}

// error: a struct has one cache, and the field `first` holds it already; remove one of the two
pub mod two_caches {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        #[cfg(feature = "on")]
        pub first: TorchCache,
        #[cfg(not(feature = "off"))]
        pub second: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

// error: `Scale` has no field for its cache; add these two lines:
pub mod a_struct_without_a_cache {
    use tch::{Tensor, nn};
    use torchcache::torchcache;

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub by: f64,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }
}
