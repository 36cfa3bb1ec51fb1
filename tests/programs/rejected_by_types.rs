//! Programs that the compiler rejects once it knows the types. See `../programs.rs`.

// error: evaluation panicked: `Scale` has no field for its cache; add these two lines:
// error: evaluation panicked: `Generic` has no field for its cache; add these two lines:
pub mod structs_without_a_cache {
    use tch::{Tensor, nn};
    use torchcache::torchcache;

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub fc: nn::Linear,
        pub name: String,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.apply(&self.fc)
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Generic<M> {
        pub inner: M,
        pub fc: nn::Linear,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Generic<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }
}

// error: evaluation panicked: a struct has one cache; remove the other fields of type `TorchCache`
pub mod two_caches_of_another_name {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache as Handle, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub fc: nn::Linear,
        pub first: Handle,
        pub second: Handle,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.apply(&self.fc)
        }
    }
}

// error: the method `forward` exists for reference
pub mod a_generic_argument_without_a_fingerprint {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> Wrap<M> {
        pub fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    pub fn inherent(wrap: &Wrap<nn::Sequential>, xs: &Tensor) -> Tensor {
        wrap.forward(xs)
    }
}

// error: `Sequential` cannot be part of a module's identity
// error: `Sequential` cannot be part of a module's identity
// error: `Sequential` cannot be part of a module's identity
// error: the method `forward` exists for reference
pub mod a_generic_argument_without_a_fingerprint_and_a_trait {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Wrap<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    pub fn method(wrap: &Wrap<nn::Sequential>, xs: &Tensor) -> Tensor {
        use nn::Module;
        wrap.forward(xs)
    }

    pub fn function(wrap: &Wrap<nn::Sequential>, xs: &Tensor) -> Tensor {
        nn::Module::forward(wrap, xs)
    }

    pub fn applied(wrap: &Wrap<nn::Sequential>, xs: &Tensor) -> Tensor {
        xs.apply(wrap)
    }

    pub fn boxed(wrap: Wrap<nn::Sequential>) -> Box<dyn nn::Module> {
        Box::new(wrap)
    }
}

// error: `Sequential` cannot be part of a module's identity
pub mod a_concrete_argument_without_a_fingerprint {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Wrap<nn::Sequential> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.apply(&self.inner)
        }
    }
}

// error: `M` cannot be part of a module's identity
// error: `M` cannot be part of a module's identity
// error: the method `forward` exists for reference
pub mod a_generic_caller_without_a_fingerprint {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Wrap<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    pub fn applied<M: nn::Module>(wrap: &Wrap<M>, xs: &Tensor) -> Tensor {
        xs.apply(wrap)
    }

    pub fn called<M: nn::Module>(wrap: &Wrap<M>, xs: &Tensor) -> Tensor {
        nn::ModuleT::forward_t(wrap, xs, false)
    }

    pub fn method<M: nn::Module>(wrap: &Wrap<M>, xs: &Tensor) -> Tensor {
        use nn::Module;
        wrap.forward(xs)
    }
}

// error: `a_generic_field_without_a_fingerprint::Other` cannot be part of a module's identity
pub mod a_generic_field_without_a_fingerprint {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[derive(Debug)]
    pub struct Other;

    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: std::fmt::Debug + Send> nn::Module for Wrap<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Outer {
        pub wrap: Wrap<Other>,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Outer {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

// error: the struct `a_generic_struct_without_the_attribute::Wrap<M>` is not annotated with `#[torchcache]`
pub mod a_generic_struct_without_the_attribute {
    use tch::{Tensor, nn};
    use torchcache::torchcache;

    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Wrap<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }
}

// error: the struct `a_struct_without_the_attribute::Scale` is not annotated with `#[torchcache]`
pub mod a_struct_without_the_attribute {
    use tch::{Tensor, nn};
    use torchcache::torchcache;

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

// error: `a_field_without_a_fingerprint_next_to_an_alias::Other` cannot be part of a module's identity
pub mod a_field_without_a_fingerprint_next_to_an_alias {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache as Handle, torchcache};

    #[derive(Debug)]
    pub struct Other;

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub other: Other,
        pub handle: Handle,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

// error: the option `remote` needs the feature `remote` of the crate `torchcache`
// error: the option `remote` needs the feature `remote` of the crate `torchcache`
// error: the option `remote` needs the feature `remote` of the crate `torchcache`
pub mod a_remote_without_the_feature {
    use tch::{Tensor, nn};
    use torchcache::{Options, TorchCache, torchcache};

    #[torchcache(persistent = true, remote = "s3://bucket/prefix")]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(persistent = true)]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache_remote: Option<String>,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    pub fn options() -> Options {
        let options = Options::builder().persistent(true);
        options.remote("s3://bucket/prefix").build().unwrap()
    }
}
