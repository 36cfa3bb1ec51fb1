//! Programs that compile without the attribute, and with it. See `../programs.rs`.

// The names that the attribute makes.

pub mod a_function_of_the_name_of_its_module {
    mod embed {
        use tch::Tensor;
        use torchcache::torchcache;

        #[torchcache]
        pub fn embed(xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    pub use embed::embed;
    pub use embed::embed_cache;
}

pub mod a_module_next_to_a_function_of_its_name {
    use tch::Tensor;
    use torchcache::torchcache;

    pub mod embed {
        pub const SCALE: i64 = 2;
    }

    #[torchcache]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * embed::SCALE
    }
}

pub mod a_type_of_the_name_of_a_function {
    #![allow(non_camel_case_types)]
    use tch::Tensor;
    use torchcache::torchcache;

    pub struct embed {
        pub scale: i64,
    }

    #[torchcache]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * embed { scale: 2 }.scale
    }
}

pub mod a_function_of_the_name_of_a_crate {
    use torchcache::torchcache;

    #[torchcache]
    pub fn tch(xs: &tch::Tensor) -> tch::Tensor {
        xs + tch::Tensor::from(1.0)
    }

    #[torchcache]
    pub fn std(xs: &tch::Tensor) -> tch::Tensor {
        xs * std::f64::consts::PI
    }

    #[torchcache::torchcache]
    pub fn torchcache(xs: &tch::Tensor) -> Result<tch::Tensor, torchcache::Error> {
        Ok(xs * 2)
    }
}

pub mod a_function_of_the_name_of_a_primitive_type {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache]
    pub fn str(xs: &Tensor, name: &str) -> Tensor {
        xs * name.len() as f64
    }

    #[torchcache]
    pub fn u64(xs: &Tensor, by: u64) -> Tensor {
        xs * by as f64
    }
}

pub mod a_handle_with_a_name_of_its_own {
    use tch::Tensor;
    use torchcache::{TorchCache, torchcache};

    pub fn embed_cache() {}

    #[torchcache(handle = "rows")]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache(persistent = true, handle = other_rows, version = "2")]
    fn other(xs: &Tensor) -> Tensor {
        xs * 3
    }

    pub fn handles(xs: &Tensor) -> [&'static TorchCache; 2] {
        let _ = other(xs);
        [rows(), other_rows()]
    }
}

pub mod handles_have_the_visibility_of_the_function {
    pub mod inner {
        use tch::Tensor;
        use torchcache::torchcache;

        #[torchcache]
        pub(super) fn of_the_parent(xs: &Tensor) -> Tensor {
            xs * 2
        }

        #[torchcache]
        pub(in crate::handles_have_the_visibility_of_the_function) fn in_a_path(
            xs: &Tensor,
        ) -> Tensor {
            xs * 3
        }

        #[torchcache]
        pub(crate) fn of_the_crate(xs: &Tensor) -> Tensor {
            xs * 4
        }

        #[torchcache]
        #[allow(dead_code)]
        fn private(xs: &Tensor) -> Tensor {
            xs * 5
        }
    }

    pub fn use_them(xs: &tch::Tensor) -> [&'static torchcache::TorchCache; 3] {
        let _ = (
            inner::of_the_parent(xs),
            inner::in_a_path(xs),
            inner::of_the_crate(xs),
        );
        [
            inner::of_the_parent_cache(),
            inner::in_a_path_cache(),
            inner::of_the_crate_cache(),
        ]
    }
}

pub mod a_glob_import_of_a_function {
    mod inner {
        use tch::Tensor;
        use torchcache::torchcache;

        #[torchcache]
        pub fn embed(xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    pub use inner::*;

    pub mod embed {}
}

pub mod raw_names {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    pub fn r#match(xs: &Tensor, r#type: i64) -> Tensor {
        xs * r#type
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct r#Struct {
        pub r#fn: f64,
        pub r#ref: TorchCache,
    }

    #[torchcache]
    impl nn::Module for r#Struct {
        fn forward(&self, r#in: &Tensor) -> Tensor {
            r#in * self.r#fn
        }
    }

    pub fn handle() -> &'static TorchCache {
        match_cache()
    }
}

pub mod functions_in_bodies {
    use tch::Tensor;
    use torchcache::torchcache;

    pub fn outer(xs: &Tensor) -> Tensor {
        #[torchcache]
        fn outer(xs: &Tensor) -> Tensor {
            xs * 2
        }
        let closure = |xs: &Tensor| {
            #[torchcache]
            fn outer(xs: &Tensor) -> Tensor {
                xs * 3
            }
            outer_cache().clear();
            outer(xs)
        };
        outer(&closure(xs))
    }

    pub const CALL: fn(&Tensor) -> Tensor = {
        #[torchcache]
        fn outer(xs: &Tensor) -> Tensor {
            xs * 4
        }
        outer
    };
}

pub mod lifetimes_of_functions {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache]
    pub fn late<'a, 'b: 'a>(xs: &'a Tensor, names: &'a [&'b str]) -> Tensor {
        xs * names.len() as f64
    }

    #[torchcache]
    pub fn early<'a>(xs: &'a Tensor, name: &'a str) -> Tensor
    where
        'a: 'a,
    {
        xs * name.len() as f64
    }

    #[torchcache]
    pub fn anonymous(xs: &'_ Tensor, mask: Option<&'_ Tensor>) -> Vec<Tensor> {
        xs.unbind(0)
            .into_iter()
            .chain(mask.map(Tensor::shallow_clone))
            .collect()
    }
}

pub mod a_module_of_the_name_of_the_library {
    pub mod torchcache {
        pub mod __private {}
        pub struct TorchCache;
    }

    pub mod core {}

    #[::torchcache::torchcache]
    pub fn embed(xs: &tch::Tensor) -> tch::Tensor {
        xs * 2
    }
}

// Names of the user's that generated code could mean.

pub mod constants_of_the_names_of_variables {
    #![allow(non_upper_case_globals)]
    use tch::{Tensor, nn};
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    pub const f: f64 = 2.0;
    pub const rows: f64 = 2.0;
    pub const text: &str = "";
    pub const before: i64 = 1;
    pub const field_0: i64 = 1;
    pub const field_1: i64 = 1;
    pub const argument_0: i64 = 1;
    pub const argument_1: i64 = 1;
    pub const functions: [i64; 2] = [1, 2];
    pub const fingerprinter: u8 = 1;
    pub const function: u8 = 1;
    pub static overrides: i64 = 1;
    pub static held: i64 = 1;
    pub static tensors: i64 = 1;
    pub static lengths: i64 = 1;
    pub static options: i64 = 1;
    pub static module: i64 = 1;
    pub static cache: i64 = 1;
    pub const value: i64 = 1;
    pub const SIZE: &str = "1 GB";
    pub const INPUTS: i64 = 1;
    pub const CACHE: bool = true;
    pub const DEFINITION: bool = true;
    pub const FUNCTION: i64 = 2;

    #[derive(Debug, Fingerprint)]
    pub enum Mode {
        Two(f64, i64),
        Named { scale: f64, other: i64 },
    }

    #[derive(Batched)]
    pub struct Encoded {
        pub pooled: Tensor,
        pub rest: Option<Tensor>,
    }

    #[torchcache(max_memory_cache_size = "2 GB", enabled = CACHE, persistent = DEFINITION)]
    #[derive(Debug)]
    pub struct Scale<M> {
        pub mode: Mode,
        pub inner: M,
        pub torchcache_verify: f64,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Scale<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs) * (f + rows)
        }
    }

    #[torchcache(enabled = CACHE, max_memory_cache_size = SIZE)]
    pub fn encode(xs: &Tensor, (low, high): (f64, f64), _: i64) -> Encoded {
        let pooled = xs.clamp(low, high) * FUNCTION * if cfg!(test) { 1 } else { INPUTS };
        Encoded { pooled, rest: None }
    }
}

pub mod types_of_the_names_of_primitive_types {
    #![allow(non_camel_case_types)]
    use tch::Tensor;
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    pub struct u32;
    pub struct u64;
    pub struct bool;
    pub struct usize;
    pub struct str;

    #[derive(Batched)]
    pub struct Encoded {
        pub rows: Tensor,
    }

    #[derive(Fingerprint)]
    pub struct Config(i64, #[torchcache(skip)] pub bool);

    #[torchcache(max_memory_cache_size = "1 GB")]
    pub struct Scale {
        pub config: Config,
        #[torchcache(skip)]
        pub name: str,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Scale {
        pub fn forward(&self, xs: &Tensor) -> Encoded {
            let rows = xs * self.config.0;
            Encoded { rows }
        }
    }
}

pub mod types_of_the_names_of_generated_items {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    pub struct Cached;
    pub struct Definition;
    pub struct Function;
    pub struct Options;
    pub struct Place;
    pub struct CachedStruct;
    pub struct CachedForward;
    pub struct CachedFunction;
    pub struct TorchcacheImpl;

    impl torchcache::Fingerprint for Cached {
        fn fingerprint(&self, _: &mut torchcache::Fingerprinter<'_>) {}
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Scale<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    #[torchcache]
    pub fn pick(xs: &Tensor) -> Result<Tensor, torchcache::Error> {
        let _ = (Cached, Definition, Function, Options, Place);
        Ok(xs * 2)
    }
}

pub mod traits_with_methods_of_the_names_of_generated_calls {
    use tch::{Tensor, nn};
    use torchcache::{Fingerprint, TorchCache, torchcache};

    pub trait Everywhere: Sized {
        fn with(self, _: &Tensor) {}
        fn argument(self) {}
        fn field(self) {}
        fn enabled(self) {}
        fn cache(self) {}
        fn is_module(self) {}
        fn structure() {}
        fn flatten(self) {}
    }

    impl<T> Everywhere for T {}

    #[derive(Debug, Fingerprint)]
    pub struct Settings {
        pub by: f64,
    }

    #[torchcache(enabled = true)]
    #[derive(Debug)]
    pub struct Scale {
        pub by: f64,
        pub torchcache_enabled: bool,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }

    #[torchcache]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * 2
    }
}

// Conditional compilation.

pub mod conditional_skip {
    use std::sync::Arc;

    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[derive(Debug)]
    pub struct Opaque;

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub by: f64,
        #[cfg_attr(feature = "on", torchcache(skip))]
        pub opaque: Opaque,
        #[cfg_attr(all(), cfg_attr(not(feature = "off"), torchcache(skip)))]
        pub nested: Arc<Opaque>,
        #[cfg_attr(feature = "off", torchcache(skip))]
        pub kept: i64,
        #[cfg_attr(feature = "on", doc = "Skipped.", torchcache(skip))]
        pub of_two: fn(f64),
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }
}

pub mod conditional_skip_by_path {
    #[derive(Debug)]
    pub struct Opaque;

    #[torchcache::torchcache]
    #[derive(Debug)]
    pub struct Scale {
        #[torchcache::torchcache(skip)]
        pub opaque: Opaque,
        #[cfg_attr(feature = "on", torchcache::torchcache(skip))]
        pub other: Opaque,
        pub torchcache: torchcache::TorchCache,
    }

    #[torchcache::torchcache]
    impl tch::nn::Module for Scale {
        fn forward(&self, xs: &tch::Tensor) -> tch::Tensor {
            xs * 2
        }
    }
}

pub mod conditional_fields_of_tuples {
    use tch::{Tensor, nn};
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Removed(#[cfg(feature = "off")] f64, TorchCache);

    #[torchcache]
    impl nn::Module for Removed {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Kept(
        #[cfg(feature = "on")] f64,
        #[cfg(any())] u8,
        i64,
        TorchCache,
    );

    #[torchcache]
    impl nn::Module for Kept {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.0 * self.1
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Attributed(#[cfg_attr(all(), cfg(any()))] NoSuchType, TorchCache);

    #[torchcache]
    impl nn::Module for Attributed {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[derive(Debug, Fingerprint)]
    pub struct Config(#[cfg(any())] NoSuchType, i64);

    #[derive(Debug, Fingerprint)]
    pub enum Mode {
        #[cfg(any())]
        None(NoSuchType),
        Some(#[cfg(any())] NoSuchType, i64),
        Named {
            #[cfg(any())]
            none: NoSuchType,
            scale: f64,
        },
    }

    #[derive(Batched)]
    pub struct Output(#[cfg(any())] NoSuchType, pub Tensor);
}

pub mod caches_under_opposite_conditions {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Named {
        #[cfg(feature = "on")]
        pub torchcache: TorchCache,
        #[cfg(not(feature = "on"))]
        pub torchcache: std::sync::Arc<TorchCache>,
    }

    #[torchcache]
    impl nn::Module for Named {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Renamed {
        #[cfg(feature = "off")]
        pub first: TorchCache,
        #[cfg_attr(feature = "on", cfg(all()))]
        pub second: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Renamed {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Tuple(
        #[cfg(feature = "off")] TorchCache,
        f64,
        #[cfg(not(feature = "off"))] TorchCache,
    );

    #[torchcache]
    impl nn::Module for Tuple {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.0
        }
    }
}

pub mod literal_conditions {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[cfg_attr(true, cfg(false))]
    pub fn removed(xs: &NoSuchType) -> Tensor {
        xs.into()
    }

    #[torchcache]
    pub fn kept(xs: &Tensor, #[cfg(false)] none: NoSuchType, #[cfg(true)] by: f64) -> Tensor {
        xs * by * if cfg!(true) { 2 } else { 3 }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        #[cfg_attr(true, torchcache::torchcache(skip))]
        pub opaque: fn(f64),
        #[cfg(true)]
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        #[cfg_attr(true, cfg(true))]
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

pub mod conditional_overrides {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        #[cfg(feature = "on")]
        pub torchcache_enabled: bool,
        #[cfg(feature = "off")]
        pub torchcache_enabled: NoSuchType,
        #[cfg(feature = "off")]
        pub torchcache_no_such_option: bool,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

pub mod conditional_methods {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        #[cfg(feature = "on")]
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }

        #[cfg(not(feature = "on"))]
        fn forward(&self, xs: &Tensor) -> Tensor {
            no_such_function(xs)
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Several {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Several {
        #[cfg_attr(all(), cfg(feature = "off"))]
        pub fn forward(&self, xs: &NoSuchType) -> Tensor {
            xs.into()
        }

        #[cfg_attr(feature = "on", inline)]
        pub fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
            xs.dropout(0.5, train)
        }
    }
}

pub mod conditional_items {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[cfg(feature = "off")]
    pub fn after(xs: &NoSuchType) -> Tensor {
        xs.into()
    }

    #[cfg(feature = "off")]
    #[torchcache]
    pub fn before(xs: &NoSuchType) -> Tensor {
        xs.into()
    }

    #[torchcache]
    #[cfg_attr(all(), cfg(feature = "off"))]
    pub fn attributed(xs: &NoSuchType) -> Tensor {
        xs.into()
    }

    #[torchcache]
    #[cfg(feature = "off")]
    pub struct Removed {
        none: NoSuchType,
    }

    #[torchcache]
    #[cfg_attr(all(), cfg(feature = "off"))]
    impl nn::Module for Removed {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[cfg_attr(feature = "on", torchcache)]
    #[derive(Debug)]
    pub struct Scale {
        #[cfg_attr(feature = "on", torchcache(skip))]
        pub opaque: fn(f64),
        #[cfg(feature = "on")]
        pub torchcache: TorchCache,
    }

    #[cfg_attr(feature = "on", torchcache)]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[cfg_attr(feature = "off", torchcache)]
    #[derive(Debug)]
    pub struct Plain {
        #[cfg_attr(feature = "off", torchcache(skip))]
        pub opaque: fn(f64),
    }

    #[cfg_attr(feature = "off", torchcache)]
    impl nn::Module for Plain {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

pub mod conditional_arguments {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    pub fn embed(
        #[cfg(feature = "off")] first: NoSuchType,
        xs: &Tensor,
        #[cfg(feature = "on")]
        #[id]
        ids: &[i64],
        #[cfg(not(feature = "on"))]
        #[id]
        ids: &[&str],
        #[cfg_attr(all(), cfg(feature = "off"))] none: NoSuchType,
        #[cfg(feature = "on")]
        #[shared]
        mask: &Tensor,
        #[cfg(feature = "on")] (low, _): (f64, f64),
        #[cfg(feature = "off")]
        #[skip]
        log: NoSuchType,
        #[cfg(feature = "on")]
        #[skip]
        log: &dyn Fn(&Tensor),
        #[cfg(feature = "off")]
        #[padded("")]
        tokens: NoSuchType,
        #[cfg(feature = "on")]
        #[padded(if cfg!(feature = "on") { 0 } else { 1 })]
        tokens: &Tensor,
        #[cfg(feature = "off")] train: bool,
        #[cfg(feature = "on")] mut is_training: bool,
    ) -> Tensor {
        is_training = !is_training;
        #[cfg(feature = "off")]
        let xs = xs * first * none * train;
        log(xs);
        (xs * mask * low * tokens * ids.len() as f64).dropout(0.5, !is_training)
    }

    #[torchcache]
    pub fn only(#[cfg(any())] none: NoSuchType, #[cfg(not(any()))] xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::ModuleT for Scale {
        fn forward_t(
            &self,
            #[cfg(all())] xs: &Tensor,
            #[cfg_attr(all(), allow(unused_variables))] train: bool,
        ) -> Tensor {
            xs * 2
        }
    }
}

pub mod a_derive_before_the_attribute {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[derive(Debug)]
    #[torchcache(persistent = true)]
    pub struct Scale {
        #[torchcache(skip)]
        pub name: fn(f64),
        #[cfg(feature = "off")]
        pub none: NoSuchType,
        #[cfg_attr(feature = "on", torchcache(skip))]
        pub other: fn(f64),
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

// Macros of the user's.

pub mod self_and_names_from_a_macro {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    macro_rules! module {
        ($vis:vis $name:ident { $($field:ident: $type:ty),* }, $self:ident, $xs:ident => $body:expr) => {
            #[torchcache]
            #[derive(Debug)]
            $vis struct $name {
                $($vis $field: $type,)*
                $vis torchcache: TorchCache,
            }

            #[torchcache]
            impl nn::Module for $name {
                fn forward(&$self, $xs: &Tensor) -> Tensor {
                    $body
                }
            }
        };
    }

    module!(pub Scale { by: f64, layer: nn::Linear }, self, xs => xs.apply(&self.layer) * self.by);

    macro_rules! in_body {
        ($self:ident, $body:block) => {
            #[torchcache]
            impl nn::ModuleT for Other {
                fn forward_t(&$self, xs: &Tensor, train: bool) -> Tensor {
                    let ys = $body;
                    xs.dropout(ys, train)
                }
            }
        };
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Other {
        pub share: f64,
        pub torchcache: TorchCache,
    }

    in_body!(self, { self.share });
}

pub mod items_from_a_macro {
    use tch::{Tensor, nn};
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    macro_rules! annotated {
        ($($item:item)*) => { $(#[torchcache] $item)* };
    }

    macro_rules! derived {
        ($derive:ident: $item:item) => {
            #[derive($derive)]
            $item
        };
    }

    annotated! {
        #[derive(Debug)]
        pub struct Scale {
            pub by: f64,
            #[torchcache(skip)]
            pub name: fn(f64),
            pub torchcache: TorchCache,
        }

        impl nn::Module for Scale {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * self.by
            }
        }

        pub struct Attention(pub f64, #[cfg(any())] NoSuchType, pub TorchCache);

        impl Attention {
            pub fn forward(&self, xs: &Tensor, mut key: Tensor, (a, b): (f64, f64)) -> Tensor {
                key += self.0;
                xs * key * (a + b)
            }
        }

        pub fn embed(xs: &Tensor, #[id] ids: &[i64], #[shared] mask: &Tensor) -> Tensor {
            let rows = ids.len() as i64;
            xs * mask * rows
        }
    }

    derived!(Fingerprint: pub enum Mode { Plain, Scaled(f64) });
    derived!(Batched: pub struct Encoded { pub rows: Tensor });

    macro_rules! twice {
        ($item:item) => {
            annotated! { $item }
        };
    }

    twice!(
        pub fn of_two_macros(xs: &Tensor) -> Tensor {
            xs * 2
        }
    );
}

pub mod fragments_from_a_macro {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    macro_rules! functions {
        ($name:ident, $flag:ty, $out:ty, $train:ident, $pattern:pat, $by:expr, $text:literal, $size:tt) => {
            #[torchcache(enabled = $by > 1.0, version = $text, max_memory_cache_size = $size)]
            pub fn $name(xs: &Tensor, $pattern: (f64, f64), $train: $flag) -> $out {
                xs.dropout($by, $train)
            }
        };
    }

    functions!(dropped, bool, Tensor, train, (_, _), 2.0, "1", "2 GB");
    functions!(unnamed, bool, tch::Tensor, is_training, _, 2.0, "1", 2_000);

    macro_rules! methods {
        ($type:ty, $trait:path, $flag:ty, $name:ident, $xs:ident, $train:ident, $($body:tt)*) => {
            #[torchcache]
            impl $trait for $type {
                fn $name(&self, $xs: &Tensor, $train: $flag) -> Tensor $($body)*
            }
        };
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Dropped {
        pub torchcache: TorchCache,
    }

    methods!(Dropped, nn::ModuleT, bool, forward_t, xs, train, {
        xs.dropout(0.5, train)
    });

    macro_rules! fields {
        ($name:ident<$($parameter:ident),*>, $cache:ident: $handle:ty, $($attribute:meta)?) => {
            #[torchcache]
            #[derive(Debug)]
            pub struct $name<$($parameter),*> {
                $(#[$attribute])?
                pub opaque: fn(f64),
                pub inner: ($($parameter),*),
                pub $cache: $handle,
            }

            #[torchcache]
            impl<$($parameter: std::fmt::Debug + Send),*> nn::Module for $name<$($parameter),*> {
                fn forward(&self, xs: &Tensor) -> Tensor {
                    xs * 2
                }
            }
        };
    }

    fields!(Plain<>, cache: TorchCache, torchcache(skip));
    fields!(Pair<A, B>, handle: torchcache::TorchCache, torchcache(skip));
}

pub mod more_fragments_from_a_macro {
    #![allow(unused_parens)]
    use tch::{Tensor, nn};
    use torchcache::{Fingerprint, TorchCache, torchcache};

    macro_rules! function {
        ($vis:vis fn $name:ident($xs:ident: $in:ty, $flag:ident: $bool:ty) -> $out:ty $body:block) => {
            #[torchcache]
            $vis fn $name($xs: $in, $flag: $bool) -> $out $body
        };
    }

    pub type Flag = bool;

    function!(
        pub fn dropped(xs: &Tensor, train: bool) -> Tensor {
            xs.dropout(0.5, train)
        }
    );
    function!(
        pub(crate) fn aliased(xs: &tch::Tensor, train: Flag) -> (Tensor, Vec<Tensor>) {
            (xs.dropout(0.5, train), vec![])
        }
    );
    function!(
        fn parenthesized(xs: Tensor, train: (bool)) -> Result<Tensor, torchcache::Error> {
            Ok(xs.dropout(0.5, train))
        }
    );

    pub fn use_them(xs: &Tensor) -> (Tensor, Vec<Tensor>) {
        let _ = parenthesized(xs.shallow_clone(), false);
        aliased(xs, false)
    }

    macro_rules! tokens {
        ($($item:tt)*) => { #[torchcache] $($item)* };
    }

    tokens! {
        /// Documented.
        #[derive(Debug)]
        pub struct Scale<'a, M> {
            pub inner: &'a M,
            pub torchcache: TorchCache,
        }
    }
    tokens! {
        impl<M: nn::Module + Sync> nn::Module for Scale<'_, M> {
            fn forward(&self, xs: &Tensor) -> Tensor {
                self.inner.forward(xs)
            }
        }
    }

    macro_rules! generic {
        ($lifetime:lifetime, $name:ident, $parameter:ident: $bound:path, $n:literal, $init:expr) => {
            #[torchcache(version = concat!("a", $n), subsample_count = $init)]
            #[derive(Debug)]
            pub struct $name<$lifetime, $parameter: $bound> {
                pub inner: [&$lifetime $parameter; $n],
                pub torchcache: TorchCache,
            }

            #[torchcache]
            impl<$lifetime, $parameter: $bound + Sync> nn::Module for $name<$lifetime, $parameter> {
                fn forward(&self, xs: &Tensor) -> Tensor {
                    self.inner[$n - 1].forward(xs) * $init as f64
                }
            }
        };
    }

    generic!('a, Generic, M: nn::Module, 2, 1 + 2);

    macro_rules! plain {
        ($name:ident, $($variant:ident($($type:ty),*)),* ; $skipped:ty) => {
            #[derive(Debug, Fingerprint)]
            pub enum $name {
                $($variant($($type),*),)*
                Skipped(#[torchcache(skip)] $skipped),
            }
        };
    }

    plain!(Mode, None(), One(f64), Two(i64, Option<Vec<i64>>); fn(f64));
}

pub mod a_macro_that_makes_a_macro {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    macro_rules! outer {
        ($inner:ident, $by:expr) => {
            macro_rules! $inner {
                                        ($name:ident, $self:ident, $rest:expr) => {
                                            #[torchcache]
                                            #[derive(Debug)]
                                            pub struct $name {
                                                pub by: f64,
                                                pub torchcache: TorchCache,
                                            }

                                            #[torchcache]
                                            impl nn::Module for $name {
                                                fn forward(&$self, xs: &Tensor) -> Tensor {
                                                    let rows = xs * $by;
                                                    rows * $rest
                                                }
                                            }
                                        };
                                    }
        };
    }

    outer!(inner, 2.0);
    inner!(Scale, self, self.by);
}

pub mod a_macro_with_crate_paths {
    #[macro_export]
    macro_rules! a_macro_with_crate_paths_module {
        ($name:ident, $by:expr) => {
            #[::torchcache::torchcache]
            #[derive(Debug)]
            pub struct $name {
                pub by: $crate::a_macro_with_crate_paths::By,
                pub torchcache: ::torchcache::TorchCache,
            }

            #[::torchcache::torchcache]
            impl ::tch::nn::Module for $name {
                fn forward(&self, xs: &::tch::Tensor) -> ::tch::Tensor {
                    $crate::a_macro_with_crate_paths::scaled(xs) * self.by.0 * $by
                }
            }
        };
    }

    #[derive(Debug, torchcache::Fingerprint)]
    pub struct By(pub f64);

    #[torchcache::torchcache]
    pub fn scaled(xs: &tch::Tensor) -> tch::Tensor {
        xs * 2
    }

    pub mod used {
        crate::a_macro_with_crate_paths_module!(Scale, 2.0);
        crate::a_macro_with_crate_paths_function!(embed);
    }

    pub use torchcache as library;

    #[macro_export]
    macro_rules! a_macro_with_crate_paths_function {
        ($name:ident) => {
            #[$crate::a_macro_with_crate_paths::library::torchcache(
                                        crate = $crate::a_macro_with_crate_paths::library
                                    )]
            pub fn $name(xs: &::tch::Tensor) -> ::tch::Tensor {
                $crate::a_macro_with_crate_paths::scaled(xs)
            }
        };
    }
}

// Other names of what the attribute looks for.

pub mod other_names_of_the_handle {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache as Handle, torchcache};

    pub type Alias = Handle;
    pub type OfAlias = Alias;

    pub mod handles {
        pub use torchcache::TorchCache as Other;
    }

    macro_rules! modules {
        ($($name:ident: $handle:ty,)*) => {$(
            #[torchcache]
            #[derive(Debug)]
            pub struct $name {
                pub layer: nn::Linear,
                pub by: f64,
                pub name: String,
                pub kind: tch::Kind,
                #[torchcache(skip)]
                pub opaque: std::sync::Arc<dyn std::fmt::Debug + Send + Sync>,
                pub handle: $handle,
            }

            #[torchcache]
            impl nn::Module for $name {
                fn forward(&self, xs: &Tensor) -> Tensor {
                    xs.apply(&self.layer) * self.by
                }
            }
        )*};
    }

    modules! {
        Imported: Handle,
        Aliased: Alias,
        AliasedTwice: OfAlias,
        OfAPath: handles::Other,
        OfASuperPath: super::other_names_of_the_handle::Alias,
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Only(Handle);

    #[torchcache]
    impl nn::Module for Only {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Generic<'a, M, const N: usize> {
        pub inner: [M; N],
        pub one: M,
        pub name: &'a str,
        #[cfg(feature = "off")]
        pub none: Handle,
        #[cfg(feature = "on")]
        pub handle: Handle,
    }

    #[torchcache]
    impl<M: nn::Module, const N: usize> nn::Module for Generic<'_, M, N> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.one.forward(xs)
        }
    }
}

pub mod other_names_of_the_traits {
    use tch::Tensor;
    use tch::nn::{Module as Layer, ModuleT as Trained};
    use torchcache::{TorchCache, torchcache};

    pub mod traits {
        pub use tch::nn::Module as Other;
    }

    macro_rules! modules {
        ($($name:ident: $trait:path, $method:ident($($train:ident: $flag:ty)?),)*) => {$(
            #[torchcache]
            #[derive(Debug)]
            pub struct $name {
                pub torchcache: TorchCache,
            }

            #[torchcache]
            impl $trait for $name {
                fn $method(&self, xs: &Tensor $(, $train: $flag)?) -> Tensor {
                    $(let _: bool = $train;)?
                    xs * 2
                }
            }
        )*};
    }

    modules! {
        Imported: Layer, forward(),
        OfAPath: traits::Other, forward(),
        OfACrate: ::tch::nn::Module, forward(),
        WithTraining: Trained, forward_t(train: bool),
        WithAFlag: Trained, forward_t(flag: bool),
    }
}

pub mod other_names_of_the_struct {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub by: f64,
        pub torchcache: TorchCache,
    }

    pub type Alias = Scale;

    #[torchcache]
    impl nn::Module for Alias {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M> {
        pub inner: M,
        pub torchcache: TorchCache,
    }

    pub type OfScale = Wrap<Scale>;

    #[torchcache]
    impl nn::Module for OfScale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.apply(&self.inner)
        }
    }

    pub mod inner {
        use super::Pair as Two;
        use tch::{Tensor, nn};
        use torchcache::torchcache;

        #[torchcache]
        impl<M: nn::Module> nn::Module for Two<M, M> {
            fn forward(&self, xs: &Tensor) -> Tensor {
                self.first.forward(xs)
            }
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Pair<A, B> {
        pub first: A,
        pub second: B,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct ByPath {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for crate::other_names_of_the_struct::ByPath {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct InParentheses {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    #[allow(unused_parens)]
    impl nn::Module for (InParentheses) {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

pub mod other_names_of_the_macros {
    use tch::{Tensor, nn};
    use torchcache::{Batched as Rows, Fingerprint as Identity, torchcache as cached};

    #[derive(Debug, Identity)]
    pub struct Config(pub f64, #[torchcache(skip)] pub fn(f64));

    #[derive(Rows)]
    pub struct Encoded(pub Tensor);

    #[cached]
    #[derive(Debug)]
    pub struct Scale {
        pub config: Config,
        #[torchcache(skip)]
        pub opaque: fn(f64),
        pub torchcache: torchcache::TorchCache,
    }

    #[cached]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.config.0
        }
    }

    #[cached]
    pub fn encode(xs: &Tensor) -> Encoded {
        Encoded(xs * 2)
    }
}

pub mod another_name_of_the_attribute_on_fields {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache as cached};

    #[cached(max_memory_cache_size = "1 GB")]
    #[derive(Debug)]
    pub struct Scale {
        pub factor: f64,
        #[cached(skip)]
        pub opaque: fn(f64),
        #[cfg_attr(all(), cached(skip))]
        pub other: fn(f64),
        #[torchcache(skip)]
        pub usual: fn(f64),
        pub torchcache: TorchCache,
    }

    #[cached]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.factor
        }
    }

    pub mod by_a_path {
        pub use torchcache as library;

        #[library::torchcache]
        pub struct Scale(
            #[library::torchcache(skip)] pub fn(f64),
            pub library::TorchCache,
        );

        #[library::torchcache]
        impl Scale {
            pub fn forward(&self, xs: &tch::Tensor) -> tch::Tensor {
                xs * 2
            }
        }
    }
}

pub mod a_conditional_attribute_of_another_name {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache as cached};

    #[cfg_attr(feature = "on", cached)]
    #[derive(Debug)]
    pub struct Scale {
        pub factor: f64,
        #[cfg_attr(feature = "on", cached(skip))]
        pub opaque: fn(f64),
        pub torchcache: TorchCache,
    }

    #[cfg_attr(feature = "on", cached)]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.factor
        }
    }

    #[cfg_attr(all(), derive(Debug), cached(max_memory_cache_size = "1 GB"))]
    pub struct Listed {
        #[cached(skip)]
        pub opaque: fn(f64),
        pub torchcache: TorchCache,
    }

    #[cached]
    impl nn::Module for Listed {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[cfg_attr(all(), cfg_attr(not(feature = "off"), self::cached(persistent = true)))]
    #[derive(Debug)]
    pub struct Nested {
        #[self::cached(skip)]
        pub opaque: fn(f64),
        pub torchcache: TorchCache,
    }

    #[cached]
    impl nn::Module for Nested {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

pub mod traits_of_the_users {
    use tch::Tensor;
    use torchcache::{TorchCache, torchcache};

    pub trait Module {
        fn forward(&self, xs: &Tensor, by: f64) -> (Tensor, Tensor);
    }

    pub trait Encoder {
        fn forward(&self, xs: Tensor) -> Tensor;
        fn name(&self) -> &str {
            "encoder"
        }
    }

    pub trait WithTraining {
        fn forward_t(&self, xs: &Tensor, mask: &Tensor, train: bool) -> Tensor;
    }

    #[torchcache]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Module for Scale {
        fn forward(&self, xs: &Tensor, by: f64) -> (Tensor, Tensor) {
            (xs * by, xs / by)
        }
    }

    #[torchcache]
    pub struct Encoded {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Encoder for Encoded {
        fn forward(&self, xs: Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    pub struct Masked {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl WithTraining for Masked {
        fn forward_t(&self, xs: &Tensor, mask: &Tensor, train: bool) -> Tensor {
            (xs * mask).dropout(0.5, train)
        }
    }
}

// Lints.

pub mod a_forbidden_lint_and_an_unused_generic_struct {
    #![forbid(unused_imports, unused_variables, unexpected_cfgs)]
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub(crate) struct Wrap<M> {
        inner: M,
        torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Wrap<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }

    pub fn wrap(inner: nn::Linear) -> impl nn::Module {
        let torchcache = TorchCache::default();
        Wrap { inner, torchcache }
    }
}

pub mod lints_reach_what_is_generated {
    use tch::{Tensor, nn};
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    #[deprecated]
    #[derive(Debug, Clone, Copy)]
    pub struct Old;

    #[allow(deprecated)]
    impl Fingerprint for Old {
        fn fingerprint(&self, _: &mut torchcache::Fingerprinter<'_>) {}
    }

    #[allow(deprecated)]
    #[torchcache]
    #[derive(Debug)]
    pub struct Before<M> {
        pub old: Old,
        pub both: (Old, M),
        pub torchcache: TorchCache,
    }

    #[allow(deprecated)]
    #[torchcache]
    impl<M> Before<M> {
        pub fn forward(&self, xs: &Tensor) -> Tensor {
            let _ = Old;
            xs * 2
        }
    }

    #[torchcache]
    #[allow(deprecated, reason = "it is")]
    #[derive(Debug)]
    pub struct After {
        pub old: Old,
        #[deprecated]
        pub field: f64,
        #[deprecated]
        pub torchcache_enabled: bool,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    #[cfg_attr(all(), expect(deprecated))]
    impl nn::Module for After {
        fn forward(&self, xs: &Tensor) -> Tensor {
            let _ = Old;
            xs * self.field
        }
    }

    #[derive(Debug, Fingerprint)]
    #[allow(deprecated)]
    pub struct Config(pub Old, #[deprecated] pub f64);

    #[derive(Batched)]
    #[expect(deprecated)]
    pub struct Encoded {
        pub rows: Vec<OldRows>,
    }

    #[deprecated]
    pub type OldRows = Tensor;

    #[allow(deprecated)]
    #[torchcache]
    pub fn encode(xs: &OldRows) -> OldRows {
        xs * 2
    }
}

pub mod deprecated_items {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    /// Was renamed.
    #[deprecated(note = "use `embed`")]
    #[torchcache]
    pub fn old(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache]
    #[deprecated = "use `embed`"]
    pub fn older(xs: &Tensor) -> Tensor {
        xs * 3
    }

    #[torchcache]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * 4
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        #[doc(hidden)]
        #[inline(always)]
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
}

// warning: function `embed` is never used
// warning: function `tested` is never used
pub mod unused_functions {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache]
    fn embed(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[torchcache]
    pub(crate) fn tested(xs: &Tensor) -> Tensor {
        xs * 3
    }

    #[torchcache]
    #[allow(dead_code)]
    fn allowed(xs: &Tensor) -> Tensor {
        xs * 4
    }

    #[expect(dead_code)]
    #[torchcache]
    fn expected(xs: &Tensor) -> Tensor {
        xs * 5
    }

    #[torchcache]
    fn used(xs: &Tensor) -> Tensor {
        xs * 6
    }

    pub fn user(xs: &Tensor) -> Tensor {
        used(xs)
    }
}

pub mod unused_structs {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    struct Scale {
        by: f64,
        torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }

    #[torchcache]
    #[derive(Debug)]
    struct Wrap<M> {
        inner: M,
        torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module> nn::Module for Wrap<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.inner.forward(xs)
        }
    }
}

// warning: unused variable: `unused`
// warning: unused variable: `id`
// warning: unused variable: `skipped`
// warning: variable does not need to be mutable
pub mod unused_arguments {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    pub fn embed(mut xs: &Tensor, unused: f64, #[id] id: &[i64], #[skip] skipped: ()) -> Tensor {
        xs * 2
    }

    #[torchcache]
    pub fn allowed(
        xs: &Tensor,
        #[allow(unused_variables)] by: f64,
        #[expect(unused_variables)] expected: f64,
        #[shared]
        #[allow(unused)]
        mask: &Tensor,
        _name: &str,
        _: i64,
        #[skip]
        #[allow(unused_variables)]
        log: &dyn Fn(),
        #[skip] _rows: Option<&Tensor>,
    ) -> Tensor {
        xs * 2
    }

    #[torchcache]
    #[expect(unused_variables, unused_mut)]
    pub fn expected(xs: &Tensor, mut by: f64) -> Tensor {
        xs * 2
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::ModuleT for Scale {
        fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor {
            xs * 2
        }
    }
}

// warning: unexpected `cfg` condition name: `no_such_name`
// warning: unexpected `cfg` condition name: `no_such_name_either`
pub mod unexpected_predicates {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache]
    pub fn embed(xs: &Tensor) -> Tensor {
        xs * if cfg!(no_such_name) { 2 } else { 3 }
    }

    #[torchcache]
    pub fn conditional(xs: &Tensor) -> Tensor {
        #[cfg(no_such_name_either)]
        let xs = &(xs * 2);
        xs * 3
    }

    #[torchcache]
    pub fn allowed(xs: &Tensor) -> Tensor {
        #[allow(unexpected_cfgs)]
        let by = if cfg!(allowed_name) { 2 } else { 3 };
        xs * by
    }

    #[torchcache]
    #[allow(unexpected_cfgs)]
    pub fn allowed_outside(xs: &Tensor) -> Tensor {
        xs * if cfg!(allowed_name) { 2 } else { 3 }
    }
}

// Shapes of items.

pub mod shapes_of_structs {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Unbounded<M: ?Sized> {
        #[torchcache(skip)]
        pub mark: std::marker::PhantomData<M>,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: std::fmt::Debug + Send + ?Sized> nn::Module for Unbounded<M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Defaults<M = nn::Linear, const N: usize = 2>
    where
        M: nn::Module,
    {
        pub layers: [M; N],
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Defaults {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.apply(&self.layers[0])
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Borrowed<'a, 'b: 'a, M> {
        pub name: &'a str,
        pub layers: &'b [M],
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<'a, 'b, M: nn::Module + Sync> nn::Module for Borrowed<'a, 'b, M> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.layers[0].forward(xs)
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Tree {
        pub fc: nn::Linear,
        pub children: Vec<Tree>,
        pub parent: Option<Box<Self>>,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Tree {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.children
                .iter()
                .fold(xs.apply(&self.fc), |xs, child| child.forward(&xs))
        }
    }
}

pub mod impls_for_some_parameters {
    use tch::{Tensor, nn};
    use torchcache::{Fingerprint, TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Named<'a, 'b: 'a> {
        pub name: &'a str,
        pub other: &'b str,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Named<'static, 'static> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.name.len() as i64
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Pair<A, B> {
        pub first: A,
        pub second: B,
        pub torchcache: TorchCache,
    }

    pub type Same<M> = Pair<M, M>;

    #[torchcache]
    impl<M> nn::Module for Same<M>
    where
        M: nn::Module,
        Self: Sized,
    {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.first.forward(xs) + self.second.forward(xs)
        }
    }

    pub fn boxed<M: nn::Module + Fingerprint + 'static>(same: Same<M>) -> Box<dyn nn::Module> {
        Box::new(same)
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Sizes<const N: usize>(pub [f64; N], pub TorchCache);

    #[torchcache]
    impl Sizes<2> {
        pub fn forward(&self, &(a, b): &(f64, f64), [c, d]: [i64; 2], ref xs: Tensor) -> Tensor {
            xs * a * b * c * d * self.0[1]
        }
    }
}

pub mod shapes_of_bodies {
    use tch::Tensor;
    use torchcache::torchcache;

    #[torchcache]
    pub fn body(body: &Tensor, times: i64) -> Tensor {
        #![allow(unused_mut)]
        #[derive(Clone, Copy)]
        struct Local(i64);
        impl Local {
            fn get(self) -> i64 {
                self.0
            }
        }
        const TWO: i64 = 2;
        macro_rules! double {
            ($value:expr) => {
                $value * TWO
            };
        }
        let mut local = Local(3);
        if times > 0 {
            return self::body(body, times - 1);
        }
        let call = move || body.shallow_clone() * double!(local.get());
        call()
    }
}

pub mod shapes_of_impls {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Scale {
        pub by: f64,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Scale {
        pub const BY: f64 = 2.0;

        pub fn new(by: f64) -> Self {
            let torchcache = TorchCache::default();
            Self { by, torchcache }
        }

        /// Documented.
        pub fn forward(
            self: &Self,
            mut xs: Tensor,
            Plain { by, .. }: Plain,
            _: bool,
        ) -> Option<Tensor> {
            xs *= by * self.by * Self::BY;
            Some(xs)
        }

        pub fn by(&mut self) -> &mut f64 {
            &mut self.by
        }
    }

    #[derive(Debug, Clone, torchcache::Fingerprint)]
    pub struct Plain {
        pub by: f64,
    }

    impl torchcache::PlainArgument for Plain {}

    #[torchcache]
    impl nn::Module for Two {
        fn forward(&self, xs: &Tensor) -> Tensor {
            let inner = |xs: &Tensor| -> Option<Tensor> { Some(xs * Some(2)?) };
            let Some(ys) = inner(xs) else {
                return xs.shallow_clone();
            };
            ys
        }
    }

    #[derive(Debug)]
    #[torchcache]
    pub struct Two {
        pub torchcache: TorchCache,
    }
}

// Methods other than `forward`, and several impls.

pub mod methods_of_several_impls {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache, torchcache};

    const SCALES_VERSION: &str = "2";

    #[torchcache]
    #[derive(Debug)]
    pub struct Vae {
        pub scale: f64,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Vae {
        #[torchcache]
        pub fn encode(&self, xs: &Tensor) -> Tensor {
            xs * self.scale
        }

        #[torchcache(version = SCALES_VERSION, verify = 0.01, whole_batch = true)]
        #[must_use]
        pub fn decode<'a>(&'a self, xs: &'a Tensor) -> Option<Tensor> {
            Some(self.encode(xs) / self.by(2.0))
        }

        fn by(&self, scale: f64) -> f64 {
            self.scale * scale
        }
    }

    #[torchcache]
    impl Vae {
        #[torchcache::torchcache]
        #[allow(non_snake_case)]
        pub fn r#match(&self, XS: &Tensor) -> Tensor {
            Self::encode(self, XS)
        }

        #[cfg(feature = "on")]
        #[torchcache]
        pub fn step(&self, xs: &Tensor) -> Tensor {
            xs * 2.0
        }

        #[cfg(not(feature = "on"))]
        #[torchcache]
        pub fn step(&self, xs: &Tensor) -> Tensor {
            xs * 3.0
        }
    }

    #[torchcache]
    impl nn::Module for Vae {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.r#match(&self.step(xs))
        }
    }

    pub trait Features<T> {
        const BY: f64;
        fn features(&self, xs: &Tensor, by: T) -> Tensor;
        fn default_features(&self, xs: &Tensor) -> Tensor;
    }

    #[torchcache]
    impl Features<f32> for Vae {
        const BY: f64 = 2.0;

        #[torchcache]
        fn features(&self, xs: &Tensor, by: f32) -> Tensor {
            xs * f64::from(by) * Self::BY_ITSELF
        }

        #[torchcache]
        fn default_features(&self, xs: &Tensor) -> Tensor {
            self.features(xs, 1.0f32)
        }
    }

    #[torchcache]
    impl Features<i64> for Vae {
        const BY: f64 = 3.0;

        #[torchcache]
        fn features(&self, xs: &Tensor, by: i64) -> Tensor {
            xs * by
        }

        fn default_features(&self, xs: &Tensor) -> Tensor {
            self.features(xs, 1i64)
        }
    }

    impl Vae {
        const BY_ITSELF: f64 = 1.0;
    }

    /// Holds one without a name for it.
    #[torchcache]
    #[derive(Debug)]
    pub struct Pipeline {
        pub vae: Vae,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Pipeline {
        #[torchcache]
        pub fn images(&self, xs: &Tensor) -> Option<Tensor> {
            self.vae.decode(xs)
        }
    }
}

pub mod methods_by_another_name_of_the_attribute {
    use tch::Tensor;
    use torchcache::{TorchCache, torchcache as cached};

    #[cached]
    #[derive(Debug)]
    pub struct Scale {
        pub torchcache: TorchCache,
    }

    #[cached]
    impl Scale {
        #[cached]
        pub fn double(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }

        #[cached(whole_batch = true)]
        pub fn triple(&self, xs: &Tensor) -> Tensor {
            xs * 3
        }
    }
}

pub mod methods_of_generic_and_borrowing_structs {
    use tch::{Tensor, nn};
    use torchcache::{Fingerprint, TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub struct Tower<'a, M, const N: usize = 1> {
        pub inner: &'a [M; N],
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module, const N: usize> Tower<'_, M, N> {
        #[torchcache]
        pub fn embed(&self, xs: &Tensor) -> Tensor {
            self.inner.iter().fold(xs.shallow_clone(), |xs, inner| xs.apply(inner))
        }

        #[torchcache]
        pub fn twice(&self, xs: &Tensor) -> Tensor {
            self.embed(&self.embed(xs))
        }
    }

    #[torchcache]
    impl<'a, M> Tower<'a, M, 2>
    where
        M: nn::ModuleT,
    {
        #[torchcache]
        pub fn in_evaluation(&self, xs: &Tensor, train: bool) -> Tensor {
            xs.apply_t(&self.inner[0], train)
        }
    }

    pub trait Embed {
        fn embed_all(&self, xs: &Tensor) -> Tensor;
    }

    #[torchcache]
    impl<M: nn::Module> Embed for Tower<'static, M> {
        #[torchcache]
        fn embed_all(&self, xs: &Tensor) -> Tensor {
            self.embed(xs)
        }
    }

    #[torchcache]
    #[derive(Debug)]
    pub struct Named<'a> {
        pub name: &'a str,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<'a> Named<'a> {
        #[torchcache]
        pub fn length(&self, xs: &Tensor) -> Tensor {
            xs * self.name.len() as i64
        }

        #[torchcache]
        pub fn again(&self, xs: &Tensor) -> Tensor {
            self.length(xs) + self.again(xs)
        }
    }

    /// The parameter has a default.
    #[torchcache]
    #[derive(Debug)]
    pub struct Plain<T: Fingerprint = f64> {
        pub by: T,
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Plain {
        #[torchcache]
        pub fn scale(&self, xs: &Tensor) -> Tensor {
            xs * self.by
        }
    }
}

pub mod methods_in_a_body {
    use tch::Tensor;
    use torchcache::{TorchCache, torchcache};

    pub fn run(xs: &Tensor) -> Tensor {
        #[torchcache]
        #[derive(Debug, Default)]
        struct Scale {
            torchcache: TorchCache,
        }
        #[torchcache]
        impl Scale {
            #[torchcache]
            fn double(&self, xs: &Tensor) -> Tensor {
                xs * 2
            }
        }
        Scale::default().double(xs)
    }
}
